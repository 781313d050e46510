"""`wizflow top`: the daemon's sockets for the live screen."""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from wizflowd.cli.reach import listening
from wizflowd.client import ask
from wizflowd.sockets import reachable
from wizflowd.views.screen import TopScreen

MAX_EVENT = 16 * 1024 * 1024


class _Daemon:
    """A daemon behind its two sockets."""

    def __init__(self, control: Path, events: Path) -> None:
        self._control = control
        self._events = events

    async def ask(self, request: Mapping[str, Any]) -> Any:
        return await asyncio.to_thread(ask, self._control, request)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        with reachable(self._events) as name:
            reader, writer = await asyncio.open_unix_connection(name, limit=MAX_EVENT)
        try:
            writer.write(b'{"output": true}\n')
            async for line in reader:
                yield json.loads(line)
        finally:
            writer.close()


def top(options: argparse.Namespace) -> int:
    """Show the screen until it is left."""
    TopScreen(_Daemon(listening(options, "control"), listening(options, "events"))).run()
    return 0
