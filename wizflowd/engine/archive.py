"""The files that the engine owes: results of ended runs, the event part of archived ones, status and errors.

In: runs and workflows of the state, in the loop. Out: files, and `RunStored` / `RunClosed` in the inbox. What the disk
refuses is tried again every second until it takes it: a full disk loses nothing.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

from wizflowd.core.attempt import RunId
from wizflowd.core.events import Record, rfc3339
from wizflowd.core.observations import WorkflowId
from wizflowd.core.state import Run, State, Workflow
from wizflowd.core.values import Json
from wizflowd.engine.batches import SMALL_RUN, Batches
from wizflowd.engine.context import Context
from wizflowd.engine.inbox import Inbox, RunClosed, RunStored
from wizflowd.errors import WizflowError
from wizflowd.files import Steps, complete, complete_all, read_end
from wizflowd.journal import Journal
from wizflowd.results import Results, describe_run
from wizflowd.retention import Retention, Shelf, prune
from wizflowd.views.graph import draw_svg
from wizflowd.views.picture import Node, Picture
from wizflowd.views.report import draw_report, most_wanted_logs

log = logging.getLogger(__name__)
RETRY_S = 1.0
LOG_END_BYTES = 4096
"""Of each log, in the report of a run."""
STATUSES_AT_ONCE = 16
STATUS_AFTER_S = 0.02
"""For how long a status waits: what is done in its name comes first, and most runs of a moment share one."""
CLOCK_SET_S = 3600.0
"""A wall clock that was set by more since the start tells no ages, until it is back."""


def _wall_ahead_s() -> float:
    """Return how far the wall clock is ahead of the one that nobody sets and that runs on while the host sleeps."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class Archivist:
    """Writes what people read."""

    inbox: Inbox
    journal: Journal
    results: Results
    retention: Retention
    shelf: Shelf
    _dirty: dict[WorkflowId, None] = field(default_factory=dict)
    _invalid: set[WorkflowId] = field(default_factory=set)
    _stirred: asyncio.Event = field(default_factory=asyncio.Event)
    _stores: Batches = field(default_factory=Batches)
    _closings: Batches = field(default_factory=Batches)
    _ahead_s: float = field(default_factory=_wall_ahead_s)

    async def store(self, run: Run, context: Context | None) -> None:
        """Write the results of an ended run; one that never started has none."""
        if context is not None and run.started_s is not None:
            await self._insist(self._store, run, context)
        self.inbox.put(RunStored(run.id))

    async def _store(self, run: Run, context: Context) -> None:
        if len(run.tasks) > SMALL_RUN:
            await asyncio.to_thread(complete, self._write(run, context))
        else:
            await self._stores.complete(self._write(run, context))

    def _write(self, run: Run, context: Context) -> Steps[None]:
        result = describe_run(run, context.types, run.status, run.reason)
        picture = draw_svg(picture_of(run, context))
        folder = context.places.run(run.id)
        ends = {name: read_end(folder / name, LOG_END_BYTES) for name in most_wanted_logs(result)}
        pages = {"graph.svg": picture, "report.html": draw_report(result, picture, ends)}
        yield from self.results.end(context.places, run.id, result, pages)

    async def close(self, run: Run, context: Context | None) -> None:
        """Complete the run's part of the event stream, then remove what retention no longer keeps."""
        if context is not None and run.started_s is not None:
            await self._insist(self._complete_events, run.id, context)
            await self._remove_old(context, run.id)
        self.inbox.put(RunClosed(run.id))

    async def _complete_events(self, run: RunId, context: Context) -> None:
        """Complete the events of a run. Raises OSError."""
        records = await self.journal.records(run) if context.events is None else []
        try:
            await self._closings.complete(self._finish_events(context, run, records))
        except FileNotFoundError:  # somebody has removed the folder, and with it what was written so far
            context.events = None
            raise

    def _finish_events(self, context: Context, run: RunId, records: list[Record]) -> Steps[None]:
        """Complete the events of a run; `records` are all of it where the file was not kept while it ran."""
        events = context.events
        if events is None:
            events = self.results.events_file(context.places, run)
            for record in records:
                events.add(record)
        yield from events.finish()

    async def _remove_old(self, context: Context, run: RunId) -> None:
        """Remove what retention no longer keeps; not in a batch, for it may take long."""
        try:
            await asyncio.to_thread(self._prune, context, run)
        except OSError as error:
            log.warning("cannot remove old runs", extra={"error": str(error)})

    def _prune(self, context: Context, run: RunId) -> None:
        asked = context.compiled.definition.retention
        retention = Retention(asked.runs, asked.days) if asked is not None else self.retention
        if abs(_wall_ahead_s() - self._ahead_s) > CLOCK_SET_S:  # then everything seems to be old
            retention = replace(retention, days=None)
        gone = prune(context.places.folder, retention)
        if self.retention.bytes is not None:
            self.shelf.make_room(context.places.run(run), gone, self.retention.bytes)

    async def _insist(self, write: Callable[..., Awaitable[object]], *args: object) -> None:
        """Write until the disk takes it."""
        while True:
            try:
                await write(*args)
            except OSError as error:
                log.warning("cannot write results, trying again", extra={"error": str(error)})
                await asyncio.sleep(RETRY_S)
            else:
                return

    def stir(self, workflow: WorkflowId) -> None:
        """Say that the status of a workflow may have changed."""
        self._dirty[workflow] = None
        self._stirred.set()

    async def keep_statuses(self, state: State) -> None:
        """Write the status of workflows that were stirred, for ever: the latest of each, not every step.

        Each waits a moment, but not where `error.txt` comes or goes.
        """
        while True:
            await self._stirred.wait()
            if not any(is_invalid(state, workflow) != (workflow in self._invalid) for workflow in self._dirty):
                await asyncio.sleep(STATUS_AFTER_S)
            self._stirred.clear()
            await self.write_statuses(state)

    async def write_statuses(self, state: State) -> None:
        """Write the status of all workflows that were stirred."""
        while self._dirty:
            some = list(islice(self._dirty, STATUSES_AT_ONCE))
            for workflow in some:
                del self._dirty[workflow]
            works = [work for workflow in some for work in self._status_of(state, workflow)]
            for end in await asyncio.to_thread(complete_all, works):
                if isinstance(end, WizflowError):
                    raise end
                if isinstance(end, OSError):
                    log.warning("cannot write or remove files", extra={"error": str(end)})

    def _status_of(self, state: State, workflow: WorkflowId) -> list[Steps[None]]:
        """Return what brings the files of a workflow's status up to date, each by itself."""
        (self._invalid.add if is_invalid(state, workflow) else self._invalid.discard)(workflow)
        known = state.workflows.get(workflow)
        places = self.results.places(workflow)
        if known is None or not known.path:
            return [self.results.forget(places)]
        status, problems = describe_workflow(state, known), known.problems
        return [self.results.status(places, status), self.results.error(places, problems)]


