"""What is written under `*.runs/`: whole, durable, escaped; and what is removed again."""

import errno
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wizflowd.core.attempt import Facts, RunId, TaskId
from wizflowd.core.events import (
    Event,
    Now,
    PlanLine,
    Record,
    RunEnded,
    RunQueued,
    RunStarted,
    SpawnerJoined,
    TaskFailed,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
)
from wizflowd.core.events import Sequence as EventSequence
from wizflowd.core.observations import WorkflowId
from wizflowd.core.state import Run, State, apply
from wizflowd.files import TEMPORARY, complete
from wizflowd.results import EVENTS_BUFFER, EventsFile, Places, Results, describe_run, remove_temporaries

ETL = WorkflowId("team/etl")
RUN = RunId("20261123-030512-7f3a9c")
NOW = Now(1000.0, 5.0, "boot")
FACTS = Facts(1000.25, 1001.5, pid=42, exit_code=0, log="good.1.log", notes=("left a process",))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path, None, "/wizflowd/host")


@pytest.fixture
def places(results: Results) -> Places:
    return results.places(ETL)


def begin(results: Results, places: Places, run: RunId = RUN) -> Path:
    folder = places.run(run)
    complete(
        results.begin(
            folder, places.workspace(run, own=False), ("team/etl.YAML", b"tasks: 1\n"), {"workflow": "team/etl"}
        )
    )
    return folder


def ended_run() -> Run:
    """A run of which one task succeeded, one failed for the second time, and one was skipped."""
    state = State()
    lines = tuple(
        PlanLine(TaskId(task), tuple(map(TaskId, needs)), "run", "never ran")
        for task, needs in (("good", []), ("bad", []), ("after", ["bad"]))
    )
    failed = Facts(1001.0, 1002.0, pid=43, exit_code=3)
    events: list[Event] = [
        RunQueued(RUN, ETL, "team/etl.yaml", "s1", "d1", "manual", {"day": "today"}),
        RunStarted(RUN, ETL, lines),
        TaskStarted(RUN, ETL, TaskId("good"), 1),
        TaskStarted(RUN, ETL, TaskId("bad"), 1),
        TaskSucceeded(RUN, ETL, TaskId("good"), 1, FACTS, {"n": 3}),
        TaskFailed(RUN, ETL, TaskId("bad"), 1, failed, "exit", "exit code 3"),
        TaskSkipped(RUN, ETL, TaskId("after"), "upstream bad failed", blamed=True),
        RunEnded(RUN, ETL, "failed", "bad failed"),
    ]
    for number, event in enumerate(events):
        apply(state, event, 1000.0 + number, NOW)
    return state.runs[RUN]


def records(count: int, text: str = "x") -> list[Record]:
    return [
        Record(number, EventSequence(number), 1000.0, TaskSkipped(RUN, ETL, TaskId("t"), f"{text}{number}"))
        for number in range(1, count + 1)
    ]


def events_of(path: Path) -> list[int]:
    return [int(json.loads(line)["sequence"]) for line in path.read_text().splitlines()]


# -- where it lies --------------------------------------------------------------------------------------------


def test_results_lie_beside_the_definition_or_in_the_same_shape_elsewhere(tmp_path: Path) -> None:
    beside = Results(tmp_path / "w", None, "").places(ETL)
    elsewhere = Results(tmp_path / "w", tmp_path / "r", "").places(ETL)

    assert (beside.folder, beside.home) == (tmp_path / "w/team/etl.runs", tmp_path / "w/team")
    assert (elsewhere.folder, elsewhere.home) == (tmp_path / "r/team/etl.runs", tmp_path / "w/team")
    assert Places.beside(tmp_path / "w/team/etl.yaml").folder == beside.folder


