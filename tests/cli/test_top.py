"""`wizflow top` in a real terminal: what it shows, and what its keys do."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import daemon, make_daemon
from tests.system.running import DEADLINE_S, PROGRAMS, Daemon, environment, gated, shell, wait_for

__all__ = ["daemon", "make_daemon"]

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Screen:
    """A terminal of a size of its own, in a tmux server of its own, which ends with the program in it."""

    def __init__(self, daemon: Daemon, columns: int, rows: int) -> None:
        self._tmux = ["tmux", "-f", os.devnull, "-S", str(daemon.home / "tmux.sock")]
        env = environment(daemon.home, {"WIZFLOWD_EVENTS_SOCKET": f"{daemon.home}/events.sock", "NO_COLOR": ""})
        env |= {"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
        env = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}  # of who runs the tests
        size = ["-x", str(columns), "-y", str(rows)]
        # whatever becomes of the test, the program and with it the server end
        command = f"timeout -k 5 100 {PROGRAMS / 'wizflow'} top"
        subprocess.run(
            [*self._tmux, "-u", "new-session", "-d", *size, command], env=env, check=True, timeout=DEADLINE_S
        )

    @property
    def text(self) -> str:
        """What can be read on it; nothing when the program has ended."""
        shown = subprocess.run([*self._tmux, "capture-pane", "-p"], capture_output=True, text=True, timeout=DEADLINE_S)
        return shown.stdout

    @property
    def is_open(self) -> bool:
        done = subprocess.run([*self._tmux, "has-session"], capture_output=True, timeout=DEADLINE_S)
        return done.returncode == 0

    def press(self, *keys: str) -> None:
        subprocess.run([*self._tmux, "send-keys", *keys], check=True, timeout=DEADLINE_S)

    def wait_for(self, pattern: str) -> str:
        """Wait until some line matches, and return it."""

        def found() -> str:
            return next((line for line in self.text.splitlines() if re.search(pattern, line)), "")

        try:
            return wait_for(found, pattern)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text}") from None

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, timeout=DEADLINE_S)


@pytest.fixture
def screen(daemon: Daemon) -> Iterator[Screen]:
    made = Screen(daemon, 110, 32)
    yield made
    made.close()


def test_a_running_workflow_is_seen_cancelled_and_retried_by_keys(
    daemon: Daemon, screen: Screen, tmp_path: Path
) -> None:
    count = f"i=0; while [ ! -e {tmp_path}/gate ]; do i=$((i+1)); echo part $i; sleep 0.1; done"
    daemon.drop("build.json", [shell("compile", count, timeout=90), shell("ship", "true", "compile")])

    screen.wait_for(r"build +▶ running .*compile +▶ running +\d s +1 +build")
    screen.wait_for(r"Output of compile \(build\)")
    screen.wait_for(r"part \d+")

    screen.press("c")
    cancelled = daemon.wait_run("build")
    screen.wait_for(r"build +idle +⊘ \d s ago")
    (tmp_path / "gate").touch()
    screen.press("r")
    retried = daemon.wait_run("build", 2)
    screen.wait_for(r"build +idle +✓ \d s ago")

    assert cancelled.status == "cancelled"
    assert (retried.status, retried.result["retry_of"]) == ("succeeded", cancelled.result["run"])

    screen.press("q")
    wait_for(lambda: not screen.is_open, "it has ended")


def test_a_task_that_waits_is_approved_and_a_run_is_paused_by_keys(
    daemon: Daemon, screen: Screen, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    daemon.drop("w.json", [shell("a", gated(gate), timeout=90), shell("b", "true", "a", breakpoint=True)])
    run = daemon.wait_running("w", "a")
    screen.wait_for(r"w +▶ running")

    screen.press("p")
    screen.wait_for(r"w +‖ paused")
    gate.touch()
    screen.press("p")
    screen.wait_for(r"resume .*: done")
    screen.wait_for(r"b +‖ paused +\d s +w")
    screen.press("Tab")
    screen.press("a")

    assert daemon.wait_run("w").statuses == {"a": "succeeded", "b": "succeeded"}
    assert daemon.ask("run", run=run)["status"] == "succeeded"


def test_it_waits_for_a_daemon_that_has_gone_and_shows_the_next(daemon: Daemon, screen: Screen) -> None:
    daemon.drop("w.json", [shell("a", "true")])
    daemon.wait_run("w")
    screen.wait_for(r"w +idle +✓")

    daemon.kill9()
    screen.wait_for(r"the daemon has gone|no answer from the daemon")
    daemon.start()
    screen.wait_for(r"^ ?connected")
    daemon.drop("x.json", [shell("a", "exit 1")])

    screen.wait_for(r"x +idle +✗ \d s ago")
