"""Campaign 1: killed before every single call that changes a file, and at random. Nothing is lost, changed or repeated.

Each life of the daemon takes up what the last one left, is given one more workflow, and dies at another call; so the
start is killed as often as the work. The same for the spawner, under a daemon that lives on.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path

import pytest

from tests.spawner.conftest import PROGRAM
from tests.system.running import TIED, Daemon, assert_gapless, lines_of, shell, wait_for
from tests.torture.campaign import either, patched_copy, report
from tests.torture.faults import NEVER, Faults
from wizflowd.engine.quarantine import MAX_KILLS

DAEMON, SPAWNER = "bin/wizflowd", "wizflowd/spawner"
DAEMON_S, SPAWNER_S = either((20.0, 8.0), (3600.0, 1200.0))
"""How long points are tried: in the short form a sample of them, in the long form all."""
RANDOM_KILLS = either(100, 1_000)
DONE_S = 120.0
LIVES = 25
"""Lives of one state folder, before everything of it is compared."""
TOLD = "echo \"$WIZFLOW_TASK $WIZFLOW_ATTEMPT\" >> {effects}; printf '%s' x > {name}.out; echo told"
ENDS = {"first": "succeeded", "second": "succeeded", "third": "failed"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(either(300, 7200))]


@dataclass
class Figures:
    """What came of the lives. `calls` is how many there are in a life that nobody ends; `lost` attempts were repeated,
    which may happen to one that its spawner was never told of, and to one whose spawner died; `quarantined` files were
    being read at the moment of two kills."""

    calls: int = 0
    points: int = 0
    passed: int = 0
    runs: int = 0
    lost: int = 0
    quarantined: int = 0
    faults: Counter[str] = field(default_factory=Counter)


class Machine:
    """A daemon with one more workflow for each of its lives, and what was ever seen of their results."""

    def __init__(self, daemon: Daemon, figures: Figures) -> None:
        self.daemon = daemon
        self._figures = figures
        self.dropped: list[str] = []
        self._seen: dict[Path, bytes] = {}

    def drop(self) -> str:
        """Give it a workflow that it has never seen."""
        name = f"w{len(self.dropped)}"
        effects = self.daemon.home / f"{name}.effects"
        tasks = [
            shell(
                "first",
                TOLD.format(name="first", effects=effects),
                outputs={"made": {"type": "file", "path": "first.out"}},
            ),
            shell(
                "second",
                f"{TOLD.format(name='second', effects=effects)}; : {{{{made}}}}",
                "first",
                outputs={"text": {"type": "text"}},
            ),
            shell("third", f"{TOLD.format(name='third', effects=effects)}; exit 3", "first", continue_on_failure=True),
        ]
        self.daemon.drop(f"{name}.json", tasks)
        self.dropped.append(name)
        return name

    def wait_done(self, name: str) -> None:
        wait_for(lambda: self.is_done(name), f"everything of {name} is on the disk", DONE_S)

    def is_done(self, name: str) -> bool:
        """Whether everything of a workflow's run is on the disk."""
        finished = self.daemon.finished(name)
        if not finished:
            return False
        status = self.daemon.status(name)
        return bool(status["state"] == "idle" and (status["last"] or {}).get("run") == finished[0].result["run"])

    def release(self) -> None:
        """Do what the error of a file in quarantine says, while no daemon runs: remove its mark."""
        for mark in (self.daemon.state / "reading").glob("*"):
            if mark.read_text() == str(MAX_KILLS):
                self._figures.quarantined += 1
                mark.unlink()

    def look(self) -> None:
        """Count what is torn, and results that are gone or not as they were; nobody may be writing."""
        faults = self._figures.faults
        for path in self.daemon.workflows.rglob("*.*"):
            if path.name.startswith(".") or path.suffix not in (".json", ".ndjson") or not path.is_file():
                continue
            data = path.read_bytes()
            faults["torn files"] += is_torn(path, data)
            if path.name in ("result.json", "events.ndjson", "plan.json"):
                faults["changed"] += self._seen.setdefault(path, data) != data
        faults["gone"] += sum(1 for path in self._seen if not path.exists())

    def check(self, *, lost_attempts: bool) -> None:
        """Compare all that was ever done; the daemon has stopped. `lost_attempts`: of those that had begun, too."""
        faults = self._figures.faults
        self.look()
        for name in self.dropped:
            run, *more = self.daemon.finished(name)
            faults["runs repeated"] += len(more)
            faults["wrong ends"] += run.statuses != ENDS or run.status != "succeeded"
            effects = lines_of(self.daemon.home / f"{name}.effects")
            wanted = {f"{task} {row['attempts'][-1]['attempt']}" for task, row in run.tasks.items()}
            once = {line if lost_attempts else line.partition(" ")[0] for line in effects}
            faults["repeated"] += len(effects) - len(once)
            faults["not done"] += len(wanted - set(effects))
            self._figures.lost += sum(len(row["attempts"]) - 1 for row in run.tasks.values())
        records = self.daemon.records()
        assert_gapless(sequence for sequence, _, _ in records)
        ends = Counter(
            (data["run"], data["task"]) for _, kind, data in records if kind in ("TaskSucceeded", "TaskFailed")
        )
        faults["ended twice"] += sum(count - 1 for count in ends.values())
        faults["stray files"] += len(strays(self.daemon))
        self._figures.runs += len(self.dropped)


