"""Live output on the stream of a real daemon: for who asked, of what was asked for, only while it is asked for."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.system.conftest import common_daemon, shared
from tests.system.running import Daemon, shell, wait_for
from wizflowd.sockets import reachable

__all__ = ["common_daemon", "shared"]


@contextmanager
def connected(daemon: Daemon, **wish: Any) -> Iterator[Iterator[dict[str, Any]]]:
    """Give the events of a connection, from the hello of its wish on."""
    with socket.socket(socket.AF_UNIX) as peer, reachable(daemon.socket.with_name("events.sock")) as name:
        peer.settimeout(60)
        peer.connect(name)
        lines = peer.makefile("rb")
        lines.readline()
        peer.sendall(json.dumps(wish).encode() + b"\n")
        events = (json.loads(line) for line in lines)
        while next(events)["type"] != "wizflow.hello":
            pass
        yield events


def until_end(events: Iterator[dict[str, Any]], run: str) -> list[dict[str, Any]]:
    """Return the events up to the end of a run."""
    found = []
    for event in events:
        found.append(event)
        if event["type"] == "wizflow.run.succeeded" and event["subject"].endswith(run):
            return found
    return found


def texts(events: list[dict[str, Any]]) -> str:
    return "".join(event["data"]["text"] for event in events if event["type"] == "wizflow.task.output")


def steps(turn: Path) -> str:
    """Return a command that prints a word for each turn that it is given."""
    return f'for word in one two three; do until [ -e "{turn}-$word" ]; do sleep 0.02; done; echo $word; done'


def give(turn: Path, word: str) -> None:
    turn.with_name(f"{turn.name}-{word}").touch()


def test_output_is_heard_by_who_asked_for_it_while_it_is_printed(shared: Daemon, tmp_path: Path) -> None:
    turn = tmp_path / "turn"
    with connected(shared, output=True, workflow=f"{shared.prefix}*") as listening, connected(shared) as plain:
        shared.drop("w.json", [shell("a", steps(turn), timeout=60)])
        shared.drop("other.json", [shell("b", "true")])
        run = shared.wait_running("w", "a")
        give(turn, "one")
        first = next(event for event in listening if event["type"] == "wizflow.task.output")
        give(turn, "two")
        give(turn, "three")
        heard = until_end(listening, run)
        told = until_end(plain, run)

    assert first["subject"] == f"{shared.prefix}w/{run}/a"
    assert (first["data"], texts(heard)) == ({"attempt": 1, "text": "one\n"}, "two\nthree\n")
    assert texts(told) == ""


def test_what_is_printed_while_nobody_asks_is_not_heard_later(shared: Daemon, tmp_path: Path) -> None:
    turn = tmp_path / "turn"
    shared.drop("w.json", [shell("a", steps(turn), timeout=60)])
    run = shared.wait_running("w", "a")
    with connected(shared, output=True):
        pass
    give(turn, "one")
    log = shared.folder("w") / run / "logs" / "a.1.log"
    wait_for(lambda: log.read_text() == "one\n", "it is in the log")

    with connected(shared, output=True, run=run) as listening:
        give(turn, "two")
        give(turn, "three")
        heard = until_end(listening, run)

    assert texts(heard) == "two\nthree\n"
    assert log.read_text() == "one\ntwo\nthree\n"
