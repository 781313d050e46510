"""Campaign 2: the power fails. What was told to anybody before is there afterwards, and no torn file is seen.

After each cut the daemon, of a copy that differs in nothing but the path of this, finds another id of the boot.
State and results lie on one disk or on two: on one, a sync of the state makes the names of result files durable by
the way, and hides it when nobody else does.
"""

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.system.running import Daemon, is_alive, publish, shell, tasks_alive, wait_for
from tests.torture.campaign import either, patched_copy, report
from tests.torture.disks import Disk, loop_disk
from wizflowd.client import ask
from wizflowd.errors import WizflowError

CUTS = either(60, 500)
CUTS_S = either(45.0, 7200.0)
"""How long the power is cut: on a slow host the short form has fewer cuts."""
CONTROL_S = 120.0
OPEN_RUNS = 3
DEADLINE_S = 30.0
WORKFLOWS = ("one", "two", "three")
MAKE = "printf 'line 1\\nline 2\\n'; printf whole > made"
TASKS = [
    shell("first", MAKE, outputs={"made": {"type": "file", "path": "made"}}),
    shell("second", "printf '%s' {{made}}", "first", outputs={"told": {"type": "text"}}),
    shell("third", "echo fails; exit 3", "first", continue_on_failure=True),
]
ENDS = {"first": "succeeded", "second": "succeeded", "third": "failed"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.timeout(either(300, 10800)),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mkfs.ext4") is None, reason="needs root and e2fsprogs"),
]


@dataclass
class Acknowledged:
    """What the daemon has told to somebody: events by sequence, runs by `trigger`, the files of ended runs."""

    events: dict[int, dict[str, Any]] = field(default_factory=dict)
    triggered: set[str] = field(default_factory=set)
    files: dict[Path, bytes] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)  # in their order, with their workflows
    epoch: str = ""

    @property
    def newest(self) -> int:
        return max(self.events, default=0)


@dataclass
class Figures:
    """What came of the cuts; `slowest_s` from the mount until the daemon is ready."""

    cuts: int = 0
    at_an_end: int = 0
    events: int = 0
    runs: int = 0
    files: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0


class Listener(threading.Thread):
    """Reads the event stream of one life of the daemon, from some sequence on, until it breaks off.

    `an_end` is set for each run that has ended, as soon as that is told and its files have been read. The daemon is
    stopped where it stands when it tells the end of so many runs as `stop_at`: its next sync would make durable by the
    way what this one forgot.
    """

    def __init__(self, daemon: Daemon, known: Acknowledged, since: int) -> None:
        super().__init__(daemon=True)
        self._daemon, self._known, self._since = daemon, known, since
        self.faults: Counter[str] = Counter()
        self.an_end = threading.Event()
        self.newest = since
        self.stop_at = sys.maxsize
        self._greeted = False

    def run(self) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self._daemon.home / "events.sock"))
                lines = connection.makefile("rb")
                lines.readline()  # the hello of the connection: what comes before the next one knows no wish
                connection.sendall(json.dumps({"since": self._since}).encode() + b"\n")
                for line in lines:
                    if line.endswith(b"\n"):
                        self._take(json.loads(line))
            except OSError:
                pass  # it was killed

    def _take(self, event: dict[str, Any]) -> None:
        if event["type"] == "wizflow.hello":
            epoch = event["data"]["epoch"]
            self._greeted = True
            self.faults["state made anew"] += self._known.epoch not in ("", epoch)
            self._known.epoch = epoch
        if "sequence" not in event or not self._greeted:
            return
        sequence = int(event["sequence"])
        if sequence != self.newest + 1:
            self.faults["gaps"] += 1
        self.newest = sequence
        before = self._known.events.setdefault(sequence, event)
        if before != event:
            self.faults["events changed"] += 1
        kind, _, state = event["type"].rpartition(".")
        if kind == "wizflow.run" and state in ("succeeded", "failed", "cancelled"):
            self._take_end(event["subject"])

    def _take_end(self, subject: str) -> None:
        workflow, _, run = subject.rpartition("/")
        if run in self._known.ended:
            return
        self._known.ended[run] = workflow
        if len(self._known.ended) >= self.stop_at:
            stop([self._daemon.pid])
        folder = self._daemon.folder(workflow) / run
        try:
            files = {path: path.read_bytes() for path in sorted(folder.rglob("*.*")) if is_whole_by_now(path)}
        except OSError:
            return  # the cut was quicker
        self._known.files.update(files)
        self.an_end.set()