def is_torn(path: Path, data: bytes) -> bool:
    try:
        for line in data.splitlines() if path.suffix == ".ndjson" else [data]:
            json.loads(line)
    except ValueError:
        return True
    return not data.endswith(b"\n") and path.suffix == ".ndjson"


def strays(daemon: Daemon) -> list[Path]:
    """Return files that were for a moment only."""
    moment = [*daemon.workflows.rglob(".tmp-*"), *daemon.state.rglob("*.tmp")]
    private = [*(daemon.state / "attempts").glob("*"), *(daemon.state / "reading").glob("*")]
    return [*moment, *private]


def wait_until_dead_or(daemon: Daemon, done: Callable[[], bool]) -> bool:
    """Wait for the daemon to die or for `done`; return whether it died."""
    wait_for(lambda: daemon.process.poll() is not None or done(), f"a death or an end: {daemon.log[-2000:]}")
    return daemon.process.poll() is not None


def points(calls: int, lasting_s: float) -> Iterator[int]:
    """Yield the numbers of all calls, in no order, for so long."""
    end_s = time.monotonic() + lasting_s
    for point in random.Random(1).sample(range(1, calls + 1), calls):
        if time.monotonic() > end_s:
            return
        yield point


def batches(found: Iterator[int]) -> Iterator[Iterator[int]]:
    """Yield as many points as one state folder has lives; each batch is to be used up before the next."""
    for first in found:
        yield chain([first], islice(found, LIVES - 1))


@contextmanager
def machine(home: Path, figures: Figures, settings: dict[str, str]) -> Iterator[Machine]:
    home.mkdir(parents=True)
    daemon = Daemon(home, settings)
    daemon.workflows.mkdir()
    daemon.may_complain = True
    try:
        yield Machine(daemon, figures)
    finally:
        daemon.close()


# -- the daemon -------------------------------------------------------------------------------------------------------


def live(made: Machine, faults: Faults, point: int, figures: Figures) -> None:
    """Let a daemon start, run a workflow and die at a call; then look at what it left."""
    name = made.drop()
    faults.arm(point)
    made.daemon.launch()
    figures.points += 1
    if not wait_until_dead_or(made.daemon, lambda: made.is_done(name)):
        figures.passed += 1
        made.daemon.kill9()
    made.look()


def recover(made: Machine, faults: Faults) -> None:
    """Let a last life finish what is left, and compare all of it."""
    faults.disarm()
    made.release()
    made.daemon.start()
    for name in made.dropped:
        made.wait_done(name)
    assert made.daemon.stop() == 0
    made.check(lost_attempts=False)


def calls_of_a_life(home: Path, calls: Sequence[str] = ()) -> int:
    """Return how many calls there are from a daemon's start to the end of a run."""
    with machine(home, Figures(), {}) as made:
        faults = Faults(home, DAEMON, home, calls)
        made.daemon.settings |= faults.settings
        name = made.drop()
        faults.disarm()
        made.daemon.launch()
        made.wait_done(name)
        return faults.count


def test_a_daemon_killed_before_any_of_its_calls_loses_changes_and_repeats_nothing(tmp_path: Path) -> None:
    figures = Figures(calls=calls_of_a_life(tmp_path / "dry"))

    for number, batch in enumerate(batches(points(figures.calls, DAEMON_S))):
        home = tmp_path / f"daemon-{number}"
        with machine(home, figures, {}) as made:
            faults = Faults(home, DAEMON, home)
            made.daemon.settings |= faults.settings
            for point in batch:
                live(made, faults, point, figures)
            recover(made, faults)

    told = {"calls": figures.calls, "points": figures.points, "runs": figures.runs, "lost": figures.lost}
    report("daemon killed before a call", **told, quarantined=figures.quarantined, faults=dict(+figures.faults))
    assert figures.points > figures.passed
    assert +figures.faults == {}


# -- the spawner ------------------------------------------------------------------------------------------------------


def start_spawner(daemon: Daemon, faults: Faults) -> "subprocess.Popen[bytes]":
    """Start a spawner as its unit does."""
    command = [*TIED, sys.executable, "-I", "-S", str(PROGRAM), "--directory", str(daemon.state / "spawner")]
    with (daemon.home / "spawner.log").open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=log, cwd="/", env=os.environ | faults.settings
        )


@contextmanager
def spawned(home: Path, figures: Figures) -> Iterator[tuple[Machine, Faults]]:
    """Give a running daemon that waits for a spawner, and compare all that it has done."""
    with machine(home, figures, {"WIZFLOWD_SPAWNER": "unit"}) as made:
        faults = Faults(home, SPAWNER, home)
        faults.disarm()
        spawner = start_spawner(made.daemon, faults)
        made.daemon.start()
        end_process(spawner)
        yield made, faults
        assert made.daemon.stop() == 0
        made.check(lost_attempts=True)


