"""Campaign 5: the disk is full, over a quota, read-only, or fails. Nothing is lost, and it goes on by itself.

Each fault comes while a task runs and another workflow waits; when it is over, all must be done within five seconds.
"""

import errno
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.system.running import Daemon, gated, shell, wait_for
from tests.torture.campaign import either, patched_copy, report
from tests.torture.disks import Disk, loop_disk, memory_disk
from tests.torture.faults import NEVER, Faults
from tests.torture.test_kill_points import DAEMON, Figures, Machine, calls_of_a_life, is_torn, machine, points, recover

MIB = 1 << 20
LOW_WATER = 8 * MIB
RESUMED_S = 5.0
ENDS_S = 5.0
FSYNC_S = either(10.0, 1800.0)
WRITES = ("write", "pwrite", "pwrite64", "ftruncate", "ftruncate64", "mkdir", "posix_fallocate")
SYNCS = ("fsync", "fdatasync")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.timeout(either(300, 3600)),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mkfs.ext4") is None, reason="needs root and e2fsprogs"),
]


class Scene:
    """A daemon with a task that runs, which prints before, while and after the disk fails, and one that waits."""

    def __init__(self, daemon: Daemon, home: Path) -> None:
        self.daemon = daemon
        self.gates = {name: home / name for name in ("print", "more", "end")}
        self.faults: Counter[str] = Counter()

    def begin(self) -> None:
        """Return when the task has printed a first time."""
        say = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo 'while the disk fails'; done; echo said >&2"
        command = gated(self.gates["print"], f"{say}; {gated(self.gates['more'], 'echo after')}")
        self.daemon.drop("busy.json", [shell("a", f"echo before; {command}"), shell("b", "echo b", "a")])
        self.daemon.wait_running("busy", "a")

    def drop_another(self) -> None:
        self.daemon.drop("waits.json", [shell("a", "echo waited")])
        self.daemon.wait_told("run.queued", "waits/")

    def wait_over(self) -> float:
        """Let the task end, wait until all has been done, and return how long it took."""
        began_s = time.monotonic()
        self.gates["more"].touch()
        for name in ("busy", "waits"):
            assert self.daemon.wait_run(name, deadline_s=60).status == "succeeded"
        return time.monotonic() - began_s

    @property
    def log(self) -> str:
        return self.daemon.finished("busy")[0].log("a")

    def started(self, workflow: str) -> bool:
        return bool(self.daemon.told("task.started", f"{workflow}/"))


@contextmanager
def scene(home: Path, disk: Disk, settings: dict[str, str] | None = None) -> Iterator[Scene]:
    """Give a daemon whose state and results are on a disk, while it tells of itself elsewhere."""
    daemon = Daemon(home, {"WIZFLOWD_LIMITS__DISK_LOW_WATER": str(LOW_WATER), **(settings or {})})
    daemon.may_complain = True
    daemon.state, daemon.results = disk.path / "state", disk.path / "results"
    daemon.settings["WIZFLOWD_RESULTS_DIR"] = str(daemon.results)
    daemon.results.mkdir(exist_ok=True)
    daemon.workflows.mkdir(exist_ok=True)
    try:
        yield Scene(daemon, home)
    finally:
        daemon.close()


def torn_files(folder: Path) -> list[Path]:
    """Return visible files that are not whole."""
    whole = (path for path in folder.rglob("*.json") if not path.name.startswith("."))
    return [path for path in whole if is_torn(path, path.read_bytes())]


# -- no room ----------------------------------------------------------------------------------------------------------


def fill_and_wait(made: Scene, disk: Disk) -> dict[str, object]:
    """Bring the disk below the mark, then fill it; return what was seen."""
    made.daemon.start()
    made.begin()
    filler = disk.fill(leave=LOW_WATER - MIB)
    made.drop_another()
    made.daemon.wait_told("daemon.degraded")
    disk.fill()
    made.gates["print"].touch()
    wait_for(lambda: disk.free_bytes < MIB, "it is full")
    time.sleep(either(1.0, 5.0))  # what is refused is tried again meanwhile
    torn = torn_files(disk.path)
    started = made.started("waits")
    alive = made.daemon.process.poll() is None
    filler.unlink()
    took_s = made.wait_over()
    return {
        "alive": alive,
        "started_below_the_mark": started,
        "torn": len(torn),
        "log": made.log,
        "resumed_s": round(took_s, 2),
    }