def is_whole_by_now(path: Path) -> bool:
    """Whether a file of a run must be on the disk when the run's end is told; the event file is completed after it."""
    return path.is_file() and not path.name.startswith(".tmp-") and path.name != "events.ndjson"


class Life:
    """One life of a daemon under load, from its start to the cut."""

    def __init__(self, daemon: Daemon, known: Acknowledged, figures: Figures, open_runs: int) -> None:
        self._daemon, self._known, self._figures, self._open_runs = daemon, known, figures, open_runs
        before = known.newest
        began_s = time.monotonic()
        daemon.start()
        self._figures.slowest_s = max(self._figures.slowest_s, time.monotonic() - began_s)
        self._spawner = daemon.spawner_pid  # it cannot be read any more from a disk that is cut off
        # Again all that the life before was told: it must be told the same way.
        self.listener = Listener(daemon, known, max(0, before - 400))
        self.listener.start()
        wait_for(lambda: self.listener.newest >= before or not self.listener.is_alive(), "what was told is told again")
        if self.listener.newest < before:
            figures.faults["events lost"] += before - self.listener.newest
        self._stopping = threading.Event()
        self._asker = threading.Thread(target=self._trigger, daemon=True)
        self._asker.start()

    def _trigger(self) -> None:
        """Keep some runs under way."""
        number = 0
        while not self._stopping.is_set():
            if len(self._known.triggered - self._known.ended.keys()) >= self._open_runs:
                self.listener.an_end.wait(0.05)
                self.listener.an_end.clear()
                continue
            number += 1
            try:
                answer = ask(
                    self._daemon.socket, {"op": "trigger", "workflow": WORKFLOWS[number % len(WORKFLOWS)]}, DEADLINE_S
                )
            except (WizflowError, OSError):
                return  # it was killed
            self._known.triggered.add(answer["run"])

    def wait_for_an_end(self, count: int) -> None:
        """Let so many more runs end, and the daemon stop there."""
        self.listener.stop_at = len(self._known.ended) + count
        wait_for(lambda: len(self._known.ended) >= self.listener.stop_at, "some runs have ended", DEADLINE_S)

    def freeze(self) -> None:
        """Stop everything in the middle of what it does: a machine without power does nothing more.

        Else a task would go on for some milliseconds on a disk that is cut off, and its failure be told; and a sync
        under way while ext4 is shut down may return as if all had gone well (jbd2 gives up the transaction first).
        """
        stopped = [self._daemon.pid, self._spawner]
        stop(stopped)  # first: they start nothing more
        tasks = tasks_alive(self._daemon.state)
        stop(tasks)
        stopped += tasks
        wait_for(lambda: all(map(stands_still, stopped)), "all stands still")

    def over(self) -> None:
        """End it all at once."""
        self._stopping.set()
        self._daemon.kill9()
        left = [self._spawner, *tasks_alive(self._daemon.state)]
        for pid in left:
            os.kill(pid, 9)
        wait_for(lambda: not any(map(is_alive, left)), "all is dead")
        self.listener.join(DEADLINE_S)
        self._asker.join(DEADLINE_S)
        self._figures.faults.update(self.listener.faults)


def stop(pids: list[int]) -> None:
    """Stop processes where they are."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


def stands_still(pid: int) -> bool:
    """Return whether no thread of a process runs; one may still wait for the disk."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if thread.read_text().rpartition(")")[2].split()[0] not in "TtDZX":
                return False
    return True


