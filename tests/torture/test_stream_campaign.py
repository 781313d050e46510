"""Campaign: the event stream keeps what a watch promises, over kills and reconnects, however slow its readers are."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, assert_gapless, shell, wait_for
from tests.torture.campaign import either, forget_peak, memory_mib, report
from tests.torture.watch import (
    Committed,
    Watch,
    Watcher,
    atomic,
    bookmarkable,
    faults_of,
    lines_of,
    ordered,
    reliable,
    resumable,
    sequence_of,
    unique,
)

EVENTS = either(6_000, 50_000)
RECONNECTS, KILLS = 20, 5
WIDTH = 500
"""Tasks of a run that costs one process: the first fails, the others are skipped, in one commit."""
STEADY = either(150, 1_500)
"""Tasks of a run whose events come one by one."""
QUIET_RUNS, CROWDED_RUNS = either((12, 12), (100, 2_000))
STEADY_ROUNDS = either(2, 10)
"""Runs of such tasks without the crowd and as many with it, in turn: the host's own noise hits both."""
AT_ONCE = 100
READERS, STOPPED = 40, 10
PER_PROCESS = 10
MOST_GROWN_MIB = 32
PATIENCE_S = either(100, 3600)

READER = """\
import ctypes, json, selectors, signal, socket, sys, time
from datetime import datetime
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also a stopped one ends with the test
count, path = int(sys.argv[1]), sys.argv[2]
chosen, delays, rests, lines, closed = selectors.DefaultSelector(), [], {}, 0, 0
for _ in range(count):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    rests[peer] = b""
    chosen.register(peer, selectors.EVENT_READ)
chosen.register(sys.stdin, selectors.EVENT_READ)
print("connected", flush=True)
patience_s = None
while (ready := chosen.select(patience_s)):
    for key, _ in ready:
        if key.fileobj is sys.stdin:
            patience_s = 0.5  # what is under way still counts
            chosen.unregister(sys.stdin)
            continue
        data = key.fileobj.recv(1 << 18)
        now_s = time.time()
        if not data:
            chosen.unregister(key.fileobj)
            closed += 1
            continue
        *whole, rests[key.fileobj] = (rests[key.fileobj] + data).split(b"\\n")
        lines += len(whole)
        for line in whole[:1]:
            event = json.loads(line)
            if "sequence" in event:
                delays.append(now_s - datetime.fromisoformat(event["time"]).timestamp())
            closed += event["type"] == "wizflow.lagged"
delays.sort()
at = lambda share: round(delays[int(share * (len(delays) - 1))] * 1000, 1) if delays else None
print(json.dumps({"lines": lines, "closed": closed, "p50": at(0.5), "p99": at(0.99), "max": at(1)}))
"""
"""Reads so many connections until its input ends; of what each reading brought, the delay of the oldest event."""

pytestmark = pytest.mark.slow


@pytest.fixture
def busy(make_daemon: MakeDaemon) -> Daemon:
    """A daemon that writes little of itself, with `bulk`: five hundred events for one process."""
    daemon = make_daemon(log__level="warning")
    daemon.start()
    tasks = [shell("first", "exit 1"), *(shell(f"t{number}", "true", "first") for number in range(WIDTH))]
    daemon.drop("bulk.json", {"tasks": tasks, "retention": {"runs": 2}, "on_change": "record"})
    steady = [shell(f"t{number}", "true") for number in range(STEADY)]
    daemon.drop("steady.json", {"tasks": steady, "on_change": "record"})
    daemon.drop("quiet.json", {"tasks": [shell("a", "true")], "on_change": "record"})
    wait_for(lambda: len(daemon.ask("workflows")) == 3, "all are known")
    return daemon


def wait_place(daemon: Daemon, watcher: Watcher, wanted: int) -> None:
    def told() -> bool:
        assert daemon.process.poll() is None, daemon.log
        return watcher.place >= wanted

    wait_for(told, f"{wanted} events", PATIENCE_S)


