"""Campaign 7: the wall clock jumps and runs backwards, or the daemon stands still: no deadline, delay or run minds."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Answer, HttpServer, Request
from tests.spawner.conftest import PROGRAM
from tests.system.conftest import MakeDaemon
from tests.system.running import TIED, Daemon, lines_of, shell, wait_for
from tests.torture.campaign import ROOT, either, patched_copy, report

HOUR_S = 3600
YEARS_S = 10 * 365 * 24 * HOUR_S
JUMPS_S = either(
    (HOUR_S, -HOUR_S, YEARS_S, -YEARS_S, 0), (HOUR_S, 0, -HOUR_S, 0, YEARS_S, 0, -YEARS_S, 0, YEARS_S, -YEARS_S) * 5
)
CREEP_S = either(5, 60)
STILL_S = either(4, 30)
LATE_S = 1.5
DELAY_S = 0.5
WORK_S = 1.0
"""For how long a good task works, and after how long the server answers; the deadlines that must not fire are later."""

LATE = """\
import os, signal, sys, time
began = time.monotonic()
def told(number, frame):
    print(time.monotonic() - began, file=open(sys.argv[1], "a"))
    sys.exit(1)
signal.signal(signal.SIGTERM, told)
time.sleep(600)
"""
"""Notes after how many seconds it was told to end, by a clock that nobody shifts."""

AGAIN = """\
import sys, time
moments = sys.argv[1]
print(time.monotonic(), file=open(moments, "a"))
sys.exit(len(open(moments).readlines()) < 3)
"""
"""Notes when it was tried, and succeeds the third time."""

pytestmark = pytest.mark.slow


@dataclass
class Wrong:
    """What came of runs while the clock was off: faults by kind, seconds by which deadlines and retries were late."""

    faults: Counter[str] = field(default_factory=Counter)
    late_s: list[float] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)

    @property
    def latest_s(self) -> float:
        return round(max(self.late_s), 3)


def drop_timed(daemon: Daemon, name: str, server: HttpServer, delay_s: float = DELAY_S) -> Path:
    """Drop a workflow of tasks that end in time, too late, after retries, and with an answer; return their notes."""
    warm = {"id": "warm", "type": "RESTAPI", "method": "GET", "url": f"{server.url}/warm"}  # the first takes long
    daemon.drop(f"{name}-warm.json", [warm])
    daemon.wait_run(f"{name}-warm")
    notes = daemon.home / f"notes-{name}"
    notes.mkdir()
    script = {kind: notes / f"{kind}.py" for kind in ("late", "again")}
    script["late"].write_text(LATE)
    script["again"].write_text(AGAIN)
    python = [sys.executable, "-I", "-S"]
    tasks: list[dict[str, Any]] = [
        shell("good", f"sleep {WORK_S}; echo once >> {notes}/good", timeout=LATE_S + STILL_S),
        shell("late", [*python, str(script["late"]), str(notes / "late")], timeout=LATE_S),
        shell("again", [*python, str(script["again"]), str(notes / "again")], retry={"limit": 2, "delay": delay_s}),
        {"id": "asked", "type": "RESTAPI", "method": "GET", "url": f"{server.url}/{name}", "timeout": 3 * WORK_S},
        {"id": "unheard", "type": "RESTAPI", "method": "GET", "url": f"{server.url}/never/{name}", "timeout": LATE_S},
        shell("next", f"echo once >> {notes}/next", "good", "again", "asked"),
    ]
    daemon.drop(f"{name}.json", {"timeout": LATE_S + STILL_S + 10, "tasks": tasks})
    daemon.wait_running(name, "good", "late", "again", "asked", "unheard")
    wait_for(lambda: {f"/{name}", f"/never/{name}"} <= {request.target for request in server.requests}, "both asked")
    work = shell("work", f"touch {notes}/brief; sleep {WORK_S}")
    daemon.drop(f"{name}-brief.json", {"timeout": 3 * WORK_S, "tasks": [work]})
    wait_for((notes / "brief").exists, "the brief one works")
    return notes


def judge(daemon: Daemon, notes: Path, wrong: Wrong, still_s: float = 0.0, within_s: float = 20.0) -> None:
    """Add what is wrong with a run, when it has ended, and with the brief one beside it.

    A daemon that stood still for `still_s` may be so much later with what it does.
    """
    name = notes.name.removeprefix("notes-")
    run = daemon.wait_run(name, deadline_s=within_s)
    brief = daemon.wait_run(f"{name}-brief")
    wrong.faults["run failed by timeout"] += brief.status != "succeeded"
    states = dict.fromkeys(("good", "again", "asked", "next"), "succeeded") | {
        "late": "failed",
        "unheard": "failed",
    }
    for task, state in states.items():
        attempts = run.tasks[task]["attempts"]
        timed_out = bool(attempts) and "timed out" in str(attempts[-1]["error"])
        if run.tasks[task]["status"] != state or timed_out != (state == "failed"):
            wrong.faults[f"{task} {run.tasks[task]['status']}{' by timeout' if timed_out else ''}"] += 1
        wrong.faults[f"{task} repeated"] += len(attempts) > (3 if task == "again" else 1)
        if task in ("good", "next"):
            wrong.faults[f"{task} done {len(lines_of(notes / task))} times"] += len(lines_of(notes / task)) != 1
    for waited in lines_of(notes / "late"):
        wrong.late_s.append(float(waited) - LATE_S)
    moments = [float(line) for line in lines_of(notes / "again")]
    for before, after in pairwise(moments):
        wrong.faults["early retry"] += after - before < DELAY_S
        wrong.late_s.append(after - before - DELAY_S - still_s)
    wrong.faults = +wrong.faults
    wrong.runs.append(run.result["run"])


def slow_answer(request: Request) -> Answer:
    if request.target.startswith("/never/"):
        return Answer(never=True)
    if request.target != "/warm":
        time.sleep(WORK_S)
    return Answer(body=b"{}")


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer(*[slow_answer]) as running:
        yield running


# -- the wall clock is set -----------------------------------------------------------------------------------------


class WallClock:
    """The wall clock of processes with `settings` in their environment; `shift` sets by how many seconds it is off."""

    def __init__(self, folder: Path) -> None:
        library, self._offset = folder / "clockshift.so", folder / "offset"
        source = ROOT / "tests" / "tools" / "clockshift.c"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
        self.shift(0)
        self.settings = {"LD_PRELOAD": str(library), "CLOCKSHIFT_FILE": str(self._offset)}

    def shift(self, seconds: float) -> None:
        draft = self._offset.with_suffix(".draft")
        draft.write_text(str(seconds))
        draft.rename(self._offset)

    @contextlib.contextmanager
    def creeping_back(self) -> Iterator[None]:
        """Set it back by another second every second."""
        ended = threading.Event()

        def creep() -> None:
            seconds = 0
            while not ended.wait(1):
                seconds -= 1
                self.shift(seconds)

        thread = threading.Thread(target=creep)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.shift(0)


@pytest.fixture
def wall(tmp_path: Path) -> WallClock:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    return WallClock(tmp_path)


Shifted = Callable[[dict[str, str]], Daemon]


@pytest.fixture
def shifted(make_daemon: MakeDaemon, wall: WallClock) -> Iterator[Shifted]:
    """Start a daemon and, as the systemd unit does, its spawner beside it, both with the shifted clock."""
    started: list[subprocess.Popen[bytes]] = []

    def make(settings: dict[str, str]) -> Daemon:
        daemon = make_daemon(spawner="unit", limits__max_tasks="16")
        daemon.settings |= wall.settings | settings
        program = Path(settings["PYTHONPATH"], "wizflowd/spawner/__main__.py") if settings else PROGRAM
        command = [*TIED, sys.executable, "-I", "-S", str(program), "--directory", str(daemon.state / "spawner")]
        env = os.environ | wall.settings
        started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd="/", env=env))
        daemon.start()
        return daemon

    yield make
    for process in started:
        process.terminate()
        process.wait(30)


def jump_often(daemon: Daemon, wall: WallClock, server: HttpServer, jumps_s: Sequence[float]) -> Wrong:
    """Set the clock while a run is under way, once a run."""
    wrong = Wrong()
    for number, jump_s in enumerate(jumps_s):
        name = f"timed{number}"
        notes = drop_timed(daemon, name, server)
        time.sleep(0.3)
        wall.shift(jump_s)
        judge(daemon, notes, wrong)
        daemon.ask("trigger", workflow="steady")
    return wrong


def drop_steady(daemon: Daemon) -> None:
    """Drop a workflow that runs once for each jump, to see the order in which its runs are told."""
    kept = {"runs": 1 + len(JUMPS_S)}
    daemon.drop("steady.json", {"concurrency": {"policy": "queue"}, "retention": kept, "tasks": [shell("a", "true")]})
    daemon.wait_run("steady")


def inversions(runs: Sequence[str]) -> int:
    return sum(after < before for before, after in pairwise(runs))


@pytest.mark.timeout(either(120, 600))
def test_jumps_of_the_wall_clock_move_no_deadline_and_repeat_nothing(
    shifted: Shifted, wall: WallClock, server: HttpServer
) -> None:
    daemon = shifted({})
    drop_steady(daemon)

    wrong = jump_often(daemon, wall, server, JUMPS_S)
    steady = daemon.wait_run("steady", 1 + len(JUMPS_S))

    told = [row["run"] for row in reversed(daemon.ask("runs", workflow="steady", limit=1000))]
    latest = (daemon.folder("steady") / "latest").readlink().name
    years = {run[:4] for run in [*told, *wrong.runs]}
    report(
        "clock jumps",
        jumps=len(JUMPS_S),
        runs=len(told) + len(wrong.runs),
        years=len(years),
        faults=dict(wrong.faults),
        latest_deadline_s=wrong.latest_s,
        names_out_of_order=inversions(told),
    )
    assert wrong.faults == {}
    assert -0.3 < min(wrong.late_s) <= max(wrong.late_s) < 1
    assert len(years) == 3  # the shim works
    assert len(set(told)) == len(told) == 1 + len(JUMPS_S)
    queued = [record["subject"].split("/")[1] for record in events_of(daemon, "steady", "wizflow.run.queued")]
    assert told == queued
    assert latest == told[-1]
    assert steady.status == "succeeded"
    daemon.restart()
    assert daemon.ask("workflows")


def events_of(daemon: Daemon, workflow: str, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind of all runs of a workflow, by their sequence."""
    found = [event for run in daemon.finished(workflow) for event in run.events if event["type"] == kind]
    return sorted(found, key=lambda event: int(event["sequence"]))


