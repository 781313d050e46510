"""A daemon with workflows of every kind, and the commands that ask it, in pipes and on terminals."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from dataclasses import dataclass

from tests.system.running import DEADLINE_S, PROGRAMS, Daemon, environment, shell

LONG_NAME = "team/a-workflow-with-a-long-name-that-goes-on-and-on-and-on"


@dataclass(frozen=True)
class Fleet:
    """`good`, `fails` (a retry, a skipped task), `tolerant`, `broken` and a long name; all have run."""

    daemon: Daemon

    def fill(self) -> None:
        """Drop the workflows and wait until they have run."""
        drop = self.daemon.drop
        drop("good.json", [shell("hello", "echo hello; echo again"), shell("bye", "printf bye", "hello")])
        bad = shell("bad", "echo 'oh no' >&2; exit 7", "fetch", retry={"limit": 1, "delay": 0})
        escapes = shell("fetch", r"printf 'one\n\033[31mred\ttab\nno end'")
        drop("fails.json", [escapes, bad, shell("after", "true", "bad")])
        drop("tolerant.json", [shell("may", "exit 1", continue_on_failure=True), shell("ok", "true")])
        drop("broken.yaml", "tasks:\n  - {id: a, type: SHELL, comand: x}\n")
        drop(f"{LONG_NAME}.json", [shell("a-task-with-a-long-name-indeed-and-still-longer", "true")])
        for name in ("good", "fails", "tolerant", LONG_NAME):
            self.daemon.wait_run(name)

    def run_of(self, workflow: str) -> str:
        return str(self.daemon.ask("runs", workflow=workflow)[0]["run"])

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command whose output goes into pipes."""
        return subprocess.run(
            [PROGRAMS / "wizflow", *arguments],
            env=self.environment(),
            cwd=self.daemon.home,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command whose output is read as it comes."""
        return subprocess.Popen(
            [PROGRAMS / "wizflow", *arguments], env=self.environment(), stdout=subprocess.PIPE, text=True
        )

    def on_terminal(self, *arguments: str, columns: int = 100, colour: bool = False) -> str:
        """Run a command on a terminal and return what that shows."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))
        env = {**self.environment(), "TERM": "xterm", "NO_COLOR": "" if colour else "1"}
        env.pop("COLUMNS", None)
        with subprocess.Popen([PROGRAMS / "wizflow", *arguments], env=env, stdin=theirs, stdout=theirs, stderr=theirs):
            os.close(theirs)
            shown = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
        return shown.decode().replace("\r\n", "\n")

    def environment(self) -> dict[str, str]:
        return environment(self.daemon.home, {"WIZFLOWD_EVENTS_SOCKET": f"{self.daemon.home}/events.sock"})


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: nobody writes to it any more
        return b""
