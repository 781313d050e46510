"""Campaign 3: tasks outlive the daemon and are adopted; those of a killed spawner are ended, and tried again."""

import contextlib
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, Finished, gated, is_alive, lines_of, shell, tasks_alive, wait_for
from tests.torture.campaign import ROOT, either, patched_copy, report
from wizflowd.spawner.protocol import VERSION, LineReader, socket_address

TASKS = 50
KILLS = either(5, 20)
LOSSES = either(3, 20)
LATE_S = 1.0
ENDS: dict[str, tuple[int | None, int | None]] = {
    "exit-0": (0, None),
    "exit-7": (7, None),
    "exit-137": (137, None),
    "signal-11": (None, signal.SIGSEGV),
    "signal-9": (None, signal.SIGKILL),
}
"""How a task is told to end, and the exit code and the signal that stand in its result."""
TIMEOUTS_S = either((3, 5), (3, 7, 11, 19))
SHORT_S = (3,)
LONGER_S = (4,)
OLD_VERSION = "0.0.9"

PRINTER = """\
import os, sys, time
gate, kind, number = sys.argv[1], *sys.argv[2].split("-")
print("pid", os.getpid(), flush=True)
count = 0
end = time.monotonic() + 300
while not os.path.exists(gate) and time.monotonic() < end:
    count += 1
    print("line", count, flush=True)
    time.sleep(0.05)
print("end", count, flush=True)
if kind == "signal":
    os.kill(os.getpid(), int(number))
sys.exit(int(number))
"""
SURVIVOR = """\
import os, sys, time
place = sys.argv[1]
def is_ours(pid):
    try:
        return b"survivor.py" in open(f"/proc/{pid}/cmdline", "rb").read()
    except OSError:
        return False
for name in os.listdir(place):
    if name.isdigit() and is_ours(name):
        print("alive", name, file=open(f"{place}/violations", "a"))
print("began", file=open(f"{place}/began", "a"))
if len(open(f"{place}/began").readlines()) == 2:
    sys.exit(0)
if os.fork() == 0:
    os.setsid()
    if os.fork() > 0:
        os._exit(0)
    os.closerange(0, 3)
open(f"{place}/{os.getpid()}", "w").close()
time.sleep(60)
"""
"""Leaves a process in a session of its own, without parent and output; notes what of the attempt before is alive."""

pytestmark = pytest.mark.slow


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    return random.Random(seed)


def program(daemon: Daemon, name: str, text: str, *arguments: object) -> list[str]:
    """Return the command of a small program that starts quickly."""
    path = daemon.home / name
    path.write_text(text)
    return [sys.executable, "-I", "-S", str(path), *map(str, arguments)]


def drop_printers(
    daemon: Daemon, gate: Path, count: int = TASKS, timeouts_s: Sequence[int] = TIMEOUTS_S
) -> dict[str, str]:
    """Drop a workflow of tasks that print numbered lines until the gate is there; return how each will end."""
    ends = {f"t{number}": list(ENDS)[number % len(ENDS)] for number in range(count)}
    tasks = [shell(name, program(daemon, "printer.py", PRINTER, gate, end)) for name, end in ends.items()]
    tasks += [shell(f"late{number}", "exec sleep 60", timeout=number) for number in timeouts_s]
    daemon.drop("printers.json", tasks)
    return ends


def pids_printed(daemon: Daemon, names: dict[str, str]) -> dict[str, int]:
    """Return the process of each task, once all have printed theirs."""
    daemon.wait_running("printers", *names)

    def printed() -> dict[str, int]:
        logs = {name: list(daemon.folder("printers").glob(f"*/logs/{name}.1.log")) for name in names}
        firsts = {name: found[0].read_text().split("\n")[0] for name, found in logs.items() if found}
        pids = {name: int(first[4:]) for name, first in firsts.items() if first.startswith("pid ")}
        return pids if len(pids) == len(names) else {}

    return wait_for(printed, "all tasks have printed")