def cut_once(
    daemon: Daemon,
    disks: list[Disk],
    known: Acknowledged,
    figures: Figures,
    chance: random.Random,
    open_runs: int = OPEN_RUNS,
) -> None:
    """Let the daemon work, cut the power at some moment or right when an end is told, and look at what is left."""
    life = Life(daemon, known, figures, open_runs)
    if chance.random() < 0.6:
        figures.at_an_end += 1
        life.wait_for_an_end(chance.randrange(1, 4))
    else:
        time.sleep(chance.random() * 0.3)
    life.freeze()
    for disk in chance.sample(disks, len(disks)):
        disk.cut_power()
    life.over()
    figures.cuts += 1
    for disk in disks:
        disk.unmount()
        disk.mount()
    boot(daemon)
    figures.faults.update(look(daemon, known))


def look(daemon: Daemon, known: Acknowledged) -> Counter[str]:
    """Return what is wrong with the disks before a daemon can mend anything."""
    faults: Counter[str] = Counter()
    for path, data in known.files.items():
        run = path.parent if path.parent.name != "logs" else path.parent.parent
        if not run.exists() and (run.parent / "latest").resolve() != run:
            faults["results lost"] += not is_pruned(run, known)
        else:
            faults["results lost"] += not path.exists()
            faults["results changed"] += path.exists() and path.read_bytes() != data
    for path in daemon.workflows.rglob("*"):
        if not path.name.startswith(".") and path.is_file() and "workspace" not in path.parts:
            faults["torn files"] += is_torn(path)
    try:
        sequences, runs = recorded(daemon)
    except sqlite3.DatabaseError:  # not even its tables are there
        faults["state lost"] += 1
        return +faults
    faults["events lost"] += len(known.events.keys() - sequences)
    faults["triggered runs lost"] += len(known.triggered - runs)
    return +faults


def recorded(daemon: Daemon) -> tuple[set[int], set[str]]:
    """Return the sequences and runs in the state, read from a copy: nothing is mended by that."""
    copy = daemon.home / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for path in daemon.state.glob("state.db*"):
        shutil.copy(path, copy)
    with closing(sqlite3.connect(copy / "state.db")) as db:
        if db.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("it is corrupt")
        sequences = {row[0] for row in db.execute("SELECT sequence FROM records WHERE sequence IS NOT NULL")}
        return sequences, {row[0] for row in db.execute("SELECT run FROM runs")}


def is_pruned(run: Path, known: Acknowledged) -> bool:
    """Whether retention has removed a run: so many are kept, and it is none of those that ended last.

    Runs are kept by when they were completed, which after a cut need not be in the order of their ends.
    """
    ended = [other for other, workflow in known.ended.items() if workflow == run.parent.stem]
    return run.name not in ended[-25:] and sum(1 for _ in run.parent.glob("*-*/events.ndjson")) >= 49


def is_torn(path: Path) -> bool:
    """Whether a visible file is not whole."""
    data = path.read_bytes()
    match path.suffix:
        case ".json":
            return not parses(data)
        case ".ndjson":
            return not data.endswith(b"\n") or not all(map(parses, data.splitlines()))
        case ".svg":
            return not data.rstrip().endswith(b"</svg>")
        case ".html":
            return not data.rstrip().endswith(b"</html>")
    return False


