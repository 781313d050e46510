"""`executors.rest` against a real HTTP server on 127.0.0.1."""

import asyncio
import base64
import datetime
import email.utils
import gzip
import logging
import socket
import ssl
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from msgspec.structs import replace

from tests.executors.conftest import Reports
from tests.servers import Answer, HttpServer, Request
from tests.system.running import wait_for
from wizflowd import __version__
from wizflowd.core.attempt import AttemptId, Cancelled, Failed, Job, Lost, Outcome, OutputRule, RestCall, Succeeded
from wizflowd.executors import rest, transports
from wizflowd.executors.rest import RestExecutor

SECRET = "s3cret-token"
MakeJob = Callable[..., Job]


@pytest.fixture
async def executor(reports: Reports) -> AsyncIterator[RestExecutor]:
    async with RestExecutor(reports) as executor:
        yield executor


@pytest.fixture
def perform(executor: RestExecutor, reports: Reports, make_job: MakeJob) -> Callable[..., Any]:
    async def perform(url: str, *, method: str = "GET", job: dict[str, Any] | None = None, **fields: Any) -> Outcome:
        call = RestCall(make_job(**(job or {})), method, url, **fields)
        executor.start(call)
        return await reports.wait(call.job.attempt)

    return perform


def failed(outcome: Outcome, reason: str) -> Failed:
    assert isinstance(outcome, Failed), outcome
    assert outcome.reason == reason, outcome
    return outcome


Perform = Callable[..., Any]


