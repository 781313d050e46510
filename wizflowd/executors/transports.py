"""HTTP connections that calls share: one transport of httpx for each, used by one call at a time.

In: a request of httpx. Out: its response. Called by `rest`. A pool for all connections, as a client has it, looks at
every one of them twice a call, and asks the kernel about each that is idle.
"""

import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from sniffio import current_async_library_cvar

from wizflowd.core.attempt import RestCall
from wizflowd.executors.connection import connection_error, tls_context
from wizflowd.executors.inprocess import AttemptError

if TYPE_CHECKING:  # importing httpx costs 120 ms: paid before the first attempt, in a thread
    import httpx

_IDLE_S = 2.0  # below any server's idle timeout: a request never meets a connection that is just being closed
_IDLE_MAX = 20


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int | None


class _Idle(NamedTuple):
    origin: _Origin
    transport: "httpx.AsyncHTTPTransport"
    since_s: float


class Transports:
    """Transports that trust nothing in the environment; of the idle ones the newest are kept, for a short time."""

    def __init__(self, context: ssl.SSLContext) -> None:
        import httpx

        for name in ("httpx", "httpcore"):  # they log URLs and headers, with the secrets in them
            logging.getLogger(name).setLevel(logging.WARNING)
        self._context = context
        self._limits = httpx.Limits(max_connections=None, max_keepalive_connections=1, keepalive_expiry=_IDLE_S)
        self._idle: list[_Idle] = []  # the newest last

    @contextlib.asynccontextmanager
    async def exchange(self, request: "httpx.Request") -> AsyncIterator["httpx.Response"]:
        """Give the response to a request, its body still to be read. Raises AttemptError for what httpx does not do."""
        import httpx

        current_async_library_cvar.set("asyncio")  # for this call; httpcore and anyio would find it out 14 times
        origin = _Origin(request.url.scheme, request.url.host, request.url.port)
        transport = self._take(origin)
        try:
            response = await transport.handle_async_request(request)
            response.request = request
            try:
                yield response
            finally:
                await response.aclose()
        except BaseException as exc:
            await transport.aclose()
            match exc:
                case httpx.UnsupportedProtocol() | httpx.LocalProtocolError():
                    raise AttemptError("input", f"cannot make the request: {exc}", retryable=False) from exc
                case httpx.TransportError():
                    raise connection_error(exc, origin.host, origin.port, ca_setting="tls.ca_file") from exc
                case _:
                    raise
        await self._keep(origin, transport)

    async def rehearse(self) -> None:
        """Have httpx load what it leaves to its first request, which takes 40 ms, by one that leads nowhere."""
        import httpx

        nowhere = httpx.AsyncHTTPTransport(verify=self._context, trust_env=False, uds="/dev/null/nowhere")
        with contextlib.suppress(httpx.ConnectError):
            await nowhere.handle_async_request(httpx.Request("GET", "http://nowhere.invalid/"))

    def _take(self, origin: _Origin) -> "httpx.AsyncHTTPTransport":
        import httpx

        for place in reversed(range(len(self._idle))):
            if self._idle[place].origin == origin:
                return self._idle.pop(place).transport
        return httpx.AsyncHTTPTransport(verify=self._context, trust_env=False, limits=self._limits)

    async def _keep(self, origin: _Origin, transport: "httpx.AsyncHTTPTransport") -> None:
        now_s = time.monotonic()
        self._idle.append(_Idle(origin, transport, now_s))
        while len(self._idle) > _IDLE_MAX or (self._idle and self._idle[0].since_s < now_s - _IDLE_S):
            await self._idle.pop(0).transport.aclose()

    async def aclose(self) -> None:
        """Close what is idle."""
        while self._idle:
            await self._idle.pop().transport.aclose()


def open_transports(call: RestCall | None = None) -> Transports:
    """Return transports that verify as a call wants it. Raises AttemptError. Blocks."""
    ca_file, cert_file, key_file = (call.ca_file, call.cert_file, call.key_file) if call else (None, None, None)
    try:
        context = tls_context(ca_file)
        if cert_file:
            # With an empty password an encrypted key is an error and not a question on the terminal.
            context.load_cert_chain(cert_file, key_file, password="")
    except (OSError, ValueError) as exc:
        files = ", ".join(str(file) for file in (ca_file, cert_file, key_file) if file)
        raise AttemptError("input", f"cannot use the TLS files {files}: {exc}", retryable=False) from exc
    return Transports(context)
