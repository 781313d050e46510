"""Hints from inotify by way of asyncinotify: one watch per folder, and one on the parent for the folder itself.

In: the kernel's events. Out: `Hint`s. Called by the `Watcher` through `watcher.hints`; Linux only.
"""

import logging
import os
from collections.abc import Collection
from pathlib import Path

from asyncinotify import Event, Inotify, Mask
from asyncinotify import Watch as InotifyWatch

from wizflowd.watcher.hints import Hint, Look
from wizflowd.watcher.scan import is_definition_name, is_ignored_folder

log = logging.getLogger(__name__)

# No MODIFY: a file is not taken while it is open for writing, so its closing is what matters; nor own reads.
_FOLDER_MASK = (
    Mask.CREATE
    | Mask.CLOSE_WRITE
    | Mask.ATTRIB
    | Mask.MOVE
    | Mask.DELETE
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
)
_PARENT_MASK = Mask.CREATE | Mask.MOVE | Mask.DELETE | Mask.ONLYDIR
_OVERFLOW = int(Mask.Q_OVERFLOW)
_ISDIR = int(Mask.ISDIR)
_IGNORED = int(Mask.IGNORED)
_EVENTS_PER_READ = 64


class InotifyHints:
    """One inotify instance. Folders get their watch from the walk, before they are listed; a lost watch is a hint."""

    def __init__(self, root: str) -> None:
        self.wide = False
        self._root = root
        self._name = os.path.basename(root)
        self._inotify = Inotify(cache_size=_EVENTS_PER_READ)
        self._watches: dict[str, InotifyWatch] = {}
        self._stands: dict[str, tuple[int, int]] = {}
        self._folders: dict[int, str] = {}
        self._parent_wd = -1
        self._full = False

    async def run(self, look: Look) -> None:
        async for event in self._inotify:
            hint = self._hint_of(event)
            if hint is not None:
                look(hint)

    def on_folder(self, folder: str, seen: os.stat_result, /) -> None:
        stands = (seen.st_dev, seen.st_ino)
        if not folder:
            self._watch_parent()
        if folder in self._watches and self._stands.get(folder) == stands:
            return
        try:
            watch = self._inotify.add_watch(f"{self._root}/{folder}", _FOLDER_MASK)
        except OSError as exc:
            self._report_failed_watch(folder, exc)
            return
        self._watches[folder] = watch
        self._stands[folder] = stands
        self._folders[watch.wd] = folder

    def keep(self, folders: Collection[str]) -> None:
        gone = [folder for folder in list(self._watches) if folder not in folders]
        dropped = [self._watches.pop(folder) for folder in gone]
        kept = {watch.wd for watch in list(self._watches.values())}  # a renamed folder keeps its watch
        for folder, watch in zip(gone, dropped, strict=True):
            self._stands.pop(folder, None)
            if watch.wd not in kept and self._folders.pop(watch.wd, None) is not None:
                self._remove(watch)

    def close(self) -> None:
        self._inotify.close()

    def _hint_of(self, event: Event) -> Hint | None:
        mask = int(event.mask)
        watch = event.watch
        name = str(event.name) if event.name is not None else None
        if watch is None:
            return Hint(overflow=bool(mask & _OVERFLOW))
        if watch.wd == self._parent_wd:
            return Hint() if name in (None, self._name) else None
        if mask & _IGNORED:
            return self._forget(watch)
        folder = self._folders.get(watch.wd)
        if folder is None or name is None:
            return Hint()
        return self._hint_at(folder, name, is_folder=bool(mask & _ISDIR))

    def _hint_at(self, folder: str, name: str, *, is_folder: bool) -> Hint | None:
        if is_folder:
            return None if is_ignored_folder(name) else Hint()
        if is_definition_name(name):
            return Hint(f"{folder}/{name}" if folder else name)
        return Hint() if self.wide else None

    def _forget(self, watch: InotifyWatch) -> Hint | None:
        """Take a watch off the books that the kernel has ended; the next walk sets it anew."""
        lost = [folder for folder, known in list(self._watches.items()) if known is watch]
        for folder in lost:
            self._watches.pop(folder, None)
        return Hint() if self._folders.pop(watch.wd, None) is not None or lost else None

    def _watch_parent(self) -> None:
        """The folder's own replacement (a swapped link, `mv`) is seen by its parent only."""
        try:
            self._parent_wd = self._inotify.add_watch(Path(self._root).parent, _PARENT_MASK).wd
        except OSError as exc:
            log.info("cannot watch the folder's parent", extra={"folder": self._root, "reason": str(exc)})

    def _remove(self, watch: InotifyWatch) -> None:
        try:
            self._inotify.rm_watch(watch)
        except OSError:
            return  # ended by the kernel meanwhile

    def _report_failed_watch(self, folder: str, exc: OSError) -> None:
        if self._full or isinstance(exc, FileNotFoundError | NotADirectoryError):
            return
        self._full = True
        log.warning(
            "cannot watch a folder, changes in it are found by the periodic scan",
            extra={"folder": folder, "reason": str(exc), "hint": "sysctl fs.inotify.max_user_watches=1048576"},
        )