def trigger(daemon: Daemon, runs: int, workflow: str = "bulk") -> str:
    """Queue so many runs, and return the last."""
    return [str(daemon.ask("trigger", workflow=workflow)["run"]) for _ in range(runs)][-1]


def wait_ended(daemon: Daemon, workflow: str, run: str) -> None:
    """Wait for the result of a run: to ask the daemon for a large one would be most of its work."""
    result = daemon.folder(workflow) / run / "result.json"
    wait_for(result.exists, "the last run has ended", PATIENCE_S)


@contextmanager
def watching(*watchers: Watcher) -> Iterator[None]:
    for watcher in watchers:
        watcher.start()
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.ended.set()
        for watcher in watchers:
            watcher.join(10)


def replayed(daemon: Daemon, last: int) -> Committed:
    """Return every event up to `last`, as it is told from the disk."""
    reader = Watcher(daemon.home / "events.sock")
    with watching(reader):
        wait_for(lambda: reader.place >= last, f"everything up to {last} is replayed", PATIENCE_S)
    return {sequence: line for line in lines_of(reader.watches) if (sequence := sequence_of(line))}


def chosen(committed: Committed, subject: bytes, *types: bytes) -> Committed:
    """Return the events with this in their subject and one of these in their type."""
    return {
        sequence: line
        for sequence, line in committed.items()
        if subject in line and (not types or any(kind in line for kind in types))
    }


def newest(daemon: Daemon) -> int:
    """Return the last event of a daemon with nothing to do."""
    reader = Watcher(daemon.home / "events.sock", place=1 << 60)
    with watching(reader):
        wait_for(lambda: reader.watches and reader.watches[0].lines, "a hello")
    return int(json.loads(reader.watches[0].lines[0])["data"]["newest"])


@pytest.mark.timeout(either(200, 3600))
def test_a_watch_is_ordered_unique_reliable_atomic_resumable_and_bookmarkable(busy: Daemon) -> None:
    chance = random.Random(time.time_ns())
    actions = ["kill"] * KILLS + ["break"] * RECONNECTS
    chance.shuffle(actions)
    path = busy.home / "events.sock"
    plain, idle = Watcher(path), Watcher(path, {"workflow": "quiet"})
    skips = Watcher(path, {"types": ["wizflow.task.skipped", "wizflow.run.*"], "workflow": "b*"})
    began_s = time.monotonic()

    with watching(plain, skips, idle):
        last = trigger(busy, EVENTS // WIDTH)
        for number, action in enumerate(actions):
            wanted = EVENTS * (number + 1) // (len(actions) + 2)
            wait_place(busy, plain, wanted)
            if action == "kill":
                busy.kill9()
                busy.launch()
            else:
                before = len(plain.watches)
                for watcher in (plain, skips, idle):
                    watcher.broken.set()
                wait_for(lambda before=before: len(plain.watches) > before, "it is connected again")  # type: ignore[misc]
        busy.wait_until_ready()
        wait_ended(busy, "bulk", last)
        busy.drop("quiet.json", [shell("a", "true"), shell("b", "true", "a")])
        busy.wait_run("quiet")
        end = newest(busy)
        took_s = time.monotonic() - began_s
        for watcher in (plain, skips, idle):
            wait_for(lambda watcher=watcher: watcher.marked >= end, "a bookmark at the end")  # type: ignore[misc]
    committed = replayed(busy, end)

    assert busy.stop() == 0
    assert len(committed) == end >= EVENTS
    assert assert_gapless(sequence for sequence, _, _ in busy.records()) >= end
    assert faults_of(plain.watches, committed) == {}
    assert (
        faults_of(skips.watches, chosen(committed, b'"subject":"bulk/', b'"wizflow.task.skipped"', b'"wizflow.run.'))
        == {}
    )
    assert faults_of(idle.watches, chosen(committed, b'"subject":"quiet')) == {}
    report(
        "stream: six properties",
        events=end,
        seconds=round(took_s),
        kills=KILLS,
        connections=[len(watcher.watches) for watcher in (plain, skips, idle)],
        lines=[len(lines_of(watcher.watches)) for watcher in (plain, skips, idle)],
    )


@dataclass(frozen=True)
class Phase:
    """What some runs cost: wall and processor seconds, the most memory held."""

    events: int
    wall_s: float
    cpu_s: float
    peak_mib: int

    @property
    def rate(self) -> float:
        return self.events / self.wall_s


def measured(daemon: Daemon, runs: int, workflow: str = "bulk") -> Phase:
    """Make so many runs, and measure what the daemon needs for them."""
    before, cpu_s, began_s = newest(daemon), _cpu_s(daemon.pid), time.monotonic()
    forget_peak(daemon.pid)
    for done in range(0, runs, AT_ONCE):
        wait_ended(daemon, workflow, trigger(daemon, min(AT_ONCE, runs - done), workflow))
    wall_s = time.monotonic() - began_s
    return Phase(newest(daemon) - before, wall_s, _cpu_s(daemon.pid) - cpu_s, memory_mib(daemon.pid)[1])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


class Crowd:
    """Readers in processes of their own, each with so many connections; all are connected when it is made."""

    def __init__(self, path: Path, *connections: int) -> None:
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-I", "-c", READER, str(count), str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for count in connections
        ]
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "connected\n"

    def signal(self, number: int) -> None:
        for process in self.processes:
            process.send_signal(number)

    def figures(self) -> list[dict[str, Any]]:
        """End them and return what each has seen."""
        return [json.loads(process.communicate("", 30)[0]) for process in self.processes]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def crowd(busy: Daemon) -> Iterator[Callable[..., Crowd]]:
    made: list[Crowd] = []

    def make(*connections: int) -> Crowd:
        made.append(Crowd(busy.home / "events.sock", *connections))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.timeout(either(200, 7200))
