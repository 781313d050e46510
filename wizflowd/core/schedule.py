"""What may start now, and when to look again.

In: the state, the time and the limits. Out: one start at a time (the engine applies it and asks again), the runs
whose turn has come, and the next moment at which time alone changes the answer.
"""

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence

from msgspec import Struct

from wizflowd.core.attempt import Facts, RunId, TaskId
from wizflowd.core.events import Now, RunCancelling, TaskFailed, TaskStarted
from wizflowd.core.observations import WorkflowId
from wizflowd.core.state import Run, State, TaskRun


class Capacity(Struct, frozen=True):
    """How many tasks and runs may be under way at once."""

    max_tasks: int
    max_runs: int
    pools: Mapping[str, int] = {}

    def has_place(self, state: State, pool: str) -> bool:
        """Return whether an attempt of a pool may start; a pool that is not configured has no bound of its own."""
        return not pool or state.pools[pool] < self.pools.get(pool, self.max_tasks)


def next_start(state: State, now: Now, capacity: Capacity, held: Collection[RunId] = frozenset()) -> TaskStarted | None:
    """Return the next attempt to start, or None: a retry that is due first, then the runs in turn, longest path first.

    Nothing starts of the runs that are `held`. Source: SPEC section 2; the order among runs keeps a large one from
    starving the others.
    """
    if state.running_tasks >= capacity.max_tasks:
        return None
    due = _due_retry(state, now, capacity, held)
    if due is not None:
        return due
    for run_id in state.startable:
        if run_id in held:
            continue
        run = state.runs[run_id]
        heads = [heap[0] for pool, heap in run.due.items() if capacity.has_place(state, pool)]
        if heads:
            return _start(run, min(heads)[3])
    return None


def in_turn(run: Run) -> Iterator[TaskRun]:
    """Yield what may start of the tasks of a run that are in no pool, in order, and leave it there."""
    heap = run.due.get("", [])
    places = [(heap[0], 0)] if heap else []
    while places:
        (*_order, name), place = heapq.heappop(places)
        if name in run.ready:
            yield run.tasks[name]
        for below in (2 * place + 1, 2 * place + 2):
            if below < len(heap):
                heapq.heappush(places, (heap[below], below))


def _due_retry(state: State, now: Now, capacity: Capacity, held: Collection[RunId]) -> TaskStarted | None:
    waiting: list[tuple[float, RunId, TaskId]] = []
    found = None
    while state.retries and state.retries[0][0] <= now.mono_s:
        entry = heapq.heappop(state.retries)
        run = state.runs.get(entry[1])
        if run is None or entry[2] not in run.retrying or run.cancelling is not None:
            continue
        if run.tasks[entry[2]].due_s != entry[0]:  # of a retry before this one
            continue
        waiting.append(entry)
        free = run.max_tasks is None or run.places < run.max_tasks
        if not run.paused and run.id not in held and free and capacity.has_place(state, run.tasks[entry[2]].pool):
            found = _start(run, entry[2])
            break
    for entry in waiting:  # the event decides, not the heap: it is dropped when it comes up again
        heapq.heappush(state.retries, entry)
    return found


def _start(run: Run, task_id: TaskId) -> TaskStarted:
    task = run.tasks[task_id]
    return TaskStarted(run.id, run.workflow, task.id, task.attempt + 1)


def expired_approvals(state: State, now: Now) -> Iterator[TaskFailed]:
    """Yield the failure of each task that waited for approval too long."""
    while state.approvals and state.approvals[0][0] <= now.mono_s:
        due_s, run_id, name = heapq.heappop(state.approvals)
        run = state.runs.get(run_id)
        if run is not None and run.tasks[name].status == "paused" and run.tasks[name].due_s == due_s:
            facts, said = Facts(now.wall_s, now.wall_s), "nobody approved it in time"
            yield TaskFailed(run.id, run.workflow, name, 0, facts, "timeout", said, run.tasks[name].tolerant)


def due_workflows(state: State, now: Now) -> Iterator[WorkflowId]:
    """Yield the workflows whose scheduled time has come, and drop from the calendar what no longer holds."""
    while state.calendar and state.calendar[0][0] <= now.wall_s:
        due_s, workflow = heapq.heappop(state.calendar)
        known = state.workflows.get(workflow)
        if known is not None and known.next_s == due_s:
            yield workflow


def runs_in_turn(state: State, capacity: Capacity, preparing: Collection[RunId]) -> Iterator[RunId]:
    """Yield the queued runs that may start, oldest first: one a workflow at a time, except under `allow`."""
    free = capacity.max_runs - len(state.active) - len(preparing)
    busy = {state.runs[run].workflow for run in preparing if run in state.runs}
    for run_id in state.queued:
        if free <= 0:
            return
        run = state.runs[run_id]
        if run_id in preparing or run.cancelling is not None or run.paused:
            continue
        if run.policy != "allow" and (
            run.workflow in busy or any(other.active for other in state.live_runs(run.workflow))
        ):
            continue
        busy.add(run.workflow)
        free -= 1
        yield run_id


def overdue_runs(state: State, now: Now) -> Iterator[RunCancelling]:
    """Yield the end of each run whose time is up, and forget the deadlines that have passed."""
    while state.deadlines and state.deadlines[0][0] <= now.mono_s:
        deadline_s, run_id = heapq.heappop(state.deadlines)
        run = state.runs.get(run_id)
        if run is not None and run.cancelling is None and run.ended_s is None and run.deadline_s == deadline_s:
            yield RunCancelling(run.id, run.workflow, "failed", "the run timed out")


def next_wake_s(state: State, now: Now, capacity: Capacity) -> float | None:
    """Return the monotonic time after `now` at which a retry or a deadline comes up, or None.

    A retry that is due already waits for a task to end, as all of them do while every place is taken.
    """
    moments = [heap[0][0] for heap in (state.deadlines, state.approvals) if heap]
    if state.running_tasks < capacity.max_tasks:
        moments += _first_after(state.retries, now.mono_s)
    return min(moments, default=None)


def _first_after(heap: Sequence[tuple[float, RunId, TaskId]], moment_s: float) -> Iterator[float]:
    """Yield the times in a heap that can be the first after a moment, past what is due before them."""
    places = [0]
    while places:
        place = places.pop()
        if place < len(heap):
            if heap[place][0] > moment_s:
                yield heap[place][0]
            else:
                places += (2 * place + 1, 2 * place + 2)