def faults_of(run: Finished, ends: dict[str, str], pids: dict[str, int]) -> Counter[str]:
    """Return what is wrong with a run of printers, by kind."""
    faults: Counter[str] = Counter()
    for name, end in ends.items():
        attempts = run.tasks[name]["attempts"]
        last = attempts[-1]
        faults["repeated"] += len(attempts) - 1
        faults["other pid"] += last["pid"] != pids[name]
        faults["wrong exit"] += (last["exit_code"], last["signal"]) != ENDS[end]
        lines = run.log(name).splitlines()
        count = len(lines) - 2
        whole = [f"pid {pids[name]}", *(f"line {number}" for number in range(1, count + 1)), f"end {count}"]
        faults["lines missing or doubled"] += lines != whole
    return +faults


def lateness_s(run: Finished, timeouts_s: Sequence[int] = TIMEOUTS_S) -> list[float]:
    """Return how long after its deadline each task with one has ended; infinite if that was not its end."""
    found = []
    for number in timeouts_s:
        attempts = run.tasks[f"late{number}"]["attempts"]
        took_s = seconds_between(attempts[0]["started"], attempts[-1]["ended"])
        timed_out = len(attempts) == 1 and "timed out" in attempts[0]["error"]
        found.append(took_s - number if timed_out else float("inf"))
    return found


def seconds_between(began: str, ended: str) -> float:
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()


def kill_often(daemon: Daemon, kills: int, chance: random.Random) -> None:
    """Kill the daemon again and again: while it starts, and while it works."""
    for _ in range(kills):
        if chance.random() < 0.7:
            daemon.wait_until_ready()
        time.sleep(chance.random() * 0.5)
        daemon.kill9()
        time.sleep(chance.random() * 0.3)
        daemon.launch()
    daemon.wait_until_ready()


@pytest.mark.timeout(either(120, 300))
def test_fifty_tasks_outlive_the_kills_of_the_daemon(make_daemon: MakeDaemon, chance: random.Random) -> None:
    daemon = make_daemon(limits__max_tasks="64")
    daemon.start()
    gate = daemon.home / "gate"
    ends = drop_printers(daemon, gate)
    pids = pids_printed(daemon, ends)

    kill_often(daemon, KILLS, chance)
    wait_for(lambda: not running(daemon) & {f"late{number}" for number in TIMEOUTS_S}, "the deadlines are over")
    gate.touch()
    run = daemon.wait_run("printers")

    faults, late_s = faults_of(run, ends, pids), lateness_s(run)
    adopted = run.types.count("wizflow.task.adopted")
    lines = sum(len(run.log(name).splitlines()) for name in ends)
    report(
        "adoption",
        tasks=TASKS,
        kills=KILLS,
        adoptions=adopted,
        lines=lines,
        faults=dict(faults),
        latest_deadline_s=round(max(late_s), 3),
    )
    assert faults == {}
    assert adopted > TASKS
    assert 0 <= min(late_s) <= max(late_s) < LATE_S


def running(daemon: Daemon) -> set[str]:
    """Return the tasks that run."""
    (run,) = daemon.ask("runs", workflow="printers")
    return {task["id"] for task in daemon.ask("run", run=run["run"])["tasks"] if task["status"] == "running"}


