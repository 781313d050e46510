"""Which finished runs are kept, and the removal of the others: of each workflow by age and number, of all by size.

Called by the archivist, in threads, whenever a run is complete. Removes folders below `*.runs/`; raises OSError.
"""

import contextlib
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wizflowd.files import TEMPORARY

WHOLE = "events.ndjson"
"""The last file that is written of a run: a folder that has it is one of a finished run."""
FUTURE_NS = 3600 * 10**9
"""By how much a file may be ahead of the clock."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept of finished runs: of each workflow the newest `runs` and those of the last `days`, of all together
    no more than `bytes`; None: no bound."""

    runs: int | None = None
    days: float | None = None
    bytes: int | None = None


def prune(folder: Path, retention: Retention) -> list[Path]:
    """Remove the oldest finished runs of one workflow beyond what is kept, never the newest; return them."""
    runs = _remove_remains(folder)
    if retention.runs is None and retention.days is None:
        return []
    whole = [run for run in runs if (run / WHOLE).exists()]
    if len(whole) < 2:
        return []
    latest = folder / "latest"
    newest = latest.readlink().name if latest.is_symlink() else ""
    finished = sorted((run.name == newest, _written_ns(run), run) for run in whole)
    surplus = len(finished) - retention.runs if retention.runs is not None else 0
    oldest_ns = (time.time() - retention.days * 86400) * 1e9 if retention.days is not None else 0.0
    surplus_runs = [
        run for index, (_, written_ns, run) in enumerate(finished[:-1]) if index < surplus or written_ns < oldest_ns
    ]
    for run in surplus_runs:
        remove_run(run)
    return surplus_runs


class Shelf:
    """The finished runs of all workflows below `base`, in the order in which they finished, and the room they take.

    What was there before is looked at once, when it is first asked to make room.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._lock = threading.Lock()
        self._bytes: dict[Path, int] | None = None

    def make_room(self, finished: Path, gone: Iterable[Path], limit: int) -> None:
        """Note a run that has finished and runs that are gone, then remove the oldest while all take over `limit`.

        The newest of each workflow stays, and with it the limit is kept only as far as that allows.
        """
        with self._lock:
            if self._bytes is None:
                self._bytes = {run: _bytes_of(run) for run in sorted(_all_finished(self._base), key=_written_ns)}
            self._bytes[finished] = _bytes_of(finished)
            for run in gone:
                self._bytes.pop(run, None)
            for run in self._surplus(self._bytes, limit):
                remove_run(run)
                del self._bytes[run]

    @staticmethod
    def _surplus(sizes: dict[Path, int], limit: int) -> list[Path]:
        over = sum(sizes.values()) - limit
        left = Counter(run.parent for run in sizes) if over > 0 else Counter[Path]()
        surplus = []
        for run, size in sizes.items():
            if over <= 0:
                break
            if left[run.parent] > 1:
                left[run.parent] -= 1
                over -= size
                surplus.append(run)
        return surplus


def remove_run(run: Path) -> None:
    """Remove the folder of a run: it is gone at once, or after a kill its remains are by the next look."""
    remains = run.with_name(f"{TEMPORARY}{run.name}")
    with contextlib.suppress(FileNotFoundError):  # somebody was quicker
        run.rename(remains)
        shutil.rmtree(remains)


def _remove_remains(folder: Path) -> list[Path]:
    """Remove what is left of runs that were being removed; return the other folders."""
    others = []
    for path in _subfolders(folder):
        if path.name.startswith(TEMPORARY):
            shutil.rmtree(path, ignore_errors=True)
        else:
            others.append(path)
    return others


def _all_finished(base: Path) -> Iterator[Path]:
    for at, names, _ in os.walk(base):
        for name in names:
            if name.endswith(".runs"):
                yield from _finished(Path(at, name))
        names[:] = [name for name in names if not name.endswith(".runs")]


def _finished(folder: Path) -> Iterator[Path]:
    return (run for run in _subfolders(folder) if not run.name.startswith(TEMPORARY) and (run / WHOLE).exists())


def _written_ns(run: Path) -> int:
    """Return when a run was complete: the names of runs that began in one second are in no order.

    What is of the future is from before the clock was set back.
    """
    written_ns = (run / WHOLE).stat().st_mtime_ns
    return written_ns if written_ns < time.time_ns() + FUTURE_NS else time.time_ns() - FUTURE_NS


def _bytes_of(run: Path) -> int:
    """Return what a run takes on the disk, as `du` counts it."""
    return 512 * sum(os.lstat(path).st_blocks for path in (run, *run.rglob("*")))


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
