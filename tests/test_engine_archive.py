"""The files that the engine owes: insisted on until the disk takes them, and statuses that follow the state."""

import asyncio
import errno
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from wizflowd.core.attempt import Facts, RunId, TaskId
from wizflowd.core.compile import compile_definition
from wizflowd.core.events import (
    DefinitionAccepted,
    DefinitionRejected,
    Event,
    Now,
    PlanLine,
    RunArchived,
    RunEnded,
    RunQueued,
    RunStarted,
    TaskStarted,
    TaskSucceeded,
    WorkflowRemoved,
)
from wizflowd.core.loader import Syntax
from wizflowd.core.observations import WorkflowId
from wizflowd.core.plan import Surroundings
from wizflowd.core.state import State, apply
from wizflowd.engine import archive
from wizflowd.engine.archive import Archivist
from wizflowd.engine.context import Context
from wizflowd.engine.inbox import Inbox, RunClosed, RunStored
from wizflowd.errors import SyncError
from wizflowd.journal import Commit, Journal
from wizflowd.results import Results
from wizflowd.retention import Retention, Shelf

ETL = WorkflowId("etl")
RUN = RunId("r1")
TASK = TaskId("a")
ACCEPTED = DefinitionAccepted(ETL, "etl.yaml", "s1", "d1", "", "added")
QUEUED = RunQueued(RUN, ETL, "etl.yaml", "s1", "d1", "change")
STARTED = RunStarted(RUN, ETL, (PlanLine(TASK, (), "run", "never ran"),))
ENDED: list[Event] = [
    TaskStarted(RUN, ETL, TASK, 1),
    TaskSucceeded(RUN, ETL, TASK, 1, Facts(1.0, 2.0, pid=1, exit_code=0)),
    RunEnded(RUN, ETL, "succeeded"),
]
ARCHIVED = RunArchived(RUN, ETL, "succeeded")


@pytest.fixture
async def archivist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Archivist]:
    monkeypatch.setattr(archive, "RETRY_S", 0.02)
    journal = Journal(tmp_path / "state")
    journal.open()
    (tmp_path / "home").mkdir()
    yield Archivist(
        Inbox(), journal, Results(tmp_path / "home", None, "/wizflowd/host"), Retention(), Shelf(tmp_path / "home")
    )
    journal.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def state_after(*events: Event) -> State:
    state = State()
    for event in events:
        apply(state, event, 1000.0, Now(1000.0, 1.0, "boot"))
    return state


def context(archivist: Archivist) -> Context:
    compiled = compile_definition(b"tasks: [{id: a, type: SHELL, command: x}]\n", Syntax.YAML, stem="etl")
    places = archivist.results.places(ETL)
    return Context(compiled, Surroundings(), places, places.workspace(RUN, own=False), own_workspace=False)