async def test_the_shared_transports_are_opened_once_before_the_first_call_or_with_it(
    executor: RestExecutor, perform: Perform, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    real = transports.open_transports

    def noting(call: RestCall | None = None) -> Any:
        opened.append(call)
        return real(call)

    monkeypatch.setattr(rest, "open_transports", noting)

    await asyncio.gather(executor.warm_up(), executor.warm_up())
    with HttpServer(lambda _: Answer(body=b"ok")) as server:
        outcome = await perform(server.url)

    assert isinstance(outcome, Succeeded)
    assert opened == [None]


async def test_a_response_gives_outputs_facts_and_a_log(perform: Perform, tmp_path: Path) -> None:
    rules = {"ids": OutputRule("json", json_path="$[*].id"), "all": OutputRule("text")}
    with HttpServer(Answer(body=b'[{"id": 1}, {"id": 2}]\n')) as server:
        outcome = await perform(server.url, job={"outputs": rules})

    assert isinstance(outcome, Succeeded)
    assert outcome.outputs == {"ids": [1, 2], "all": '[{"id": 1}, {"id": 2}]'}
    assert outcome.facts.status_code == 200
    assert outcome.facts.started_s <= outcome.facts.ended_s
    assert outcome.facts.log == "t.1.log"
    assert (tmp_path / "t.1.log").read_bytes() == b'[{"id": 1}, {"id": 2}]\n'


async def test_a_body_of_unknown_length_is_in_the_log_as_it_comes(perform: Perform, tmp_path: Path) -> None:
    log = tmp_path / "t.1.log"
    seen: list[bytes] = []

    def pieces() -> Iterator[bytes]:
        yield b"one\n"
        wait_for(lambda: log.stat().st_size, "the first piece is in the log")
        seen.append(log.read_bytes())
        yield b"two\n"

    with HttpServer(Answer(body=pieces())) as server:
        outcome = await perform(server.url)

    assert isinstance(outcome, Succeeded)
    assert seen == [b"one\n"]
    assert log.read_bytes() == b"one\ntwo\n"


async def test_an_empty_response_leaves_no_log(perform: Perform, tmp_path: Path) -> None:
    with HttpServer(Answer(204)) as server:
        outcome = await perform(server.url)

    assert isinstance(outcome, Succeeded)
    assert outcome.facts.log is None
    assert not (tmp_path / "t.1.log").exists()


async def test_the_request_carries_query_headers_and_a_json_body(perform: Perform) -> None:
    with HttpServer() as server:
        await perform(
            f"{server.url}/a%2Fb?x=1%2B1",
            method="post",
            query=(("q", "a b&c"), ("q", "ü")),
            headers=(("X-One", "1"), ("X-Name", "Jörg")),
            body={"text": "grüße", "n": [1, None, True]},
        )

    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/a%2Fb?x=1%2B1&q=a%20b%26c&q=%C3%BC")
    assert request.headers["x-one"] == "1"
    assert request.headers["x-name"].encode("latin-1").decode() == "Jörg"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == f"wizflowd/{__version__}"
    assert request.json == {"text": "grüße", "n": [1, None, True]}


async def test_a_text_body_is_sent_as_it_is_under_the_given_content_type(perform: Perform) -> None:
    with HttpServer() as server:
        await perform(server.url, method="PUT", body="<a/>", headers=(("content-type", "application/xml"),))

    assert server.requests[0].body == b"<a/>"
    assert server.requests[0].headers["content-type"] == "application/xml"


async def test_credentials_and_the_idempotency_key_are_sent(perform: Perform) -> None:
    with HttpServer() as server:
        await perform(server.url, method="POST", basic=("me", "pä:ss"), idempotency_key="run/task")

    headers = server.requests[0].headers
    assert base64.b64decode(headers["authorization"].removeprefix("Basic ")).decode() == "me:pä:ss"
    assert headers["idempotency-key"] == "run/task"


async def test_a_bearer_token_is_sent_and_a_key_of_the_users_own_is_kept(perform: Perform) -> None:
    with HttpServer() as server:
        await perform(server.url, bearer=SECRET, idempotency_key="ours", headers=(("idempotency-key", "theirs"),))

    assert server.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    assert server.requests[0].headers["idempotency-key"] == "theirs"


async def test_a_header_of_the_calls_own_takes_the_place_of_ours(perform: Perform) -> None:
    with HttpServer() as server:
        await perform(server.url, headers=(("user-agent", "mine"), ("ACCEPT", "text/csv"), ("X-Twice", "1")))

    headers = server.requests[0].headers
    assert (headers["user-agent"], headers["accept"]) == ("mine", "text/csv")
    assert (headers["accept-encoding"], headers["connection"]) == ("gzip", "keep-alive")


async def test_credentials_in_the_url_are_sent_before_all_others(perform: Perform) -> None:
    with HttpServer() as server:
        await perform(server.url.replace("//", "//me:p%40ss@"), bearer=SECRET)

    assert server.requests[0].headers["authorization"] == "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert server.requests[0].headers["host"] == f"127.0.0.1:{server.port}"


async def test_the_environment_gives_neither_proxy_nor_credentials(
    perform: Perform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with HttpServer() as server:
        outcome = await perform(server.url)

    assert isinstance(outcome, Succeeded)
    assert "authorization" not in server.requests[0].headers


async def test_an_unexpected_status_fails_with_the_beginning_of_the_body(perform: Perform, tmp_path: Path) -> None:
    with HttpServer(Answer(404, body=b"no such\n day " + b"x" * 300)) as server:
        outcome = failed(await perform(server.url), "status")

    assert outcome.message == "status 404 Not Found: no such day " + "x" * 188
    assert outcome.facts.status_code == 404
    assert (tmp_path / "t.1.log").stat().st_size == 313


async def test_expected_statuses_are_ranges(perform: Perform) -> None:
    with HttpServer(Answer(404)) as server:
        outcome = await perform(server.url, expect_status=((200, 299), (404, 404)))

    assert isinstance(outcome, Succeeded)


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("7", 7, 7), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0), ("9" * 60, 3e7, 4e7)],
)
async def test_retry_after_is_told_in_seconds(perform: Perform, value: str, low: float, high: float) -> None:
    with HttpServer(Answer(503, (("Retry-After", value),))) as server:
        outcome = failed(await perform(server.url), "status")

    assert outcome.retry_after_s is not None
    assert low <= outcome.retry_after_s <= high


