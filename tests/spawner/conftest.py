"""A real spawner and a client that speaks its protocol line by line."""

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import wizflowd.spawner
from tests.system.running import TIED
from wizflowd.spawner.protocol import LineReader, Message

PROGRAM = Path(wizflowd.spawner.__file__).with_name("__main__.py")
WAIT_S = 15.0


class Spawner:
    """A spawner as a child of the test, in the foreground, and one connection to it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*TIED, sys.executable, "-I", "-S", str(PROGRAM), "--directory", str(folder), *options], cwd="/"
        )
        wait_for(self._connects)
        self._reader = LineReader()
        self.messages: list[Message] = []
        self.hello = self.ask({"op": "hello", "protocol": 1, "daemon_pid": os.getpid()}, "hello")

    def _connects(self) -> bool:
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.connect(str(self.folder / "socket"))
        except OSError:
            self.socket.close()
            return False
        return True

    def send(self, *messages: Message) -> None:
        self.socket.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def ask(self, message: Message, op: str) -> Message:
        self.send(message)
        return self.next(op)

    def next(self, op: str, attempt: str | None = None) -> Message:
        """Return the next message of this kind; others stay."""
        deadline = time.monotonic() + WAIT_S
        while True:
            for index, message in enumerate(self.messages):
                if message["op"] == op and attempt in (None, message.get("attempt")):
                    return self.messages.pop(index)
            readable, _, _ = select.select([self.socket], [], [], deadline - time.monotonic())
            assert readable, f"no {op}"
            data = self.socket.recv(1 << 20)
            assert data, f"the spawner has gone without {op}"
            self.messages += self._reader.feed(data)

    def request(self, attempt: str, *argv: str, **fields: object) -> Message:
        """Return what asks for an attempt."""
        message: Message = {
            "op": "spawn",
            "attempt": attempt,
            "argv": list(argv),
            "env": {"PATH": os.environ["PATH"], "WIZFLOW_ATTEMPT": attempt},
            "cwd": str(self.folder),
            "stdin": None,
            "log": str(self.folder / f"{attempt}.log"),
            "log_max": 1 << 20,
            "stdout": None,
            "stdout_max": 1 << 20,
            "secrets": [],
            "limits": {},
            "timeout_s": 60,
            "grace_s": 0.3,
        }
        return message | fields

    def spawn(self, attempt: str, *argv: str, **fields: object) -> Message:
        return self.ask(self.request(attempt, *argv, **fields), "started")

    def run(self, attempt: str, script: str, **fields: object) -> Message:
        self.spawn(attempt, "/bin/sh", "-c", script, **fields)
        return self.next("exited", attempt)

    def log(self, attempt: str) -> bytes:
        return (self.folder / f"{attempt}.log").read_bytes()

    def close(self) -> None:
        self.socket.close()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(WAIT_S)


Make = Callable[..., Spawner]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Start spawners of one directory, with options; all end with the test, in whatever way that does."""
    made: list[Spawner] = []

    def make_spawner(*options: str) -> Spawner:
        made.append(Spawner(tmp_path, *options))
        return made[-1]

    yield make_spawner
    for spawner in made:
        spawner.close()


@pytest.fixture
def spawner(make: Make) -> Spawner:
    return make()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.005)
