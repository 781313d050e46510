"""From a due run to what has to be read before it starts: compile, plan, folder, lock, and why it cannot."""

import json
import os
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace

from wizflowd.core.attempt import Facts, RunId, TaskId
from wizflowd.core.events import DefinitionAccepted, RunQueued, TaskSucceeded
from wizflowd.core.load_limits import LoadLimits
from wizflowd.core.observations import Source, WorkflowId
from wizflowd.core.plan import key_of, parts_of
from wizflowd.core.state import Run
from wizflowd.engine import prepare
from wizflowd.engine.inbox import RunPrepared, RunUnprepared
from wizflowd.engine.prepare import Preparer, take_lock
from wizflowd.errors import RequestError, StateLockedError
from wizflowd.executors.outputs import hash_sources
from wizflowd.journal import Commit, Journal
from wizflowd.results import Results

ETL = WorkflowId("team/etl")
TEXT = """
dotenv: [.env]
tasks:
  - {id: one, type: SHELL, command: "cat in.csv {{env.DAY}}", sources: ["*.csv"]}
  - {id: two, type: SHELL, command: "true", depends_on: [one]}
"""


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    made = Journal(tmp_path / "state")
    made.open()
    yield made
    made.close()


@pytest.fixture
async def preparer(tmp_path: Path, journal: Journal) -> AsyncIterator[Preparer]:
    home = tmp_path / "home"
    (home / "team").mkdir(parents=True)
    (home / "team/.env").write_text("DAY=monday\n")
    (home / "team/in.csv").write_text("1,2\n")
    made = Preparer(journal, Results(home, None, "/wizflowd/host"), home, LoadLimits())
    yield made
    made.close()


def source(text: str) -> Source:
    return Source(ETL, "team/etl.yaml", text.encode(), len(text), 0, 0, 0.0)


async def due(journal: Journal, text: str, name: str = "r1") -> Run:
    """Record a run that is due, and return it."""
    stamp = sha256(text.encode()).hexdigest()
    queued = RunQueued(RunId(name), ETL, "team/etl.yaml", stamp, "d1", "change")
    accepted = DefinitionAccepted(ETL, "team/etl.yaml", stamp, "d1", "", "added")
    await journal.commit(Commit([accepted, queued], 1.0, {stamp: text.encode()}))
    return Run(RunId(name), ETL, "team/etl.yaml", stamp, "d1", "change", 1.0, incremental=True)


async def test_a_source_is_compiled_with_the_hash_of_its_companions(preparer: Preparer) -> None:
    first = await preparer.read(source(TEXT))
    (preparer.home / "team/in.csv").write_text("1,2,3\n")
    second = await preparer.read(source(TEXT))
    plain = await preparer.read(source("tasks: [{id: a, type: SHELL, command: x}]\n"))

    assert first.compiled is not None
    assert first.stamp == sha256(TEXT.encode()).hexdigest()
    assert first.companions != second.companions != ""
    assert plain.companions == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tasks: []\n", "etl.yaml:1:8: tasks: is empty"),
        ("dotenv: [.none]\ntasks: [{id: a, type: SHELL, command: x}]\n", "etl.yaml:1:9: dotenv: cannot read"),
    ],
)
async def test_a_source_that_is_refused_has_its_problems(preparer: Preparer, text: str, problem: str) -> None:
    read = await preparer.read(source(text))

    assert read.compiled is None
    assert read.problems[0].startswith(problem)


async def test_a_due_run_has_its_plan_its_folder_and_its_lock(preparer: Preparer, journal: Journal) -> None:
    run = await due(journal, TEXT)

    prepared, context = await preparer.prepare(run)

    assert isinstance(prepared, RunPrepared)
    assert context is not None
    assert context.lock is not None
    assert {task: planned.action for task, planned in prepared.plan.tasks.items()} == {"one": "run", "two": "run"}
    folder = context.places.run(run.id)
    assert (folder / "definition.yaml").read_text() == TEXT
    assert json.loads((folder / "plan.json").read_text()) == prepared.plan.to_json()
    assert context.surroundings.dotenv == {"DAY": "monday"}
    with pytest.raises(StateLockedError, match="another process runs it"):
        take_lock(context.places)
    os.close(context.lock)
    os.close(take_lock(context.places))


