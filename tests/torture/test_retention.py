"""Campaign 5, retention: however many runs there are, those that have finished take no more room than they may."""

import contextlib
import os
import time
from pathlib import Path

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, shell, wait_for
from tests.torture.campaign import either, patched_copy, report

MIB = 1 << 20
RUNS = either(200, 10_000)
CAP = 200 * MIB * RUNS // 10_000
BUSY = ("one", "two", "three")
AT_ONCE = either(25, 100)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(either(300, 7200))]


def room_of_runs(folder: Path) -> int:
    """Return what the folders of runs take, as `du` counts it; what goes away meanwhile takes none."""
    room = 0
    for at, folders, files in os.walk(folder):
        if any(part[:2] == "20" for part in Path(at).relative_to(folder).parts):
            for name in (*folders, *files):
                with contextlib.suppress(FileNotFoundError):
                    room += 512 * os.lstat(os.path.join(at, name)).st_blocks
    return room


def runs_of(daemon: Daemon, workflow: str) -> list[str]:
    return sorted(path.parent.name for path in daemon.folder(workflow).glob("2*-*/events.ndjson"))


def run_many(daemon: Daemon, runs: int) -> int:
    """Run them in handfuls; return the most room that was taken when one was over."""
    daemon.start()
    for name in ("rare", *BUSY):
        daemon.drop(f"{name}.json", {"on_change": "record", "tasks": [shell("a", "echo one"), shell("b", "echo two")]})
        daemon.wait_told("workflow.added", name)
    daemon.ask("trigger", workflow="rare")
    most = 0
    for first in range(0, runs, AT_ONCE):
        for number in range(first, first + AT_ONCE):
            daemon.ask("trigger", workflow=BUSY[number % 3])
        wait_for(lambda: daemon.ask("status")["runs"] == {"active": 0, "queued": 0}, "a handful of runs is over")
        most = max(most, room_of_runs(daemon.workflows))
    return most


def test_finished_runs_take_no_more_room_than_they_may(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(retention__runs="1000000", retention__bytes=str(CAP))
    began_s = time.monotonic()

    most = run_many(daemon, RUNS)
    took_s = time.monotonic() - began_s
    assert daemon.stop() == 0
    last, kept = room_of_runs(daemon.workflows), {name: len(runs_of(daemon, name)) for name in ("rare", *BUSY)}

    of_one = last // sum(kept.values())
    report("retention", runs=RUNS, cap=CAP, most=most, last=last, kept=kept, seconds=round(took_s))
    assert kept["rare"] == 1  # the oldest of all, but the newest of its workflow
    assert 0 < sum(kept.values()) < RUNS
    assert last <= CAP
    assert most <= CAP + AT_ONCE * of_one
    for name in BUSY:
        newest = (daemon.folder(name) / "latest").readlink().name
        assert newest in runs_of(daemon, name)


def test_the_campaign_sees_runs_that_are_not_removed(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    removal = "            for run in self._surplus(self._bytes, limit):\n"
    env = patched_copy(tmp_path / "patched", "retention.py", (removal, "            for run in ():\n"))
    daemon = make_daemon(retention__runs="1000000", retention__bytes=str(MIB // 2))
    daemon.settings |= env

    most = run_many(daemon, 2 * AT_ONCE)

    report("retention, without the removal", runs=2 * AT_ONCE, cap=MIB // 2, most=most)
    assert most > MIB