async def test_retry_after_may_be_a_date(perform: Perform) -> None:
    in_an_hour = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)

    with HttpServer(Answer(503, (("Retry-After", email.utils.format_datetime(in_an_hour, usegmt=True)),))) as server:
        outcome = failed(await perform(server.url), "status")

    assert outcome.retry_after_s is not None
    assert 3500 <= outcome.retry_after_s <= 3600


@pytest.mark.parametrize("value", ["soon", "-1", "Wed, 99 Oct 2015 07:28:00 GMT", "٣"])
async def test_a_retry_after_that_says_nothing_is_ignored(perform: Perform, value: str) -> None:
    with HttpServer(Answer(raw=f"HTTP/1.1 503 X\r\nRetry-After: {value}\r\n\r\n".encode())) as server:
        outcome = failed(await perform(server.url), "status")

    assert outcome.retry_after_s is None


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def test_a_refused_connection_is_named_as_such(perform: Perform) -> None:
    port = closed_port()

    outcome = failed(await perform(f"http://me:pass@127.0.0.1:{port}/"), "connection")

    assert outcome.message == f"cannot reach 127.0.0.1:{port}: Connection refused"
    assert outcome.retryable


async def test_an_unknown_host_is_named_as_such(perform: Perform) -> None:
    outcome = failed(await perform("http://nowhere.invalid/"), "connection")

    assert outcome.message.startswith("cannot find the host nowhere.invalid: ")


async def test_a_server_that_hangs_up_is_a_connection_error(perform: Perform) -> None:
    with HttpServer(Answer(raw=b"")) as server:
        outcome = failed(await perform(server.url), "connection")

    assert "broke off" in outcome.message