async def test_a_run_that_is_not_recorded_is_not_prepared(preparer: Preparer, journal: Journal) -> None:
    run = await due(journal, TEXT)

    refused, context = await preparer.prepare(replace(run, id=RunId("r2")))

    assert refused == RunUnprepared(RunId("r2"), "cannot find the run r2")
    assert context is None
    assert not (preparer.home / "team/etl.runs").exists()


async def test_a_run_waits_while_another_process_holds_the_lock(preparer: Preparer, journal: Journal) -> None:
    run = await due(journal, TEXT)
    held = take_lock(preparer.results.places(ETL))

    refused, context = await preparer.prepare(run)

    os.close(held)
    assert context is None
    assert isinstance(refused, RunUnprepared)
    assert refused.retry_s == prepare.LOCK_RETRY_S


async def test_a_run_waits_for_a_disk_that_takes_nothing(preparer: Preparer, journal: Journal) -> None:
    run = await due(journal, TEXT)
    (preparer.home / "team/etl.runs").write_text("in the way")

    refused, _ = await preparer.prepare(run)

    assert isinstance(refused, RunUnprepared)
    assert refused.retry_s is not None
    assert refused.reason.startswith("cannot write below ")


async def test_a_run_that_could_not_begin_holds_no_lock_and_begins_when_it_can(
    preparer: Preparer, journal: Journal
) -> None:
    run = await due(journal, TEXT)
    in_the_way = preparer.home / "team/etl.runs/workspace"
    in_the_way.parent.mkdir()
    in_the_way.write_text("")
    refused, _ = await preparer.prepare(run)

    in_the_way.unlink()
    prepared, context = await preparer.prepare(run)

    assert isinstance(refused, RunUnprepared)
    assert refused.reason.startswith("cannot write below ")
    assert isinstance(prepared, RunPrepared)
    assert context is not None
    context.unlock()


async def test_a_run_whose_dotenv_file_is_gone_cannot_start_at_all(preparer: Preparer, journal: Journal) -> None:
    run = await due(journal, TEXT)
    (preparer.home / "team/.env").unlink()

    refused, _ = await preparer.prepare(run)

    assert isinstance(refused, RunUnprepared)
    assert refused.retry_s is None
    assert "cannot read" in refused.reason


async def test_a_task_is_reused_while_its_sources_and_its_values_are_the_same(
    preparer: Preparer, journal: Journal
) -> None:
    run = await due(journal, TEXT)
    context = await preparer.context(run, {})
    hashes = hash_sources(context.places.home, ("*.csv",))
    parts = parts_of(context.compiled, context.names, context.tasks[TaskId("one")], context.surroundings, hashes)
    key, whole = key_of(parts, {})
    context.workspace.mkdir(parents=True)
    success = TaskSucceeded(RunId("r0"), ETL, TaskId("one"), 1, Facts(1.0, 2.0), key=key, parts=whole)
    await journal.commit(Commit([success], 2.0))

    async def reason() -> tuple[str, str]:
        planned = (await preparer.plan_change(source(TEXT))).tasks[TaskId("one")]
        return planned.action, planned.reason

    assert await reason() == ("reuse", "nothing changed")
    (preparer.home / "team/in.csv").write_text("3\n")
    assert await reason() == ("run", "sources changed")
    (preparer.home / "team/in.csv").write_text("1,2\n")
    (preparer.home / "team/.env").write_text("DAY=tuesday\n")
    assert await reason() == ("run", "env changed")


async def test_a_plan_of_a_change_writes_nothing_and_tells_problems(preparer: Preparer, journal: Journal) -> None:
    await preparer.plan_change(source(TEXT))
    with pytest.raises(RequestError, match=r"etl\.yaml:1:8: tasks: is empty"):
        await preparer.plan_change(source("tasks: []\n"))

    assert not preparer.results.places(ETL).folder.exists()
    assert (await journal.recover()).workflows == ()


async def test_a_definition_larger_than_what_is_kept_in_memory_can_be_planned(
    preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_KEPT_TASKS", 1)

    plan = await preparer.plan_change(source(TEXT))

    assert len(plan.tasks) == 2
