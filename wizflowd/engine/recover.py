"""The start: what the journal says and what the spawner still has -> an engine that goes on where the last one ended.

In: a journal that is open and a launcher that is connected. Out: the engine's state and contexts, filled, and the
observations that follow: attempts that were adopted or lost, results that were not written. See the table "What a kill
leaves, and what the next start does" in ARCHITECTURE.md.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator

from wizflowd.core.attempt import AttemptId, RunId, TaskId, attempt_id
from wizflowd.core.events import (
    Event,
    RunArchived,
    RunCancelling,
    SpawnerJoined,
    TaskAdopted,
    TaskCancelled,
    TaskStarted,
)
from wizflowd.core.state import ENDED, Run, State, TaskRun, Workflow, apply, plan_calendar
from wizflowd.engine.context import Context
from wizflowd.engine.inbox import Facts
from wizflowd.engine.launch import label_of
from wizflowd.engine.loop import Engine
from wizflowd.engine.prepare import LOCK_RETRY_S, take_lock
from wizflowd.errors import DefinitionError, StateLockedError, WizflowError
from wizflowd.executors.shell import Inventory
from wizflowd.journal import Recovered

log = logging.getLogger(__name__)


async def recover(engine: Engine, inventory: Inventory) -> None:
    """Fill an engine that has not run yet. Raises StateError."""
    recovered = await engine.journal.recover()
    engine.state = _known(recovered)
    now = engine.clock.now()
    archived: list[Run] = []
    for row in recovered.schedules:
        known = engine.state.workflows.get(row.workflow)
        if known is not None:
            known.schedule, known.scheduled_s = row.schedule, row.passed_s
            plan_calendar(engine.state, known)
    for record in recovered.records:
        if isinstance(record.event, RunArchived):
            archived.append(engine.state.runs[record.event.run])
        apply(engine.state, record.event, record.at_s, now)
    for workflow in engine.state.workflows:  # the end may have come between a record and the file that tells it
        engine.archivist.stir(workflow)
    engine.inbox.put(Facts((SpawnerJoined(inventory.spawner),)))
    begun: set[AttemptId] = set()
    for run in list(engine.state.runs.values()):
        if run.active:
            await _resume(engine, run, inventory)
            begun |= _take_begun(engine, run, inventory)
        elif run.ended_s is not None:  # before it started: there are no results, but its end is not public yet
            engine.in_background(engine.archivist.store(run, None))
    _drop_unknown(engine, inventory, begun)
    for ended in archived:
        await _close(engine, ended)


def _known(recovered: Recovered) -> State:
    workflows = {
        row.workflow: Workflow(
            row.workflow,
            row.path,
            row.stamp,
            row.digest,
            row.companions,
            row.good_stamp,
            row.problems,
            row.note,
            row.sources,
            row.dotenv,
            last_run=row.last_run,
            last_status=row.last_status,
            last_ended_s=row.last_ended_s,
            last_skipped=row.last_skipped,
            last_tolerated=row.last_tolerated,
            last_success_s=row.last_success_s,
        )
        for row in recovered.workflows
    }
    return State(workflows, spawner=recovered.spawner, seen_once=recovered.seen_once)


async def _context(engine: Engine, run: Run) -> Context | None:
    try:
        return await engine.preparer.context(run, await engine.journal.mails(run.workflow))
    except DefinitionError as error:
        log.error("cannot read the definition of a run", extra={"run": run.id, "error": error.lines(run.path)[0]})
    except WizflowError as error:
        log.error("cannot read what surrounds a run", extra={"run": run.id, "error": str(error)})
    return None


async def _resume(engine: Engine, run: Run, inventory: Inventory) -> None:
    """Take up a run that had started: its attempts, or its results if it has ended."""
    context = await _context(engine, run)
    if context is not None:
        engine.contexts[run.id] = context
        if not context.own_workspace:
            await _lock(engine, run, context)
    if run.ended_s is not None:
        engine.in_background(engine.archivist.store(run, context))
        return
    if context is None:
        engine.inbox.put(Facts(tuple(_give_up(run))))
        return
    running = [run.tasks[name] for name in sorted(run.running)]
    adopted = [task for task in running if _has(inventory, run, task)]
    engine.inbox.put(Facts(tuple(TaskAdopted(run.id, run.workflow, task.id, task.attempt) for task in adopted)))
    for task in running:  # what comes of them is told after that
        _resume_attempt(engine, run, task, context, inventory)
    if run.cancelling is not None:
        engine.cancel_attempts(run)


async def _lock(engine: Engine, run: Run, context: Context) -> None:
    """Take the lock of a run; while a `wizflow run` has it, what runs already goes on and nothing more is started."""
    try:
        context.lock = await asyncio.to_thread(take_lock, context.places)
    except StateLockedError as error:
        log.warning("a run has to wait", extra={"run": run.id, "error": str(error)})
        engine.held.add(run.id)
        engine.in_background(_lock_later(engine, run, context))


async def _lock_later(engine: Engine, run: Run, context: Context) -> None:
    lock = None
    while lock is None and not run.archived:
        await asyncio.sleep(LOCK_RETRY_S)
        with contextlib.suppress(StateLockedError):
            lock = await asyncio.to_thread(take_lock, context.places)
    if lock is not None and run.archived:
        os.close(lock)
    else:
        context.lock = lock
    engine.held.discard(run.id)
    engine.inbox.wake()


def _give_up(run: Run) -> Iterator[Event]:
    """Yield the end of a run that cannot go on, since nobody can say what its tasks are."""
    reason = "its definition can no longer be read"
    if run.cancelling is None:
        yield RunCancelling(run.id, run.workflow, "failed", reason)
    for name in sorted(run.running):
        yield TaskCancelled(run.id, run.workflow, name, f"outcome unknown: {reason}", run.tasks[name].attempt)


def _has(inventory: Inventory, run: Run, task: TaskRun) -> bool:
    attempt = attempt_id(run.id, task.id, task.attempt)
    return attempt in inventory.running or attempt in inventory.exited


def _resume_attempt(engine: Engine, run: Run, task: TaskRun, context: Context, inventory: Inventory) -> None:
    """Adopt an attempt, start it if the spawner never got it, or give it up."""
    kind = context.spec(task).type
    if kind == "WORKFLOW":
        engine.launcher.launch(run, task, context)
    elif kind != "SHELL":
        engine.launcher.lose(run, task, "wizflowd ended while it ran")
    elif _has(inventory, run, task):
        engine.launcher.adopt(run, task, context)
    elif engine.state.spawner == inventory.spawner:
        engine.launcher.launch(run, task, context)
    else:
        engine.launcher.lose(run, task, "its spawner ended while it ran")


def _take_begun(engine: Engine, run: Run, inventory: Inventory) -> set[AttemptId]:
    """Record the attempts that ran ahead of their record; to start them again does nothing, the spawner has them.

    Not those that need one which is to be repeated: after a power cut they were begun upon an end that does not count.
    """
    if run.id not in engine.contexts or run.ended_s is not None or run.cancelling is not None:
        return set()
    attempts = {attempt_id(run.id, task.id, 1): task.id for task in run.tasks.values() if task.status == "pending"}
    known = attempts.keys() & (inventory.running.keys() | inventory.exited)
    begun: dict[AttemptId, TaskId] = {}

    def counts(need: TaskRun) -> bool:
        attempt = attempt_id(run.id, need.id, 1)
        return need.status in ENDED or (attempt in inventory.well and (need.status == "running" or attempt in begun))

    for attempt in sorted(known, key=lambda attempt: -run.tasks[attempts[attempt]].rank):  # what they need comes first
        if all(counts(run.tasks[need]) for need in run.tasks[attempts[attempt]].needs):
            begun[attempt] = attempts[attempt]
    engine.inbox.put(Facts(tuple(TaskStarted(run.id, run.workflow, task, 1) for task in begun.values())))
    return set(begun)


def _drop_unknown(engine: Engine, inventory: Inventory, begun: set[AttemptId]) -> None:
    """End attempts that no open run knows or can go on with, and let the spawner forget those that ended."""
    running = {
        attempt_id(run.id, task, run.tasks[task].attempt) for run in engine.state.runs.values() for task in run.running
    } | begun
    tasks = {attempt: engine.state.runs[RunId(attempt.split("/")[0])].tasks for attempt in running}
    labels = {attempt: label_of(known[TaskId(attempt.split("/")[1])]) for attempt, known in tasks.items()}
    engine.launcher.forget_all_but(labels)
    for attempt in inventory.running:
        if attempt not in running or RunId(attempt.split("/")[0]) not in engine.contexts:
            engine.launcher.shell.cancel(attempt)
    engine.launcher.shell.acknowledge([attempt for attempt in inventory.exited if attempt not in running])


async def _close(engine: Engine, run: Run) -> None:
    """Complete the event file of a run whose end was public, but maybe not written to it."""
    context = await _context(engine, run) if run.started_s is not None else None
    engine.in_background(engine.archivist.close(run, context))