async def test_a_body_that_ends_early_is_a_connection_error(perform: Perform) -> None:
    with HttpServer(Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")) as server:
        failed(await perform(server.url), "connection")


async def test_endless_headers_are_a_connection_error(perform: Perform) -> None:
    with HttpServer(Answer(raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000)) as server:
        failed(await perform(server.url), "connection")


async def test_a_silent_server_ends_in_a_timeout(perform: Perform) -> None:
    with HttpServer(Answer(never=True)) as server:
        outcome = failed(await perform(server.url, job={"timeout_s": 0.2}), "timeout")

    assert outcome.message == "timed out after 0.2 s"


async def test_a_trickling_body_ends_in_a_timeout_and_what_came_is_in_the_log(perform: Perform, tmp_path: Path) -> None:
    closing = threading.Event()

    def trickle(request: Request) -> Answer:
        def pieces() -> Any:
            while not closing.wait(0.01):
                yield b"."

        return Answer(body=pieces())

    with HttpServer(Answer(), trickle) as server:
        await perform(server.url, job={"attempt": AttemptId("r/first/1")})  # pays for imports and certificates
        outcome = failed(await perform(server.url, job={"timeout_s": 0.5}), "timeout")
        closing.set()

    assert outcome.facts.status_code == 200
    assert outcome.facts.log == "t.1.log"
    assert (tmp_path / "t.1.log").read_bytes().strip(b".") == b""


@pytest.mark.parametrize("body", [b"x" * 101, [b"x" * 60, b"x" * 41]], ids=["length", "chunked"])
async def test_a_body_over_its_limit_fails(perform: Perform, body: Any) -> None:
    with HttpServer(Answer(body=body)) as server:
        outcome = failed(await perform(server.url, max_response_bytes=100), "response")

    assert outcome.message == "the response body is over 100 bytes; max_response_bytes sets the limit"
    assert not outcome.retryable


async def test_a_body_at_its_limit_is_taken(perform: Perform) -> None:
    with HttpServer(Answer(body=b"x" * 100)) as server:
        outcome = await perform(server.url, max_response_bytes=100, job={"outputs": {"all": OutputRule("text")}})

    assert isinstance(outcome, Succeeded)
    assert outcome.outputs == {"all": "x" * 100}


async def test_a_compressed_body_is_decoded(perform: Perform, tmp_path: Path) -> None:
    with HttpServer(Answer(headers=(("Content-Encoding", "gzip"),), body=gzip.compress(b"plain"))) as server:
        outcome = await perform(server.url)

    assert isinstance(outcome, Succeeded)
    assert (tmp_path / "t.1.log").read_bytes() == b"plain"


async def test_a_compression_bomb_is_stopped_at_the_limit(perform: Perform, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    with HttpServer(Answer(headers=(("Content-Encoding", "gzip"),), body=bomb)) as server:
        await perform(server.url, method="HEAD", job={"attempt": AttemptId("r/first/1")})
        tracemalloc.start()
        failed(await perform(server.url, max_response_bytes=100_000), "response")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert peak < 2_000_000
    assert not (tmp_path / "t.1.log").exists() or (tmp_path / "t.1.log").stat().st_size <= 100_000


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", b"not gzip"), ("gzip", gzip.compress(b"x" * 1000)[:-9]), ("br", b"x")],
    ids=["garbage", "cut", "unknown"],
)
async def test_a_body_that_cannot_be_decoded_fails(perform: Perform, encoding: str, body: bytes) -> None:
    with HttpServer(Answer(headers=(("Content-Encoding", encoding),), body=body)) as server:
        failed(await perform(server.url), "response")


async def test_a_head_request_for_something_compressed_succeeds(perform: Perform) -> None:
    with HttpServer(Answer(headers=(("Content-Encoding", "gzip"),), body=b"12345")) as server:
        assert isinstance(await perform(server.url, method="HEAD"), Succeeded)


async def test_a_body_in_another_charset_becomes_an_output_in_unicode(perform: Perform) -> None:
    answer = Answer(headers=(("Content-Type", "text/plain; charset=iso-8859-1"),), body="grün".encode("latin-1"))
    with HttpServer(answer) as server:
        outcome = await perform(server.url, job={"outputs": {"all": OutputRule("text")}})

    assert isinstance(outcome, Succeeded)
    assert outcome.outputs == {"all": "grün"}


async def test_an_output_that_cannot_be_had_fails_naming_it(perform: Perform) -> None:
    with HttpServer(Answer(body=b"<html>")) as server:
        outcome = failed(await perform(server.url, job={"outputs": {"n": OutputRule("json")}}), "output")

    assert 'output "n"' in outcome.message


async def test_a_long_log_is_cut_in_the_middle(perform: Perform, tmp_path: Path) -> None:
    with HttpServer(Answer(body=b"a" * 50_000 + b"z" * 50_000)) as server:
        await perform(server.url, job={"log_max": 1000})

    log = (tmp_path / "t.1.log").read_bytes()
    assert len(log) < 1200
    assert log.startswith(b"aaaa")
    assert log.endswith(b"zzzz")


async def test_secrets_are_masked_in_log_outputs_and_messages(perform: Perform, tmp_path: Path) -> None:
    halves = [b"token=" + SECRET[:5].encode(), SECRET[5:].encode() + b"."]
    rules = {"all": OutputRule("text")}
    with HttpServer(Answer(body=halves), Answer(500, body=halves)) as server:
        outcome = await perform(server.url, job={"secrets": (SECRET,), "outputs": rules})

    assert isinstance(outcome, Succeeded)
    assert outcome.outputs == {"all": "token=***."}
    assert outcome.facts.notes == ('output "all" held a secret and was masked',)
    assert (tmp_path / "t.1.log").read_bytes() == b"token=***."


@pytest.mark.parametrize("padding", [0, 4090 - 6, 192 - 6])
async def test_no_part_of_a_secret_is_in_the_message_of_a_status(perform: Perform, padding: int) -> None:
    secret = "k" + "y" * 5000
    with HttpServer(Answer(500, body=b" " * padding + b"token=" + secret.encode())) as server:
        outcome = failed(await perform(server.url, job={"secrets": (secret,)}), "status")

    assert "yyyyyy" not in outcome.message


async def test_no_secret_of_a_url_is_in_a_message_or_in_the_logs_of_libraries(
    perform: Perform, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    outcome = failed(
        await perform(f"http://127.0.0.1:{closed_port()}/{SECRET}", bearer=SECRET, job={"secrets": (SECRET,)}),
        "connection",
    )

    assert SECRET not in outcome.message + caplog.text


async def test_a_request_leaves_no_trace_in_the_logs_of_libraries(
    perform: Perform, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with HttpServer() as server:
        await perform(f"{server.url}/{SECRET}", bearer=SECRET)

    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "ftp://127.0.0.1/"}, "not an http or https URL"),
        ({"url": "no url"}, "not an http or https URL"),
        ({"url": "http://[::1/"}, "cannot request"),
        ({"url": "http://127.0.0.1:99999/"}, "cannot request"),
        ({"headers": (("X-A", "1\r\nX-B: 2"),)}, "X-A: its value holds a line end"),
        ({"headers": (("X-A", "1\0"),)}, "X-A: its value holds a line end"),
        ({"headers": (("X A", "1"),)}, "not a header name"),
        ({"bearer": f"{SECRET}\n"}, "Authorization: its value holds a line end"),
        ({"method": "GE T"}, "GE T is no method"),
        ({"body": "\ud800"}, "a value is not valid text"),
        ({"body": {"a": "\ud800"}}, "a value is not valid text"),
        ({"query": {"a": "\ud800"}}, "a value is not valid text"),
        ({"headers": (("X-A", "\udfff"),)}, "a value is not valid text"),
        ({"bearer": "\ud800"}, "a value is not valid text"),
        ({"basic": ("a", "\ud800")}, "a value is not valid text"),
        ({"body": [float("nan")]}, "cannot request"),
    ],
)
async def test_what_cannot_be_sent_fails_for_good(perform: Perform, fields: dict[str, Any], message: str) -> None:
    outcome = failed(await perform(**{"url": "http://127.0.0.1:1/", **fields}), "input")

    assert message in outcome.message
    assert SECRET not in outcome.message
    assert not outcome.retryable


