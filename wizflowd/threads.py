"""Threads for what blocks: all of a pool are there from its beginning, and what may take long has its own.

In: a number of threads and their name. Out: an executor that never has to start one, and the event loop of a process
that has such a pool for `asyncio.to_thread`. Called by whatever has a pool, and by the programs for their loop.
The host may refuse a thread at any later moment (a task's fork bomb takes all that `TasksMax=`, `pids.max` or
`ulimit -u` allow), and then nobody could go on: a commit, a file of a run, a look at the folder. For the same reason
neither names that nobody resolves nor what the kinds of packages do may keep these threads busy.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Barrier
from typing import Any, TypeVar, TypeVarTuple

from wizflowd.errors import ThreadError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_SHARED = min(32, (os.cpu_count() or 1) + 4)
"""Threads for `asyncio.to_thread`; as many as asyncio would start."""
_RESOLVING, _GUESTS = 8, 64
_is_guest = ContextVar("is_guest", default=False)


@contextmanager
def as_guest() -> Iterator[None]:
    """Let the `asyncio.to_thread` of this asyncio task take threads that nobody else waits for."""
    before = _is_guest.set(True)
    try:
        yield
    finally:
        _is_guest.reset(before)


def start_pool(count: int, name: str) -> ThreadPoolExecutor:
    """Return an executor with all its threads; 1.0 ms and 0.1 MiB for six. Raises ThreadError where one is refused."""
    pool = ThreadPoolExecutor(count, name)
    all_there = Barrier(count)  # none is free for the next call before the last has come
    try:
        for _ in range(count):
            pool.submit(all_there.wait)
    except RuntimeError as exc:
        all_there.abort()
        pool.shutdown(wait=False)
        raise ThreadError(
            f"cannot start a thread: {exc}", hint="see TasksMax= of the unit, pids.max of its cgroup, ulimit -u"
        ) from exc
    return pool


class Loop(asyncio.SelectorEventLoop):
    """An event loop with all its threads. Raises ThreadError.

    Names are resolved in threads of their own: with a name server that does not answer each takes 10 s, and the files
    of all runs would wait for a thread.
    """

    def __init__(self) -> None:
        self._shared, self._resolving = start_pool(_SHARED, "shared"), start_pool(_RESOLVING, "resolving")
        self._guests = ThreadPoolExecutor(_GUESTS, "guests")  # begun as they are needed: a refusal harms one attempt
        super().__init__()
        self.set_default_executor(self._shared)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        if executor is None and _is_guest.get():
            executor = self._guests
        return super().run_in_executor(executor, func, *args)

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - asyncio calls it so
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        return await self.run_in_executor(self._resolving, socket.getaddrinfo, host, port, family, type, proto, flags)

    async def shutdown_default_executor(self, *_: object) -> None:
        """End the threads. asyncio's own would start one that waits for them."""
        for pool in (self._resolving, self._guests):
            pool.shutdown(wait=False, cancel_futures=True)
        self._shared.shutdown()
