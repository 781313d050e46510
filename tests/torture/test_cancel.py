"""Campaign 4: cancelled means dead, whatever a task did to escape; by way of cgroups and by way of the subreaper."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.spawner.conftest import PROGRAM
from tests.spawner.trees import NAMES, is_up, living, tree
from tests.system.conftest import MakeDaemon
from tests.system.running import TIED, Daemon, shell, tasks_alive, wait_for
from tests.torture.campaign import either, patched_copy, report

GRACE_S = 1.0
ROUNDS = either(3, 30)
UNIFIED = next(
    (path for path in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if (path / "cgroup.procs").exists()), None
)

pytestmark = [pytest.mark.slow]


@dataclass
class Deaths:
    """What came of cancelled trees: survivors by tree, and the seconds until each run was told to be cancelled."""

    survivors: Counter[str] = field(default_factory=Counter)
    early: Counter[str] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)


def tokens(number: int) -> dict[str, str]:
    """Return what the processes of each tree of a round can be found by."""
    return {name: f"7{os.getpid():07d}{number:02d}{index}" for index, name in enumerate(NAMES)}


def cancel_trees(daemon: Daemon, number: int, deaths: Deaths) -> None:
    """Start every tree as a task of one run, cancel it, and count what is alive when it should all be dead."""
    found = tokens(number)
    tasks = [shell(name, tree(name, token)) for name, token in found.items()]
    daemon.drop(f"trees{number}.json", tasks)
    run = daemon.wait_running(f"trees{number}", *NAMES)
    for name, token in found.items():
        wait_for(lambda: is_up(name, token), f"{name} is up")  # noqa: B023

    began_s = time.monotonic()
    daemon.ask("cancel", run=run)
    due_s = began_s + GRACE_S + 1

    def cancelled() -> bool:
        for line in daemon.told("task.cancelled", f"trees{number}/"):
            name = line.subject.rsplit("/", 1)[1]
            if name in waiting:
                waiting.remove(name)
                deaths.early[name] += len(living(found[name]))
        return not waiting

    waiting = set(found)
    try:
        wait_for(cancelled, "all are cancelled", GRACE_S + 5)
    finally:
        deaths.took_s.append(time.monotonic() - began_s)
        time.sleep(max(0.0, due_s - time.monotonic()))
        for name, token in found.items():
            deaths.survivors[name] += len(set[int]().union(*(living(token) for _ in range(3))))  # one may slip by


def end_all(daemon: Daemon, number: int) -> None:
    """End what a control has left of a round."""
    (daemon.workspace(f"trees{number}") / "stop").touch()
    for token in tokens(number).values():
        wait_for(lambda: not _end(token), f"{token} has ended")  # noqa: B023
    wait_for(lambda: not tasks_alive(daemon.home), "all have ended")


def _end(token: str) -> list[int]:
    pids = living(token)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
    return pids


@contextmanager
def delegated() -> Iterator[Path]:
    """Give a cgroup as systemd would hand it to the spawner's unit; afterwards none of it is left."""
    if UNIFIED is None or os.geteuid() != 0:
        pytest.skip("needs root and cgroup v2")
    folder = UNIFIED / f"wizflow-torture-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir():
                (path / "cgroup.kill").write_text("1")
                wait_for(lambda: "populated 0" in (path / "cgroup.events").read_text())  # noqa: B023
                path.rmdir()
        folder.rmdir()


@pytest.fixture
def through_cgroup(make_daemon: MakeDaemon) -> Iterator[Callable[[dict[str, str]], Daemon]]:
    """Make a daemon beside a spawner that stands for the one of the systemd unit, with a delegated cgroup."""
    started: list[subprocess.Popen[bytes]] = []
    with delegated() as folder:

        def make(settings: dict[str, str]) -> Daemon:
            daemon = make_daemon(spawner="unit", shutdown__grace=f"{GRACE_S}s", limits__max_tasks="16")
            daemon.settings |= settings
            package = Path(settings["PYTHONPATH"], "wizflowd/spawner/__main__.py") if settings else PROGRAM
            command = [*TIED, sys.executable, "-I", "-S", str(package), "--directory", str(daemon.state / "spawner")]
            started.append(subprocess.Popen([*command, "--cgroup", str(folder)], stdin=subprocess.DEVNULL, cwd="/"))
            daemon.start()
            return daemon

        yield make
        for process in started:
            process.terminate()
            process.wait(30)


@pytest.fixture
def through_subreaper(make_daemon: MakeDaemon) -> Callable[[dict[str, str]], Daemon]:
    def make(settings: dict[str, str]) -> Daemon:
        daemon = make_daemon(shutdown__grace=f"{GRACE_S}s", limits__max_tasks="16")
        daemon.settings |= settings
        daemon.start()
        return daemon

    return make


MAKERS = ("through_subreaper", "through_cgroup")


def no_family(folder: Path) -> dict[str, str]:
    """Return a spawner that knows only the first process of each attempt."""
    patched_copy(folder, "spawner/family.py", ("        children = self._read_children()\n", "        return\n"))
    patched_copy(folder, "spawner/family.py", ("for pid in all_pids():", "for pid in list[int]():"))
    return patched_copy(folder, "spawner/family.py", ("            _add_descendants(pids)\n", "            continue\n"))


def no_cgroups(folder: Path) -> dict[str, str]:
    """Return a spawner that neither kills by its cgroups nor looks into them."""
    patched_copy(folder, "spawner/cgroups.py", ('_write(folder, "cgroup.kill", "1")', "pass"))
    return patched_copy(folder, "spawner/cgroups.py", ("    pids: list[int] = []\n", "    return []\n"))


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.timeout(either(120, 600))
def test_nothing_of_a_cancelled_run_is_alive_a_second_after_the_grace(
    maker: str, request: pytest.FixtureRequest
) -> None:
    daemon = request.getfixturevalue(maker)({})
    deaths = Deaths()

    for number in range(ROUNDS):
        cancel_trees(daemon, number, deaths)

    report(
        f"cancelled means dead, {maker.replace('_', ' ')}",
        rounds=ROUNDS,
        trees=len(NAMES),
        grace_s=GRACE_S,
        survivors=deaths.survivors.total(),
        told_too_early=deaths.early.total(),
        slowest_s=round(max(deaths.took_s), 3),
    )
    assert +deaths.survivors == +deaths.early == Counter()


def test_the_kill_of_a_cgroup_alone_leaves_nothing_alive(
    through_cgroup: Callable[[dict[str, str]], Daemon], tmp_path: Path
) -> None:
    daemon = through_cgroup(no_family(tmp_path / "patched"))
    deaths = Deaths()

    cancel_trees(daemon, 0, deaths)

    report("cancelled means dead, cgroup.kill alone", rounds=1, survivors=deaths.survivors.total())
    assert +deaths.survivors == Counter()


@pytest.mark.parametrize("maker", MAKERS)
def test_the_campaign_sees_what_a_blind_spawner_leaves(
    maker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    no_cgroups(tmp_path / "patched")
    daemon = request.getfixturevalue(maker)(no_family(tmp_path / "patched"))
    deaths = Deaths()

    try:
        cancel_trees(daemon, 0, deaths)
    finally:
        end_all(daemon, 0)

    assert {"setsid", "double-fork", "nohup", "fork-loop"} <= set(+deaths.survivors)
    assert +deaths.early != Counter()