def end_process(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def live_with(made: Machine, faults: Faults, point: int, figures: Figures) -> None:
    """Let a spawner start, run a workflow and die at a call; let another one take over."""
    faults.arm(point)
    spawner = start_spawner(made.daemon, faults)
    name = made.drop()
    wait_for(lambda: spawner.poll() is not None or made.is_done(name), "a death or an end", DONE_S)
    figures.points += 1
    figures.passed += spawner.poll() is None
    figures.calls = max(figures.calls, faults.count)
    if spawner.poll() is not None:
        faults.disarm()
        spawner = start_spawner(made.daemon, faults)
        made.wait_done(name)
    end_process(spawner)


def test_a_spawner_killed_before_any_of_its_calls_loses_and_repeats_no_task_that_has_ended(tmp_path: Path) -> None:
    figures = Figures()
    with spawned(tmp_path / "dry", figures) as (made, faults):
        live_with(made, faults, NEVER, figures)
    figures = Figures(calls=figures.calls)

    for number, batch in enumerate(batches(points(figures.calls, SPAWNER_S))):
        with spawned(tmp_path / f"spawner-{number}", figures) as (made, faults):
            for point in batch:
                live_with(made, faults, point, figures)

    told = {"calls": figures.calls, "points": figures.points, "runs": figures.runs, "lost": figures.lost}
    report("spawner killed before a call", **told, faults=dict(+figures.faults))
    assert figures.points > figures.passed
    assert +figures.faults == {}


# -- at random --------------------------------------------------------------------------------------------------------


def live_until_some_moment(made: Machine, chance: random.Random) -> None:
    name = made.drop()
    made.daemon.launch()
    if chance.random() < 0.7:
        wait_for(lambda: made.daemon.folder(name).exists(), "it has begun")
    time.sleep(chance.random() * 0.5)
    made.daemon.kill9()
    made.look()


def test_random_kills_lose_change_and_repeat_nothing(tmp_path: Path) -> None:
    figures, chance = Figures(), random.Random(int(os.environ.get("WIZFLOW_SEED", "7")))
    unarmed = Faults(tmp_path, DAEMON, tmp_path)

    for number, lives in enumerate(batches(iter(range(RANDOM_KILLS)))):
        with machine(tmp_path / f"random-{number}", figures, {}) as made:
            for _ in lives:
                figures.points += 1
                live_until_some_moment(made, chance)
            recover(made, unarmed)

    told = {"kills": figures.points, "runs": figures.runs, "lost": figures.lost, "quarantined": figures.quarantined}
    report("random kills", **told, faults=dict(+figures.faults))
    assert +figures.faults == {}


# -- negative controls ------------------------------------------------------------------------------------------------


def faults_until_seen(home: Path, env: dict[str, str], call: str, kind: str) -> Counter[str]:
    """Kill a patched daemon at one write of results after the other, until something of `kind` is wrong."""
    figures = Figures()
    for point in range(1, 200):
        with machine(home / str(point), figures, env | {"PYTHONDONTWRITEBYTECODE": ""}) as made:
            faults = Faults(home / str(point), DAEMON, home / str(point) / "workflows", [call])
            made.daemon.settings |= faults.settings
            live(made, faults, point, figures)
            if not figures.faults[kind]:
                recover(made, faults)
        if figures.faults[kind] or figures.passed:
            break
    return +figures.faults


def test_the_campaign_sees_files_that_are_written_in_place(tmp_path: Path) -> None:
    write = "                file.writelines(pieces)\n"
    seen = "                pieces = [*pieces]; (folder / name).write_bytes(b''.join(pieces))\n"
    env = patched_copy(tmp_path, "files.py", (write, f"{seen}{write}"))

    faults = faults_until_seen(tmp_path / "machines", env, "write", "torn files")

    report("killed before a call, files written in place", faults=dict(faults))
    assert faults["torn files"] > 0


def test_the_campaign_sees_tasks_that_are_repeated_when_exits_are_forgotten_too_early(tmp_path: Path) -> None:
    commit = "                await self._commit(owed)\n"
    early = "self.launcher.acknowledge(owed.ended); owed.ended and await asyncio.sleep(1)"
    env = patched_copy(tmp_path, "engine/loop.py", (commit, f"                {early}\n{commit}"))
    figures = Figures()

    for number in range(5):
        with machine(tmp_path / f"early-{number}", figures, env | {"PYTHONDONTWRITEBYTECODE": ""}) as made:
            name = made.drop()
            made.daemon.launch()
            wait_for(partial(lines_of, made.daemon.home / f"{name}.effects"), "a task has run")
            time.sleep(0.3)
            made.daemon.kill9()
            recover(made, Faults(tmp_path, DAEMON, tmp_path))
        if figures.faults["repeated"]:
            break

    report("killed at random, exits forgotten before they are committed", faults=dict(+figures.faults))
    assert figures.faults["repeated"] > 0
