"""Threads for what blocks: all of a pool are there from its beginning, and name resolution has its own.

In: a number of threads and their name. Out: an executor that never has to start one, and the event loop of a process
that has such a pool for `asyncio.to_thread`. Called by whatever has a pool, and by the programs for their loop.
The host may refuse a thread at any later moment (a task's fork bomb takes all that `TasksMax=`, `pids.max` or
`ulimit -u` allow), and then nobody could go on: a commit, a file of a run, a look at the folder.
"""

import asyncio
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

from wizflowd.errors import ThreadError

_SHARED = min(32, (os.cpu_count() or 1) + 4)
"""Threads for `asyncio.to_thread`; as many as asyncio would start."""
_RESOLVING = 8


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
        super().__init__()
        self.set_default_executor(self._shared)

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
        self._resolving.shutdown(wait=False, cancel_futures=True)
        self._shared.shutdown()