async def test_a_redirect_is_not_followed_unless_told(perform: Perform) -> None:
    with HttpServer(Answer(302, (("Location", "/there"),)), Answer()) as server:
        outcome = failed(await perform(server.url), "status")

    assert outcome.message == "status 302 Found; it leads to /there: use that, or follow_redirects"
    assert len(server.requests) == 1


async def test_a_redirect_on_one_host_keeps_credentials(perform: Perform) -> None:
    headers = (("X-Api-Key", SECRET),)
    with HttpServer(Answer(307, (("Location", "/there"),)), Answer()) as server:
        outcome = await perform(
            server.url, method="POST", body={"a": 1}, bearer=SECRET, headers=headers, follow_redirects=True
        )

    assert isinstance(outcome, Succeeded)
    assert [request.target for request in server.requests] == ["/", "/there"]
    assert server.requests[1].json == {"a": 1}
    assert server.requests[1].headers["authorization"] == f"Bearer {SECRET}"
    assert server.requests[1].headers["x-api-key"] == SECRET


async def test_a_redirect_to_another_host_carries_no_credentials(perform: Perform) -> None:
    with HttpServer() as other, HttpServer(Answer(307, (("Location", f"{other.url}/x"),))) as server:
        outcome = await perform(
            server.url,
            method="POST",
            body={"a": 1},
            bearer=SECRET,
            headers=(("X-Api-Key", SECRET), ("Cookie", "a=b"), ("X-Plain", "1")),
            idempotency_key="run/task",
            follow_redirects=True,
            job={"secrets": (SECRET,)},
        )

    assert isinstance(outcome, Succeeded)
    (request,) = other.requests
    assert request.json == {"a": 1}
    assert request.headers.keys().isdisjoint({"authorization", "x-api-key", "cookie"})
    assert request.headers["x-plain"] == "1"
    assert request.headers["idempotency-key"] == "run/task"
    assert request.headers["host"] == f"127.0.0.1:{other.port}"


