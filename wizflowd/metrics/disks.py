"""How much room there is below the daemon's folders. Asked by `present` for each page.

In a thread, and not waited for: a file system that hangs (NFS) must not take the metrics with it.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from wizflowd.threads import start_pool

_PATIENCE_S = 0.5


class Disks:
    """The disks of some folders."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders
        self._thread = start_pool(1, "disks")
        self._looking: asyncio.Future[dict[str, int]] | None = None

    async def free_bytes(self) -> Mapping[str, int]:
        """Return the bytes that are free for us, by folder; nothing where a disk does not answer."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().run_in_executor(self._thread, _free_bytes, self._folders)
        await asyncio.wait([self._looking], timeout=_PATIENCE_S)
        if not self._looking.done():
            return {}
        looked, self._looking = self._looking, None
        return looked.result()

    def close(self) -> None:
        """Give up the thread; it may hang for as long as the disk does."""
        self._thread.shutdown(wait=False)


def _free_bytes(folders: tuple[Path, ...]) -> dict[str, int]:
    found = {}
    for folder in folders:
        try:
            disk = os.statvfs(folder)
        except OSError:  # gone for the moment: there is nothing to tell
            continue
        found[str(folder)] = disk.f_bavail * disk.f_frsize
    return found
