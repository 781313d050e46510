"""What holds in every history of runs, whatever ends how, whoever cancels and whenever the daemon is killed."""

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.core.histories import CHOICES, Choices, History
from tests.core.works import CAPACITIES, POOL, WORKS, Work
from wizflowd.core.attempt import Facts, RunId, TaskId
from wizflowd.core.events import (
    Event,
    Now,
    PlanLine,
    RunArchived,
    RunCancelling,
    RunEnded,
    RunFinishing,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    TaskAdmitted,
    TaskAdopted,
    TaskCancelled,
    TaskExpanded,
    TaskFailed,
    TaskPaused,
    TaskRetrying,
    TaskReused,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
)
from wizflowd.core.schedule import Capacity, next_start, next_wake_s
from wizflowd.core.state import ENDED, TRANSITIONS, Run, State, TaskRun, apply
from wizflowd.errors import IllegalTransitionError

HISTORIES = settings(
    max_examples=40,
    deadline=None,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SEARCHING = settings(HISTORIES, max_examples=150)  # for what seldom comes together
pytestmark = pytest.mark.timeout(400)  # of a failing one, most goes into finding the smallest example
Place = tuple[RunId, TaskId]


@dataclass(slots=True)
class Ledger:
    """What the events alone say, told one by one: no state, no index."""

    status: dict[Place, str] = field(default_factory=dict)
    bad: set[Place] = field(default_factory=set)
    good: set[Place] = field(default_factory=set)
    running: set[Place] = field(default_factory=set)
    untolerated: dict[RunId, list[TaskId]] = field(default_factory=lambda: defaultdict(list))
    paused: set[RunId] = field(default_factory=set)
    cancelling: dict[RunId, RunCancelling] = field(default_factory=dict)
    started: dict[RunId, RunStarted] = field(default_factory=dict)
    finishing: dict[RunId, RunFinishing] = field(default_factory=dict)
    ended: dict[RunId, RunEnded] = field(default_factory=dict)
    group_of: dict[Place, TaskId] = field(default_factory=dict)
    max_parallel: dict[Place, int | None] = field(default_factory=dict)

    def told(self, event: Event) -> None:
        match event:
            case RunStarted():
                self.started[event.run] = event
                self.status |= {(event.run, line.task): "pending" for line in event.plan}
            case RunPaused():
                self.paused.add(event.run)
            case RunResumed():
                self.paused.remove(event.run)
            case RunCancelling():
                self.cancelling[event.run] = event
                self.paused.discard(event.run)
            case RunFinishing():
                self.finishing[event.run] = event
                self.cancelling.pop(event.run, None)
            case RunEnded():
                self.ended[event.run] = event
            case TaskPaused():
                self._is(event.run, event.task, "paused")
            case TaskAdmitted():
                self._is(event.run, event.task, "pending")
            case TaskExpanded():
                self.status[event.run, event.task] = "running"  # without being an attempt
                self.max_parallel[event.run, event.task] = event.max_parallel
                for instance in event.instances:
                    self.status[event.run, instance.task] = "pending"
                    self.group_of[event.run, instance.task] = event.task
            case TaskStarted() | TaskAdopted():
                self._is(event.run, event.task, "running")
            case TaskRetrying():
                self._is(event.run, event.task, "retrying")
            case TaskSucceeded() | TaskReused():
                self._is(event.run, event.task, "succeeded")
                self.good.add((event.run, event.task))
            case TaskFailed():
                self._is(event.run, event.task, "failed")
                self.bad.add((event.run, event.task))
                if event.tolerated:
                    self.good.add((event.run, event.task))
                elif (event.run, event.task) not in self.group_of:
                    self.untolerated[event.run].append(event.task)
            case TaskSkipped():
                self._is(event.run, event.task, "skipped")
                if event.blamed:
                    self.bad.add((event.run, event.task))
            case TaskCancelled():
                self._is(event.run, event.task, "cancelled")

    def _is(self, run: RunId, task: TaskId, status: str) -> None:
        self.status[run, task] = status
        if status == "running":
            self.running.add((run, task))
        else:
            self.running.discard((run, task))

    def line(self, run: RunId, task: TaskId) -> PlanLine:
        """Return the line of a task, or of the task that an instance belongs to."""
        return next(line for line in self.started[run].plan if line.task == self.group_of.get((run, task), task))

    def fits(self, run: RunId, task: TaskId) -> bool:
        """Return whether the needs of a task have ended as its `run_on` asks."""
        line = self.line(run, task)
        needs = [(run, need) for need in line.needs]
        if any(self.status[need] not in ENDED for need in needs):
            return False
        if line.final:
            verdict = self.finishing[run].status if run in self.finishing else ""
            wanted = {"success": ["succeeded"], "failure": ["failed"], "always": ["succeeded", "failed", "cancelled"]}
            return verdict in wanted[line.run_on] and self.good.issuperset(needs)
        match line.run_on:
            case "success":
                return self.good.issuperset(needs)
            case "failure":
                return not self.bad.isdisjoint(needs)
            case "always":
                return True

    def attempts(self) -> list[Place]:
        """Return the attempts in flight that take a place."""
        return [(run, task) for run, task in self.running if not self.line(run, task).child]


def ledger_of(history: History) -> Ledger:
    ledger = Ledger()
    for _, event in history.records:
        ledger.told(event)
    return ledger


def played(works: list[Work], capacity: Capacity, choices: Choices) -> History:
    history = History(works, capacity, choices)
    history.play()
    return history


@HISTORIES
@given(works=WORKS, capacity=CAPACITIES, choices=CHOICES)
def test_every_run_comes_to_an_end_and_leaves_nothing_behind(
    works: list[Work], capacity: Capacity, choices: Choices
) -> None:
    history = played(works, capacity, choices)

    ledger = ledger_of(history)
    assert ledger.ended.keys() == history.works_of.keys()
    assert len(history.works_of) == len(works)
    assert set(ledger.status.values()) <= ENDED
    state = history.state
    assert (state.runs, state.queued, state.active, state.startable, state.running_tasks) == ({}, {}, {}, {}, 0)
    assert history.in_flight == {}


@HISTORIES
@given(works=WORKS, capacity=CAPACITIES, choices=CHOICES)
def test_no_task_succeeds_twice_or_is_touched_after_its_end(
    works: list[Work], capacity: Capacity, choices: Choices
) -> None:
    history = played(works, capacity, choices)

    ends: Counter[Place] = Counter()
    for _, event in history.records:
        if place := place_of(event):
            assert ends[place] == 0, f"{event} comes after the end of its task"
            ends[place] += isinstance(event, TaskSucceeded | TaskReused | TaskFailed | TaskSkipped | TaskCancelled)
    ended: set[RunId] = set()
    for _, event in history.records:
        assert getattr(event, "run", None) not in ended or isinstance(event, RunArchived)
        if isinstance(event, RunEnded):
            ended.add(event.run)


def place_of(event: Event) -> Place | None:
    task = getattr(event, "task", None)
    return (event.run, task) if task is not None else None  # type: ignore[union-attr]


@HISTORIES
@given(works=WORKS, capacity=CAPACITIES, choices=CHOICES)
def test_no_task_starts_before_its_needs_have_ended_as_its_run_on_asks(
    works: list[Work], capacity: Capacity, choices: Choices
) -> None:
    history = played(works, capacity, choices)

    ledger = Ledger()
    for _, event in history.records:
        if isinstance(event, TaskStarted):
            assert ledger.fits(event.run, event.task), event
            assert event.run not in ledger.cancelling.keys() | ledger.paused
        ledger.told(event)


@HISTORIES
@given(works=WORKS, capacity=CAPACITIES, choices=CHOICES)
def test_a_task_is_skipped_only_for_its_needs_or_its_run(
    works: list[Work], capacity: Capacity, choices: Choices
) -> None:
    history = played(works, capacity, choices)

    ledger = Ledger()
    for _, event in history.records:
        by_its_condition = isinstance(event, TaskSkipped) and event.reason.startswith("when: ")
        if isinstance(event, TaskSkipped) and event.run not in ledger.cancelling and not by_its_condition:
            assert not ledger.fits(event.run, event.task), event
        ledger.told(event)


@SEARCHING
@given(works=WORKS, capacity=CAPACITIES, choices=CHOICES)
def test_no_more_is_under_way_at_once_than_was_allowed(works: list[Work], capacity: Capacity, choices: Choices) -> None:
    history = played(works, capacity, choices)

    ledger, active = Ledger(), dict[RunId, Work]()
    for _, event in history.records:
        ledger.told(event)
        if isinstance(event, TaskStarted):
            places = ledger.attempts()
            assert len(places) <= capacity.max_tasks
            max_tasks = history.works_of[event.run].max_tasks
            assert max_tasks is None or sum(run == event.run for run, _ in places) <= max_tasks
            in_pool = sum(ledger.line(*place).pool == POOL for place in places)
            assert in_pool <= capacity.pools.get(POOL, capacity.max_tasks)
            group = ledger.group_of.get((event.run, event.task))
            if group is not None and (bound := ledger.max_parallel[event.run, group]) is not None:
                brothers = [place for place in ledger.running if ledger.group_of.get(place) == group]
                assert sum(run == event.run for run, _ in brothers) <= bound
        if isinstance(event, RunStarted):
            work = history.works_of[event.run]
            alone = [other.workflow for other in active.values() if not other.side_by_side]
            assert work.side_by_side or work.workflow not in alone
            active[event.run] = work
            assert len(active) <= capacity.max_runs
        if isinstance(event, RunArchived):
            active.pop(event.run, None)


@HISTORIES
@given(works=WORKS, capacity=CAPACITIES, choices=CHOICES)
def test_nothing_waits_that_may_start(works: list[Work], capacity: Capacity, choices: Choices) -> None:
    def look(history: History) -> None:
        state, now = history.state, history.now
        assert next_start(state, now, capacity) is None
        wake_s = next_wake_s(state, now, capacity)
        assert wake_s is None or wake_s > now.mono_s, "the engine would look again at once, for ever"
        if state.running_tasks >= capacity.max_tasks:
            return
        for run in state.runs.values():
            full = run.max_tasks is not None and len(places_in(run)) >= run.max_tasks
            if run.cancelling is None and not run.paused:
                assert run.gates == run.collected == set()
                due = {task.id for task in retrying_in(run) if task.due_s <= now.mono_s}
                free = {name for name in due | ready_in(run) if capacity.has_place(state, run.tasks[name].pool)}
                assert full or not free

    History(works, capacity, choices, on_turn=look).play()


@HISTORIES
@given(works=WORKS, capacity=CAPACITIES, choices=CHOICES)
def test_a_retry_comes_no_sooner_than_recorded_and_no_oftener_than_the_limit(
    works: list[Work], capacity: Capacity, choices: Choices
) -> None:
    due_s: dict[Place, float] = {}
    attempts: Counter[Place] = Counter()
    failed: Counter[Place] = Counter()

    def watch(history: History, event: Event) -> None:
        place = place_of(event)
        if isinstance(event, TaskRetrying) and place is not None:
            assert event.not_before_s == history.now.mono_s + event.delay_s
            due_s[place] = history.now.wall_s + event.delay_s  # the wall clock outlives the boot
            failed[place] += event.reason != "lost"
            assert failed[place] <= history.works_of[event.run].step(event.task).policy.retry.limit
        if isinstance(event, TaskStarted) and place is not None:
            assert history.now.wall_s > due_s.get(place, 0.0) - 1e-6
            attempts[place] += 1
            assert event.attempt == attempts[place]

    def replayed(history: History) -> None:
        # what was decided and never recorded has not happened
        attempts.clear()
        failed.clear()
        for _, event in history.records:
            if isinstance(event, TaskStarted):
                attempts[event.run, event.task] += 1
            if isinstance(event, TaskRetrying):
                failed[event.run, event.task] += event.reason != "lost"

    History(works, capacity, choices, on_event=watch, on_turn=replayed).play()


@HISTORIES
@given(works=WORKS, capacity=CAPACITIES, choices=CHOICES)
def test_a_run_does_not_outlive_its_time(works: list[Work], capacity: Capacity, choices: Choices) -> None:
    begun: dict[RunId, Now] = {}
    counted_from: dict[RunId, tuple[float, int]] = {}

    def look(history: History) -> None:
        now = history.now
        for run in history.state.runs.values():
            timeout_s = history.works_of[run.id].timeout_s
            if timeout_s is None or run.started_s is None or run.ended_s is not None:
                continue
            since_s, kills = counted_from.setdefault(run.id, (now.mono_s, history.kills))
            if kills != history.kills and now.boot != begun.setdefault(run.id, now).boot:
                since_s, _ = counted_from[run.id] = (now.mono_s, history.kills)  # its time begins again, once a boot
                begun[run.id] = now
            begun.setdefault(run.id, now)
            if now.mono_s >= since_s + timeout_s:
                assert run.cancelling is not None or run.verdict is not None, f"{run.id} is over its time"

    history = History(works, capacity, choices, on_turn=look)
    history.play()
    for _, event in history.records:
        if isinstance(event, RunEnded) and event.reason == "the run timed out":
            assert event.status == "failed"
            assert history.works_of[event.run].timeout_s is not None


@HISTORIES
@given(works=WORKS, capacity=CAPACITIES, choices=CHOICES)
def test_a_run_fails_of_what_was_not_tolerated_and_of_nothing_else(
    works: list[Work], capacity: Capacity, choices: Choices
) -> None:
    history = played(works, capacity, choices)

    ledger = Ledger()
    for _, event in history.records:
        if isinstance(event, RunFinishing):
            cancelled = ledger.cancelling.get(event.run)
            verdict = "failed" if ledger.untolerated[event.run] else "succeeded"
            assert event.status == (cancelled.status if cancelled is not None else verdict)
        ledger.told(event)
    for run, ended in ledger.ended.items():
        main = ledger.finishing.get(run)
        if run in ledger.cancelling:
            assert (ended.status, ended.reason) == (ledger.cancelling[run].status, ledger.cancelling[run].reason)
        elif main is not None and main.status != "succeeded":
            assert (ended.status, ended.reason) == (main.status, main.reason)
        elif run in ledger.started:
            assert ended.status == ("failed" if ledger.untolerated[run] else "succeeded")
        else:
            assert ended.status in ("failed", "cancelled")


@HISTORIES
@given(works=WORKS, capacity=CAPACITIES, choices=CHOICES)
def test_the_records_give_the_state_back(works: list[Work], capacity: Capacity, choices: Choices) -> None:
    def look(history: History) -> None:
        assert comparable(history.replay(history.now)) == comparable(history.state)

    def look_now_and_then(history: History) -> None:
        if len(history.records) % 5 == 0:
            look(history)

    history = History(works, capacity, choices, on_turn=look_now_and_then)
    history.play()
    look(history)
    elsewhere = history.replay(Now(9e9, 1.0, "another boot"))
    assert comparable(elsewhere) == comparable(history.state)


def comparable(state: State) -> State:
    """Return a copy without what need not be equal: heap entries that no longer hold, times of another boot."""
    copied = copy.deepcopy(state)
    copied.retries, copied.approvals, copied.deadlines = [], [], []
    for run in copied.runs.values():
        run.deadline_s = None
        for task in run.tasks.values():
            task.due_s = 0.0
    return copied


@HISTORIES
@given(works=WORKS, capacity=CAPACITIES, choices=CHOICES)
def test_the_indexes_equal_those_made_from_scratch(works: list[Work], capacity: Capacity, choices: Choices) -> None:
    History(works, capacity, choices, on_event=lambda history, _: check_indexes(history.state)).play()


def check_indexes(state: State) -> None:
    runs = state.runs.values()
    assert state.running_tasks == sum(len(places_in(run)) for run in runs)
    assert +state.pools == Counter(task.pool for run in runs for task in places_in(run) if task.pool)
    assert [*state.queued] == [run.id for run in runs if run.status == "queued"]
    assert {*state.active} == {run.id for run in runs if run.started_s is not None and not run.archived}
    assert {*state.startable} == {run.id for run in runs if is_startable(run)}
    listed = [(known.id, [*known.runs]) for known in state.workflows.values()]
    assert listed == [(known, [run.id for run in runs if run.workflow == known]) for known in state.workflows]
    for run in runs:
        check_run(run)
        if run.cancelling is None and run.ended_s is None:
            assert {(task.due_s, run.id, task.id) for task in retrying_in(run)} <= {*state.retries}
            paused = {(task.due_s, run.id, task.id) for task in run.tasks.values() if task.status == "paused"}
            assert {entry for entry in paused if entry[0]} <= {*state.approvals}
            assert run.verdict or run.deadline_s is None or (run.deadline_s, run.id) in state.deadlines
    for heap in (state.retries, state.approvals, state.deadlines):
        assert all(heap[(place - 1) // 2] <= heap[place] for place in range(1, len(heap)))


def check_run(run: Run) -> None:
    tasks = run.tasks.values()
    assert run.dependents == {
        name: dependents for name in run.tasks if (dependents := [task.id for task in tasks if name in task.needs])
    }
    assert {task.id: task.unmet for task in tasks} == {task.id: len(unmet_by(run, task)) for task in tasks}
    assert run.open == sum(task.status not in ENDED for task in tasks)
    assert run.open_main == sum(task.status not in ENDED and not task.final for task in tasks)
    assert run.places == len(places_in(run))
    assert run.ready | run.gates == ready_in(run)
    assert run.ready & run.gates == set()
    assert all(run.tasks[name].gated and run.tasks[name].action == "run" for name in run.gates)
    assert run.running == {task.id for task in tasks if task.status == "running" and task.instances is None}
    assert run.retrying == {task.id for task in retrying_in(run)}
    assert run.failed == {task.id for task in tasks if task.status == "failed"}
    assert run.unsettled == {task.id for task in tasks if task.status == "pending" and is_hopeless(run, task)}
    for pool in {task.pool for task in tasks}:
        ready = (run.tasks[name] for name in run.ready if run.tasks[name].pool == pool)
        due = sorted((-task.priority, -task.rank, task.position, task.id) for task in ready)
        assert run.due.get(pool, [])[:1] == due[:1]
        assert {*due} <= {*run.due.get(pool, [])}
    for group in (task for task in tasks if task.instances is not None):
        open_ones = [name for name in group.instances or () if run.tasks[name].status not in ENDED]
        assert group.open_instances == len(open_ones)
        assert (group.id in run.collected) == (group.status == "running" and not open_ones)
        behind = {name for name in open_ones if run.tasks[name].behind}
        assert behind == {name for name in group.backlog if name in open_ones}
        assert not behind or group.status == "running"


def places_in(run: Run) -> list[TaskRun]:
    """Return the tasks with an attempt in flight that takes a place."""
    attempts = (task for task in run.tasks.values() if task.status == "running" and task.instances is None)
    return [task for task in attempts if not task.child]


def retrying_in(run: Run) -> list[TaskRun]:
    return [task for task in run.tasks.values() if task.status == "retrying"]


def unmet_by(run: Run, task: TaskRun) -> list[TaskId]:
    return [need for need in task.needs if run.tasks[need].status not in ENDED]


def is_fit(run: Run, task: TaskRun) -> bool:
    needs = [run.tasks[need] for need in task.needs]
    good = [need.status == "succeeded" or (need.status == "failed" and need.tolerated) for need in needs]
    bad = [need.status == "failed" or need.blamed for need in needs]
    if task.group is not None:
        return True
    if task.final:
        asked = {"success": "succeeded", "failure": "failed", "always": run.verdict}[task.run_on]
        return all(good) and run.verdict == asked
    return {"success": all(good), "failure": any(bad), "always": True}[task.run_on]


def ready_in(run: Run) -> set[TaskId]:
    """Return what waits for nothing but a place, or for what is decided at its gate."""
    waiting = (task for task in run.tasks.values() if task.status == "pending" and not task.behind)
    timely = (task for task in waiting if not task.final or run.verdict is not None)
    return {task.id for task in timely if not unmet_by(run, task) and is_fit(run, task)}


def is_hopeless(run: Run, task: TaskRun) -> bool:
    """Return whether a pending task can no longer become ready."""
    if task.group is not None or (task.final and run.verdict is None):
        return False
    if not unmet_by(run, task):
        return not is_fit(run, task)
    ended = (run.tasks[need] for need in task.needs if run.tasks[need].status in ENDED)
    return task.run_on == "success" and any(
        need.status != "succeeded" and not (need.status == "failed" and need.tolerated) for need in ended
    )


def is_startable(run: Run) -> bool:
    full = run.max_tasks is not None and len(places_in(run)) >= run.max_tasks
    return bool(run.ready) and not full and not run.paused and run.cancelling is None


@HISTORIES
@given(works=WORKS, capacity=CAPACITIES, choices=CHOICES, turn=st.integers(1, 60))
def test_an_event_that_does_not_fit_is_refused_and_changes_nothing(
    works: list[Work], capacity: Capacity, choices: Choices, turn: int
) -> None:
    turns = 0

    def look(history: History) -> None:
        nonlocal turns
        turns += 1
        if turns == turn:
            check_refusals(history.state, history.now)

    History(works, capacity, choices, on_turn=look).play()


def check_refusals(state: State, now: Now) -> None:
    before = copy.deepcopy(state)
    for event in misfits(state):
        with pytest.raises(IllegalTransitionError):
            apply(state, event, now.wall_s, now)
        assert state == before, event


def misfits(state: State) -> Iterator[Event]:
    """Yield every kind of event that no state could take, for every run and task there is, and for one there is not."""
    nobody = (RunId("nobody"), "w0")
    yield RunStarted(*nobody, ())  # type: ignore[arg-type]
    yield RunCancelling(*nobody, "cancelled", "")  # type: ignore[arg-type]
    yield RunEnded(*nobody, "succeeded")  # type: ignore[arg-type]
    yield RunArchived(*nobody, "succeeded")  # type: ignore[arg-type]
    for kind in TRANSITIONS:
        yield task_event(kind, RunId("nobody"), TaskId("t0"))
    for run in state.runs.values():
        yield RunQueued(run.id, run.workflow, "w.yaml", "stamp", "digest", "manual")
        if run.status != "queued":
            yield RunStarted(run.id, run.workflow, ())
        if run.open or run.ended_s is not None:
            yield RunEnded(run.id, run.workflow, "succeeded")
        if run.open_main or run.verdict is not None or run.ended_s is not None:
            yield RunFinishing(run.id, run.workflow, "succeeded")
        if run.ended_s is None:
            yield RunArchived(run.id, run.workflow, "succeeded")
        if run.ended_s is not None or run.cancelling is not None:
            yield RunCancelling(run.id, run.workflow, "failed", "again")
        if run.ended_s is not None or run.paused:
            yield RunPaused(run.id, run.workflow)
        if run.ended_s is not None or not run.paused:
            yield RunResumed(run.id, run.workflow)
        for kind, (allowed, _) in TRANSITIONS.items():
            yield task_event(kind, run.id, TaskId("no-such-task"))
            for task in run.tasks.values():
                if task.status not in allowed:
                    yield task_event(kind, run.id, task.id)


def task_event(kind: type[Any], run: RunId, task: TaskId) -> Event:
    """Return an event of a kind, with something in every field."""
    values = {"run": run, "workflow": "w0", "task": task, "attempt": 1, "facts": Facts(1.0, 2.0), "boot": "boot0"}
    values |= {"delay_s": 1.0, "not_before_s": 1.0}
    event: Event = kind(**{name: values.get(name, "") for name in kind.__struct_fields__})
    return event
