"""RESTAPI attempts: one HTTP exchange each, with bounds on time, size and on where credentials go.

In: a `RestCall`. Out: an `Outcome`. Used by the engine. httpx does the protocol; redirects are followed here, because
one must not carry a secret to another host.
"""

import asyncio
import base64
import contextlib
import email.utils
import http.client
import json
import logging
import re
import ssl
import time
import urllib.parse
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

from wizflowd import __version__
from wizflowd.core.attempt import RestCall, Succeeded
from wizflowd.core.values import Json
from wizflowd.errors import printable
from wizflowd.executors.body import Body
from wizflowd.executors.connection import connection_error, tls_context
from wizflowd.executors.inprocess import AttemptError, InProcessExecutor, Report, Trace, succeed
from wizflowd.spawner.masking import Masker

if TYPE_CHECKING:  # importing httpx costs 120 ms: paid before the first attempt, in a thread
    import httpx

CONNECT_S = 30.0
_IDLE_S = 2.0  # below any server's idle timeout: a request never meets a connection that is just being closed
_REDIRECTS_MAX = 10
_RETRY_AFTER_MAX_S = 366 * 86400.0  # the longest duration there is; SPEC section 1
_EXCERPT = 200
_EXCERPT_OF = 4096
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_CREDENTIALS = ("Authorization", "Proxy-Authorization", "Cookie")


