"""Real servers on 127.0.0.1 for tests: HTTP with scripted answers, an SMTP sink. Each runs in its own thread.

Usable from plain and from asyncio tests: `with HttpServer(Answer(body=b"{}")) as server: ... server.url`.
"""

import asyncio
import email
import email.message
import email.policy
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

Script = Callable[["Request"], "Answer"]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came; header names are lower-case, `target` is the path with the query."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    client: tuple[str, int]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer. `body` in pieces is sent piece by piece; `raw` is sent as it is, and the connection closed;
    `never` leaves the request without an answer while the server lives."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | Iterable[bytes] = b""
    raw: bytes | None = None
    never: bool = False


class HttpServer:
    """Answers with the given answers in turn, the last one for ever, or with what a function says."""

    def __init__(self, *script: "Answer | Script", tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._script = script or (Answer(),)
        self._turn = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: Request) -> Answer:
        with self._turn:
            step = self._script[min(len(self.requests), len(self._script) - 1)]
            self.requests.append(request)
        return step(request) if callable(step) else step


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1000

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients of tests hang up in the middle."""


def _handler(server: HttpServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body, self.client_address)
            self._send(server.answer(request))

        def _send(self, answer: Answer) -> None:
            if answer.never:
                server.closing.wait()
            if answer.never or answer.raw is not None:
                self.wfile.write(answer.raw or b"")
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            if isinstance(answer.body, bytes):
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in answer.body:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named so by the base
            pass

    return Handler


@dataclass(frozen=True, slots=True)
class Mail:
    """A message as it was delivered: envelope, parsed content and the bytes."""

    sender: str
    recipients: tuple[str, ...]
    message: email.message.EmailMessage
    content: bytes
    logged_in: bool


@dataclass(slots=True)
class _Sink:
    mails: list[Mail] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)
    after_data: str = "250 OK"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd finds it by name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.original_content or b""
        if self.after_data == "hang up":
            assert isinstance(server.transport, asyncio.WriteTransport)
            server.transport.abort()
            return "421 never seen"
        if self.after_data == "stall":
            await asyncio.Event().wait()
        if self.after_data.startswith("250"):
            parsed = email.message_from_bytes(content, policy=email.policy.default)
            assert isinstance(parsed, email.message.EmailMessage)
            recipients = tuple(envelope.rcpt_tos)
            self.mails.append(Mail(envelope.mail_from or "", recipients, parsed, content, bool(session.authenticated)))
        return self.after_data


class SmtpSink:
    """Takes messages into `mails`. `refuse` maps an address to the reply it gets, and may change while it runs.

    `after_data` is the reply to the message itself, "hang up" or "stall". `login` is the only accepted name and
    password, which need not be given. With `tls`, STARTTLS is required, or with `tls_first` TLS from the first byte.
    """

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, tls_first: bool = False, login: tuple[str, str] | None = None
    ) -> None:
        self._sink = _Sink()
        options: dict[str, Any] = {}
        if login:
            # aiosmtpd does not know of TLS from the first byte, and warns when it should require a login without TLS.
            options = {"authenticator": _authenticator(login), "auth_require_tls": False}
        if tls and not tls_first:
            options |= {"tls_context": tls, "require_starttls": True}
        self._controller = _Controller(
            self._sink, hostname="127.0.0.1", port=0, ssl_context=tls if tls_first else None, **options
        )

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._controller.stop()

    @property
    def port(self) -> int:
        return self._controller.bound_port

    @property
    def mails(self) -> list[Mail]:
        return self._sink.mails

    @property
    def refuse(self) -> dict[str, str]:
        return self._sink.refuse

    def answer_data(self, reply: str) -> None:
        """Set the reply to the next messages; "hang up" closes the connection, "stall" never replies."""
        self._sink.after_data = reply


class _Controller(Controller):
    """A controller that may be given port 0, and whose end leaves no transport behind for a ResourceWarning."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._met: list[SMTP] = []

    def factory(self) -> SMTP:
        self._met.append(SMTP(self.handler, **self.SMTP_kwargs))
        return self._met[-1]

    def stop(self, no_assert: bool = False) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self.loop).result(10)
        super().stop(no_assert)

    async def _hang_up(self) -> None:
        for smtp in self._met:
            if isinstance(smtp.transport, asyncio.WriteTransport):
                smtp.transport.abort()
        for _ in range(10):  # turns of the loop, in which transports under TLS close one after the other
            await asyncio.sleep(0)

    @property
    def bound_port(self) -> int:
        assert isinstance(self.server, asyncio.Server)
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    def _trigger_server(self) -> None:
        socket.create_connection(("127.0.0.1", self.bound_port)).close()


def _authenticator(login: tuple[str, str]) -> Callable[..., AuthResult]:
    def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        given = (data.login.decode(), data.password.decode())
        if given == login:
            return AuthResult(success=True)
        return AuthResult(success=False, handled=False, message=f"535 {given} is not known")  # as rude as can be

    return check