def parses(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def boot_id(home: Path) -> Path:
    return home / "boot_id"


def boot(daemon: Daemon) -> None:
    """Come up with another id than before."""
    boot_id(daemon.home).write_text(f"{uuid.uuid4()}\n")


@contextmanager
def machine(home: Path, disks: int, settings: Mapping[str, str] | None = None) -> Iterator[tuple[Daemon, list[Disk]]]:
    """Give a daemon with its state on a disk and its workflows on the same or on another one."""
    home.mkdir(parents=True)
    with ExitStack() as stack:
        made = [stack.enter_context(loop_disk(home / f"disk{number}")) for number in range(disks)]
        daemon = Daemon(home, {"WIZFLOWD_LIMITS__DISK_LOW_WATER": "4MiB", "PYTHONDONTWRITEBYTECODE": ""})
        copied = Path((settings or {}).get("PYTHONPATH", home / "copied"))
        change = ("/proc/sys/kernel/random/boot_id", str(boot_id(home)))
        daemon.settings |= {**patched_copy(copied, "spawner/protocol.py", change), **(settings or {})}
        boot(daemon)
        stack.callback(daemon.close)
        daemon.may_complain = True
        daemon.state = made[0].path / "state"
        daemon.workflows = daemon.results = made[-1].path / "workflows"
        daemon.workflows.mkdir()
        for name in WORKFLOWS:
            publish(daemon.workflows / f"{name}.json", {"tasks": TASKS})
        os.sync()
        yield daemon, made


def finish(daemon: Daemon, known: Acknowledged, figures: Figures) -> None:
    """Let the last life do what is left, and compare all of it with what was ever told."""
    daemon.start()
    listener = Listener(daemon, known, 0)
    listener.start()
    wait_for(lambda: known.triggered <= known.ended.keys(), "every triggered run has ended", DEADLINE_S)
    assert daemon.stop() == 0
    listener.join(DEADLINE_S)
    figures.faults.update(listener.faults)
    for run in [found for name in WORKFLOWS for found in daemon.finished(name)]:
        if run.statuses != ENDS or run.status != "succeeded":
            figures.faults[f"ended {run.status}: {run.statuses}, {run.result['tasks']}"] += 1
    figures.faults["torn files"] += len(list(daemon.workflows.rglob(".tmp-*")))
    figures.events += len(known.events)
    figures.runs += len(known.triggered)
    figures.files += len(known.files)


def cuts_of_one_machine(home: Path, cuts: int, disks: int, seed: int) -> Figures:
    known, figures, chance = Acknowledged(), Figures(), random.Random(seed)
    end_s = time.monotonic() + CUTS_S
    with machine(home, disks) as (daemon, made):
        while figures.cuts < cuts and time.monotonic() < end_s:
            cut_once(daemon, made, known, figures, chance)
        finish(daemon, known, figures)
    return figures


def test_what_was_told_before_the_power_failed_is_there_afterwards(tmp_path: Path) -> None:
    seed = int(os.environ.get("WIZFLOW_SEED", random.randrange(1 << 30)))

    with ThreadPoolExecutor(2) as pool:
        lanes = [
            pool.submit(cuts_of_one_machine, tmp_path / f"{disks}-disks", CUTS // 2, disks, seed + disks)
            for disks in (1, 2)
        ]
        done = [lane.result() for lane in lanes]

    faults = sum((lane.faults for lane in done), Counter[str]())
    slowest_s = max(lane.slowest_s for lane in done)
    report(
        "power cuts",
        seed=seed,
        cuts=sum(lane.cuts for lane in done),
        of_them_at_an_end=sum(lane.at_an_end for lane in done),
        events=sum(lane.events for lane in done),
        triggered_runs=sum(lane.runs for lane in done),
        result_files=sum(lane.files for lane in done),
        faults=dict(+faults),
        slowest_start_s=round(slowest_s, 2),
    )
    assert +faults == {}


def faults_until_seen(home: Path, disks: int, settings: Mapping[str, str], under: tuple[str, ...]) -> Counter[str]:
    """Cut the power until something is lost; return what is. One run at a time: others sync what this one forgot."""
    known, figures, chance = Acknowledged(), Figures(), random.Random(1)
    with machine(home, disks, settings) as (daemon, made):
        daemon.under = under
        end_s = time.monotonic() + CONTROL_S
        while time.monotonic() < end_s:
            try:
                cut_once(daemon, made, known, figures, chance, open_runs=1)
            except AssertionError:  # it does not start again
                figures.faults["does not start"] += 1
            if +figures.faults:
                break
    return +figures.faults


def test_the_campaign_sees_what_is_lost_without_the_sync_of_the_folder(tmp_path: Path) -> None:
    opened = "    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)\n"
    env = patched_copy(tmp_path / "patched", "files.py", (opened, f"    if folder:\n        return\n{opened}"))

    faults = faults_until_seen(tmp_path / "machine", 2, env, ())

    report("power cuts, without the sync of the folder", faults=dict(faults))
    assert faults


@pytest.mark.skipif(shutil.which("eatmydata") is None, reason="needs eatmydata")
def test_the_campaign_sees_what_is_lost_without_any_sync(tmp_path: Path) -> None:
    faults = faults_until_seen(tmp_path / "machine", 1, {}, ("eatmydata",))

    report("power cuts, under eatmydata", faults=dict(faults))
    assert faults
