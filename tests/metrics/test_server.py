"""What is served on the metrics port, and what a client cannot do to it."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.metrics.serving import Scene, get, read_answer, serving
from wizflowd.errors import WizflowError
from wizflowd.metrics import server

ASK = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
async def port(scene: Scene) -> AsyncIterator[int]:
    async with serving(scene.monitor()) as port:
        yield port


async def ended_within(reader: asyncio.StreamReader, limit_s: float) -> bool:
    """Whether the other side closes the connection in time, whatever it sends before."""
    with suppress(ConnectionError):
        async with asyncio.timeout(limit_s):
            await reader.read()
    return True


async def test_metrics_are_prometheus_text_by_default(port: int) -> None:
    got = await get(port, "/metrics")

    assert got.status == 200
    assert got.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"\nwizflow_stream_clients 3.0\n" in got.body
    assert b"# TYPE wizflow_runs_total counter" in got.body


async def test_openmetrics_is_given_to_those_who_ask_for_it(port: int) -> None:
    got = await get(port, "/metrics", "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5")

    assert got.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert got.body.endswith(b"# EOF\n")


async def test_a_large_page_is_packed_for_those_who_take_it(scene: Scene) -> None:
    scene.add_workflows(500)

    async with serving(scene.monitor()) as port:
        small = await get(port, "/-/ready", "Accept-Encoding: gzip")
        large = await get(port, "/metrics", "Accept-Encoding: gzip")

    assert "content-encoding" not in small.headers
    assert large.headers["content-encoding"] == "gzip"
    assert gzip.decompress(large.body).count(b"wizflow_last_run_failed{") == 500


async def test_head_has_the_headers_and_no_body(port: int) -> None:
    got = await get(port, "/-/healthy", method="HEAD")

    assert (got.status, got.headers["content-length"]) == (200, "20")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/-/quit", "/../etc/passwd", "//metrics", "/%6detrics"])
async def test_there_is_nothing_else(port: int, path: str) -> None:
    assert (await get(port, path)).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
async def test_only_get_and_head_are_allowed(port: int, method: str) -> None:
    got = await get(port, "/metrics", "Content-Length: 0", method=method)

    assert (got.status, got.headers["allow"]) == (405, "GET, HEAD")


async def test_ready_says_in_one_line_why_not(scene: Scene, port: int) -> None:
    ready = await get(port, "/-/ready")
    scene.unready = "the folder is unavailable: it is gone"
    unready = await get(port, "/-/ready")
    healthy = await get(port, "/-/healthy")

    assert (ready.status, ready.body) == (200, b"wizflowd is ready\n")
    assert (unready.status, unready.body) == (503, b"wizflowd is not ready: the folder is unavailable: it is gone\n")
    assert healthy.status == 200


async def test_one_connection_serves_many_requests_also_sent_at_once(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ASK * 3)

    answers = [await read_answer(reader) for _ in range(3)]

    assert [got.status for got in answers] == [200] * 3
    writer.close()


async def test_a_body_is_read_past(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + ASK)

    assert [(await read_answer(reader)).status for _ in range(2)] == [405, 200]
    writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: x\r\n", ASK])
async def test_a_connection_that_sends_no_whole_request_is_closed(
    port: int, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)

    assert await ended_within(reader, 2)
    writer.close()


async def test_one_byte_at_a_time_does_not_keep_a_connection(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_S", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\n")

    async def drip() -> None:
        while True:
            writer.write(b"X-A: b\r\n")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    try:
        assert await ended_within(reader, 2)
    finally:
        dripping.cancel()
        writer.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"X-Many: a\r\n" * 10_000 + b"\r\n", 431),
        (b"GET /" + b"a" * 100_000, 431),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"a" * 1_000_000, 413),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /met\nrics HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
async def test_what_is_no_request_or_too_large_is_refused_and_closed(port: int, sent: bytes, status: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)

    assert (await read_answer(reader)).status == status
    assert await ended_within(reader, 2)
    writer.close()


async def test_a_flood_of_idle_connections_keeps_nobody_out(port: int) -> None:
    flood = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3 * server.MAX_CONNECTIONS)]

    got = await get(port, "/metrics")
    closed = [await ended_within(reader, 2) for reader, _ in flood[: server.MAX_CONNECTIONS]]

    assert got.status == 200
    assert all(closed)
    for _, writer in flood:
        writer.close()


async def test_many_at_once_are_all_answered(port: int) -> None:
    answers = await asyncio.gather(*(get(port, "/metrics") for _ in range(server.MAX_CONNECTIONS // 2)))

    assert {got.status for got in answers} == {200}


async def test_a_client_that_does_not_read_is_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ANSWER_S", 0.3)
    scene.add_workflows(2000)
    async with serving(scene.monitor()) as port:
        idle = len(asyncio.all_tasks())
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
            async with asyncio.timeout(5):
                while len(asyncio.all_tasks()) == idle:
                    await asyncio.sleep(0)

            async with asyncio.timeout(20):
                while len(asyncio.all_tasks()) > idle:
                    await asyncio.sleep(0.01)


async def test_two_cannot_have_one_address(port: int) -> None:
    second = Scene().monitor(port=port)

    with pytest.raises(WizflowError, match=rf"cannot serve metrics on 127\.0\.0\.1:{port}: Address already in use"):
        second.open()
