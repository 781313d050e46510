"""Hands the spawner tasks before there is a place for them, so that it starts the next without asking.

In: the state after a turn. Out: calls to the SHELL executor with what they come after; and, asked before each turn,
whether what was observed can be decided while the spawner goes on by itself. It cannot, unless it is good ends and the
starts that the spawner made of them: then the engine takes back what has not begun, and waits for the answer. The
spawner itself drops everything at the first end that is not plainly good (`spawner/backlog`). So nothing starts beyond
a limit, or after a failure, a pause or a cancel.

Handed over are, while one run alone is in progress, tasks that may run ahead of their record (`engine/ahead`) and of
whose good end the spawner can tell: so many that are ready, in the order in which the engine would start them, and so
many that need others which are in flight. The spawner starts of those that can start the first in order. When one is
ready that is the engine's to start, and there is a place or the others are behind it, all is taken back.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from wizflowd.core.attempt import AttemptId, ShellCall, Succeeded, TaskId, attempt_id
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

    `is_stale`: something that is not handed over is to start before it, so that it is to be taken back.
    """

    launcher: Launcher
    run: Run | None = None
    limit: int = 0
    handed: dict[AttemptId, TaskRun] = field(default_factory=dict)
    is_stale: bool = False
    _depth: int = _FEWEST
    _missing: dict[TaskId, int] = field(default_factory=dict)  # needs of a task that are neither good nor in flight
    _following: list[tuple[tuple[int, int, int], TaskId]] = field(default_factory=list)  # with none missing, in order

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
        self.run, self.is_stale = None, False
        self.handed.clear()
        self._missing.clear()
        self._following.clear()

    def fill(self, run: Run, state: State, capacity: Capacity, context: Context) -> None:
        """Hand over what comes next, where the spawner has little left that it may start."""
        if self.is_stale:
            return
        if self.run is None:
            if not _may_feed(run, state) or not self._open(run, context):
                return
            self.limit = _limit(run, capacity)
        waiting = sum(1 for task in self.handed.values() if task.unmet)
        ready = len(self.handed) - waiting
        handed = self._hand_ready(run, context, self._depth - ready if ready <= self._depth // 2 else 0)
        if waiting <= self._depth // 2:
            handed += self._hand_following(run, context, self._depth - waiting)
        if handed:
            self._depth = min(2 * self._depth, _MOST)
            self.launcher.hand_over(handed, self.limit)
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

    def _hand_ready(self, run: Run, context: Context, count: int) -> list[Handed]:
        """Return the first of those that are ready; before one that is the engine's to start, none goes past it."""
        found: list[Handed] = []
        for task in in_turn(run):
            if attempt_id(run.id, task.id, 1) in self.handed:
                continue
            is_plain = _is_plain(run, task, context)
            if is_plain and len(found) == count:
                break
            call = self.launcher.build_ahead(run, task, context) if is_plain else None
            if call is None:
                behind = any(other.order > task.order and not other.unmet for other in self.handed.values())
                self.is_stale = behind or run.places < self.limit
                break
            found.append(self._hand(run, task, call))
        return found

    def _hand_following(self, run: Run, context: Context, count: int) -> list[Handed]:
        """Return the first of those that need nothing but what is in flight, and whose calls say nothing of it."""
        found: list[Handed] = []
        while self._following and len(found) < count:
            task = run.tasks[heapq.heappop(self._following)[1]]
            is_open = task.status == "pending" and task.unmet and _is_plain(run, task, context)
            if is_open and not names_reaching(context.spec(task), context.names).tasks:
                call = self.launcher.build_ahead(run, task, context)
                if call is not None:
                    found.append(self._hand(run, task, call))
        return found

    def _hand(self, run: Run, task: TaskRun, call: ShellCall) -> Handed:
        self.handed[call.job.attempt] = task
        self._is_in_flight(run, task)
        return Handed(
            call, [attempt_id(run.id, need, 1) for need in task.needs if not run.tasks[need].good], task.order
        )

    def _is_in_flight(self, run: Run, task: TaskRun) -> None:
        """See what follows now that a task is in flight; of many dependents each comes when it is ready."""
        dependents = run.dependents.get(task.id, ())
        for name in dependents if len(dependents) <= _MOST else ():
            missing = self._missing[name] = self._missing.get(name, run.tasks[name].unmet) - 1
            if not missing:
                heapq.heappush(self._following, (run.tasks[name].order, name))


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
