"""Where to look, and when: three ways to hear that something may have changed in the folder.

Out: a `Hint` per change, which may be wrong, late, doubled or (watchfiles) lost; the walk is the truth. Called by
the `Watcher`, which runs one of them. Limits of each were measured, see ARCHITECTURE.md (Traps: Watching).
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from wizflowd.watcher.scan import FolderIdentity, identify_folder, is_definition_name, is_ignored_folder

log = logging.getLogger(__name__)

Backend = Literal["auto", "inotify", "watchfiles", "polling"]

_POLL_S = 0.5
_RETRY_S = 1.0
_ECHO_S = 0.5


@dataclass(frozen=True, slots=True)
class Hint:
    """Look: at the definition of this relative path, or (None) everywhere. `overflow`: hints were lost."""

    path: str | None = None
    overflow: bool = False


Look = Callable[[Hint], None]


class Hints(Protocol):
    """One way to hear of changes. `on_folder` and `keep` come from the thread of the walk, the rest from the loop."""

    wide: bool
    """Whether names that are no definitions count too: companions, targets of links."""

    async def run(self, look: Look) -> None:
        """Call `look` for whatever may have changed, until cancelled."""

    def on_folder(self, folder: str, seen: os.stat_result, /) -> None:
        """Watch this folder (relative; `""` is the root) as it stands there; called before it is listed."""

    def keep(self, folders: Collection[str]) -> None:
        """Watch no others than these."""

    def close(self) -> None:
        """Let go of everything; idempotent."""


def open_hints(backend: Backend, root: str) -> Hints:
    """Return the backend asked for; `auto` is inotify, or polling where the kernel has none left to give."""
    if backend == "watchfiles":
        return WatchfilesHints(root)
    if backend == "polling":
        return PollingHints()
    try:
        from wizflowd.watcher.inotify import InotifyHints

        return InotifyHints(root)
    except (ImportError, OSError) as exc:
        if backend == "inotify":
            raise
        log.warning("cannot use inotify, the folder is polled", extra={"reason": str(exc), "hint": _INSTANCES_HINT})
        return PollingHints()


_INSTANCES_HINT = "sysctl fs.inotify.max_user_instances=1024"


class PollingHints:
    """Says look twice a second. The walk itself finds what changed, so nothing is compared here."""

    def __init__(self) -> None:
        self.wide = False

    async def run(self, look: Look) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            look(Hint())

    def on_folder(self, folder: str, seen: os.stat_result, /) -> None:
        """Nothing to set up."""

    def keep(self, folders: Collection[str]) -> None:
        """Nothing to let go."""

    def close(self) -> None:
        """Nothing is held."""


class WatchfilesHints:
    """watchfiles in a thread of its own. It may lose what is new in a new folder, so each hint has an echo.

    It ends with an exception at a name that is not UTF-8, and hears nothing more of a root that was replaced: it is
    started again for both.
    """

    def __init__(self, root: str) -> None:
        self.wide = False
        self._root = root
        self._stands: FolderIdentity | None = None
        self._stop = threading.Event()

    async def run(self, look: Look) -> None:
        loop = asyncio.get_running_loop()

        def tell() -> None:
            look(Hint())
            loop.call_later(_ECHO_S, look, Hint())

        def tell_from_thread() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(tell)

        while True:
            self._stop = threading.Event()
            await asyncio.to_thread(self._listen, self._stop, tell_from_thread)
            tell()
            if not self._stop.is_set():
                await asyncio.sleep(_RETRY_S)

    def on_folder(self, folder: str, _seen: os.stat_result, /) -> None:
        if folder:
            return
        stands = identify_folder(self._root)
        if self._stands not in (None, stands):
            self._stop.set()
        self._stands = stands

    def keep(self, folders: Collection[str]) -> None:
        """It watches the whole tree by itself."""

    def close(self) -> None:
        self._stop.set()

    def _listen(self, stop: threading.Event, tell: Callable[[], None]) -> None:
        from watchfiles import watch

        listening = False
        try:
            for changes in watch(
                self._root,
                watch_filter=lambda _, path: self._matters(path),
                debounce=50,
                step=20,
                stop_event=stop,
                rust_timeout=200,
                yield_on_timeout=True,
                raise_interrupt=False,
                ignore_permission_denied=True,
            ):
                if changes or not listening:  # the first time-out says that it hears; what came before is walked for
                    tell()
                listening = True
        except (OSError, ValueError, RuntimeError) as exc:
            log.debug("watchfiles has stopped and is started again", extra={"reason": str(exc)})

    def _matters(self, path: str) -> bool:
        *folders, name = os.path.relpath(path, self._root).split("/")
        if any(map(is_ignored_folder, folders)) or name.endswith(".runs"):
            return False
        return self.wide or is_definition_name(name) or not name.startswith(".")