def test_a_full_disk_starts_no_runs_loses_nothing_and_all_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", 48) as disk, scene(tmp_path, disk) as made:
        seen = fill_and_wait(made, disk)
        made.daemon.wait_told("daemon.recovered")
        assert made.daemon.stop() == 0

    log = str(seen.pop("log"))
    lines = log.count("while the disk fails")
    report("full disk", **seen, lines_of_2000=lines, marked="bytes lost: No space left" in log)
    assert (seen["alive"], seen["started_below_the_mark"], seen["torn"]) == (True, False, 0)
    assert log.startswith("before\n")
    assert log.endswith("after\n")
    assert lines == 2000 or "bytes lost: No space left" in log
    assert float(str(seen["resumed_s"])) < RESUMED_S


def test_a_disk_of_results_that_is_full_holds_runs_back_whatever_room_the_state_has(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", LOW_WATER // MIB // 2) as disk, scene(tmp_path, disk) as made:
        made.daemon.state = tmp_path / "state"
        made.daemon.start()
        made.drop_another()

        made.daemon.wait_told("daemon.degraded")

        assert not made.started("waits")
        assert made.daemon.stop() == 0


def test_the_campaign_sees_a_run_that_starts_below_the_mark(tmp_path: Path) -> None:
    mark = "        low = free < self.low_water\n"
    env = patched_copy(tmp_path / "patched", "engine/loop.py", (mark, f"{mark}        low = False\n"))

    with loop_disk(tmp_path / "disk", 48) as disk, scene(tmp_path, disk, env) as made:
        made.daemon.start()
        disk.fill(leave=LOW_WATER - MIB)
        made.daemon.drop("waits.json", [shell("a", "echo waited")])
        made.daemon.wait_run("waits")  # nothing held it back
        made.daemon.stop()

    report("full disk, without the mark", started_below_the_mark=True)


def test_runs_wait_for_names_on_a_disk_that_has_no_more_and_running_tasks_go_on(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", 32, names=90) as disk, scene(tmp_path, disk) as made:
        made.daemon.start()
        made.begin()
        take_names(disk)
        made.drop_another()
        made.gates["print"].touch()
        wait_for(lambda: "run has to wait" in made.daemon.log, "a run has to wait")
        torn, started = torn_files(disk.path), made.started("waits")
        for path in disk.path.glob("name-*"):
            path.unlink()
        took_s = made.wait_over()
        log = made.log
        assert made.daemon.stop() == 0

    report("no names left", started=started, torn=len(torn), resumed_s=round(took_s, 2))
    assert (started, torn) == (False, [])
    assert log.count("while the disk fails") == 2000  # a log that has its name goes on
    assert took_s < RESUMED_S


def take_names(disk: Disk) -> None:
    with suppress(OSError):  # the daemon takes names too: the last one may be gone
        for number in range(disk.free_names):
            (disk.path / f"name-{number}").touch()


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.EDQUOT, errno.EIO], ids=["quota", "broken"])
def test_what_a_disk_refuses_for_a_while_is_written_when_it_takes_it(tmp_path: Path, error: int) -> None:
    with memory_disk(tmp_path / "disk", 64) as disk:
        below = disk.path if error == errno.EDQUOT else disk.path / "results"  # a state that is broken is another test
        faults = Faults(tmp_path, DAEMON, below, WRITES, error)
        faults.disarm()
        with scene(tmp_path, disk, faults.settings) as made:
            made.daemon.start()
            made.begin()
            made.daemon.drop("waits.json", [shell("a", "echo waited")])
            faults.arm(1, NEVER - 1)
            made.gates["print"].touch()
            made.gates["more"].touch()
            time.sleep(either(2.0, 5.0))  # what is refused is tried again meanwhile
            refused, alive, torn = faults.count, made.daemon.process.poll() is None, torn_files(disk.path)
            faults.disarm()
            took_s = made.wait_over()
            assert made.daemon.stop() == 0

    name = errno.errorcode[error]
    report(f"writes refused with {name}", refused=refused, alive=alive, torn=len(torn), resumed_s=round(took_s, 2))
    assert refused > 0
    assert (alive, torn) == (True, [])
    assert took_s < RESUMED_S


