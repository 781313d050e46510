import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from wizflowd.views.progress import Failure, PlanRow, Progress, Summary, TaskChange

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"
ONE_TASK = """
import sys, time
from wizflowd.views.progress import *
with Progress(sys.stdout) as progress:
    progress.plan("etl", "r1", [PlanRow("fetch", "run")])
    progress.task(TaskChange("fetch", "running", 1, time.monotonic()))
"""
MANY_TASKS = """
import select, sys, time
from wizflowd.views.progress import *
with Progress(sys.stdout) as progress:
    progress.plan("etl", "r1", [PlanRow(f"t{i}", "run") for i in range(40)])
    for i in range(40):
        progress.task(TaskChange(f"t{i}", "running", 1, time.monotonic()))
    while not select.select([sys.stdin], [], [], 0.1)[0]:  # not input(): a signal just before it blocks would be lost
        pass
"""


def test_a_plain_run_is_one_line_per_change() -> None:
    out = io.StringIO()

    with Progress(out) as progress:
        progress.plan("etl", "r1", [PlanRow("fetch", "run"), PlanRow("count", "reuse")], width=1)
        progress.task(TaskChange("count", "reused", 0, 100.0, "nothing changed"))
        progress.task(TaskChange("fetch", "running", 1, 100.0))
        progress.task(TaskChange("fetch", "retrying", 1, 101.5, "exit code 7", 1.5))
        progress.task(TaskChange("fetch", "succeeded", 2, 162.0, duration_s=60.4))

    assert out.getvalue().splitlines() == [
        "etl  2 tasks, 1 to run, 1 reused, 1 wide  r1",
        "    0.000  reused     count  nothing changed",
        "    0.000  running    fetch",
        "    1.500  retrying   fetch  1.5 s  exit code 7",
        "   62.000  succeeded  fetch  attempt 2  1 min 00 s",
    ]


def test_the_end_shows_what_failed_with_the_end_of_its_log_and_what_was_passed_over() -> None:
    out = io.StringIO()
    log = "\n".join(f"line {i}" for i in range(40))

    Progress(out).end(
        Summary(
            "failed",
            2.04,
            {"succeeded": 2, "failed": 1, "skipped": 12, "cancelled": 0},
            failures=[Failure("count", "exit code 7", "/w/logs/count.1.log", log)],
            skipped=[f"s{i}" for i in range(12)],
            tolerated=["flaky"],
            results="/w/etl.runs/r1",
        )
    )

    assert out.getvalue().splitlines() == [
        "",
        "failed count: exit code 7",
        "  log: /w/logs/count.1.log",
        *(f"    line {i}" for i in range(25, 40)),
        "",
        "failed in 2.0 s: 1 failed, 2 succeeded, 12 skipped",
        "tolerated: flaky",
        "skipped: s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 and 2 more",
        "results: /w/etl.runs/r1",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_control_characters_of_names_and_logs_never_reach_the_screen(terminal: bool) -> None:
    out = io.StringIO()
    evil = "x\x1b]0;title\x07\x9b31m\u202e"

    with Progress(out, terminal=terminal) as progress:
        progress.plan(evil, evil, [PlanRow(evil, "run")])
        progress.task(TaskChange(evil, "running", 1, 0.0, evil))
        progress.task(TaskChange(evil, "failed", 1, 0.0, evil))
        progress.end(Summary("failed", 1, {"failed": 1}, [Failure(evil, evil, evil, evil)], [evil], [evil], evil))

    assert not set(re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", out.getvalue())) & set("\x1b\x07\x9b\u202e")
    assert r"\x1b]0;title\x07\x9b31m\u202e" in out.getvalue()


def test_a_name_that_the_output_cannot_encode_is_escaped() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")

    Progress(out).task(TaskChange("名前", "running", 1, 0.0))

    assert rb"\u540d\u524d" in raw.getvalue()


def test_plain_progress_does_not_import_rich() -> None:
    code = ONE_TASK + "print('rich' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.endswith("\nFalse\n")


def test_a_terminal_gets_its_cursor_back_at_the_end() -> None:
    with _terminal(ONE_TASK) as terminal:
        terminal.read_to_end()

    assert HIDE in terminal.shown
    assert terminal.shown.rindex(SHOW) > terminal.shown.rindex(HIDE)


def test_a_terminal_gets_its_cursor_back_after_an_interrupt() -> None:
    with _terminal(MANY_TASKS) as terminal:
        terminal.read_until(b"running")
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_to_end()

    assert HIDE in terminal.shown
    assert terminal.shown.rindex(SHOW) > terminal.shown.rindex(HIDE)
    assert b"KeyboardInterrupt" in terminal.shown


def test_what_lives_is_never_higher_than_the_terminal() -> None:
    with _terminal(MANY_TASKS, rows=10) as terminal:
        terminal.read_until(b"and 33 more")
        os.write(terminal.fd, b"\n")
        terminal.read_to_end()

    assert b"t6" in terminal.shown
    assert b"t7" not in terminal.shown.split(b"and 33 more")[0]


def test_no_color_is_respected() -> None:
    with _terminal(ONE_TASK, NO_COLOR="1") as plain, _terminal(ONE_TASK) as coloured:
        plain.read_to_end()
        coloured.read_to_end()

    assert not re.search(rb"\x1b\[[0-9;]*3[0-7]m", plain.shown)
    assert re.search(rb"\x1b\[[0-9;]*3[0-7]m", coloured.shown)


def test_a_dumb_terminal_gets_plain_lines() -> None:
    with _terminal(ONE_TASK, TERM="dumb") as terminal:
        terminal.read_to_end()

    assert b"\x1b" not in terminal.shown
    assert b"0.000  running    fetch" in terminal.shown


def test_a_thousand_quick_tasks_are_drawn_in_few_frames() -> None:
    out = io.StringIO()

    start_s = time.monotonic()
    with Progress(out, terminal=True) as progress:
        progress.plan("etl", "r1", [PlanRow(f"t{i}", "run") for i in range(1_000)])
        for i in range(1_000):
            progress.task(TaskChange(f"t{i}", "running", 1, start_s))
            progress.task(TaskChange(f"t{i}", "succeeded", 1, start_s, duration_s=0.001))
    took_s = time.monotonic() - start_s

    assert all(f"✓ \x1b[0mt{i}\x1b" in out.getvalue() for i in range(1_000))
    assert out.getvalue().count("/1,000") <= 3 + took_s * 12
    assert took_s < 2


@dataclass
class _Terminal:
    process: subprocess.Popen[bytes]
    fd: int
    shown: bytes = field(default=b"")

    def read_until(self, text: bytes) -> None:
        while text not in self.shown:
            if not self._read():
                pytest.fail(f"{text!r} was never shown: {self.shown!r}")

    def read_to_end(self) -> None:
        while self._read():
            pass
        self.process.wait(10)

    def _read(self) -> bytes:
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # EIO: the other side is closed
            data = b""
        self.shown += data
        return data


@contextmanager
def _terminal(code: str, rows: int = 24, **env: str) -> Iterator[_Terminal]:
    """Run Python code on a terminal of its own, with 80 columns."""
    fd, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))
    clean = {"PATH": os.environ["PATH"], "TERM": "xterm", "PYTHONUTF8": "1", **env}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=inner, stdout=inner, stderr=inner, env=clean, start_new_session=True
    )
    os.close(inner)
    try:
        yield _Terminal(process, fd)
    finally:
        process.kill()
        process.wait()
        os.close(fd)
