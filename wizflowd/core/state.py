"""What is true: the sum of the recorded events, and the one function that adds an event to it.

In: events, in the order of their commit. Out: workflows and the runs that are not archived, with indexes that make
every decision cost the same for the 10th and the 100,000th task. Nobody else changes anything here, and `apply`
never decides: an event that does not fit raises `IllegalTransitionError`.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal, assert_never

from msgspec import Struct, field

from wizflowd.core.attempt import Facts, Reason, RunId, TaskId
from wizflowd.core.calendar import next_time
from wizflowd.core.events import (
    DaemonDegraded,
    DaemonReady,
    DaemonRecovered,
    DaemonStarted,
    DaemonStopping,
    DefinitionAccepted,
    DefinitionRejected,
    Event,
    FirstScanEnded,
    FolderFound,
    FolderLost,
    Now,
    RunArchived,
    RunCancelling,
    RunEnded,
    RunFinishing,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    RunStatus,
    SchedulePassed,
    SpawnerJoined,
    TaskAdmitted,
    TaskAdopted,
    TaskCancelled,
    TaskEvent,
    TaskExpanded,
    TaskFailed,
    TaskPaused,
    TaskRetrying,
    TaskReused,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
    Trigger,
    WorkflowRemoved,
)
from wizflowd.core.observations import WorkflowId
from wizflowd.core.values import Json
from wizflowd.errors import IllegalTransitionError

TaskStatus = Literal["pending", "running", "retrying", "paused", "succeeded", "failed", "skipped", "cancelled"]
RunOn = Literal["success", "failure", "always"]
WAITING: frozenset[TaskStatus] = frozenset({"pending", "retrying", "paused"})
ENDED: frozenset[TaskStatus] = frozenset({"succeeded", "failed", "skipped", "cancelled"})

TRANSITIONS: Mapping[type[TaskEvent], tuple[frozenset[TaskStatus], TaskStatus]] = {
    TaskAdmitted: (frozenset({"pending", "paused"}), "pending"),
    TaskPaused: (frozenset({"pending"}), "paused"),
    TaskExpanded: (frozenset({"pending"}), "running"),
    TaskStarted: (frozenset({"pending", "retrying"}), "running"),
    TaskAdopted: (frozenset({"running"}), "running"),
    TaskSucceeded: (frozenset({"running"}), "succeeded"),
    TaskRetrying: (frozenset({"running"}), "retrying"),
    TaskFailed: (frozenset({"running", "pending", "paused"}), "failed"),
    TaskReused: (frozenset({"pending", "running"}), "succeeded"),
    TaskSkipped: (WAITING, "skipped"),
    TaskCancelled: (WAITING | {"running"}, "cancelled"),
}
"""The whole life of a task: event -> (from, to). A mail that need not be sent again is reused while running."""

_NONE: Mapping[str, Json] = {}
"""What most tasks have of outputs and values: one for all of them, for there may be 100,000. Never changed; not a
`MappingProxyType`, which has no JSON."""


class Ended(Struct, frozen=True, gc=False):
    """An attempt that has ended, as the results list it."""

    attempt: int
    facts: Facts
    error: str = ""


class TaskRun(Struct, gc=False):
    """One task in one run. `unmet` counts its needs that have not ended; `rank` is the longest path from here.

    `ready_s` is the wall time at which the last of them ended as its `run_on` asks. A task that became instances has
    them in `instances`; an instance has its `group`, its `index` in it and its `values`, and is `behind` while it waits
    in the `backlog` of its group for another to end.
    """

    id: TaskId
    needs: tuple[TaskId, ...]
    action: Literal["run", "reuse"]
    reason: str
    position: int
    rank: int = 0
    run_on: RunOn = "success"
    status: TaskStatus = "pending"
    unmet: int = 0
    attempt: int = 0
    lost: int = 0
    started_s: float | None = None
    attempts: tuple[Ended, ...] = ()
    outputs: Mapping[str, Json] = field(default_factory=lambda: _NONE)
    key: str = ""
    reused: bool = False
    reused_from: str = ""
    message: str = ""
    failure: Reason | None = None
    tolerated: bool = False
    blamed: bool = False
    due_s: float = 0.0
    ready_s: float = 0.0
    gated: bool = False
    final: bool = False
    child: bool = False
    priority: int = 0
    pool: str = ""
    tolerant: bool = False
    approved: bool = False
    approved_by: str = ""
    group: TaskId | None = None
    index: int = 0
    values: Mapping[str, Json] = field(default_factory=lambda: _NONE)
    instances: tuple[TaskId, ...] | None = None
    open_instances: int = 0
    backlog: list[TaskId] = []
    behind: bool = False

    @property
    def order(self) -> tuple[int, int, int]:
        """What comes first of all that may start: priority, then longest path, then place in the file."""
        return (-self.priority, -self.rank, self.position)

    @property
    def good(self) -> bool:
        """Whether what depends on it goes on as if nothing were wrong."""
        return self.status == "succeeded" or (self.status == "failed" and self.tolerated)

    @property
    def bad(self) -> bool:
        """Whether it failed, or was kept from running by a failure."""
        return self.status == "failed" or self.blamed


class Run(Struct):
    """One execution of a plan. The sets are indexes over `tasks`.

    `due` orders what may start, by pool: priority, then longest path. `gates` are the tasks about which something is
    decided before they start, `collected` those whose instances have all ended. `verdict` is how everything but
    `finally` ended. `places` counts attempts in flight that take a place.
    """

    id: RunId
    workflow: WorkflowId
    path: str
    stamp: str
    digest: str
    trigger: Trigger
    queued_s: float
    params: Mapping[str, Json] = {}
    incremental: bool = False
    retry_of: str = ""
    from_task: str = ""
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"] = "queued"
    reason: str = ""
    started_s: float | None = None
    timeout_s: float | None = None
    deadline_s: float | None = None
    ended_s: float | None = None
    archived: bool = False
    cancelling: RunStatus | None = None
    paused: bool = False
    fail_fast: bool = False
    max_tasks: int | None = None
    policy: str = "queue"
    on_remove: str = "finish"
    tasks: dict[TaskId, TaskRun] = {}
    dependents: dict[TaskId, list[TaskId]] = {}
    due: dict[str, list[tuple[int, int, int, TaskId]]] = {}
    ready: set[TaskId] = field(default_factory=set)
    running: set[TaskId] = field(default_factory=set)
    retrying: set[TaskId] = field(default_factory=set)
    waiting: set[TaskId] = field(default_factory=set)
    failed: set[TaskId] = field(default_factory=set)
    unsettled: set[TaskId] = field(default_factory=set)
    gates: set[TaskId] = field(default_factory=set)
    collected: set[TaskId] = field(default_factory=set)
    open: int = 0
    open_main: int = 0
    places: int = 0
    verdict: RunStatus | None = None
    parent: str = ""
    scheduled_s: float = 0.0

    @property
    def shown(self) -> str:
        """How it is, in the words of SPEC section 2."""
        return "paused" if self.paused and self.ended_s is None else self.status

    @property
    def active(self) -> bool:
        """Whether it has started and its results are not public yet."""
        return self.started_s is not None and not self.archived


class Workflow(Struct):
    """One definition file. `digest` is the one last acted upon, `good_stamp` the bytes in force.

    An empty `path`: it is not in the folder, and remembered for its runs alone. What was scheduled up to `scheduled_s`
    has been acted upon; `next_s` is the next time (both wall).
    """

    id: WorkflowId
    path: str
    stamp: str = ""
    digest: str = ""
    companions: str = ""
    good_stamp: str = ""
    problems: tuple[str, ...] = ()
    note: str = ""
    sources: tuple[str, ...] = ()
    dotenv: tuple[str, ...] = ()
    schedule: tuple[tuple[str, str, str], ...] = ()
    scheduled_s: float = 0.0
    next_s: float | None = None
    runs: dict[RunId, None] = {}
    last_run: RunId | None = None
    last_status: RunStatus | None = None
    last_ended_s: float | None = None
    last_skipped: int = 0
    last_tolerated: int = 0
    last_success_s: float | None = None


class State(Struct):
    """Everything that is true now.

    `startable` holds the runs with something to start, the least recently served first. `retries`, `approvals` (that
    run out) and `deadlines` are heaps by monotonic time, `calendar` is one by wall time; what no longer holds is
    dropped from them when it comes up. `pools` counts the attempts in flight by pool.
    """

    workflows: dict[WorkflowId, Workflow] = {}
    runs: dict[RunId, Run] = {}
    queued: dict[RunId, None] = {}
    active: dict[RunId, None] = {}
    startable: dict[RunId, None] = {}
    retries: list[tuple[float, RunId, TaskId]] = []
    approvals: list[tuple[float, RunId, TaskId]] = []
    deadlines: list[tuple[float, RunId]] = []
    calendar: list[tuple[float, WorkflowId]] = []
    running_tasks: int = 0
    pools: Counter[str] = field(default_factory=Counter)
    spawner: str = ""
    unavailable: str = ""
    seen_once: bool = False

    def live_runs(self, workflow: WorkflowId) -> Iterator[Run]:
        """Yield the runs of a workflow that are queued or not archived yet, oldest first."""
        known = self.workflows.get(workflow)
        return (self.runs[run] for run in (known.runs if known else ()))


def apply(state: State, event: Event, at_s: float, now: Now) -> None:
    """Add one event to the state: `at_s` is the wall time of its record, `now` places deadlines of another boot.

    Raises IllegalTransitionError, and changes nothing, when the event does not fit.
    """
    match event:
        case (
            TaskAdmitted()
            | TaskPaused()
            | TaskExpanded()
            | TaskStarted()
            | TaskAdopted()
            | TaskSucceeded()
            | TaskReused()
            | TaskRetrying()
            | TaskFailed()
            | TaskSkipped()
            | TaskCancelled()
        ):
            _apply_to_task(state, event, at_s, now)
        case RunQueued():
            _queue_run(state, event, at_s)
        case RunStarted():
            _start_run(state, event, at_s, now)
        case RunCancelling():
            _cancel_run(state, event)
        case RunPaused() | RunResumed():
            run = _run_of(state, event.run, event)
            if run.paused == isinstance(event, RunPaused) or run.ended_s is not None:
                raise IllegalTransitionError(f"cannot apply {type(event).__name__} to {run.id}: it is {run.shown}")
            run.paused = not run.paused
            _refresh_startable(state, run)
        case RunFinishing():
            _finish_run(state, event, at_s, now)
        case RunEnded():
            _end_run(state, event, at_s)
        case RunArchived():
            _archive_run(state, event)
        case DefinitionAccepted():
            _accept_definition(state, event, at_s)
        case SchedulePassed():
            known = state.workflows[event.workflow]
            known.scheduled_s = event.until_s
            plan_calendar(state, known)
        case DefinitionRejected():
            known = state.workflows.setdefault(event.workflow, Workflow(event.workflow, event.path))
            if not known.good_stamp:  # else the path stays that of what is in force
                known.path = event.path
            known.stamp, known.problems = event.stamp, event.problems
        case WorkflowRemoved():
            _forget_workflow(state, event.workflow)
        case SpawnerJoined():
            state.spawner = event.spawner
        case FirstScanEnded():
            state.seen_once = True
        case FolderLost():
            state.unavailable = event.reason
        case FolderFound():
            state.unavailable = ""
        case DaemonStarted() | DaemonReady() | DaemonStopping() | DaemonDegraded() | DaemonRecovered():
            pass
        case _:
            assert_never(event)


def _accept_definition(state: State, event: DefinitionAccepted, at_s: float) -> None:
    known = state.workflows.setdefault(event.workflow, Workflow(event.workflow, event.path))
    known.path, known.problems, known.note = event.path, (), event.note
    known.stamp = known.good_stamp = event.stamp
    known.digest, known.companions = event.digest, event.companions
    known.sources, known.dotenv = event.sources, event.dotenv
    if known.schedule != event.schedule:
        known.schedule, known.scheduled_s = event.schedule, at_s
    plan_calendar(state, known)


def plan_calendar(state: State, workflow: Workflow) -> None:
    """Work out when a workflow is due next: an index over its schedule."""
    workflow.next_s = next_time(workflow.schedule, workflow.scheduled_s) if workflow.path else None
    if workflow.next_s is not None:
        heapq.heappush(state.calendar, (workflow.next_s, workflow.id))


def _run_of(state: State, run: RunId, event: Event) -> Run:
    if run not in state.runs:
        raise IllegalTransitionError(f"cannot apply {type(event).__name__}: no run {run}")
    return state.runs[run]


def _queue_run(state: State, event: RunQueued, at_s: float) -> None:
    if event.run in state.runs:
        raise IllegalTransitionError(f"cannot queue {event.run}: it exists")
    state.runs[event.run] = Run(
        id=event.run,
        workflow=event.workflow,
        path=event.path,
        stamp=event.stamp,
        digest=event.digest,
        trigger=event.trigger,
        queued_s=at_s,
        params=event.params,
        incremental=event.incremental,
        retry_of=event.retry_of,
        from_task=event.from_task,
        policy=event.policy,
        on_remove=event.on_remove,
        parent=event.parent,
        scheduled_s=event.scheduled_s,
    )
    state.queued[event.run] = None
    known = state.workflows.setdefault(event.workflow, Workflow(event.workflow, path=""))
    known.runs[event.run] = None


def _start_run(state: State, event: RunStarted, at_s: float, now: Now) -> None:
    run = _run_of(state, event.run, event)
    if run.status != "queued":
        raise IllegalTransitionError(f"cannot start {run.id}: it is {run.status}")
    run.status, run.started_s = "running", at_s
    run.fail_fast, run.max_tasks, run.timeout_s = event.fail_fast, event.max_tasks, event.timeout_s
    _bound(state, run, _in_boot(event.mono_s, event.boot, now))
    for position, line in enumerate(event.plan):
        run.tasks[line.task] = TaskRun(
            line.task,
            line.needs,
            line.action,
            line.reason,
            position,
            unmet=len(line.needs),
            run_on=line.run_on,
            rank=line.rank,
            gated=line.gated,
            final=line.final,
            child=line.child,
            priority=line.priority,
            pool=line.pool,
            tolerant=line.tolerated,
        )
        for need in line.needs:
            run.dependents.setdefault(need, []).append(line.task)
    run.open = len(run.tasks)
    run.open_main = sum(not task.final for task in run.tasks.values())
    for task in run.tasks.values():
        if not task.unmet and not task.final:
            _make_ready(run, task, at_s)
    _refresh_startable(state, run)
    del state.queued[run.id]
    state.active[run.id] = None


def _in_boot(mono_s: float, boot: str, now: Now) -> float:
    """Return what a moment of some boot is in this one: of an earlier boot, the begin of this, where its clock is 0.

    So nothing is due too early, and a second start in this boot sets back nothing.
    """
    return mono_s if boot == now.boot else 0.0


def _bound(state: State, run: Run, since_s: float) -> None:
    if run.timeout_s is not None:
        run.deadline_s = since_s + run.timeout_s
        heapq.heappush(state.deadlines, (run.deadline_s, run.id))


def _make_ready(run: Run, task: TaskRun, at_s: float) -> None:
    """All its needs have ended: it may start if they ended as its `run_on` asks, else it is for `finish` to judge."""
    needs = [run.tasks[need] for need in task.needs]
    match task.run_on:
        case _ if task.final:
            wanted = {"always": run.verdict, "success": "succeeded", "failure": "failed"}[task.run_on]
            fits = run.verdict == wanted and all(need.good for need in needs)
        case "always":
            fits = True
        case "failure":
            fits = any(need.bad for need in needs)
        case "success":
            fits = all(need.good for need in needs)
        case _:
            assert_never(task.run_on)
    if not fits:
        run.unsettled.add(task.id)
        return
    run.unsettled.discard(task.id)
    task.ready_s = at_s
    if task.gated and task.action == "run":
        run.gates.add(task.id)
    else:
        _admit(run, task)


def _admit(run: Run, task: TaskRun) -> None:
    run.ready.add(task.id)
    heapq.heappush(run.due.setdefault(task.pool, []), (*task.order, task.id))


def _expand(run: Run, task: TaskRun, event: TaskExpanded, at_s: float) -> None:
    task.instances = tuple(line.task for line in event.instances)
    task.open_instances = len(task.instances)
    run.open += len(task.instances)
    run.open_main += 0 if task.final else len(task.instances)
    for line in event.instances:
        run.tasks[line.task] = TaskRun(
            line.task,
            (),
            "run",
            task.reason,
            task.position,
            rank=task.rank,
            final=task.final,
            child=task.child,
            priority=task.priority,
            pool=task.pool,
            group=task.id,
            index=line.index,
            values=line.values,
            ready_s=at_s,
        )
    started = task.instances[: event.max_parallel]
    task.backlog = [*reversed(task.instances[len(started) :])]
    for name in started:
        _admit(run, run.tasks[name])
    for name in task.backlog:
        run.tasks[name].behind = True
    if not task.instances:
        run.collected.add(task.id)


def _cancel_run(state: State, event: RunCancelling) -> None:
    run = _run_of(state, event.run, event)
    if run.cancelling is not None or run.ended_s is not None:
        raise IllegalTransitionError(f"cannot cancel {run.id}: it is {run.status}, or being cancelled already")
    run.cancelling, run.reason = event.status, event.reason
    run.paused = False  # what is being ended is held no more: `finally` has to run
    state.startable.pop(run.id, None)


def _finish_run(state: State, event: RunFinishing, at_s: float, now: Now) -> None:
    run = _run_of(state, event.run, event)
    if run.open_main or run.verdict is not None or run.ended_s is not None:
        raise IllegalTransitionError(f"cannot finish {run.id}: {run.open_main} tasks are open, it is {run.status}")
    run.verdict, run.reason, run.cancelling = event.status, event.reason, None
    if event.boot:  # a record of before it had one bounds nothing
        _bound(state, run, _in_boot(event.mono_s, event.boot, now))
    for task in run.tasks.values():
        if task.final and not task.unmet:
            _make_ready(run, task, at_s)
    _refresh_startable(state, run)


def _end_run(state: State, event: RunEnded, at_s: float) -> None:
    run = _run_of(state, event.run, event)
    if run.open or run.ended_s is not None:
        raise IllegalTransitionError(f"cannot end {run.id}: {run.open} tasks are open, it is {run.status}")
    run.status, run.reason, run.ended_s = event.status, event.reason, at_s
    state.queued.pop(run.id, None)
    state.startable.pop(run.id, None)


def _archive_run(state: State, event: RunArchived) -> None:
    run = _run_of(state, event.run, event)
    if run.ended_s is None:
        raise IllegalTransitionError(f"cannot archive {run.id}: it has not ended")
    run.archived = True
    state.active.pop(run.id, None)
    del state.runs[run.id]
    known = state.workflows.get(run.workflow)
    if known is not None:
        known.runs.pop(run.id, None)
        if run.started_s is not None or event.status == "failed":
            known.last_run, known.last_status, known.last_ended_s = run.id, event.status, run.ended_s
            known.last_skipped, known.last_tolerated = len(event.skipped), len(event.tolerated)
        if event.status == "succeeded":
            known.last_success_s = run.ended_s
        if not known.path and not known.runs:
            del state.workflows[known.id]


def _forget_workflow(state: State, workflow: WorkflowId) -> None:
    known = state.workflows.get(workflow)
    if known is None:
        raise IllegalTransitionError(f"cannot remove {workflow}: it is not known")
    if known.runs:  # remembered for its runs alone until the last of them is archived
        state.workflows[workflow] = Workflow(workflow, path="", runs=known.runs)
    else:
        del state.workflows[workflow]


def _apply_to_task(state: State, event: TaskEvent, at_s: float, now: Now) -> None:
    run = _run_of(state, event.run, event)
    task = run.tasks.get(event.task)
    allowed, status = TRANSITIONS[type(event)]
    if task is None or task.status not in allowed or run.ended_s is not None:
        found = "no such task" if task is None else f"it is {task.status}, the run {run.status}"
        raise IllegalTransitionError(f"cannot apply {type(event).__name__} to {event.run}/{event.task}: {found}")
    _leave(state, run, task)
    task.status = status
    match event:
        case TaskAdmitted():
            task.approved = bool(event.approved_by)
            if task.approved:
                task.approved_by = event.approved_by
                run.gates.add(task.id)
            else:
                _admit(run, task)
        case TaskPaused():
            _wait_for_approval(state, run, task, event, now)
        case TaskExpanded():
            _expand(run, task, event, at_s)
        case TaskStarted():
            task.attempt, task.started_s = event.attempt, at_s
            state.startable.pop(run.id, None)  # served: back to the end of the row
        case TaskSucceeded():
            task.outputs, task.key = event.outputs or _NONE, event.key
            if event.attempt:
                task.attempts += (Ended(event.attempt, event.facts),)
        case TaskReused():
            task.outputs, task.key, task.reused_from = event.outputs or _NONE, event.key, event.reused_from
            task.reused, task.reason = True, event.reason
        case TaskRetrying():
            task.attempts += (Ended(event.attempt, event.facts, event.message),)
            task.due_s = event.not_before_s if event.boot == now.boot else event.delay_s  # from the begin of this boot
            heapq.heappush(state.retries, (task.due_s, run.id, task.id))
            task.lost += event.reason == "lost"
        case TaskFailed():
            if event.attempt:
                task.attempts += (Ended(event.attempt, event.facts, event.message),)
            task.message, task.failure, task.tolerated = event.message, event.reason, event.tolerated
        case TaskSkipped():
            task.message, task.blamed = event.reason, event.blamed
        case TaskCancelled():
            task.message = event.reason
            if event.facts is not None:
                task.attempts += (Ended(event.attempt, event.facts, event.reason),)
        case TaskAdopted():
            pass
        case _:
            assert_never(event)
    _enter(state, run, task, at_s)


def _wait_for_approval(state: State, run: Run, task: TaskRun, event: TaskPaused, now: Now) -> None:
    if event.timeout_s is not None:
        task.due_s = _in_boot(event.mono_s, event.boot, now) + event.timeout_s
        heapq.heappush(state.approvals, (task.due_s, run.id, task.id))


def _leave(state: State, run: Run, task: TaskRun) -> None:
    run.gates.discard(task.id)
    run.collected.discard(task.id)
    run.ready.discard(task.id)
    run.retrying.discard(task.id)
    run.waiting.discard(task.id)
    run.unsettled.discard(task.id)
    if task.status == "running" and task.instances is None:
        run.running.discard(task.id)
        _count(state, run, task, -1)


def _count(state: State, run: Run, task: TaskRun, change: int) -> None:
    """Count an attempt in flight; one that is a run of another workflow takes no place."""
    if not task.child:
        state.running_tasks += change
        run.places += change
        if task.pool:
            state.pools[task.pool] += change


def _enter(state: State, run: Run, task: TaskRun, at_s: float) -> None:
    if task.status == "running":
        if task.instances is None:
            run.running.add(task.id)
            _count(state, run, task, 1)
    elif task.status == "retrying":
        run.retrying.add(task.id)
    elif task.status == "paused":
        run.waiting.add(task.id)
    elif task.status in ENDED:
        run.open -= 1
        run.open_main -= not task.final
        if task.status == "failed":
            run.failed.add(task.id)
        if task.group is not None:
            _end_instance(run, task, run.tasks[task.group])
        for name in run.dependents.get(task.id, ()):
            dependent = run.tasks[name]
            dependent.unmet -= 1
            if dependent.status == "pending":
                if not dependent.unmet:
                    _make_ready(run, dependent, at_s)
                elif dependent.run_on == "success" and not task.good:
                    run.unsettled.add(dependent.id)
    _refresh_startable(state, run)


def _end_instance(run: Run, instance: TaskRun, group: TaskRun) -> None:
    group.open_instances -= 1
    while group.backlog and not instance.behind:  # one from behind gives no place back: it had none
        following = run.tasks[group.backlog.pop()]
        if following.status == "pending":
            following.behind = False
            _admit(run, following)
            break
    if not group.open_instances:
        run.collected.add(group.id)


def _refresh_startable(state: State, run: Run) -> None:
    for pool, heap in list(run.due.items()):
        while heap and heap[0][3] not in run.ready:
            heapq.heappop(heap)
        if not heap:
            del run.due[pool]
    full = run.max_tasks is not None and run.places >= run.max_tasks
    if run.ready and not full and not run.paused and run.cancelling is None:
        state.startable.setdefault(run.id)
    else:
        state.startable.pop(run.id, None)
