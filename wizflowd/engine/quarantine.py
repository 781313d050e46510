"""Files whose reading ended the daemon: a mark lies in a folder while a file is read, and stays when that kills us.

In: the hash of a file's bytes, around the reading. Called by `prepare`. Blocks for two small file operations.
"""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wizflowd.errors import WizflowError

MAX_KILLS = 2


class QuarantinedError(WizflowError):
    """The file is not read again before it changes."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The marks of one state folder: a file each, named by the hash, that holds how often reading was begun."""

    folder: Path

    @contextmanager
    def reading(self, stamp: str) -> Iterator[None]:
        """Mark a file as being read. Raises QuarantinedError if that has ended the daemon twice."""
        mark = self.folder / stamp
        begun = _count(mark)
        if begun >= MAX_KILLS:
            raise QuarantinedError(
                f"quarantined: reading it ended wizflowd {begun} times",
                hint=f"change the file, or remove {mark} and restart wizflowd",
            )
        with contextlib.suppress(OSError):  # a full disk is no reason to refuse a file
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark.write_text(str(begun + 1))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                mark.unlink()


def _count(mark: Path) -> int:
    try:
        return int(mark.read_text() or 0)
    except OSError:
        return 0
    except ValueError:  # the kill came between its creation and its content
        return 1
