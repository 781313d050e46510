"""HTTP for the site: connections with limits on time, size and number, parsed by h11, in the daemon's loop.

In: an address, TLS and users, a `Site`. Called by the daemon: `open` listens, `run` serves until cancelled. Why h11 and
asyncio and no whole server: see docs/dependencies.md.
"""

import asyncio
import contextlib
import email.utils
import logging
import socket
from http import HTTPStatus

import h11

from wizflowd.errors import WizflowError
from wizflowd.metrics.site import Answer, Site, text_answer
from wizflowd.metrics.web_config import Access
from wizflowd.settings import Address

log = logging.getLogger(__name__)
REQUEST_S = 10.0
"""For the TLS handshake and a whole request, counted from the connection or the last answer: also for an idle one."""
ANSWER_S = 30.0
CLOSE_S = 1.0
MAX_REQUEST = 16 * 1024
MAX_CONNECTIONS = 64
_FULL_RETRY_S = 1.0
_READ = 16 * 1024
_BROKEN = (OSError, TimeoutError, h11.LocalProtocolError)


class MetricsServer:
    """Serves a site on one address. With `MAX_CONNECTIONS` open, a new one takes the place of the longest idle."""

    def __init__(self, address: Address, site: Site, access: Access) -> None:
        self._site = site
        self._access = access
        self._wanted = address
        self._listener: socket.socket | None = None
        self._idle: dict[asyncio.Task[None], None] = {}
        self._connections: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to listen. Raises WizflowError."""
        host, port = self._wanted.host, self._wanted.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
        except OSError as error:
            reason = (error.strerror or str(error)).partition(" (while")[0]  # create_server repeats the address
            hint = 'choose another address with --metrics HOST:PORT, or none with "off"'
            raise WizflowError(f"cannot serve metrics on {host}:{port}: {reason}", hint=hint) from error
        self._listener.setblocking(False)
        log.info("metrics are served", extra={"host": self.address.host, "port": self.address.port})

    @property
    def address(self) -> Address:
        """Where it listens; a port 0 was given a real one."""
        assert self._listener is not None  # noqa: S101 - it is open
        host, port = self._listener.getsockname()[:2]
        return Address(host, port)

    def change_access(self, access: Access) -> None:
        """Use other certificates and users for connections from here on."""
        self._access = access

    async def run(self) -> None:
        """Serve until cancelled, then close everything."""
        assert self._listener is not None  # noqa: S101 - it is open
        loop = asyncio.get_running_loop()
        with contextlib.closing(self._listener):
            async with asyncio.TaskGroup() as group:
                while True:
                    try:
                        peer, _ = await loop.sock_accept(self._listener)
                    except OSError as error:
                        log.warning("cannot accept a connection", extra={"error": str(error)})
                        await asyncio.sleep(_FULL_RETRY_S)
                        continue
                    self._make_room()
                    task = group.create_task(self._connection(peer))
                    self._connections.add(task)
                    self._idle[task] = None
                    task.add_done_callback(self._forget)

    def _make_room(self) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            oldest = next(iter(self._idle or self._connections))
            oldest.cancel()
            self._forget(oldest)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        self._connections.discard(task)
        self._idle.pop(task, None)

    async def _connection(self, peer: socket.socket) -> None:
        with contextlib.closing(peer), contextlib.suppress(*_BROKEN):
            loop = asyncio.get_running_loop()
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            tls = self._access.tls
            limits = {"ssl_handshake_timeout": REQUEST_S, "ssl_shutdown_timeout": CLOSE_S} if tls else {}
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, peer, ssl=tls, **limits)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            try:
                await self._converse(reader, writer)
                writer.close()
                async with asyncio.timeout(CLOSE_S):
                    await writer.wait_closed()
            finally:
                transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other until one side has enough."""
        writer.transport.set_write_buffer_limits(high=0)  # so that `drain` waits for the last byte
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in one
        while True:
            self._idle[task] = None
            try:
                async with asyncio.timeout(REQUEST_S):
                    request = await _next_request(connection, reader)
            except h11.RemoteProtocolError as error:
                if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    await _send(
                        connection, writer, text_answer(error.error_status_hint, "not a request that is served here")
                    )
                return
            if request is None:
                return
            del self._idle[task]
            await _send(connection, writer, await self._answer(request))
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _answer(self, request: h11.Request) -> Answer:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        if not await self._access.admits(headers.get("authorization", "")):
            return text_answer(401, "a user and a password are needed", ("www-authenticate", 'Basic realm="wizflowd"'))
        return await self._site.answer(request.method.decode("ascii"), request.target.decode("latin-1"), headers)


async def _next_request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Return the next request once all of it was read, None at the end. Raises h11.RemoteProtocolError."""
    request: h11.Request | None = None
    size = 0
    while True:
        match connection.next_event():
            case h11.Request() as request:
                pass
            case h11.EndOfMessage():
                return request
            case h11.Data():  # nobody reads it, but the next request stands behind it
                pass
            case h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    return request
                data = await reader.read(_READ)
                size += len(data)
                if size > MAX_REQUEST + _READ:
                    raise h11.RemoteProtocolError("the request is too long", error_status_hint=413)
                connection.receive_data(data)
            case _:
                return None


async def _send(connection: h11.Connection, writer: asyncio.StreamWriter, answer: Answer) -> None:
    """Send an answer to its last byte. Raises TimeoutError."""
    headers = [
        *answer.headers,
        ("date", email.utils.formatdate(usegmt=True)),
        ("content-length", str(len(answer.body))),
    ]
    parts = (
        h11.Response(status_code=answer.status, headers=headers, reason=HTTPStatus(answer.status).phrase),
        h11.Data(data=answer.body),  # which h11 leaves out in an answer to HEAD
        h11.EndOfMessage(),
    )
    for part in parts:
        if data := connection.send(part):
            writer.write(data)
    async with asyncio.timeout(ANSWER_S):
        await writer.drain()