class RestExecutor(InProcessExecutor[RestCall]):
    """Performs RESTAPI attempts; connections are shared by all calls without TLS files of their own."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def _perform(self, call: RestCall, trace: Trace) -> Succeeded:
        if call.ca_file or call.cert_file:
            # Not kept: the files may be renewed at any time.
            async with await asyncio.to_thread(_open_client, call) as client:
                return await _exchange(client, call, trace)
        return await _exchange(await self._shared_client(), call, trace)

    async def warm_up(self) -> None:
        """Open the client that calls share."""
        with contextlib.suppress(AttemptError):  # each call tells it
            await self._shared_client()

    async def _shared_client(self) -> "httpx.AsyncClient":
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(_open_client, None)
        return self._client

    async def _release(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def _open_client(call: RestCall | None) -> "httpx.AsyncClient":
    """Return a client that trusts nothing in the environment, keeps no cookies and follows no redirects."""
    import httpx

    for name in ("httpx", "httpcore"):  # they log URLs and headers, with the secrets in them
        logging.getLogger(name).setLevel(logging.WARNING)
    return httpx.AsyncClient(
        verify=_tls_context(call),
        trust_env=False,
        timeout=httpx.Timeout(None, connect=CONNECT_S),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=_IDLE_S),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        headers={"User-Agent": f"wizflowd/{__version__}", "Accept-Encoding": "gzip"},
    )


def _tls_context(call: RestCall | None) -> ssl.SSLContext:
    ca_file, cert_file, key_file = (call.ca_file, call.cert_file, call.key_file) if call else (None, None, None)
    try:
        context = tls_context(ca_file)
        if cert_file:
            # With an empty password an encrypted key is an error and not a question on the terminal.
            context.load_cert_chain(cert_file, key_file, password="")
    except (OSError, ValueError) as exc:
        files = ", ".join(str(file) for file in (ca_file, cert_file, key_file) if file)
        raise AttemptError("input", f"cannot use the TLS files {files}: {exc}", retryable=False) from exc
    return context


async def _exchange(client: "httpx.AsyncClient", call: RestCall, trace: Trace) -> Succeeded:
    import httpx

    request = _request(client, call)
    try:
        response = await _send(client, request, call)
        trace.status_code = response.status_code
        expected = _expected(call, response)
        wanted = expected and any(rule.type != "file" for rule in call.job.outputs.values())
        body = Body(call.job, call.max_response_bytes, keep=call.max_response_bytes if wanted else _EXCERPT_OF)
        try:
            await body.read(response, trace)
        except AttemptError:
            if expected:  # else the status is the better message
                raise
        finally:
            await response.aclose()
    except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as exc:
        raise AttemptError("input", f"cannot make the request: {exc}", retryable=False) from exc
    except httpx.TransportError as exc:
        url = exc.request.url
        raise connection_error(exc, url.host, url.port, ca_setting="tls.ca_file") from exc
    if not expected:
        raise _unexpected(call, response, body.kept)
    return await succeed(call.job, trace, _as_utf8(body.kept, response.charset_encoding))


def _request(client: "httpx.AsyncClient", call: RestCall) -> "httpx.Request":
    import httpx

    try:
        url = urllib.parse.urlsplit(call.url)
        if url.scheme not in {"http", "https"} or not url.hostname or url.port == 0:  # a port too high raises here
            raise ValueError("not an http or https URL")
        if not _TOKEN.fullmatch(call.method):
            raise ValueError(f"{call.method} is no method")
        # Written behind what is there: parsed and made again it could come out different.
        query = "&".join(filter(None, (url.query, urllib.parse.urlencode(call.query, quote_via=urllib.parse.quote))))
        target = httpx.URL(url._replace(query=query).geturl())
        content, content_type = _content(call.body)
        headers = httpx.Headers([_header(name, value) for name, value in call.headers])
        for name, value in (
            ("Content-Type", content_type),
            ("Authorization", _authorization(call)),
            ("Idempotency-Key", call.idempotency_key),
        ):
            if value and name not in headers:
                headers.update([_header(name, value)])
    except UnicodeEncodeError as exc:  # half a surrogate pair: JSON of a task can hold it, and it has no form in bytes
        raise AttemptError("input", f"cannot request {call.url}: a value is not valid text", retryable=False) from exc
    except (ValueError, httpx.InvalidURL) as exc:
        raise AttemptError("input", f"cannot request {call.url}: {exc}", retryable=False) from exc
    return client.build_request(call.method, target, headers=headers, content=content)


def _content(body: Json) -> tuple[bytes | None, str]:
    match body:
        case None:
            return None, ""
        case str():
            return body.encode(), "text/plain; charset=utf-8"
        case _:
            return json.dumps(
                body, ensure_ascii=False, separators=(",", ":"), allow_nan=False
            ).encode(), "application/json"


def _authorization(call: RestCall) -> str:
    if call.bearer is not None:
        return f"Bearer {call.bearer}"
    if call.basic is not None:
        return "Basic " + base64.b64encode(":".join(call.basic).encode()).decode()
    return ""


def _header(name: str, value: str) -> tuple[bytes, bytes]:
    if not _TOKEN.fullmatch(name):
        raise AttemptError("input", f'cannot send the header "{name}": that is not a header name', retryable=False)
    if any((c < " " and c != "\t") or c == "\x7f" for c in value):
        what = f"cannot send the header {name}: its value holds a line end or another control character"
        raise AttemptError("input", what, retryable=False)
    return name.encode(), value.strip(" \t").encode()


async def _send(client: "httpx.AsyncClient", request: "httpx.Request", call: RestCall) -> "httpx.Response":
    """Send, and follow redirects where that is wanted; the body of the response is still to be read."""
    masker = Masker(call.job.secrets)
    for _ in range(_REDIRECTS_MAX + 1):
        response = await client.send(request, stream=True, auth=None, follow_redirects=False)
        following = response.next_request
        if following is None or not call.follow_redirects:
            return response
        await response.aclose()
        if not _same_party(request.url, following.url):
            if following.method == request.method and masker.mask_json(call.body) != call.body:
                what = f"cannot follow the redirect to {following.url.host}"
                raise AttemptError("refused", f"{what}: the body holds a secret for another host", retryable=False)
            for name, value in following.headers.items():
                if name.title() in _CREDENTIALS or masker.mask(value) != value:
                    del following.headers[name]
        request = following
    raise AttemptError("response", f"more than {_REDIRECTS_MAX} redirects", retryable=False)


def _same_party(old: "httpx.URL", new: "httpx.URL") -> bool:
    """Whether credentials for one URL may go to the other: one origin, or its usual step from http to https."""
    if old.host != new.host:
        return False
    upgraded = (old.scheme, new.scheme) == ("http", "https") and old.port is None and new.port is None
    return upgraded or (old.scheme, old.port) == (new.scheme, new.port)


def _expected(call: RestCall, response: "httpx.Response") -> bool:
    return any(low <= response.status_code <= high for low, high in call.expect_status)


def _unexpected(call: RestCall, response: "httpx.Response", body: bytes) -> AttemptError:
    masker = Masker(call.job.secrets)
    begin = masker.feed(body)  # what may be the beginning of a secret stays behind when the body goes on
    if len(body) < _EXCERPT_OF:
        begin += masker.flush()
    text = _as_utf8(begin, response.charset_encoding).decode("utf-8", "replace")
    excerpt = printable(" ".join(text.split()))[:_EXCERPT]
    status = f"status {response.status_code} {http.client.responses.get(response.status_code, '')}".rstrip()
    location = response.headers.get("Location", "") if response.is_redirect else ""
    return AttemptError(
        "status",
        f"{status}: {excerpt}" if excerpt else status,
        hint=f"it leads to {printable(location)}: use that, or follow_redirects" if location else "",
        retry_after_s=_retry_after_s(response.headers.get("Retry-After", "")),
    )


def _retry_after_s(value: str) -> float | None:
    """Return the seconds of a `Retry-After`, which is a number of them or a date. Source: RFC 9110 section 10.2.3."""
    if value.isascii() and value.isdigit():
        return min(float(value[:20]), _RETRY_AFTER_MAX_S)
    try:
        wait_s = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, wait_s), _RETRY_AFTER_MAX_S)


def _as_utf8(body: bytes, charset: str | None) -> bytes:
    """Return a body in UTF-8, which outputs are read as. An unknown charset is left as it is."""
    if charset is None or charset.lower() in {"utf-8", "utf8", "us-ascii"}:
        return body
    try:
        return body.decode(charset, "replace").encode()
    except (LookupError, UnicodeError):
        return body
