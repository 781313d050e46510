"""Runs that somebody asks for: a person, the clock, or a task of another workflow.

In: a workflow's identity and what is asked. Out: the run, when its decision is durable. Used by `requests`, `children`
and, for what is scheduled, by the loop. Raises RequestError, DefinitionError, StateError.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from wizflowd.core.attempt import AttemptId, RunId
from wizflowd.core.calendar import passed_times
from wizflowd.core.events import Event, SchedulePassed
from wizflowd.core.observations import WorkflowId
from wizflowd.core.reconcile import Asked, Content, due_runs, request_run
from wizflowd.core.state import State, plan_calendar
from wizflowd.core.suggest import did_you_mean
from wizflowd.engine.inbox import Request
from wizflowd.engine.loop import Engine
from wizflowd.errors import DefinitionError, RequestError, StateError

log = logging.getLogger(__name__)


class Runs:
    """The one way into an engine for runs that no change of a file causes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def state(self) -> State:
        """What is true now, to be read only."""
        return self._engine.state

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a coroutine run beside the engine."""
        self._engine.in_background(work)

    async def run_due(self, workflow: WorkflowId) -> None:
        """Queue what is scheduled for now, or was missed."""
        known = self._engine.state.workflows.get(workflow)
        if known is None or known.next_s is None or not known.good_stamp:
            return
        content: Content | str
        try:
            content = await self.content_of(workflow)
        except (RequestError, DefinitionError, StateError) as error:
            content = str(error)

        def decide(state: State) -> list[Event]:
            now, due = self._engine.clock.now(), state.workflows.get(workflow)
            if due is None:
                return []
            times = passed_times(due.schedule, due.scheduled_s, now.wall_s)
            if not times:  # the clock was set back meanwhile: it is due another time
                plan_calendar(state, due)
                return []
            if isinstance(content, str):
                return [SchedulePassed(workflow, times[-1][0], content)]
            return due_runs(state, content, times, now, iter(lambda: self._engine.run_ids.next(now.wall_s), None))

        for event in await self.decide(decide):
            if isinstance(event, SchedulePassed) and event.note:
                log.warning("cannot run what is due", extra={"workflow": workflow, "error": event.note})

    async def content_of(self, workflow: WorkflowId) -> Content:
        """Return what is in force of a workflow. Raises RequestError, DefinitionError, StateError."""
        known = self._engine.state.workflows.get(workflow)
        if known is None or not known.path or not known.good_stamp:
            hint = did_you_mean(workflow, self._engine.state.workflows)
            raise RequestError("not_found", f"cannot run {workflow!r}: there is no such workflow", hint=hint)
        compiled = await self._engine.preparer.compiled(known.path, known.good_stamp)
        return Content(known.id, known.path, known.good_stamp, compiled.digest, known.companions, compiled.definition)

    async def decide(self, decide: Callable[[State], list[Event]]) -> list[Event]:
        """Have a decision made on the state and return its events when they are durable. Raises RequestError."""
        answer: asyncio.Future[list[Event]] = asyncio.get_running_loop().create_future()
        self._engine.inbox.put(Request(decide, answer))
        return await answer

    async def queue(self, workflow: WorkflowId, asked: Asked) -> RunId:
        """Queue a run that is asked for and return its id. Raises RequestError, DefinitionError, StateError."""
        content = await self.content_of(workflow)
        run_id = self._engine.run_ids.next(self._engine.clock.now().wall_s)
        await self.decide(lambda state: request_run(state, content, run_id, asked))
        return run_id

    async def ended_child(self, parent: AttemptId) -> tuple[RunId, str] | None:
        """Return the run that an attempt started and how it ended, if it has."""
        row = await self._engine.journal.child(parent)
        return None if row is None or row.ended_s is None else (row.run, row.status)
