"""Tasks of type WORKFLOW: an attempt that is a run of another workflow.

In: a `WorkflowCall`. Out: one outcome for it, when the child has been queued (`wait: false`) or has ended. The link is
the child's `parent`, which is recorded, so that a restart finds the child again instead of starting another.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from wizflowd.core.attempt import AttemptId, Cancelled, Facts, Failed, Outcome, RunId, Succeeded, WorkflowCall
from wizflowd.core.observations import WorkflowId
from wizflowd.core.reconcile import Asked, cancel_run
from wizflowd.core.state import Run
from wizflowd.core.values import Json
from wizflowd.engine.runs import Runs
from wizflowd.errors import DefinitionError, RequestError, StateError

Report = Callable[[AttemptId, Outcome], None]


@dataclass(slots=True)
class Children:
    """The children under way, by the attempt that waits for them. `alone`: this engine knows of one workflow only."""

    runs: Runs
    report: Report
    alone: bool = False
    waiting: dict[AttemptId, float] = field(default_factory=dict)
    _timers: dict[AttemptId, asyncio.TimerHandle] = field(default_factory=dict)
    _late: dict[AttemptId, float] = field(default_factory=dict)

    def start(self, call: WorkflowCall) -> None:
        """Queue the run that a call asks for, unless it is there already; its time begins now."""
        attempt, timeout_s = call.job.attempt, call.job.timeout_s
        self.waiting[attempt] = time.time()
        if timeout_s is not None:
            timer = asyncio.get_running_loop().call_later(timeout_s, self._time_out, attempt, timeout_s)
            self._timers[attempt] = timer
        self.runs.in_background(self._start(call))

    def cancel(self, attempt: AttemptId) -> None:
        """Cancel the child of an attempt; its end is the attempt's."""
        self.runs.in_background(self._cancel(attempt, "the run that waits for it was cancelled"))

    def _time_out(self, attempt: AttemptId, timeout_s: float) -> None:
        self._late[attempt] = timeout_s
        self.runs.in_background(self._cancel(attempt, "the task that waits for it timed out"))

    async def _cancel(self, attempt: AttemptId, reason: str) -> None:
        child = self._child(attempt)
        if child is not None:
            await self.runs.decide(lambda _: cancel_run(child, reason))
        elif attempt in self.waiting:
            self._end(attempt, self._given_up(attempt))

    def ended(self, run: Run) -> None:
        """Take the end of a run that somebody may wait for."""
        if run.parent in self.waiting:
            attempt = AttemptId(run.parent)
            self._end(attempt, self._outcome(attempt, run.id, run.status))

    async def _start(self, call: WorkflowCall) -> None:
        attempt = call.job.attempt
        if self._child(attempt) is not None:
            return
        found = await self.runs.ended_child(attempt)
        if found is not None:
            self._end(attempt, self._outcome(attempt, *found))
            return
        try:
            if self.alone:
                what = f"cannot run {call.workflow}: `wizflow run` runs one file, without a daemon"
                raise RequestError("alone", what, hint="put both files into a daemon's folder")
            self._refuse_circle(attempt, WorkflowId(call.workflow))
            asked = Asked("workflow", params=call.params, parent=attempt)
            child = await self.runs.queue(WorkflowId(call.workflow), asked)
        except (RequestError, DefinitionError, StateError) as error:
            self._end(attempt, Failed(self._facts(attempt), "refused", str(error), retryable=False))
            return
        if attempt not in self.waiting:  # given up meanwhile
            await self._cancel(attempt, "nobody waits for it any more")
        elif not call.wait:
            outputs: dict[str, Json] = {"run": child}
            self._end(attempt, Succeeded(self._facts(attempt), outputs))

    def _refuse_circle(self, attempt: AttemptId, workflow: WorkflowId) -> None:
        """Raise RequestError where a workflow would wait for itself, over however many files."""
        chain = [workflow]
        at: str = attempt
        while run := self.runs.state.runs.get(RunId(at.split("/", 1)[0])):
            chain.append(run.workflow)
            if run.workflow == workflow:
                raise RequestError(
                    "circle", f"cannot run {workflow}: it waits for itself: {' -> '.join(reversed(chain))}"
                )
            at = run.parent

    def _child(self, attempt: AttemptId) -> Run | None:
        return next((run for run in self.runs.state.runs.values() if run.parent == attempt), None)

    def _outcome(self, attempt: AttemptId, child: RunId, status: str) -> Outcome:
        facts = self._facts(attempt, f"run {child}")
        if status == "succeeded":
            outputs: dict[str, Json] = {"run": child}
            return Succeeded(facts, outputs)
        parent = self.runs.state.runs.get(RunId(attempt.split("/", 1)[0]))
        if status == "cancelled" and parent is not None and parent.cancelling is not None:
            return Cancelled(facts)
        if status == "cancelled" and attempt in self._late:
            return self._given_up(attempt)
        return Failed(facts, "workflow", f"its run {child} {'was ' if status == 'cancelled' else ''}{status}")

    def _given_up(self, attempt: AttemptId) -> Outcome:
        if attempt in self._late:
            return Failed(self._facts(attempt), "timeout", f"timed out after {self._late[attempt]:g} s")
        return Cancelled(self._facts(attempt))

    def _facts(self, attempt: AttemptId, *notes: str) -> Facts:
        moment = time.time()
        return Facts(self.waiting.get(attempt, moment), moment, notes=notes)

    def _end(self, attempt: AttemptId, outcome: Outcome) -> None:
        self._late.pop(attempt, None)
        if timer := self._timers.pop(attempt, None):
            timer.cancel()
        if self.waiting.pop(attempt, None) is not None:
            self.report(attempt, outcome)