def test_stopped_readers_cost_neither_memory_nor_the_others_anything(busy: Daemon, crowd: Callable[..., Crowd]) -> None:
    measured(busy, 2)
    quiet = measured(busy, QUIET_RUNS)

    def gather() -> tuple[Crowd, Crowd]:
        healthy = crowd(*[PER_PROCESS] * (READERS // PER_PROCESS))
        stopped = crowd(*[1] * STOPPED)
        stopped.signal(signal.SIGSTOP)
        return healthy, stopped

    healthy, stopped = gather()
    crowded = measured(busy, CROWDED_RUNS)
    seen = healthy.figures()
    stopped.signal(signal.SIGCONT)
    late = stopped.figures()

    alone, beside, p99 = [], [], []
    for _ in range(STEADY_ROUNDS):
        alone.append(measured(busy, 1, "steady"))
        healthy, stopped = gather()
        beside.append(measured(busy, 1, "steady"))
        p99.append(max(each["p99"] for each in healthy.figures()))
        stopped.close()

    assert crowded.peak_mib - quiet.peak_mib <= MOST_GROWN_MIB
    assert sum(each["closed"] for each in seen) == 0
    assert sum(each["lines"] for each in seen) >= READERS * crowded.events
    assert all(each["closed"] and each["lines"] < crowded.events for each in late)
    report(
        "stream: 40 readers and 10 stopped ones",
        events=crowded.events,
        grown_mib=crowded.peak_mib - quiet.peak_mib,
        peak_mib=crowded.peak_mib,
        bulk_ms={name: max(each[name] for each in seen) for name in ("p50", "p99", "max")},
        steady_p99_ms={"median": median(p99), "worst round": max(p99)},
        events_per_s_alone=round(quiet.rate),
        events_per_s_crowded=round(crowded.rate),
        steady_per_s_alone=round(median(phase.rate for phase in alone)),
        steady_per_s_crowded=round(median(phase.rate for phase in beside)),
        cpu_us_per_event_alone=round(quiet.cpu_s / quiet.events * 1e6),
        cpu_us_per_event_crowded=round(crowded.cpu_s / crowded.events * 1e6),
    )


# -- each check finds what it is for ------------------------------------------------------------------------------


def event(sequence: int, task: str = "a") -> bytes:
    attributes = {"specversion": "1.0", "id": str(sequence), "sequence": f"{sequence:020}", "source": "/wizflowd/h"}
    subject = {"type": "wizflow.task.started", "time": "2026-11-23T03:05:12.123456Z", "subject": f"w/r/{task}"}
    return json.dumps({**attributes, **subject, "data": {}}, separators=(",", ":")).encode() + b"\n"


def own(kind: str, epoch: str = "e", sequence: int = 0) -> bytes:
    event = {"specversion": "1.0", "id": f"{kind}-1", "source": "/wizflowd/h", "type": f"wizflow.{kind}", "time": "t"}
    data = {"epoch": epoch, "oldest": 1, "newest": 4} if kind == "hello" else {"sequence": sequence}
    return json.dumps({**event, "subject": "", "data": data}, separators=(",", ":")).encode() + b"\n"


COMMITTED = {sequence: event(sequence) for sequence in (1, 2, 3, 4)}
GOOD = [event(1), event(2), own("bookmark", sequence=2), event(3), event(4), own("bookmark", sequence=4)]


def test_the_checks_accept_what_is_right() -> None:
    watches = [Watch(0, [own("hello"), *GOOD[:3]]), Watch(2, [own("hello"), *GOOD[3:]])]

    assert faults_of(watches, COMMITTED) == {}
    assert faults_of([Watch(0, [own("hello")])], {}) == {}


BROKEN: list[tuple[Callable[[], list[str]], str]] = [
    (lambda: ordered([event(1), event(3), event(2)]), "2 follows 3"),
    (lambda: unique([event(1), event(1)]), "1 came 2 times"),
    (lambda: reliable([event(1), event(3), event(4)], COMMITTED), "2 is missing"),
    (lambda: reliable([*GOOD, event(9)], COMMITTED), "9 was not asked for"),
    (lambda: atomic([event(1)[:-9]], COMMITTED), "not a whole line"),
    (lambda: atomic([event(1).replace(b',"source":"/wizflowd/h"', b"")], COMMITTED), "1 has no source"),
    (lambda: atomic([event(2, "other")], COMMITTED), "2 is not as it was recorded"),
    (lambda: atomic([event(2).replace(b'"id":"2"', b'"id":"3"')], {}), "2 is not as it was recorded"),
    (lambda: resumable([Watch(1, [own("hello"), event(3)])], COMMITTED), "follows 1, and got 3, not 2"),
    (lambda: resumable([Watch(2, [own("hello"), event(2)])], COMMITTED), "follows 2, and got 2, not 3"),
    (lambda: resumable([Watch(0, [event(1)])], COMMITTED), "begins with wizflow.task.started"),
    (lambda: resumable([Watch(0, [own("hello", epoch)]) for epoch in "ef"], COMMITTED), "there are 2 epochs"),
    (lambda: bookmarkable([event(1), own("bookmark", sequence=2), event(2)], COMMITTED), "1 of 2 events have come"),
    (lambda: bookmarkable([event(1), own("bookmark", sequence=2), event(2)], COMMITTED), "2 comes after the bookmark"),
    (lambda: bookmarkable([event(1), event(2), own("bookmark", sequence=1)], COMMITTED), "the bookmark 1 stands"),
]


@pytest.mark.parametrize(("check", "fault"), BROKEN, ids=[fault for _, fault in BROKEN])
def test_a_check_rejects_what_breaks_its_property(check: Callable[[], Sequence[str]], fault: str) -> None:
    assert any(fault in told for told in check()), check()