def test_folders_of_a_beginning_that_fails_are_durable_for_the_next_try(
    results: Results, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    with monkeypatch.context() as full:
        full.setattr("wizflowd.files.sync_folder", synced.append)
        full.setattr("wizflowd.files._begin_writing", raise_full)
        with pytest.raises(OSError, match="No space left"):
            begin(results, places)

    assert {places.folder.parent, places.folder} <= set(synced)


def raise_full(_fd: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_attempt_has_a_log_and_a_run_a_workspace(places: Places) -> None:
    assert places.log(RUN, "count", 2) == f"{places.folder}/{RUN}/logs/count.2.log"
    assert places.workspace(RUN, own=False) == places.folder / "workspace"
    assert places.workspace(RUN, own=True) == places.folder / RUN / "workspace"


# -- a run ----------------------------------------------------------------------------------------------------


def test_a_run_begins_with_the_bytes_that_run_and_their_plan(results: Results, places: Places) -> None:
    folder = begin(results, places)

    assert (folder / "definition.yaml").read_bytes() == b"tasks: 1\n"
    assert json.loads((folder / "plan.json").read_text()) == {"workflow": "team/etl"}
    assert (folder / "logs").is_dir()
    assert (places.folder / "workspace").is_dir()


def test_a_result_has_a_line_for_each_task(results: Results, places: Places) -> None:
    folder = begin(results, places)
    complete(results.end(places, RUN, describe_run(ended_run(), {}, "failed", "bad failed"), {}))
    lines = (folder / "result.json").read_text().splitlines()

    assert [line[:12] for line in lines if line.startswith("  ")] == ['  {"id": "go', '  {"id": "ba', '  {"id": "af']

    queued = State()
    apply(queued, RunQueued(RUN, ETL, "team/etl.yaml", "s1", "d1", "manual"), 1000.0, NOW)
    complete(results.end(places, RUN, describe_run(queued.runs[RUN], {}, "cancelled", ""), {}))

    assert json.loads((folder / "result.json").read_text())["tasks"] == []


def test_a_run_ends_with_its_result_its_picture_and_the_link_to_the_latest(results: Results, places: Places) -> None:
    folder = begin(results, places)
    run = ended_run()

    complete(
        results.end(places, RUN, describe_run(run, {"good": "SHELL"}, "failed", "bad failed"), {"graph.svg": "<svg/>"})
    )

    assert (folder / "graph.svg").read_text() == "<svg/>"
    assert (places.folder / "latest").readlink() == Path(RUN)
    assert not list(places.folder.rglob(f"{TEMPORARY}*"))
    found = json.loads((folder / "result.json").read_text())
    assert {name: found[name] for name in ("run", "workflow", "status", "reason", "trigger", "digest")} == {
        "run": RUN,
        "workflow": "team/etl",
        "status": "failed",
        "reason": "bad failed",
        "trigger": "manual",
        "digest": "d1",
    }
    assert (found["started"], found["ended"]) == ("1970-01-01T00:16:41.000000Z", "1970-01-01T00:16:47.000000Z")
    assert (found["duration_s"], found["retry_of"], found["params"]) == (6.0, None, {"day": "today"})
    assert (found["skipped"], found["tolerated"], found["outputs"]) == (["after"], [], {"good": {"n": 3}})
    assert found["tasks"][0] == {
        "id": "good",
        "type": "SHELL",
        "status": "succeeded",
        "reused": False,
        "reason": "never ran",
        "reused_from": None,
        "approved_by": None,
        "outputs": {"n": 3},
        "instances": None,
        "attempts": [
            {
                "attempt": 1,
                "pid": 42,
                "started": "1970-01-01T00:16:40.250000Z",
                "ended": "1970-01-01T00:16:41.500000Z",
                "exit_code": 0,
                "signal": None,
                "status_code": None,
                "error": None,
                "notes": ["left a process"],
                "log": "logs/good.1.log",
            }
        ],
    }
    assert [attempt["error"] for attempt in found["tasks"][1]["attempts"]] == ["exit code 3"]
    assert (found["tasks"][2]["status"], found["tasks"][2]["attempts"]) == ("skipped", [])


def test_a_result_with_half_a_surrogate_pair_can_be_written_and_read(results: Results, places: Places) -> None:
    begin(results, places)

    complete(results.end(places, RUN, {"outputs": {"a": {"o": "\ud800"}}}, {"report.html": "\ud800"}))

    assert json.loads((places.run(RUN) / "result.json").read_text())["outputs"]["a"]["o"]


# -- events ---------------------------------------------------------------------------------------------------


def test_events_are_whole_lines_in_order_and_only_public_ones(tmp_path: Path) -> None:
    file = EventsFile(tmp_path, "/wizflowd/host")

    for record in [*records(2), Record(9, None, 1.0, SpawnerJoined("x")), *records(3)[2:]]:
        file.add(record)
    assert not (tmp_path / "events.ndjson").exists()
    complete(file.finish())

    assert events_of(tmp_path / "events.ndjson") == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["events.ndjson"]


def test_many_events_are_written_in_parts_and_once_each(tmp_path: Path) -> None:
    file = EventsFile(tmp_path, "/wizflowd/host")

    for record in records(300, "x" * 5000):
        file.add(record)
    assert (tmp_path / f"{TEMPORARY}events.ndjson").stat().st_size > EVENTS_BUFFER
    complete(file.finish())
    complete(file.finish())

    assert events_of(tmp_path / "events.ndjson") == list(range(1, 301))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.root
def test_on_a_full_disk_events_wait_in_memory_and_are_whole_in_the_end(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(900 * 1024))
    file = EventsFile(small_disk, "/wizflowd/host")

    for record in records(150, "x" * 5000):
        file.add(record)
    with pytest.raises(OSError, match="No space left"):
        complete(file.finish())
    filler.unlink()
    complete(file.finish())

    assert events_of(small_disk / "events.ndjson") == list(range(1, 151))


def test_events_left_by_a_kill_are_begun_anew(results: Results, places: Places) -> None:
    folder = begin(results, places)
    (folder / f"{TEMPORARY}events.ndjson").write_text("half of an ev")

    file = results.events_file(places, RUN)
    file.add(records(1)[0])
    complete(file.finish())

    assert events_of(folder / "events.ndjson") == [1]


def test_only_temporaries_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}a").write_text("")
    (tmp_path / "b").write_text("")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f"{TEMPORARY}d").write_text("")

    remove_temporaries(tmp_path)
    remove_temporaries(tmp_path / "missing")

    assert sorted(path.name for path in tmp_path.rglob("*")) == [f"{TEMPORARY}d", "b", "c"]