@pytest.mark.timeout(either(120, 600))
def test_a_clock_that_goes_back_a_second_every_second_moves_no_deadline(
    shifted: Shifted, wall: WallClock, server: HttpServer
) -> None:
    daemon = shifted({})
    wrong = Wrong()
    end_s = time.monotonic() + CREEP_S

    with wall.creeping_back():
        while time.monotonic() < end_s or len(wrong.runs) < 2:
            name = f"timed{len(wrong.runs)}"
            notes = drop_timed(daemon, name, server)
            judge(daemon, notes, wrong)

    report(
        "clock creeps back", seconds=CREEP_S, runs=len(wrong.runs), faults=dict(wrong.faults), latest_s=wrong.latest_s
    )
    assert wrong.faults == {}
    assert -0.3 < min(wrong.late_s) <= max(wrong.late_s) < 1
    assert len(set(wrong.runs)) == len(wrong.runs) > 1


SIDES = {
    "the spawner": ("spawner/attempt.py", "spawner/lifecycle.py", "spawner/supervisor.py"),
    "the engine": ("engine/loop.py",),
}
BY_WALL = ("\nimport time\n", "\nimport time as _time\n\n\nclass time:\n    time = monotonic = _time.time\n")


@pytest.mark.parametrize("modules", SIDES.values(), ids=SIDES)
def test_the_campaign_sees_deadlines_by_the_wall_clock(
    shifted: Shifted, wall: WallClock, server: HttpServer, tmp_path: Path, modules: tuple[str, ...]
) -> None:
    (settings, *_) = [patched_copy(tmp_path / "patched", module, BY_WALL) for module in modules]
    daemon = shifted(settings)
    daemon.may_complain = True
    wrong = Wrong()

    notes = drop_timed(daemon, "timed", server, delay_s=3)
    with contextlib.suppress(AssertionError):
        time.sleep(0.3)
        wall.shift(-HOUR_S)
        wrong.faults["never ended"] += 1
        judge(daemon, notes, wrong, within_s=5)
        wrong.faults["never ended"] -= 1

    assert +wrong.faults
    for row in daemon.ask("runs"):
        if row["status"] == "running":
            daemon.ask("cancel", run=row["run"])
    wait_for(lambda: not daemon.ask("status")["runs"]["active"], "all is cancelled")