def test_results_wait_for_a_disk_that_is_read_only(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", 16) as disk, scene(tmp_path, disk) as made:
        made.daemon.state = tmp_path / "state"
        made.daemon.settings["WIZFLOWD_LIMITS__DISK_LOW_WATER"] = "1MiB"
        made.daemon.start()
        disk.remount("ro")
        made.daemon.drop("waits.json", [shell("a", "echo waited")])
        wait_for(lambda: "run has to wait" in made.daemon.log, "a run has to wait")
        started = made.started("waits")
        began_s = time.monotonic()
        disk.remount("rw")
        assert made.daemon.wait_run("waits").status == "succeeded"
        took_s = time.monotonic() - began_s
        assert made.daemon.stop() == 0

    report("read-only disk", started=started, resumed_s=round(took_s, 2))
    assert not started
    assert took_s < RESUMED_S


# -- a sync fails -----------------------------------------------------------------------------------------------------


def ends_within(process: "subprocess.Popen[bytes]", within_s: float) -> bool:
    """Return whether a process ends soon: the sync may have failed only a moment ago."""
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def faults_told(made: Machine) -> list[str]:
    """Return the files whose sync has failed."""
    lines = made.daemon.log_path.read_text().splitlines()
    return [line.rpartition(",")[2] for line in lines if line.startswith("fault at ")]


def is_of_sqlite_alone(made: Machine, path: str) -> bool:
    """Whether this is the sync of the state's folder after a file was made in it: SQLite ignores what comes of that."""
    return path == str(made.daemon.state)


def fail_a_sync(made: Machine, faults: Faults, point: int, figures: Figures) -> None:
    """Let one sync of a life fail, after which all others say that all is well."""
    name = made.drop()
    faults.arm(point)
    process = made.daemon.launch()
    figures.points += 1
    wait_for(lambda: process.poll() is not None or made.is_done(name), "its end, or that of the run", 120)
    if faults.count < point:
        figures.passed += 1
    elif not ends_within(process, ENDS_S):
        figures.faults["went on"] += not is_of_sqlite_alone(made, faults_told(made)[-1])
    elif process.returncode != 1:
        figures.faults[f"ended with {process.returncode}"] += 1
    if process.poll() is None:
        made.daemon.kill9()
    made.look()


def test_a_sync_that_fails_ends_the_daemon_and_the_next_start_is_right(tmp_path: Path) -> None:
    figures = Figures(calls=calls_of_a_life(tmp_path / "dry", SYNCS))

    with machine(tmp_path / "sync", figures, {}) as made:
        faults = Faults(tmp_path / "sync", DAEMON, tmp_path / "sync", SYNCS, errno.EIO)
        made.daemon.settings |= faults.settings
        for point in points(figures.calls, FSYNC_S):
            fail_a_sync(made, faults, point, figures)
        recover(made, faults)

    told = {"syncs": figures.calls, "points": figures.points, "runs": figures.runs, "passed": figures.passed}
    report("a sync fails once", **told, faults=dict(+figures.faults))
    assert figures.points > figures.passed
    assert +figures.faults == {}


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("journal/journal.py", "if not self._is_full(exc) or self._closing.is_set():", "if self._closing.is_set():"),
        (
            "files.py",
            "        if exc.errno not in _LOST:\n            raise\n",
            "        if exc:\n            return\n",
        ),
    ],
    ids=["journal", "results"],
)
def test_the_campaign_sees_a_sync_that_is_simply_tried_again(tmp_path: Path, module: str, old: str, new: str) -> None:
    env = patched_copy(tmp_path / "patched", module, (old, new)) | {"PYTHONDONTWRITEBYTECODE": ""}
    call = "fdatasync" if module.startswith("journal") else "fsync"
    figures = Figures()

    for point in random.Random(2).sample(range(4, 14), 10):
        home = tmp_path / str(point)
        with machine(home, figures, env) as made:
            below = home / ("state" if call == "fdatasync" else "workflows")
            faults = Faults(home, DAEMON, below, [call], errno.EIO)
            made.daemon.settings |= faults.settings
            fail_a_sync(made, faults, point, figures)
        if figures.faults["went on"]:
            break

    report(f"a sync fails once, and is tried again by {module}", faults=dict(+figures.faults))
    assert figures.faults["went on"] > 0