# -- a workflow -----------------------------------------------------------------------------------------------


def test_errors_stand_in_a_file_until_there_are_none(results: Results, places: Places) -> None:
    complete(results.error(places, ["etl.yaml:1:1: first", "second \x1b[2J\nline"]))
    assert (places.folder / "error.txt").read_text() == "etl.yaml:1:1: first\nsecond \\x1b[2J\\nline\n"

    complete(results.error(places, []))
    complete(results.error(places, []))
    assert not (places.folder / "error.txt").exists()


def test_without_errors_no_folder_is_made(results: Results, places: Places) -> None:
    complete(results.error(places, []))

    assert not places.folder.exists()


def test_a_status_that_has_not_changed_is_not_written_again(results: Results, places: Places) -> None:
    path = places.folder / "status.json"
    complete(results.status(places, {"state": "idle"}))
    before = path.stat().st_ino

    complete(results.status(places, {"state": "idle"}))
    assert path.stat().st_ino == before
    complete(results.status(places, {"state": "running"}))
    assert json.loads(path.read_text()) == {"state": "running"}


@pytest.mark.parametrize("name", ["status.json", "error.txt"])
def test_what_a_kill_left_half_written_goes_though_the_file_is_as_it_should_be(
    results: Results, places: Places, name: str
) -> None:
    complete(results.status(places, {"state": "idle"}))
    left = places.folder / f".tmp-{name}"
    left.write_text("{")

    complete(results.status(places, {"state": "idle"}))
    complete(results.error(places, []))

    assert not left.exists()


def test_a_forgotten_workflow_keeps_its_results(results: Results, places: Places) -> None:
    folder = begin(results, places)
    complete(results.status(places, {"state": "idle"}))
    complete(results.error(places, ["bad"]))

    complete(results.forget(places))

    assert sorted(path.name for path in places.folder.iterdir()) == [folder.name, "workspace"]


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    results = Results(tmp_path / "gone", None, "")

    with pytest.raises(FileNotFoundError, match="gone"):
        complete(results.status(results.places(ETL), {"state": "idle"}))

    assert not (tmp_path / "gone").exists()
