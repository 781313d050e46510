"""Hands the spawner tasks before there is a place for them, so that it starts the next without asking.

In: the state after a turn. Out: calls to the SHELL executor with what they come after; and, asked before each turn,
whether what was observed can be decided while the spawner goes on by itself. It cannot, unless it is good ends and the
starts that the spawner made of them: then the engine takes back what has not begun, and waits for the answer. The
spawner itself drops everything at the first end that is not plainly good (`spawner/backlog`). So nothing starts beyond
a limit, out of turn by more than what was handed over, or after a failure, a pause or a cancel.

Handed over are, while one run alone is in progress, tasks that may run ahead of their record (`engine/ahead`) and of
whose good end the spawner can judge: in the order in which the engine would start them, those that need others once
these are in flight.
"""

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from wizflowd.core.attempt import AttemptId, Succeeded, TaskId, attempt_id
from wizflowd.core.definition import ShellTask
from wizflowd.core.references import names_reaching
from wizflowd.core.schedule import Capacity, in_turn
from wizflowd.core.state import Run, State, TaskRun
from wizflowd.engine.ahead import may_begin_ahead
from wizflowd.engine.context import Context
from wizflowd.engine.inbox import AttemptBegun, AttemptEnded, Observation
from wizflowd.engine.launch import Launcher
from wizflowd.executors.shell import Handed

_FEWEST = 8
_MOST = 64
"""Tasks handed over: few at first and after each end of the feed, for all that was built for it is lost then."""


@dataclass(slots=True)
class Feed:
    """What the spawner has been handed of one run and has not begun, to start while fewer than `limit` run.

    `is_stale`: something else has come to be first in turn, so that it is to be taken back.
    """

    launcher: Launcher
    run: Run | None = None
    limit: int = 0
    handed: dict[AttemptId, TaskRun] = field(default_factory=dict)
    is_stale: bool = False
    _depth: int = _FEWEST
    _missing: dict[TaskId, int] = field(default_factory=dict)  # needs of a task that are neither good nor in flight
    _known: set[TaskId] = field(default_factory=set)
    _candidates: list[tuple[tuple[int, int, int], TaskId]] = field(default_factory=list)

    def can_go_on(self, observations: Iterable[Observation], state: State, capacity: Capacity) -> bool:
        """Return whether these can be decided while the spawner starts what it has been handed."""
        if self.run is None:
            return True
        hindered = self.is_stale or not _may_feed(self.run, state) or self.limit != _limit(self.run, capacity)
        return not hindered and all(map(_is_expected, observations))

    def begun(self, attempt: AttemptId) -> None:
        """Take note that the spawner has started one."""
        self.handed.pop(attempt, None)

    def close(self) -> None:
        """Forget what has not begun: the spawner does not have it any more."""
        self.launcher.forget(self.handed)
        self.run, self.is_stale = None, False
        self.handed.clear()
        self._missing.clear()
        self._known.clear()
        self._candidates.clear()

    def fill(self, run: Run, state: State, capacity: Capacity, context: Context) -> None:
        """Hand over what comes next, if the spawner has little left of it."""
        if len(self.handed) > self._depth // 2 or self.is_stale:
            return
        if self.run is None:
            if not _may_feed(run, state) or not self._open(run, context):
                return
            self.limit = _limit(run, capacity)
        found = list(self._next(run, context))
        if found:
            self.launcher.hand_over(found, self.limit)
        elif not self.handed:
            self.close()

    def _open(self, run: Run, context: Context) -> bool:
        """Begin to feed from a run, if of all that it has in flight the spawner can tell whether it ended well."""
        running = [run.tasks[name] for name in run.running]
        if not running or not all(_is_plain(run, task, context) for task in running):
            return False
        self.run, self._depth = run, _FEWEST
        for task in running:
            self._is_in_flight(run, task)
        return True

    def _next(self, run: Run, context: Context) -> Iterator[Handed]:
        """Yield what to hand over, and take note of it."""
        self._depth = min(2 * self._depth, _MOST)
        self._look_at_ready(run)
        while self._candidates and len(self.handed) < self._depth:
            order, name = self._candidates[0]
            task = run.tasks[name]
            call = self.launcher.build_ahead(run, task, context) if _can_wait(run, task, context) else None
            if call is None:  # it is the engine's to start, and all that is behind it has to wait for that
                self.is_stale = any(other.order > order for other in self.handed.values())
                return
            heapq.heappop(self._candidates)
            self.handed[call.job.attempt] = task
            self._is_in_flight(run, task)
            after = [attempt_id(run.id, need, 1) for need in task.needs if not run.tasks[need].good]
            yield Handed(call, after, order)

    def _look_at_ready(self, run: Run) -> None:
        """Add to the candidates as many of those that are ready as may be handed over now."""
        fresh = (task for task in in_turn(run) if task.id not in self._known)
        for task in itertools.islice(fresh, max(0, self._depth - len(self.handed) - len(self._candidates))):
            self._add(task)

    def _is_in_flight(self, run: Run, task: TaskRun) -> None:
        """Add to the candidates what needs nothing that is not in flight, now that this task is."""
        for name in run.dependents.get(task.id, ()):
            dependent = run.tasks[name]
            missing = self._missing[name] = self._missing.get(name, dependent.unmet) - 1
            if not missing:
                self._add(dependent)

    def _add(self, task: TaskRun) -> None:
        self._known.add(task.id)
        heapq.heappush(self._candidates, (task.order, task.id))


def _may_feed(run: Run, state: State) -> bool:
    """Return whether nothing but the order of a run's tasks decides what starts next."""
    alone = state.active.keys() == {run.id}
    unhindered = not run.paused and run.cancelling is None and run.ended_s is None and run.verdict is None
    return alone and unhindered and not run.retrying and not run.due.keys() - {""}


def _limit(run: Run, capacity: Capacity) -> int:
    return capacity.max_tasks if run.max_tasks is None else min(run.max_tasks, capacity.max_tasks)


def _is_expected(observation: Observation) -> bool:
    """Return whether an observation is what a feed brings with it."""
    if isinstance(observation, AttemptEnded):
        return isinstance(observation.outcome, Succeeded)
    return isinstance(observation, AttemptBegun)


def _is_plain(run: Run, task: TaskRun, context: Context) -> bool:
    """Return whether the spawner may start the first attempt of a task by itself, and can tell a good end of it."""
    spec = context.spec(task)
    if not isinstance(spec, ShellTask) or spec.outputs or spec.sources or task.pool:
        return False
    return (
        task.action == "run" and task.run_on == "success" and task.attempt <= 1 and may_begin_ahead(run, task, context)
    )


def _can_wait(run: Run, task: TaskRun, context: Context) -> bool:
    """Return whether a task can be handed over now: its call is the same whatever becomes of what it needs."""
    if task.status != "pending" or not _is_plain(run, task, context):
        return False
    return not task.unmet or not names_reaching(context.spec(task), context.names).tasks
