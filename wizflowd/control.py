"""The control socket: JSON lines, one request and one answer each (SPEC section 5).

In: lines of local peers with the right to ask. Out: the answers of `operations`, by name. Knows nothing of what they
do. Called by the daemon; `client` is the other end.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from wizflowd.core.values import Json
from wizflowd.errors import RequestError, WizflowError
from wizflowd.sockets import listen, may_connect, user_of

_SIGNED = frozenset({"approve"})
"""What is recorded with the user who asked for it, as the kernel names the other end."""
MAX_LINE = 1024 * 1024
Operation = Callable[[Mapping[str, Any]], Awaitable[Json]]


class ControlServer:
    """Listens on a Unix socket. `group` may ask besides root and the daemon's user."""

    def __init__(self, path: Path, operations: Mapping[str, Operation], group: str | None = None) -> None:
        self._path = path
        self._operations = operations
        self._group = group
        self._server: asyncio.Server | None = None
        self._own = True
        self._peers: set[asyncio.StreamWriter] = set()

    async def open(self, listener: socket.socket | None = None) -> None:
        """Begin to listen, on a socket that was handed down or on one of our own. Raises StateError."""
        self._own = listener is None
        listener = listener or listen(self._path, self._group)
        # not start_unix_server: since Python 3.13 its end removes the path, also of a socket that is systemd's
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=MAX_LINE)

    async def close(self) -> None:
        """Answer nobody any more."""
        if self._server is not None:
            self._server.close()
            for peer in self._peers:
                peer.close()
            await self._server.wait_closed()
            if self._own:
                self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._peers.add(writer)
        try:
            if not may_connect(writer.get_extra_info("socket"), self._group):
                await _send(writer, {"error": {"code": "forbidden", "message": "you may not control this wizflowd"}})
                return
            user = user_of(writer.get_extra_info("socket"))
            while True:
                try:
                    line = await reader.readuntil(b"\n")
                except asyncio.LimitOverrunError:
                    await _send(writer, {"error": {"code": "too_long", "message": "a request is at most 1 MiB"}})
                    return
                except asyncio.IncompleteReadError:
                    return
                await _send(writer, await self._answer(line, user))
        except ConnectionError:
            return
        finally:
            self._peers.discard(writer)
            writer.close()

    async def _answer(self, line: bytes, user: str) -> dict[str, Json]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            return {"error": {"code": "bad_request", "message": "a request is a JSON object on one line"}}
        operation = self._operations.get(str(request.get("op")))
        answer: dict[str, Json] = {"id": request.get("id")}
        if operation is None:
            names = ", ".join(sorted(self._operations))
            return answer | {"error": {"code": "unknown_op", "message": f"there is no such op; there are {names}"}}
        try:
            signed = {**request, "by": user} if request["op"] in _SIGNED else request
            return answer | {"ok": await operation(signed)}
        except WizflowError as error:
            code = error.code if isinstance(error, RequestError) else "failed"
            return answer | {"error": {"code": code, "message": str(error)}}


async def _send(writer: asyncio.StreamWriter, answer: Mapping[str, Json]) -> None:
    writer.write(json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace"))
    writer.write(b"\n")
    await writer.drain()
