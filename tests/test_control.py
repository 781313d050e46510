"""The control socket: one answer a request, whatever the request, and for whom."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from wizflowd.client import ask
from wizflowd.control import MAX_LINE, ControlServer
from wizflowd.core.values import Json
from wizflowd.errors import RequestError, SecretError
from wizflowd.sockets import listen, reachable


async def echo(request: Mapping[str, Any]) -> Json:
    return {**request}


async def refuse(request: Mapping[str, Any]) -> Json:
    raise RequestError("not_found", f"there is no {request['name']}", hint="look again")


async def fail(_: Mapping[str, Any]) -> Json:
    raise SecretError("cannot read .env: No such file or directory")


OPERATIONS = {"echo": echo, "refuse": refuse, "fail": fail}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    server = ControlServer(tmp_path / "control.sock", OPERATIONS)
    await server.open()
    yield tmp_path / "control.sock"
    await server.close()
    assert not (tmp_path / "control.sock").exists()


def talk(path: Path, data: bytes) -> list[Any]:
    """Send bytes and return every line that is answered."""
    with socket.socket(socket.AF_UNIX) as peer, reachable(path) as name:
        peer.settimeout(20)
        peer.connect(name)
        try:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has said what it thinks of it
        received = b""
        try:
            while part := peer.recv(65536):
                received += part
        except ConnectionResetError:
            pass  # it did not read all that was sent
        return [json.loads(line) for line in received.splitlines()]


async def test_every_request_of_a_line_is_answered_in_order_with_its_id(path: Path) -> None:
    data = b'{"id": 1, "op": "echo", "x": "\\u00fc"}\n{"id": "two", "op": "refuse", "name": "run"}\n{"op": "fail"}\n'

    answers = await asyncio.to_thread(talk, path, data)

    assert answers == [
        {"id": 1, "ok": {"id": 1, "op": "echo", "x": "ü"}},
        {"id": "two", "error": {"code": "not_found", "message": "there is no run; look again"}},
        {"id": None, "error": {"code": "failed", "message": "cannot read .env: No such file or directory"}},
    ]


@pytest.mark.parametrize(
    "line",
    [b"nonsense", b"[1]", b"", b"\xff\xfe", b"[" * 200_000, b'{"id": ' + b"9" * 5000 + b"}", b'{"a": "\\ud800"'],
    ids=["words", "list", "nothing", "bytes", "deep", "long number", "cut"],
)
async def test_what_is_no_request_is_told_so_and_the_line_stays_open(path: Path, line: bytes) -> None:
    answers = await asyncio.to_thread(talk, path, line + b'\n{"op": "echo"}\n')

    assert answers[0]["error"]["code"] == "bad_request"
    assert "ok" in answers[1]


async def test_an_unknown_operation_is_answered_with_those_there_are(path: Path) -> None:
    (answer,) = await asyncio.to_thread(talk, path, b'{"id": 1, "op": "fly"}\n')

    assert answer["error"] == {"code": "unknown_op", "message": "there is no such op; there are echo, fail, refuse"}


async def test_a_request_without_an_end_is_refused_when_it_is_too_long(path: Path) -> None:
    answers = await asyncio.to_thread(talk, path, b"x" * (MAX_LINE * 2))

    assert [answer["error"]["code"] for answer in answers] == ["too_long"]


async def test_half_a_request_is_no_request(path: Path) -> None:
    assert await asyncio.to_thread(talk, path, b'{"op": "echo"') == []


async def test_the_client_gives_the_answer_or_raises_it(path: Path) -> None:
    assert await asyncio.to_thread(ask, path, {"op": "echo", "x": 1}) == {"op": "echo", "x": 1}

    with pytest.raises(RequestError, match="there is no run; look again") as caught:
        await asyncio.to_thread(ask, path, {"op": "refuse", "name": "run"})
    assert caught.value.code == "not_found"


async def test_where_nobody_listens_the_client_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ask(tmp_path / "control.sock", {"op": "echo"})
    listen(tmp_path / "control.sock", None).close()
    with pytest.raises(ConnectionRefusedError):
        ask(tmp_path / "control.sock", {"op": "echo"})


async def test_whoever_may_not_ask_is_told_so_however_early_it_is_sent_away(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wizflowd.control.may_connect", lambda *_: False)

    for _ in range(50):
        with pytest.raises(RequestError, match="you may not control this wizflowd"):
            await asyncio.to_thread(ask, path, {"op": "echo", "padding": "x" * 200_000})


async def test_a_closing_server_leaves_nobody_waiting(tmp_path: Path) -> None:
    server = ControlServer(tmp_path / "control.sock", OPERATIONS)
    await server.open()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "control.sock")
    writer.write(b'{"op": "echo"}\n')
    assert b"ok" in await reader.readline()

    async with asyncio.timeout(10):
        await server.close()
        assert await reader.read() == b""
    writer.close()


async def test_a_socket_that_was_handed_down_is_served_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "handed.sock"
    server = ControlServer(path, OPERATIONS)

    await server.open(listen(path, None))
    assert await asyncio.to_thread(ask, path, {"op": "echo"}) == {"op": "echo"}
    await server.close()

    assert path.exists()
