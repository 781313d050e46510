"""The watched folder: hints say when to look, a walk says what is there, and what is settled and new is reported.

Out: `FolderObservation`s, one after the other, to whoever made the `Watcher` (the daemon gives the engine's inbox).
Nothing is decided here; `core.reconcile` does that.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

from wizflowd.core.observations import FolderObservation, WorkflowId
from wizflowd.threads import start_pool
from wizflowd.watcher.companions import Companions, Followed, companions_digest
from wizflowd.watcher.hints import Hint, Hints, open_hints
from wizflowd.watcher.ledger import Known, Ledger, Look, WatchSettings
from wizflowd.watcher.scan import identity_of, is_definition_name

__all__ = ["Known", "WatchSettings", "Watcher", "companions_digest", "identity_of", "is_definition_name"]

Report = Callable[[FolderObservation], Awaitable[None]]

_MAX_PEEKS = 256
_WALK_AFTER_S = 0.1
_NEVER = float("inf")


class Watcher:
    """Watches one folder until cancelled.

    Two kinds of look: a *walk* through everything, which is the truth, and a *peek* at single definitions that a hint
    named or that were not settled, which is quick in a folder of any size. Every burst of peeks ends with a walk.
    Looks happen in one thread, one at a time; `report` is awaited in the loop, in order.
    """

    def __init__(
        self,
        folder: Path,
        settings: WatchSettings,
        report: Report,
        known: Mapping[WorkflowId, Known] = MappingProxyType({}),
    ) -> None:
        self._folder = os.path.abspath(folder)
        self._settings = settings
        self._report = report
        self._ledger = Ledger(self._folder, settings, known)
        self._companions = Companions(Path(self._folder), settings.settle_s)
        self._woken = asyncio.Event()
        self._paths: set[str] = set()
        self._overflow = False
        self._peek_at = _NEVER
        self._walk_at = 0.0
        self._rest_until = 0.0
        self._walk_cost_s = 0.0
        self._waiting: list[asyncio.Future[None]] = []

    async def run(self) -> None:
        """Report until cancelled; OSError where the backend asked for by name cannot be had."""
        hints = open_hints(self._settings.backend, self._folder)
        # Left from the inside out: the thread has ended before the hints that it uses are closed.
        with contextlib.closing(hints), start_pool(1, "watcher") as thread:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(hints.run(self._take_hint))
                tasks.create_task(self._look_on(hints, thread))

    def follow(
        self,
        workflow: WorkflowId,
        definition_path: str,
        sources: tuple[str, ...],
        dotenv: tuple[str, ...],
        digest: str | None,
    ) -> None:
        """Look at these companion files in each walk; `digest`: acted upon, None takes the present as told."""
        self._companions.follow(workflow, Followed(definition_path, sources, dotenv, digest))
        if sources or dotenv:
            self.hint()

    def forget(self, workflow: WorkflowId) -> None:
        """Look at no companion files of this workflow any more."""
        self._companions.forget(workflow)

    def hint(self) -> None:
        """Ask for a walk soon; many of these make one."""
        self._take_hint(Hint())

    async def rescan(self) -> None:
        """Walk now, and return when all that it found has been reported. Only while `run` runs."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._woken.set()
        await done

    def _take_hint(self, hint: Hint) -> None:
        now_s = time.monotonic()
        self._overflow = self._overflow or hint.overflow
        if hint.path is not None and len(self._paths) < _MAX_PEEKS:
            self._paths.add(hint.path)
            wait_s = max(_WALK_AFTER_S, 10 * self._walk_cost_s)
        else:
            wait_s = max(0.0, self._rest_until - now_s)
        self._walk_at = min(self._walk_at, now_s + wait_s)
        self._woken.set()

    async def _look_on(self, hints: Hints, thread: ThreadPoolExecutor) -> None:
        try:
            while True:
                await self._pause()
                self._woken.clear()
                now_s = time.monotonic()
                if self._waiting or now_s >= self._walk_at:
                    await self._walk(hints, thread)
                elif self._paths or now_s >= self._peek_at:
                    await self._peek(thread)
        finally:
            for done in self._waiting:
                done.cancel()

    async def _pause(self) -> None:
        """Wait for a hint, or for the earliest time at which something is due."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(self._peek_at, self._walk_at)):
                await self._woken.wait()

    async def _walk(self, hints: Hints, thread: ThreadPoolExecutor) -> None:
        waiting, self._waiting = self._waiting, []
        self._paths.clear()
        self._walk_at = _NEVER
        started_s = time.monotonic()
        look = await asyncio.get_running_loop().run_in_executor(thread, self._walk_in_thread, hints)
        now_s = time.monotonic()
        self._walk_cost_s = now_s - started_s
        self._rest_until = now_s + 2 * self._walk_cost_s
        self._walk_at = min(max(self._walk_at, self._rest_until), look.walk_s, now_s + self._settings.rescan_s)
        await self._tell(look)
        for done in waiting:
            if not done.done():
                done.set_result(None)

    def _walk_in_thread(self, hints: Hints) -> Look:
        look = self._ledger.walk(hints.on_folder, self._take_overflow)
        hints.keep(self._ledger.folders)
        was_wide, hints.wide = hints.wide, self._ledger.linked or bool(self._companions)
        if hints.wide and not was_wide:
            look.walk_s = 0.0  # for what changed under other names since it was walked
        if self._ledger.available:
            seen, again_s = self._companions.look(time.monotonic())
            look.observations[-1:-1] = seen  # `ScanDone` stays the last
            look.walk_s = min(look.walk_s, again_s)
        return look

    def _take_overflow(self) -> bool:
        overflow, self._overflow = self._overflow, False
        return overflow

    async def _peek(self, thread: ThreadPoolExecutor) -> None:
        paths = frozenset(self._paths)
        self._paths.clear()
        look = await asyncio.get_running_loop().run_in_executor(thread, self._ledger.peek, paths)
        self._walk_at = min(self._walk_at, look.walk_s)
        await self._tell(look)

    async def _tell(self, look: Look) -> None:
        self._peek_at = look.peek_s
        for observation in look.observations:
            await self._report(observation)