def test_the_campaign_sees_tasks_that_are_not_adopted(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon(limits__max_tasks="64")
    daemon.settings |= patched_copy(
        tmp_path / "patched",
        "engine/recover.py",
        ("engine.launcher.adopt(run, task, context)", "engine.launcher.lose(run, task, 'control')"),
    )
    daemon.start()
    gate = daemon.home / "gate"
    ends = drop_printers(daemon, gate, len(ENDS), SHORT_S)
    pids = pids_printed(daemon, ends)

    daemon.kill9()
    daemon.start()
    gate.touch()
    run = daemon.wait_run("printers")

    faults = faults_of(run, ends, pids)
    assert faults["repeated"] > 0
    assert faults["other pid"] > 0
    assert max(lateness_s(run, SHORT_S)) > LATE_S


# -- the spawner is killed -----------------------------------------------------------------------------------------


@dataclass
class Losses:
    """What came of tasks whose spawner was killed."""

    survivors: int = 0
    faults: Counter[str] = field(default_factory=Counter)


def lose_often(daemon: Daemon, chance: random.Random) -> Losses:
    """Kill the spawner, at times the daemon with it, while two tasks run, again and again."""
    losses = Losses()
    for number in range(LOSSES):
        name, place = f"losses{number}", daemon.home / f"attempts{number}"
        place.mkdir()
        again = shell("again", program(daemon, "survivor.py", SURVIVOR, place))
        unknown = shell("unknown", gated(daemon.home / "never"), on_lost="fail")
        daemon.drop(f"{name}.json", [again, unknown])
        daemon.wait_running(name, "again", "unknown")
        wait_for(lambda: len(list(place.glob("[0-9]*"))) == 2)  # noqa: B023
        time.sleep(chance.random() * 0.1)
        kill_spawner(daemon, with_daemon=number % 2 == 1)
        run = daemon.wait_run(name)
        losses.survivors += len(lines_of(place / "violations"))
        losses.faults["tried wrongly"] += len(lines_of(place / "began")) != 2
        losses.faults["attempts"] += [len(run.tasks[task]["attempts"]) for task in ("again", "unknown")] != [2, 1]
        losses.faults["states"] += run.statuses != {"again": "succeeded", "unknown": "failed"}
    losses.faults = +losses.faults
    return losses


def kill_spawner(daemon: Daemon, *, with_daemon: bool) -> None:
    if with_daemon:
        daemon.kill9()
    pid = daemon.spawner_pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid), "the spawner is dead")
    if with_daemon:
        daemon.start()


@pytest.mark.timeout(either(120, 300))
def test_what_a_killed_spawner_leaves_is_ended_before_the_retry(daemon: Daemon, chance: random.Random) -> None:
    losses = lose_often(daemon, chance)

    report("spawner killed", kills=LOSSES, survivors=losses.survivors, faults=dict(losses.faults))
    assert losses == Losses()
    assert tasks_alive(daemon.home) == []


def test_the_campaign_sees_survivors_of_a_killed_spawner(
    make_daemon: MakeDaemon, tmp_path: Path, chance: random.Random
) -> None:
    daemon = make_daemon()
    daemon.settings |= patched_copy(
        tmp_path / "patched", "spawner/main.py", ('end_survivors(before["top"])', 'before["top"]')
    )
    daemon.start()

    try:
        losses = lose_often(daemon, chance)
    finally:
        end_all(tasks_alive(daemon.home))

    assert losses.survivors > 0


