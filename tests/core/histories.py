"""Random histories of runs: a driver that takes turns as `engine.loop` does.

In: `Work` (runs to be, with what comes of their tasks left open) and `Choices` (what happens next). Out: a `History`
whose `records` are what a journal would hold. Observers are told each event once it is applied, and each turn's end.
The outside world (attempts that run, runs that are being prepared or stored) survives a kill as it does on a host.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from hypothesis import strategies as st
from msgspec.structs import replace

from tests.core.works import Step, Work
from wizflowd.core.attempt import Cancelled, Facts, Failed, Lost, Outcome, RunId, Succeeded, TaskId, Unchanged
from wizflowd.core.events import (
    Event,
    InstanceLine,
    Now,
    RunArchived,
    RunEnded,
    RunQueued,
    RunStarted,
    TaskAdmitted,
    TaskAdopted,
    TaskExpanded,
    TaskPaused,
    TaskReused,
    TaskSkipped,
    TaskStarted,
    from_json,
    to_json,
)
from wizflowd.core.finish import end_attempt, end_group, settle
from wizflowd.core.reconcile import approve_task, cancel_run, pause_run
from wizflowd.core.schedule import (
    Capacity,
    expired_approvals,
    next_start,
    next_wake_s,
    overdue_runs,
    runs_in_turn,
)
from wizflowd.core.state import Run, State, TaskRun, apply

PARTS = {"command": "hash"}
MOVES = 50
TURNS_TO_END = 900


class Choices:
    """Decides what happens next; when nothing is left to choose from, the simplest thing happens."""

    def __init__(self, data: bytes) -> None:
        self._left = iter(data)

    def below(self, bound: int) -> int:
        return next(self._left, 0) % bound

    def some(self, items: Iterable[str]) -> list[str]:
        """Return one to three of the items."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(min(len(left), 1 + self.below(3)))]


CHOICES = st.binary(min_size=120, max_size=300).map(Choices)

Observer = Callable[["History", Event], None]