WorkflowState = Literal["idle", "queued", "running", "paused", "waiting", "invalid", "unavailable"]


def is_invalid(state: State, workflow: WorkflowId) -> bool:
    """Whether the definition of a workflow has problems."""
    known = state.workflows.get(workflow)
    return known is not None and bool(known.problems)


def state_of_workflow(state: State, workflow: Workflow) -> WorkflowState:
    """Return the state of a workflow, as `status.json` and the metrics have it."""
    run = _present_run(state, workflow)
    if state.unavailable:
        return "unavailable"
    if run is not None:
        return "paused" if run.paused else "running" if run.status == "running" else "queued"
    if workflow.problems:
        return "invalid"
    return "waiting" if workflow.note.startswith("waiting") else "idle"


def _present_run(state: State, workflow: Workflow) -> Run | None:
    live = [run for run in state.live_runs(workflow.id) if run.ended_s is None]
    return next((run for run in live if run.status == "running"), live[0] if live else None)


def describe_workflow(state: State, workflow: Workflow) -> dict[str, Json]:
    """Return `status.json` of a workflow (SPEC section 3)."""
    run = _present_run(state, workflow)
    ended_s = workflow.last_ended_s
    last: Json = None
    if workflow.last_run is not None:
        last = {
            "run": workflow.last_run,
            "status": workflow.last_status,
            "ended": rfc3339(ended_s) if ended_s is not None else None,
            "skipped": workflow.last_skipped,
            "tolerated": workflow.last_tolerated,
        }
    return {
        "workflow": workflow.id,
        "digest": workflow.digest or None,
        "state": state_of_workflow(state, workflow),
        "run": run.id if run is not None else None,
        "queued": [other.id for other in state.live_runs(workflow.id) if other.status == "queued" and other is not run],
        "last": last,
        "error": "\n".join(workflow.problems) or None,
        "note": workflow.note or None,
        "next": rfc3339(workflow.next_s) if workflow.next_s is not None else None,
    }


def picture_of(run: Run, context: Context) -> Picture:
    """Return the graph of a run, coloured by what came of its tasks."""
    level = context.compiled.graph.level
    nodes = []
    shown_tasks = [task for task in run.tasks.values() if task.group is None]
    for task in shown_tasks:
        spec = context.tasks[task.id]
        shown = "reused" if task.reused else "tolerated" if task.tolerated else task.status
        note = task.message
        if task.status == "succeeded" and task.attempts:
            facts = task.attempts[-1].facts
            note = sys.intern(f"{facts.ended_s - facts.started_s:.1f} s")  # of many tasks the same
        if task.instances is not None:
            note = f"{len(task.instances)} instances{f' · {note}' if note else ''}"
        nodes.append(Node(task.id, spec.name or task.id, spec.type, shown, note, level[task.id]))
    edges = tuple((need, task.id) for task in shown_tasks for need in task.needs)
    title = context.compiled.definition.workflow_name
    ended_s, started_s = run.ended_s or 0.0, run.started_s or 0.0
    return Picture(title, f"{run.id} · {run.status} · {ended_s - started_s:.1f} s", tuple(nodes), edges)