def end_all(pids: list[int]) -> None:
    """End what a control has left, as far as this test started it."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, pids)), "what a control left is dead")


# -- an old spawner and a newer daemon -----------------------------------------------------------------------------


def install(daemon: Daemon, *, old: bool) -> None:
    """Put the package where this daemon finds it, in place of what is there, as an upgrade does."""
    place = daemon.home / "installed"
    package = place / "wizflowd"
    shutil.rmtree(package, ignore_errors=True)
    if old:
        patched_copy(place, "spawner/protocol.py", (f'VERSION = "{VERSION}"', f'VERSION = "{OLD_VERSION}"'))
    else:
        patched_copy(place, "spawner/protocol.py", ("PROTOCOL = 1", "PROTOCOL = 2"))
        spawn = '"op": "spawn",'
        patched_copy(place, "executors/shell.py", (spawn, f'{spawn} "of_the_future": {{"x": 1}},'))
    daemon.settings |= {"PYTHONPATH": str(place)}


def hello_of(daemon: Daemon, *, reexec: bool = False) -> dict[str, Any]:
    """Return what the spawner says of itself; then it may have to re-execute itself."""
    with socket.socket(socket.AF_UNIX) as connection, socket_address(str(daemon.state / "spawner")) as address:
        connection.settimeout(10)
        connection.connect(address)
        connection.sendall(b'{"op": "hello", "protocol": 1, "daemon_pid": 0}\n{"op": "of_the_future"}\n')
        if reexec:
            connection.sendall(b'{"op": "reexec"}\n')
        reader = LineReader()
        while True:
            for message in reader.feed(connection.recv(1 << 20)):
                if message["op"] == "hello":
                    return message


@pytest.mark.timeout(either(120, 300))
def test_an_old_spawner_serves_a_newer_daemon_and_becomes_new_without_losing_a_task(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(limits__max_tasks="64")
    install(daemon, old=True)
    daemon.start()
    gate = daemon.home / "gate"
    ends = drop_printers(daemon, gate)
    pids = pids_printed(daemon, ends)
    spawner = daemon.spawner_pid
    seen = [hello_of(daemon)["version"]]

    daemon.kill9()
    daemon.settings |= {"PYTHONPATH": str(ROOT)}  # newer, but the spawner's own place holds the old version still
    daemon.start()
    daemon.drop("beside.json", [shell("new", "echo served")])
    assert daemon.wait_run("beside").log("new") == "served\n"
    seen.append(hello_of(daemon)["version"])
    install(daemon, old=False)
    daemon.kill9()
    daemon.start()
    wait_for(lambda: hello_of(daemon)["version"] == VERSION, "the spawner is of the new version")
    seen.append(hello_of(daemon)["version"])
    kept = daemon.spawner_pid
    wait_for(lambda: not running(daemon) & {f"late{number}" for number in TIMEOUTS_S}, "the deadlines are over")
    gate.touch()
    run = daemon.wait_run("printers")

    faults, late_s = faults_of(run, ends, pids), lateness_s(run)
    report(
        "upgrade",
        tasks=TASKS,
        spawner_versions=seen,
        same_spawner=kept == spawner,
        faults=dict(faults),
        latest_deadline_s=round(max(late_s), 3),
    )
    assert seen == [OLD_VERSION, OLD_VERSION, VERSION]
    assert kept == spawner
    assert faults == {}
    assert 0 <= min(late_s) <= max(late_s) < LATE_S


def test_the_campaign_sees_a_deadline_that_begins_anew_with_the_new_program(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(limits__max_tasks="64")
    install(daemon, old=True)
    daemon.start()
    gate = daemon.home / "gate"
    install(daemon, old=False)
    loaded = 'attempt = Attempt(**message["plain"], '
    anew = 'message["plain"]["due"] += __import__("time").time() - message["plain"]["started_s"]\n    ' + loaded
    patched_copy(daemon.home / "installed", "spawner/handover.py", (loaded, anew))

    drop_printers(daemon, gate, 0, LONGER_S)
    daemon.wait_running("printers", *(f"late{number}" for number in LONGER_S))
    time.sleep(LATE_S + 0.2)
    hello_of(daemon, reexec=True)
    run = daemon.wait_run("printers")

    assert max(lateness_s(run, LONGER_S)) > LATE_S


def test_a_new_program_that_does_not_start_leaves_the_old_one_at_work(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(limits__max_tasks="64")
    install(daemon, old=True)
    daemon.start()
    gate = daemon.home / "gate"
    ends = drop_printers(daemon, gate, len(ENDS), ())
    pids = pids_printed(daemon, ends)

    (daemon.home / "installed/wizflowd/spawner/main.py").write_text("syntax error\n")
    daemon.kill9()
    daemon.settings |= {"PYTHONPATH": str(ROOT)}
    daemon.start()
    gate.touch()
    run = daemon.wait_run("printers")

    assert faults_of(run, ends, pids) == {}
    assert hello_of(daemon)["version"] == OLD_VERSION