@dataclass(slots=True)
class History:
    """One daemon after the other, over one journal and one host.

    `in_flight` holds the attempts that somebody performs; `records` the commits laid flat, as (wall time, event).
    """

    works: Sequence[Work]
    capacity: Capacity
    choices: Choices
    on_event: Observer = lambda history, event: None
    on_turn: Callable[["History"], None] = lambda history: None
    now: Now = field(default_factory=lambda: Now(1_000.0, 50.0, "boot0"))
    state: State = field(default_factory=State)
    records: list[tuple[float, Event]] = field(default_factory=list)
    works_of: dict[RunId, Work] = field(default_factory=dict)
    in_flight: dict[str, TaskStarted] = field(default_factory=dict)
    preparing: dict[RunId, None] = field(default_factory=dict)
    storing: dict[RunId, None] = field(default_factory=dict)
    boots: int = 0
    kills: int = 0

    def play(self) -> None:
        """Let everything happen that was chosen, then let every run come to its end."""
        self.turn(self._ask_for_run())
        for _ in range(MOVES):
            self._move()
        while len(self.works_of) < len(self.works):
            self.turn(self._ask_for_run())
        for run in [run for run in self.state.runs.values() if run.paused]:
            self.turn([partial(self._pause_or_resume, run)])
        for _ in range(TURNS_TO_END):
            if not self.state.runs:
                return
            if not self._deliver() and not self._approve():
                self._wait()
        raise AssertionError(f"{len(self.state.runs)} runs do not come to an end")

    # -- what happens -------------------------------------------------------------------------------------------

    def _move(self) -> None:
        match self.choices.below(21):
            case 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8:
                self._deliver()
            case 9 | 10 | 11 | 12:
                if len(self.works_of) < len(self.works):
                    self.turn(self._ask_for_run())
            case 13 | 14 | 15:
                self._pass_time([0.5, 1.0, 4.0][self.choices.below(3)])
                self.turn([])
            case 16 if self.state.runs:
                run = self._some_run()
                self.turn([lambda: cancel_run(run, "cancelled by request")])
            case 17 if self.state.runs:
                run = self._some_run()
                self.turn([lambda: self._pause_or_resume(run)])
            case 18:
                self._approve()
            case 19:
                self._die_before_commit()
            case 20:
                self._kill()

    def _some_run(self) -> Run:
        return [*self.state.runs.values()][self.choices.below(len(self.state.runs))]

    def _pause_or_resume(self, run: Run) -> Iterable[Event]:
        if run.ended_s is not None or run.cancelling is not None:
            return []
        return pause_run(run, paused=not run.paused)

    def _approve(self) -> bool:
        """Let somebody approve a task that waits for it, if there is one."""
        runs = (run for run in self.state.runs.values() if run.cancelling is None)
        waiting = [(run, task.id) for run in runs for task in run.tasks.values() if task.status == "paused"]
        if waiting:
            run, task = waiting[self.choices.below(len(waiting))]
            self.turn([partial(approve_task, run, task, "me")])
        return bool(waiting)

    def _deliver(self) -> bool:
        """Let one to three of the things that are under way end, seen in one turn."""
        under_way = [*self.preparing, *self.in_flight, *self.storing]
        if not under_way:
            self.turn([])
            return False
        self._pass_time(0.25 * self.choices.below(3))
        self.turn(self._endings(under_way))
        return True

    def _endings(self, under_way: list[str]) -> list[Callable[[], Iterable[Event]]]:
        endings: list[Callable[[], Iterable[Event]]] = []
        for name in self.choices.some(under_way):
            if name in self.in_flight:
                started = self.in_flight[name]
                endings.append(self._attempt_ends(started, self.choices.below(9), self.choices.below(100) / 100))
            elif name in self.preparing:
                endings.append(self._run_prepared(RunId(name), fails=self.choices.below(12) == 11))
            else:
                endings.append(self._run_stored(RunId(name)))
        return endings

    def _pass_time(self, seconds: float) -> None:
        self.now = replace(self.now, wall_s=self.now.wall_s + seconds, mono_s=self.now.mono_s + seconds)

    def _wait(self) -> None:
        """Sleep exactly as long as the schedule says."""
        wake_s = next_wake_s(self.state, self.now, self.capacity)
        assert wake_s is not None, "nothing is under way, nothing will wake the engine, and runs are open"
        assert wake_s > self.now.mono_s, "the engine would look again at once, for ever"
        self._pass_time(wake_s - self.now.mono_s)
        self.turn([])

    # -- observations, to be decided upon in their turn -----------------------------------------------------------

    def _ask_for_run(self) -> list[Callable[[], Iterable[Event]]]:
        work = self.works[len(self.works_of)]
        run = RunId(f"r{len(self.works_of)}")
        self.works_of[run] = work
        policy = "allow" if work.side_by_side else "queue"
        queued = RunQueued(run, work.workflow, "w.yaml", "stamp", "digest", "manual", {"n": [1]}, policy=policy)  # type: ignore[arg-type]
        return [lambda: [queued]]

    def _run_prepared(self, run_id: RunId, *, fails: bool) -> Callable[[], Iterable[Event]]:
        def decide() -> Iterable[Event]:
            self.preparing.pop(run_id, None)
            run = self.state.runs.get(run_id)
            if run is None or run.status != "queued":
                return
            if fails:
                yield RunEnded(run.id, run.workflow, "failed", "its definition cannot be read")
                return
            work = self.works_of[run_id]
            plan = tuple(step.line for step in work.steps)
            where = (self.now.mono_s, self.now.boot)
            yield RunStarted(run.id, run.workflow, plan, *where, work.fail_fast, work.max_tasks, work.timeout_s)
            for line in plan:
                if line.action == "reuse":
                    yield TaskReused(run.id, run.workflow, line.task, "r-earlier", "nothing changed", "key", {"o": 1})

        return decide

    def _attempt_ends(self, started: TaskStarted, kind: int, chance: float) -> Callable[[], Iterable[Event]]:
        def decide() -> Iterable[Event]:
            run = self.state.runs.get(started.run)
            task = run.tasks.get(started.task) if run is not None else None
            if run is None or task is None or task.status != "running" or task.attempt != started.attempt:
                return []
            work = self.works_of[run.id]
            outcome = self._outcome(run, task, kind)
            return [end_attempt(run, task, outcome, work.step(task.id).policy, PARTS, self.now, chance)]

        return decide

    def _outcome(self, run: Run, task: TaskRun, kind: int) -> Outcome:
        facts = Facts(task.started_s or 0.0, self.now.wall_s, pid=7, exit_code=3, notes=("a note",))
        if run.cancelling is not None and kind < 4:
            return Cancelled(facts)
        match kind:
            case 0 | 1 | 2 | 3:
                return Succeeded(facts, {"items": [1, {"a": None}]}, {"out.txt": "hash"}, mail="mail")
            case 4 | 5:
                return Failed(facts, "exit", "exit code 3", retry_after_s=2.0 if kind == 5 else None)
            case 6:
                return Failed(facts, "output", "no output", retryable=False)
            case 7:
                return Lost(facts, "its spawner ended while it ran")
            case _:
                return Unchanged(facts)

    def _lost(self, started: TaskStarted) -> Callable[[], Iterable[Event]]:
        return self._attempt_ends(started, 7, 0.0)

    def _run_stored(self, run_id: RunId) -> Callable[[], Iterable[Event]]:
        def decide() -> Iterable[Event]:
            self.storing.pop(run_id, None)
            run = self.state.runs.get(run_id)
            if run is not None:
                yield RunArchived(run.id, run.workflow, run.status, run.reason)  # type: ignore[arg-type]

        return decide

    # -- the engine's turn ----------------------------------------------------------------------------------------

    def turn(self, observations: Iterable[Callable[[], Iterable[Event]]]) -> None:
        """Take observations through decision, commit and act, once."""
        events = self._decide(observations)
        self.records += [(self.now.wall_s, event) for event in events]
        for event in events:
            self._act(event)
        for run in list(runs_in_turn(self.state, self.capacity, self.preparing)):
            self.preparing[run] = None
        self.on_turn(self)

    def _decide(self, observations: Iterable[Callable[[], Iterable[Event]]]) -> list[Event]:
        events: list[Event] = []
        touched: dict[RunId, None] = {}

        def decided(found: Iterable[Event]) -> None:
            for event in found:
                apply(self.state, event, self.now.wall_s, self.now)
                events.append(event)
                if run := getattr(event, "run", None):
                    touched[run] = None
                self.on_event(self, event)

        for decide in observations:
            decided(decide())
        decided(overdue_runs(self.state, self.now))
        decided(expired_approvals(self.state, self.now))
        for run_id in list(touched):
            run = self.state.runs.get(run_id)
            while run is not None and (following := settle(run, self.now) or self._steer(run)):
                decided(following)
        while (start := next_start(self.state, self.now, self.capacity)) is not None:
            decided([start])
        return events

    def _steer(self, run: Run) -> list[Event]:
        """Return the ends of tasks whose instances have ended, and what happens to those that stand at their gate."""
        if run.ended_s is not None:
            return []
        work = self.works_of[run.id]
        collected = [run.tasks[name] for name in sorted(run.collected)]
        events: list[Event] = [end_group(run, group, work.step(group.id).spec, PARTS, self.now) for group in collected]
        if events or run.cancelling is not None or run.paused:
            return events
        for name in sorted(run.gates):
            events += self._at_gate(run, run.tasks[name], work.step(name))
        return events

    def _at_gate(self, run: Run, task: TaskRun, step: Step) -> list[Event]:
        place = (run.id, run.workflow, task.id)
        fan_out = step.fan_out
        match step.gate:
            case "condition is false":
                return [TaskSkipped(*place, "when: false is false")]
            case "approval" | "approval for a while" if not task.approved:
                timeout_s = 5.0 if step.gate == "approval for a while" else None
                return [TaskPaused(*place, timeout_s, self.now.mono_s, self.now.boot)]
            case "instances":
                names = [TaskId(f"{task.id}.{index}") for index in range(fan_out.instances)]
                lines = tuple(InstanceLine(name, index, {"item": index}) for index, name in enumerate(names))
                standing = [name for index, name in enumerate(names) if index == fan_out.reused]
                return [
                    TaskExpanded(*place, lines, fan_out.max_parallel),
                    *(TaskReused(run.id, run.workflow, name, "r-earlier", "nothing changed") for name in standing),
                ]
        return [TaskAdmitted(*place)]

    def _act(self, event: Event) -> None:
        match event:
            case TaskStarted():
                self.in_flight[f"{event.run}/{event.task}/{event.attempt}"] = event
            case RunEnded():
                self.storing[event.run] = None
            case _:
                task = getattr(event, "task", None)
                if task is not None and not isinstance(event, TaskAdopted):
                    for name in [name for name, at in self.in_flight.items() if (at.run, at.task) == (event.run, task)]:  # type: ignore[union-attr]
                        del self.in_flight[name]

    # -- kills ----------------------------------------------------------------------------------------------------

    def replay(self, now: Now) -> State:
        """Return the state that the records give, read back as a journal reads them."""
        state = State()
        for at_s, event in self.records:
            apply(state, from_json(*to_json(event)), at_s, now)
        return state

    def _die_before_commit(self) -> None:
        """What was decided in the last turn never became durable; what ended is still known to the spawner."""
        under_way = [*self.preparing, *self.in_flight, *self.storing]
        if under_way:
            unheard = self.on_event
            self.on_event = lambda history, event: None
            self._decide(self._endings(under_way))
            self.on_event = unheard
        self._kill()

    def _kill(self) -> None:
        """Drop the daemon, and sometimes the spawner or the whole host with it, and start the next one."""
        self.kills += 1
        what_dies = self.choices.below(4)
        if what_dies == 3:
            self.boots += 1
            self.now = Now(self.now.wall_s + 60, 5.0, f"boot{self.boots}")
        self._pass_time(0.5)
        self.state = self.replay(self.now)
        self.preparing.clear()
        self.storing = {run.id: None for run in self.state.runs.values() if run.ended_s is not None}
        resumed: list[Callable[[], Iterable[Event]]] = []
        self.in_flight.clear()
        for run in self.state.runs.values():
            for name in sorted(run.running):
                started = TaskStarted(run.id, run.workflow, name, run.tasks[name].attempt)
                self.in_flight[f"{run.id}/{name}/{started.attempt}"] = started
                resumed.append(self._lost(started) if what_dies >= 2 else self._adopted(started))
        self.turn([])  # the first turn has seen nothing yet
        self.turn(resumed)

    def _adopted(self, started: TaskStarted) -> Callable[[], Iterable[Event]]:
        def decide() -> Iterable[Event]:
            run = self.state.runs.get(started.run)
            if run is not None and started.task in run.running:
                yield TaskAdopted(started.run, started.workflow, started.task, started.attempt, 7)

        return decide
