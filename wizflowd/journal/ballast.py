"""Room that is kept for the moment in which the disk is full: a file that is given up first, and made again later.

Called by the journal, in its thread. Nothing here fails loudly: without room there is no ballast, and that is all.
"""

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

_SPARE = 4
"""How many times its size must be free before the ballast is made: it may not be what fills the disk."""


@dataclass(frozen=True, slots=True)
class Ballast:
    """A file of `size` bytes that are really taken on the disk; with a size of 0 there is none."""

    path: Path
    size: int

    def hold(self) -> None:
        """Make the file if it is not there and there is ample room. Raises nothing."""
        if not self.size or self.path.exists():
            return
        with contextlib.suppress(OSError):
            disk = os.statvfs(self.path.parent)
            if disk.f_bavail * disk.f_frsize >= _SPARE * self.size:
                self._make()

    def release(self) -> bool:
        """Give the room back; return whether there was any to give."""
        try:
            self.path.unlink()
        except OSError:
            return False
        return True

    def _make(self) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self.size)
        except OSError:
            self.path.unlink()
            raise
        finally:
            os.close(fd)


def is_over_quota(directory: Path) -> bool:
    """Whether what is written there is refused for a quota, of which SQLite says no more than that a write failed."""
    probe = directory / "quota.tmp"
    try:
        probe.write_bytes(bytes(4096))
    except OSError as error:
        return error.errno == errno.EDQUOT
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return False