async def test_a_redirect_does_not_carry_a_secret_body_to_another_host(perform: Perform) -> None:
    with HttpServer() as other, HttpServer(Answer(307, (("Location", other.url),))) as server:
        outcome = failed(
            await perform(
                server.url, method="POST", body={"k": SECRET}, follow_redirects=True, job={"secrets": (SECRET,)}
            ),
            "refused",
        )

    assert other.requests == []
    assert not outcome.retryable


@pytest.mark.parametrize("follow", [True, False])
async def test_a_redirect_may_lead_to_what_is_not_ascii(perform: Perform, *, follow: bool) -> None:
    moved = Answer(raw=b"HTTP/1.1 302 Found\r\nLocation: /f\xe4h\r\nContent-Length: 0\r\n\r\n")
    with HttpServer(moved, Answer()) as server:
        outcome = await perform(server.url, follow_redirects=follow, expect_status=((200, 302),))

    assert isinstance(outcome, Succeeded)
    assert [request.target for request in server.requests] == ["/", "/f%C3%A4h"][: 1 + follow]


async def test_redirects_without_end_fail(perform: Perform) -> None:
    with HttpServer(Answer(302, (("Location", "/again"),))) as server:
        outcome = failed(await perform(server.url, follow_redirects=True), "response")

    assert outcome.message == "more than 10 redirects"
    assert len(server.requests) == 11


async def test_a_redirect_to_no_url_fails(perform: Perform) -> None:
    with HttpServer(Answer(302, (("Location", "http://[::1"),))) as server:
        outcome = failed(await perform(server.url, follow_redirects=True), "connection")

    assert "Invalid URL in location header" in outcome.message


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://127.0.0.1/"])
async def test_a_redirect_out_of_http_is_refused(perform: Perform, location: str) -> None:
    with HttpServer(Answer(302, (("Location", location),))) as server:
        failed(await perform(server.url, follow_redirects=True), "input")


async def test_no_cookie_is_kept_between_calls(executor: RestExecutor, reports: Reports, make_job: MakeJob) -> None:
    with HttpServer(Answer(headers=(("Set-Cookie", "sid=1"),))) as server:
        for number in (1, 2):
            attempt = AttemptId(f"r/t/{number}")
            executor.start(RestCall(make_job(attempt=attempt), "GET", server.url))
            await reports.wait(attempt)

    assert "cookie" not in server.requests[1].headers


async def test_no_cookie_goes_along_with_a_redirect(perform: Perform) -> None:
    away = Answer(302, (("Location", "/there"), ("Set-Cookie", "sid=1")))
    with HttpServer(away, Answer()) as server:
        await perform(server.url, follow_redirects=True)

    assert "cookie" not in server.requests[1].headers


async def test_calls_share_connections(executor: RestExecutor, reports: Reports, make_job: MakeJob) -> None:
    with HttpServer() as server:
        for number in (1, 2):
            attempt = AttemptId(f"r/t/{number}")
            executor.start(RestCall(make_job(attempt=attempt), "GET", server.url))
            await reports.wait(attempt)

    assert server.requests[0].client == server.requests[1].client


async def test_an_unknown_authority_is_refused_with_a_hint(perform: Perform, server_tls: ssl.SSLContext) -> None:
    with HttpServer(tls=server_tls) as server:
        outcome = failed(await perform(server.url), "connection")

    assert outcome.message.startswith(f"cannot trust the certificate of 127.0.0.1:{server.port}: ")
    assert outcome.message.endswith("; tls.ca_file names the authority to trust")
    assert server.requests == []


async def test_a_named_authority_is_trusted(perform: Perform, server_tls: ssl.SSLContext, ca_file: Path) -> None:
    with HttpServer(Answer(), tls=server_tls) as server:
        assert isinstance(await perform(server.url, ca_file=ca_file), Succeeded)