def status(home: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((home / "etl.runs/status.json").read_text())
    return found


async def test_results_are_written_before_it_is_told_that_they_are(archivist: Archivist, home: Path) -> None:
    run = state_after(ACCEPTED, QUEUED, STARTED, *ENDED).runs[RUN]

    await archivist.store(run, context(archivist))

    assert await archivist.inbox.take(0) == [RunStored(RUN)]
    assert json.loads((home / "etl.runs/latest/result.json").read_text())["status"] == "succeeded"
    assert (home / "etl.runs/latest/graph.svg").read_text().startswith("<svg")


async def test_a_run_that_never_started_has_no_results(archivist: Archivist, home: Path) -> None:
    run = state_after(ACCEPTED, QUEUED, RunEnded(RUN, ETL, "cancelled")).runs[RUN]

    await archivist.store(run, None)
    await archivist.close(run, None)

    assert await archivist.inbox.take(0) == [RunStored(RUN), RunClosed(RUN)]
    assert list(home.iterdir()) == []


async def test_what_the_disk_refuses_is_tried_until_it_takes_it(
    archivist: Archivist, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = state_after(ACCEPTED, QUEUED, STARTED, *ENDED).runs[RUN]
    (home / "etl.runs").write_text("in the way")
    storing = asyncio.create_task(archivist.store(run, context(archivist)))
    async with asyncio.timeout(10):
        while "cannot write results, trying again" not in caplog.text:
            await asyncio.sleep(0.01)
    assert not storing.done()

    (home / "etl.runs").unlink()
    await asyncio.wait_for(storing, 10)

    assert (home / "etl.runs/latest/result.json").exists()


async def test_a_sync_that_failed_is_not_tried_again(archivist: Archivist, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    run = state_after(ACCEPTED, QUEUED, STARTED, *ENDED).runs[RUN]
    monkeypatch.setattr("wizflowd.files.os.fsync", refuse)

    with pytest.raises(SyncError, match="durable: Input/output error"):
        await asyncio.wait_for(archivist.store(run, context(archivist)), 10)


async def test_the_events_of_a_run_that_another_life_began_come_from_the_journal(
    archivist: Archivist, home: Path
) -> None:
    events = [ACCEPTED, QUEUED, STARTED, *ENDED, ARCHIVED]
    await archivist.journal.commit(Commit(events, 1.0, {"s1": b""}))
    run = state_after(*events[:-1]).runs[RUN]
    await archivist.store(run, context(archivist))

    await archivist.close(run, context(archivist))

    lines = [json.loads(line) for line in (home / "etl.runs/r1/events.ndjson").read_text().splitlines()]
    assert [line["type"] for line in lines] == [
        "wizflow.run.queued",
        "wizflow.run.started",
        "wizflow.task.started",
        "wizflow.task.succeeded",
        "wizflow.run.succeeded",
    ]
    assert (await archivist.inbox.take(0))[-1] == RunClosed(RUN)


async def test_the_events_of_a_run_whose_folder_somebody_removes_are_all_there_in_the_end(
    archivist: Archivist, home: Path
) -> None:
    events = [ACCEPTED, QUEUED, STARTED, *ENDED, ARCHIVED]
    await archivist.journal.commit(Commit(events, 1.0, {"s1": b""}))
    records = await archivist.journal.records(RUN)
    ours = context(archivist)
    ours.events = archivist.results.events_file(ours.places, RUN)
    for record in records:
        ours.events.add(record)

    shutil.rmtree(home / "etl.runs")
    await asyncio.wait_for(archivist.close(state_after(*events[:-1]).runs[RUN], ours), 10)

    told = [record.line("/wizflowd/host") for record in records if record.sequence is not None]
    assert (home / "etl.runs/r1/events.ndjson").read_bytes() == b"".join(told)
    assert (await archivist.inbox.take(0))[-1] == RunClosed(RUN)


async def test_an_old_run_that_cannot_be_removed_keeps_no_run_open(
    archivist: Archivist, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("wizflowd.engine.archive.prune", refuse)
    run = state_after(ACCEPTED, QUEUED, STARTED, *ENDED).runs[RUN]
    await archivist.store(run, context(archivist))

    await asyncio.wait_for(archivist.close(run, context(archivist)), 10)

    assert (await archivist.inbox.take(0))[-1] == RunClosed(RUN)


async def test_the_status_follows_the_state(archivist: Archivist, home: Path) -> None:
    async def after(*events: Event) -> dict[str, object]:
        archivist.stir(ETL)
        await archivist.write_statuses(state_after(*events))
        return status(home)

    assert (await after(ACCEPTED))["state"] == "idle"
    assert (await after(ACCEPTED, QUEUED))["state"] == "queued"
    running = await after(ACCEPTED, QUEUED, STARTED)
    assert (running["state"], running["run"]) == ("running", RUN)
    ended = await after(ACCEPTED, QUEUED, STARTED, *ENDED, ARCHIVED)
    assert (ended["state"], ended["run"]) == ("idle", None)
    last = ended["last"]
    assert isinstance(last, dict)
    assert (last["run"], last["status"], last["ended"]) == (RUN, "succeeded", "1970-01-01T00:16:40.000000Z")


async def test_an_error_that_cannot_be_written_keeps_no_status_back(archivist: Archivist, home: Path) -> None:
    (home / "etl.runs/error.txt/in the way").mkdir(parents=True)

    archivist.stir(ETL)
    await archivist.write_statuses(state_after(ACCEPTED, QUEUED))

    assert status(home)["state"] == "queued"


async def test_a_status_waits_a_moment_but_not_where_an_error_comes_or_goes(
    archivist: Archivist, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wizflowd.engine.archive.STATUS_AFTER_S", 60)
    rejected = DefinitionRejected(ETL, "etl.yaml", "s2", ("etl.yaml:1:1: bad",))
    error = home / "etl.runs/error.txt"

    async def keep_until(done: Callable[[], bool], *events: Event) -> None:
        archivist.stir(ETL)
        keeping = asyncio.create_task(archivist.keep_statuses(state_after(*events)))
        async with asyncio.timeout(10):
            while not done():
                await asyncio.sleep(0.01)
        keeping.cancel()

    began_s = time.monotonic()
    await keep_until(lambda: time.monotonic() > began_s + 0.3, ACCEPTED)
    assert not (home / "etl.runs").exists()
    await keep_until(error.exists, ACCEPTED, rejected)
    mended = DefinitionAccepted(ETL, "etl.yaml", "s3", "d3", "", "changed")
    await keep_until(lambda: not error.exists(), ACCEPTED, rejected, mended)
    await keep_until(error.exists, ACCEPTED, rejected)
    await keep_until(lambda: os.listdir(home / "etl.runs") == [], ACCEPTED, rejected, WorkflowRemoved(ETL))


async def test_errors_stand_beside_until_the_definition_is_mended_or_gone(archivist: Archivist, home: Path) -> None:
    rejected = DefinitionRejected(ETL, "etl.yaml", "s2", ("etl.yaml:1:1: bad",))
    error = home / "etl.runs/error.txt"

    async def after(*events: Event) -> None:
        archivist.stir(ETL)
        await archivist.write_statuses(state_after(*events))

    await after(ACCEPTED, rejected)
    assert (error.read_text(), status(home)["state"]) == ("etl.yaml:1:1: bad\n", "invalid")
    await after(ACCEPTED, rejected, DefinitionAccepted(ETL, "etl.yaml", "s3", "d3", "", "changed"))
    assert not error.exists()
    await after(ACCEPTED, rejected, WorkflowRemoved(ETL))
    assert os.listdir(home / "etl.runs") == []
