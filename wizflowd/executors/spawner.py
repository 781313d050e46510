"""The daemon's end of the line to the spawner: finds one or starts one, and passes messages.

Called by the SHELL executor. In: messages to send, many per turn of the loop in one write. Out: messages as they come,
and the news that the line is broken.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wizflowd.spawner
from wizflowd.core.values import decode_json, encode_json
from wizflowd.errors import SpawnerError
from wizflowd.spawner.protocol import PROTOCOL, LineReader, Message, peer_uid, socket_address

_PROGRAM = Path(wizflowd.spawner.__file__).with_name("__main__.py")
_CONNECT_WITHIN_S = 10.0
_AGAIN_S = 0.05
_COMPANY_S = 0.02  # less than the spawner waits before it syncs the exits that nobody acknowledged
_TAKEN = 3  # the spawner's exit status where the directory has one

OnMessage = Callable[[Message], None]


@dataclass(frozen=True, slots=True)
class SpawnerPlace:
    """Where the spawner is. `own`: start one if there is none; `with_parent`: it ends with this process."""

    directory: Path
    own: bool
    with_parent: bool


class SpawnerLine(asyncio.Protocol):
    """A connection to a spawner. `broken` is done when it has ended, whoever ended it."""

    def __init__(self, on_message: OnMessage) -> None:
        self._on_message = on_message
        self._reader = LineReader(decode=decode_json)
        self._unsent: list[bytes] = []
        self._flushing: asyncio.Handle | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._loop = asyncio.get_running_loop()
        self.broken: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101  # a stream's is one
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            self._on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._transport = None
        if not self.broken.done():
            self.broken.set_result(None)

    def send(self, message: Message) -> None:
        """Send a message, together with all others of this turn of the loop."""
        if self._flushing is None or isinstance(self._flushing, asyncio.TimerHandle):
            self._stop_waiting()
            self._flushing = self._loop.call_soon(self._flush)
        self._unsent += (encode_json(message), b"\n")

    def send_patiently(self, message: Message) -> None:
        """Send a message with the next that cannot wait, or by itself a moment later: each wakes the spawner."""
        if self._flushing is None:
            self._flushing = self._loop.call_later(_COMPANY_S, self._flush)
        self._unsent += (encode_json(message), b"\n")

    def _stop_waiting(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
        self._flushing = None

    def close(self) -> None:
        """Send what is left and end the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        self._stop_waiting()
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and unsent:
            self._transport.write(b"".join(unsent))


async def join_spawner(place: SpawnerPlace, on_message: OnMessage) -> tuple[SpawnerLine, Message]:
    """Return a line to the spawner and its `hello`. Raises SpawnerError."""
    deadline = time.monotonic() + _CONNECT_WITHIN_S
    while True:
        try:
            return await _greet(place, on_message)
        except OSError as error:
            if time.monotonic() > deadline:
                raise SpawnerError(
                    f"cannot reach the spawner in {place.directory}: {error}",
                    hint=f"see {place.directory}/spawner.log" if place.own else "is wizflowd-spawner.service running?",
                ) from error
        listens = place.own and await asyncio.to_thread(_start_spawner, place)
        if not listens:
            await asyncio.sleep(_AGAIN_S)


async def _greet(place: SpawnerPlace, on_message: OnMessage) -> tuple[SpawnerLine, Message]:
    """Connect and exchange `hello`. Raises OSError where there is no spawner, or one that just ends."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        with socket_address(str(place.directory)) as address:
            connection.connect(address)
        if peer_uid(connection) != os.geteuid():
            raise SpawnerError(
                f"the spawner in {place.directory} belongs to the user {peer_uid(connection)}",
                hint="daemon and spawner must run as one user",
            )
    except BaseException:
        connection.close()
        raise
    hello: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    def receive(message: Message) -> None:
        if hello.done():
            on_message(message)
        elif message["op"] == "hello":  # an end that was told before it is in it, too
            hello.set_result(message)

    _transport, line = await asyncio.get_running_loop().create_unix_connection(
        lambda: SpawnerLine(receive), sock=connection
    )
    line.send({"op": "hello", "protocol": PROTOCOL, "daemon_pid": os.getpid()})
    either: set[asyncio.Future[Any]] = {hello, line.broken}
    await asyncio.wait(either, timeout=_CONNECT_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
    if not hello.done():
        line.close()
        raise ConnectionError("it does not answer")
    return line, hello.result()


def _start_spawner(place: SpawnerPlace) -> bool:
    """Start a spawner and return whether it listens; another that is quicker is as good. Raises SpawnerError."""
    place.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = place.directory / "spawner.log"
    with path.open("ab") as log:
        done = subprocess.run(
            [
                *(sys.executable, "-I", "-S", str(_PROGRAM), "--detach", "--directory", str(place.directory)),
                "--with-parent" if place.with_parent else "--own",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"LANG": "C.UTF-8"},  # nothing of the daemon's environment: it may hold credentials
            cwd="/",
            start_new_session=True,
            check=False,
        )
    if done.returncode not in (0, _TAKEN):
        raise SpawnerError(
            f"cannot start the spawner of {place.directory}: it ended with {done.returncode}", hint=f"see {path}"
        )
    return done.returncode == 0