# -- the daemon stands still ---------------------------------------------------------------------------------------


def stand_still(daemon: Daemon, server: HttpServer) -> Wrong:
    """Stop the daemon in the middle of a run, for longer than all deadlines of that."""
    wrong = Wrong()
    notes = drop_timed(daemon, "still", server)
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        time.sleep(STILL_S)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    judge(daemon, notes, wrong, STILL_S)
    return wrong


def test_a_daemon_that_stood_still_has_no_wrong_timeout_and_repeats_nothing(
    make_daemon: MakeDaemon, server: HttpServer
) -> None:
    daemon = make_daemon(limits__max_tasks="16")
    daemon.start()

    wrong = stand_still(daemon, server)

    report("daemon stopped", seconds=STILL_S, faults=dict(wrong.faults), latest_s=wrong.latest_s)
    assert wrong.faults == {}
    assert max(wrong.late_s) < 1


def test_the_campaign_sees_a_daemon_that_takes_its_own_stop_for_a_timeout(
    make_daemon: MakeDaemon, server: HttpServer, tmp_path: Path
) -> None:
    daemon = make_daemon(limits__max_tasks="16")
    patched_copy(tmp_path / "patched", "executors/inprocess.py", ("CATCH_UP_S = 1.0", "CATCH_UP_S = 0.0"))
    settle = "self._settle(touched, decided, now)  # first"
    daemon.settings |= patched_copy(tmp_path / "patched", "engine/loop.py", (settle, "# first"))
    daemon.start()

    wrong = stand_still(daemon, server)

    assert wrong.faults["asked failed by timeout"] > 0
    assert wrong.faults["run failed by timeout"] > 0
