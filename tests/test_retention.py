"""Which finished runs are kept: by number, by age, and by the room that those of all workflows take."""

import os
import time
from pathlib import Path

import pytest

from wizflowd.retention import Retention, Shelf, prune, remove_run

KIB = 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "etl.runs"


def finished(folder: Path, *names: str, age_days: float = 0.0, kib: int = 0) -> None:
    for number, name in enumerate(names):
        (folder / name / "logs").mkdir(parents=True)
        (folder / name / "logs" / "a.1.log").write_bytes(bytes(kib * KIB))
        (folder / name / "events.ndjson").write_text("")
        written_s = 1_000_000_000.0 + number if not age_days else time.time() - age_days * 86400 + number
        os.utime(folder / name / "events.ndjson", (written_s, written_s))


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- of one workflow ---------------------------------------------------------------------------------------------


def test_the_oldest_finished_runs_go_and_what_is_no_finished_run_stays(folder: Path) -> None:
    finished(folder, "r3", "r1", "r4", "r2")
    for name in ("workspace", ".state", "running"):
        (folder / name).mkdir()
    (folder / "latest").symlink_to("r2")

    gone = prune(folder, Retention(runs=2))

    assert gone == [folder / "r3", folder / "r1"]
    assert kept(folder) == [".state", "latest", "r2", "r4", "running", "workspace"]


@pytest.mark.parametrize("retention", [Retention(runs=0), Retention(days=0.5), Retention(runs=1, days=0.5)])
def test_the_newest_run_is_never_removed(folder: Path, retention: Retention) -> None:
    finished(folder, "r1", "r2", "r3")

    prune(folder, retention)

    assert kept(folder) == ["r3"]


def test_days_and_runs_hold_together(folder: Path) -> None:
    finished(folder, "old1", "old2", age_days=10)
    finished(folder, "new1", "new2", "new3", age_days=1)

    prune(folder, Retention(days=5))
    assert kept(folder) == ["new1", "new2", "new3"]
    prune(folder, Retention(runs=2, days=5))
    assert kept(folder) == ["new2", "new3"]


def test_without_bounds_everything_is_kept(folder: Path) -> None:
    finished(folder, "r1", "r2")

    assert prune(folder, Retention()) == []
    assert prune(folder.with_name("none.runs"), Retention(runs=1)) == []  # nothing there is no error

    assert kept(folder) == ["r1", "r2"]


def test_what_a_kill_left_of_a_removed_run_goes_with_the_next_look(folder: Path) -> None:
    finished(folder, "r1", "r2")
    (folder / ".tmp-r0" / "logs").mkdir(parents=True)

    prune(folder, Retention())

    assert kept(folder) == ["r1", "r2"]


def test_a_run_that_somebody_else_removes_at_the_same_time_is_no_error(folder: Path) -> None:
    remove_run(folder / "gone")

    assert not folder.exists()


# -- of all together ----------------------------------------------------------------------------------------------


def test_the_oldest_runs_of_all_workflows_make_room_for_those_that_finish(tmp_path: Path) -> None:
    finished(tmp_path / "a.runs", "a1", "a3", kib=100)
    finished(tmp_path / "team" / "b.runs", "b2", "b4", kib=100)  # as old as those of `a`, one after the other
    shelf = Shelf(tmp_path)

    shelf.make_room(tmp_path / "a.runs" / "a3", [], 400 * KIB)

    assert kept(tmp_path / "a.runs") == ["a3"]
    assert kept(tmp_path / "team" / "b.runs") == ["b2", "b4"]

    finished(tmp_path / "a.runs", "a5", kib=100)
    shelf.make_room(tmp_path / "a.runs" / "a5", [], 400 * KIB)

    assert kept(tmp_path / "a.runs") == ["a3", "a5"]
    assert kept(tmp_path / "team" / "b.runs") == ["b4"]


def test_the_newest_run_of_each_workflow_stays_however_large_they_are(tmp_path: Path) -> None:
    finished(tmp_path / "a.runs", "a1", "a2", kib=100)
    finished(tmp_path / "b.runs", "b1", kib=100)

    Shelf(tmp_path).make_room(tmp_path / "a.runs" / "a2", [], 1)

    assert kept(tmp_path / "a.runs") == ["a2"]
    assert kept(tmp_path / "b.runs") == ["b1"]


def test_runs_that_are_gone_take_no_room(tmp_path: Path) -> None:
    folder = tmp_path / "a.runs"
    finished(folder, "a1", "a2", "a3", kib=100)
    shelf = Shelf(tmp_path)
    shelf.make_room(folder / "a3", [], 1024 * KIB)
    finished(folder, "a4", kib=100)

    remove_run(folder / "a1")
    shelf.make_room(folder / "a4", [folder / "a1"], 350 * KIB)

    assert kept(folder) == ["a2", "a3", "a4"]