async def test_a_certificate_for_another_name_is_refused(
    perform: Perform, authority: trustme.CA, ca_file: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.org").configure_cert(context)
    with HttpServer(tls=context) as server:
        outcome = failed(await perform(server.url, ca_file=ca_file), "connection")

    assert "cannot trust the certificate" in outcome.message


async def test_a_client_certificate_is_shown(
    perform: Perform, authority: trustme.CA, server_tls: ssl.SSLContext, ca_file: Path, tmp_path: Path
) -> None:
    client = authority.issue_cert("client@example.org")
    client.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    server_tls.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(server_tls)
    with HttpServer(tls=server_tls) as server:
        outcome = await perform(server.url, ca_file=ca_file, cert_file=tmp_path / "client.pem")

    assert isinstance(outcome, Succeeded)


async def test_tls_files_that_cannot_be_used_are_named(perform: Perform, tmp_path: Path) -> None:
    outcome = failed(await perform("https://127.0.0.1:1/", ca_file=tmp_path / "absent.pem"), "input")

    assert "absent.pem" in outcome.message


async def test_sources_are_hashed_when_the_attempt_starts(perform: Perform, tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("select 1")
    with HttpServer() as server:
        outcome = await perform(server.url, job={"source_folder": tmp_path, "source_globs": ("*.sql",)})

    assert isinstance(outcome, Succeeded)
    assert len(outcome.sources) == 64


async def test_cancel_ends_an_attempt_and_its_connection(
    executor: RestExecutor, reports: Reports, make_job: MakeJob
) -> None:
    with HttpServer(Answer(never=True)) as server:
        executor.start(RestCall(make_job(), "GET", server.url))
        async with asyncio.timeout(5):
            while not server.requests:
                await asyncio.sleep(0.005)
        executor.cancel(AttemptId("r/t/1"))

        assert isinstance(await reports.wait(), Cancelled)


async def test_an_attempt_cancelled_before_its_first_step_is_reported(
    executor: RestExecutor, reports: Reports, make_job: MakeJob
) -> None:
    executor.start(RestCall(make_job(), "GET", "http://127.0.0.1:1/"))
    executor.cancel(AttemptId("r/t/1"))
    executor.cancel(AttemptId("r/unknown/1"))

    assert isinstance(await reports.wait(), Cancelled)


async def test_a_second_start_of_an_attempt_does_nothing(
    executor: RestExecutor, reports: Reports, make_job: MakeJob
) -> None:
    with HttpServer() as server:
        call = RestCall(make_job(), "GET", server.url)
        executor.start(call)
        executor.start(call)
        await executor.close(10)

    assert len(server.requests) == 1


async def test_a_close_waits_for_its_grace_and_then_loses_what_is_in_flight(
    reports: Reports, make_job: MakeJob
) -> None:
    with HttpServer(lambda request: Answer(never=request.target == "/slow")) as slow:
        async with RestExecutor(reports) as executor:
            job = make_job()
            executor.start(RestCall(job, "GET", f"{slow.url}/slow"))
            executor.start(RestCall(replace(job, attempt=AttemptId("r/quick/1")), "GET", f"{slow.url}/quick"))

            await executor.close(1.5)

    assert isinstance(reports.outcomes[AttemptId("r/quick/1")], Succeeded)
    assert isinstance(reports.outcomes[AttemptId("r/t/1")], Lost)


async def test_leaving_the_executor_loses_what_is_in_flight_at_once(reports: Reports, make_job: MakeJob) -> None:
    with HttpServer(Answer(never=True)) as server:
        async with RestExecutor(reports) as executor:
            executor.start(RestCall(make_job(), "GET", server.url))

    assert isinstance(reports.outcomes[AttemptId("r/t/1")], Lost)


async def test_a_defect_ends_its_attempt_and_nothing_else(
    perform: Perform, executor: RestExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(call: RestCall, trace: object) -> Succeeded:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(executor, "_perform", broken)

    outcome = failed(await perform("http://127.0.0.1:1/", job={"secrets": (SECRET,)}), "response")

    assert outcome.message == "cannot perform the attempt, a defect in wizflowd: ZeroDivisionError: ***"
    assert "attempt met a defect" in caplog.text
    assert SECRET not in caplog.text
