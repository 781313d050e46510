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
import re
import time
import urllib.parse
from typing import TYPE_CHECKING

from wizflowd import __version__
from wizflowd.core.attempt import RestCall, Succeeded
from wizflowd.core.values import Json
from wizflowd.errors import printable
from wizflowd.executors.body import Body
from wizflowd.executors.inprocess import AttemptError, InProcessExecutor, Report, Trace, succeed
from wizflowd.executors.transports import Transports, open_transports
from wizflowd.spawner.masking import Masker

if TYPE_CHECKING:  # importing httpx costs 120 ms: paid before the first attempt, in a thread
    import httpx

CONNECT_S = 30.0
_REDIRECTS_MAX = 10
_RETRY_AFTER_MAX_S = 366 * 86400.0  # the longest duration there is; SPEC section 1
_EXCERPT = 200
_EXCERPT_OF = 4096
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HEADERS = {
    b"accept": (b"Accept", b"*/*"),
    b"accept-encoding": (b"Accept-Encoding", b"gzip"),
    b"connection": (b"Connection", b"keep-alive"),
    b"user-agent": (b"User-Agent", f"wizflowd/{__version__}".encode()),
}
_TIMEOUTS = {"timeout": {"connect": CONNECT_S}}
_CREDENTIALS = ("Authorization", "Proxy-Authorization", "Cookie")


class RestExecutor(InProcessExecutor[RestCall]):
    """Performs RESTAPI attempts; connections are shared by all calls without TLS files of their own."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self._transports: Transports | None = None
        self._opening = asyncio.Lock()

    async def _perform(self, call: RestCall, trace: Trace) -> Succeeded:
        if call.ca_file or call.cert_file:
            # Not kept: the files may be renewed at any time.
            async with contextlib.aclosing(await asyncio.to_thread(open_transports, call)) as transports:
                return await _exchange(transports, call, trace)
        return await _exchange(self._transports or await self._open_shared(), call, trace)

    async def warm_up(self) -> None:
        """Open the transports that calls share."""
        with contextlib.suppress(AttemptError):  # each call tells it
            await self._open_shared()

    async def _open_shared(self) -> Transports:
        async with self._opening:
            if self._transports is None:
                transports = await asyncio.to_thread(open_transports)
                await asyncio.to_thread(asyncio.run, transports.rehearse())
                self._transports = transports
        return self._transports

    async def _release(self) -> None:
        if self._transports is not None:
            await self._transports.aclose()
            self._transports = None


async def _exchange(transports: Transports, call: RestCall, trace: Trace) -> Succeeded:
    """Send, follow redirects where that is wanted, and take what comes in the end."""
    request = _request(call)
    for _ in range(_REDIRECTS_MAX + 1):
        _authorize(request)
        async with transports.exchange(request) as response:
            following = None
            if call.follow_redirects and response.has_redirect_location:
                following = await _following(request, response)
            if following is None:
                expected, body = await _read(call, response, trace)
                break
        request = _harmless(request, following, call)
    else:
        raise AttemptError("response", f"more than {_REDIRECTS_MAX} redirects", retryable=False)
    if not expected:
        raise _unexpected(call, response, body)
    text = _as_utf8(body, response.charset_encoding) if call.job.outputs else None
    return await succeed(call.job, trace, text)


async def _read(call: RestCall, response: "httpx.Response", trace: Trace) -> tuple[bool, bytes]:
    """Return whether the status is one that is expected, and as much of the body as is wanted then."""
    trace.status_code = response.status_code
    expected = _expected(call, response)
    wanted = expected and any(rule.type != "file" for rule in call.job.outputs.values())
    body = Body(call.job, call.max_response_bytes, keep=call.max_response_bytes if wanted else _EXCERPT_OF)
    try:
        await body.read(response, trace)
    except AttemptError:
        if expected:  # else the status is the better message
            raise
    return expected, body.kept


def _request(call: RestCall) -> "httpx.Request":
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
        headers = _headers(call, content_type)
    except UnicodeEncodeError as exc:  # half a surrogate pair: JSON of a task can hold it, and it has no form in bytes
        raise AttemptError("input", f"cannot request {call.url}: a value is not valid text", retryable=False) from exc
    except (ValueError, httpx.InvalidURL) as exc:
        raise AttemptError("input", f"cannot request {call.url}: {exc}", retryable=False) from exc
    return httpx.Request(call.method, target, headers=headers, content=content, extensions=_TIMEOUTS)


def _headers(call: RestCall, content_type: str) -> list[tuple[bytes, bytes]]:
    """Return what httpx's own client sends with a request, what the call says, and what follows from it."""
    given = [_header(name, value) for name, value in call.headers]
    names = {name.lower() for name, _ in given}
    for name, value in (
        ("Content-Type", content_type),
        ("Authorization", _authorization(call)),
        ("Idempotency-Key", call.idempotency_key),
    ):
        if value and name.lower().encode() not in names:
            given.append(_header(name, value))
    return [header for name, header in _HEADERS.items() if name not in names] + given


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
    if _CONTROL.search(value):
        what = f"cannot send the header {name}: its value holds a line end or another control character"
        raise AttemptError("input", what, retryable=False)
    return name.encode(), value.strip(" \t").encode()


def _authorize(request: "httpx.Request") -> None:
    """Send credentials that stand in the URL: before all others, as httpx's own client does."""
    import httpx

    if request.url.username or request.url.password:
        next(httpx.BasicAuth(request.url.username, request.url.password).auth_flow(request))


async def _following(request: "httpx.Request", response: "httpx.Response") -> "httpx.Request | None":
    """Return the request that a redirect leads to, as a client of httpx makes it."""
    import httpx

    places = [(name, value) for name, value in response.headers.raw if name.lower() == b"location"]
    told = httpx.Response(response.status_code, headers=places)
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: told), trust_env=False) as client:
        return (await client.send(request, auth=None)).next_request


def _harmless(request: "httpx.Request", following: "httpx.Request", call: RestCall) -> "httpx.Request":
    """Return a request that follows another, without what must not go to another host."""
    if _same_party(request.url, following.url):
        return following
    masker = Masker(call.job.secrets)
    if following.method == request.method and masker.mask_json(call.body) != call.body:
        what = f"cannot follow the redirect to {following.url.host}"
        raise AttemptError("refused", f"{what}: the body holds a secret for another host", retryable=False)
    for name, value in following.headers.items():
        if name.title() in _CREDENTIALS or masker.mask(value) != value:
            del following.headers[name]
    return following


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
