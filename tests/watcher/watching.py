"""A running watcher whose reports can be waited for, and a folder to change under it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from wizflowd.core.observations import (
    FolderObservation,
    SourceGone,
    SourceRefused,
    SourceSeen,
    WorkflowId,
)
from wizflowd.watcher import Known, Watcher, WatchSettings

DEADLINE_S = 10.0


class Watching:
    """A watcher and everything it reported, in order."""

    def __init__(self, folder: Path, settings: WatchSettings, known: Mapping[WorkflowId, Known]) -> None:
        self.folder = folder
        self.told: list[FolderObservation] = []
        self._news = asyncio.Event()
        self.watcher = Watcher(folder, settings, self._take, known)

    async def _take(self, observation: FolderObservation) -> None:
        self.told.append(observation)
        self._news.set()

    async def until(self, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        """Wait until the reports fulfil the condition."""
        try:
            async with asyncio.timeout(deadline_s):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not within {deadline_s} s; told: {self.told[-12:]}") from None

    def seen(self, workflow: str) -> list[bytes]:
        """Return the contents told of a workflow, in order."""
        return [o.source.data for o in self.told if isinstance(o, SourceSeen) and o.source.workflow == workflow]

    def gone(self) -> set[str]:
        return {o.workflow for o in self.told if isinstance(o, SourceGone)}

    def refused(self, workflow: str) -> list[tuple[str, ...]]:
        return [o.problems for o in self.told if isinstance(o, SourceRefused) and o.workflow == workflow]

    def count(self, kind: type) -> int:
        return sum(isinstance(o, kind) for o in self.told)

    async def until_seen(self, workflow: str, data: bytes) -> None:
        await self.until(lambda: data in self.seen(workflow)[-1:])

    async def until_gone(self, workflow: str) -> None:
        await self.until(lambda: workflow in self.gone())

    async def until_refused(self, workflow: str) -> str:
        await self.until(lambda: bool(self.refused(workflow)))
        return "\n".join(self.refused(workflow)[-1])

    async def marker(self, name: str = "marker") -> None:
        """Wait for a file made now: what the watcher hears of in order, it has heard of before this."""
        publish(self.folder / f"{name}.json", name.encode())
        await self.until_seen(name, name.encode())
        await self.watcher.rescan()


def publish(path: Path, data: bytes) -> None:
    """Write beside and rename into place."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(data)
    beside.rename(path)


@contextlib.asynccontextmanager
async def watching(
    folder: Path, settings: WatchSettings, known: Mapping[WorkflowId, Known] = MappingProxyType({})
) -> AsyncIterator[Watching]:
    """Run a watcher over `folder`; it has walked once when this begins."""
    it = Watching(folder, settings, known)
    task = asyncio.ensure_future(it.watcher.run())
    try:
        await it.until(lambda: len(it.told) > 0)
        yield it
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
