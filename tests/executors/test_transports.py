"""`executors.transports` against a real HTTP server: which connections are used again, and how many are kept."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.servers import Answer, HttpServer
from wizflowd.executors import transports
from wizflowd.executors.inprocess import AttemptError
from wizflowd.executors.transports import Transports, open_transports


@pytest.fixture
async def shared() -> AsyncIterator[Transports]:
    shared = open_transports()
    yield shared
    await shared.aclose()


async def exchange(shared: Transports, url: str, meeting: asyncio.Barrier | None = None) -> bytes:
    async with shared.exchange(httpx.Request("GET", url)) as response:
        if meeting is not None:
            await meeting.wait()
        return await response.aread()


def connections(server: HttpServer) -> int:
    return len({request.client for request in server.requests})


async def test_one_call_after_the_other_needs_one_connection(shared: Transports) -> None:
    with HttpServer(Answer(body=b"ok")) as server:
        for _ in range(3):
            assert await exchange(shared, server.url) == b"ok"

    assert connections(server) == 1


async def test_calls_at_the_same_time_have_a_connection_each_and_twenty_are_kept(shared: Transports) -> None:
    with HttpServer(Answer(body=b"ok")) as server:
        for _ in range(2):
            meeting = asyncio.Barrier(25)
            await asyncio.gather(*(exchange(shared, server.url, meeting) for _ in range(25)))

    assert connections(server) == 25 + 5


async def test_a_connection_is_kept_for_its_own_server(shared: Transports) -> None:
    with HttpServer(Answer(body=b"one")) as one, HttpServer(Answer(body=b"other")) as other:
        for _ in range(2):
            assert await exchange(shared, one.url) == b"one"
            assert await exchange(shared, other.url) == b"other"

    assert connections(one) == connections(other) == 1


async def test_a_connection_that_was_idle_for_too_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "_IDLE_S", 0.0)
    shared = open_transports()
    with HttpServer(Answer(body=b"ok")) as server:
        for _ in range(2):
            await exchange(shared, server.url)
        await shared.aclose()

    assert connections(server) == 2


async def test_an_exchange_that_broke_off_leaves_no_connection(shared: Transports) -> None:
    with HttpServer(Answer(body=b"much" * 100_000)) as server:
        with pytest.raises(ZeroDivisionError):
            async with shared.exchange(httpx.Request("GET", server.url)):
                raise ZeroDivisionError
        await exchange(shared, server.url)

    assert connections(server) == 2


async def test_a_connection_that_its_server_closes_is_not_kept(shared: Transports) -> None:
    with HttpServer(Answer(headers=(("Connection", "close"),), body=b"ok")) as server:
        for _ in range(2):
            assert await exchange(shared, server.url) == b"ok"

    assert connections(server) == 2


async def test_what_cannot_be_reached_is_an_error_of_the_attempt(shared: Transports) -> None:
    with HttpServer() as server:
        pass

    with pytest.raises(AttemptError, match=r"cannot reach 127.0.0.1:.*: Connection refused"):
        await exchange(shared, server.url)


LOADED_BY_THE_FIRST_EXCHANGE = """
import asyncio, contextlib, sys
import httpx
from wizflowd.executors.inprocess import AttemptError
from wizflowd.executors.transports import open_transports

transports = open_transports()
asyncio.run(transports.rehearse())
before = set(sys.modules)

async def exchange():
    async with transports.exchange(httpx.Request("GET", sys.argv[1])) as response:
        await response.aread()

asyncio.run(exchange())
print(*sys.modules.keys() - before)
"""


def test_after_a_rehearsal_nothing_is_left_to_be_loaded() -> None:
    with HttpServer(Answer(body=b"ok")) as server:
        argv = [sys.executable, "-c", LOADED_BY_THE_FIRST_EXCHANGE, server.url]
        loaded = subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    assert loaded.split() == []
