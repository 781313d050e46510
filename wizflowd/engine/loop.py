"""The engine: observe, decide, commit, act, for ever. The one owner of the state.

In: observations in the inbox (from the watcher, the executors, the preparer, people). Out: records, told to sinks after
they are durable, and acts that follow from them. Decisions are `core`'s; nothing is done before its record is on the
disk, but for attempts that may run a few milliseconds ahead (`engine/ahead`). A failed commit ends the process.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, assert_never

from msgspec.structs import replace

from wizflowd.core.attempt import AttemptId, RunId, Succeeded, TaskId, Unchanged, attempt_id
from wizflowd.core.events import (
    DaemonDegraded,
    DaemonReady,
    DaemonRecovered,
    DefinitionAccepted,
    Event,
    FirstScanEnded,
    FolderFound,
    FolderLost,
    Now,
    Record,
    RunArchived,
    RunCancelling,
    RunEnded,
    RunStarted,
    TaskEvent,
    TaskExpanded,
    TaskReused,
    TaskStarted,
    WorkflowRemoved,
)
from wizflowd.core.finish import end_attempt, end_group, settle
from wizflowd.core.gates import open_gate, reused_instances
from wizflowd.core.observations import (
    CompanionsSeen,
    FolderAvailable,
    FolderUnavailable,
    ScanDone,
    Source,
    SourceGone,
    SourceRefused,
    SourceSeen,
    WorkflowId,
)
from wizflowd.core.plan import Plan, plan_lines
from wizflowd.core.reconcile import Content, accept_content, reject_content, remove_workflow
from wizflowd.core.schedule import (
    Capacity,
    due_workflows,
    expired_approvals,
    next_start,
    next_wake_s,
    overdue_runs,
    runs_in_turn,
)
from wizflowd.core.state import Run, State, TaskRun, apply
from wizflowd.engine.ahead import may_run_ahead
from wizflowd.engine.archive import Archivist
from wizflowd.engine.context import Context
from wizflowd.engine.feed import Feed
from wizflowd.engine.inbox import (
    AttemptBegun,
    AttemptEnded,
    BacklogDropped,
    ContentRead,
    Facts,
    Inbox,
    InTurn,
    Observation,
    Request,
    RunClosed,
    RunPrepared,
    RunStored,
    RunUnprepared,
)
from wizflowd.engine.launch import Launcher
from wizflowd.engine.prepare import Preparer
from wizflowd.engine.run_ids import RunIds
from wizflowd.errors import RequestError, StateError
from wizflowd.executors.inprocess import CATCH_UP_S, STOOD_STILL_S
from wizflowd.journal import Commit, Journal
from wizflowd.process import give_back_memory
from wizflowd.secrets import NO_SECRETS
from wizflowd.spawner.protocol import boot_id

log = logging.getLogger(__name__)
LOW_WATER_RETRY_S = 1.0
CALENDAR_LOOK_S = 30.0
SHARED_SYNC_S = 0.01
"""For how long what runs ahead of its record waits for more that goes to the disk with it."""
MAX_UNREAD = 64
MAX_UNREAD_BYTES = 1024 * 1024
KEPT_RECORDS = 1_000_000
LARGE_RUN = 1_000
"""Tasks of a run that held megabytes, which are given back when it is closed."""
_TRIM_EVERY = 1_000
"""Runs that are closed between two looks at how much the journal holds."""


class Sink(Protocol):
    """Is told every record after it is durable, all of a commit at once; can neither block nor raise."""

    def told(self, records: Sequence[Record]) -> None: ...


class Folder(Protocol):
    """The watcher, as far as the engine tells it something."""

    def follow(
        self, workflow: WorkflowId, definition_path: str, sources: tuple[str, ...], dotenv: tuple[str, ...], digest: str
    ) -> None: ...
    def forget(self, workflow: WorkflowId) -> None: ...


class Clock(Protocol):
    """Where the engine's moments come from."""

    def now(self) -> Now: ...


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The host's clocks and the id of its boot."""

    boot: str = field(default_factory=boot_id)

    def now(self) -> Now:
        return Now(time.time(), time.monotonic(), self.boot)


def _attempt_of(event: TaskStarted) -> AttemptId:
    return attempt_id(event.run, event.task, event.attempt)


@dataclass(slots=True)
class _Owed:
    """What was decided and is not on the disk: events with their moments, attempts that ended; `begun` run ahead."""

    events: list[Event] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    ended: list[AttemptId] = field(default_factory=list)
    begun: set[AttemptId] = field(default_factory=set)


@dataclass(slots=True)
class Engine:
    """One daemon's engine. `free_bytes` tells the disk's room; below `low_water` no run starts.

    `ready` once the folder has been seen whole in this life; while `draining` nothing starts, and of a run that is
    `held` neither. Its coroutines run in `background`. `turned` is called after each turn.
    """

    journal: Journal
    preparer: Preparer
    launcher: Launcher
    archivist: Archivist
    inbox: Inbox
    capacity: Capacity
    background: "asyncio.TaskGroup"
    clock: Clock = field(default_factory=SystemClock)
    run_ids: RunIds = field(default_factory=RunIds)
    sinks: list[Sink] = field(default_factory=list)
    folder: Folder | None = None
    run_first: bool = True
    low_water: int = 0
    free_bytes: Callable[[], int] = lambda: 1 << 62
    run_due: Callable[[WorkflowId], Coroutine[Any, Any, None]] = field(init=False)
    committed: Callable[[float], None] = lambda _seconds: None
    state: State = field(default_factory=State)
    contexts: dict[RunId, Context] = field(default_factory=dict)
    ready: bool = False
    draining: bool = False
    held: set[RunId] = field(default_factory=set)
    turned: list[Callable[[], None]] = field(default_factory=list)
    feed: Feed = field(init=False)
    _preparing: dict[RunId, int] = field(default_factory=dict)
    """With the id of the newest record that was told of each meanwhile."""
    _later: set[RunId] = field(default_factory=set)
    _definitions: dict[str, bytes] = field(default_factory=dict)
    _archived: dict[RunId, Run] = field(default_factory=dict)
    _closed: list[RunId] = field(default_factory=list)
    _owed: _Owed = field(default_factory=_Owed)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _answers: list[tuple[Request, list[Event]]] = field(default_factory=list)
    _beside: "set[asyncio.Task[None]]" = field(default_factory=set)
    _waiters: dict[RunId, asyncio.Event] = field(default_factory=dict)
    _wake_s: float | None = -math.inf
    _judged_from_s: float = -math.inf
    _unseen: set[WorkflowId] | None = None
    _unread: int = 0
    _unread_bytes: int = 0
    _read_one: asyncio.Event = field(default_factory=asyncio.Event)
    _degraded: bool = False
    _runs_closed: int = 0
    _was_closed: bool = False
    _failed: bool = False
    _stopping: bool = False

    def __post_init__(self) -> None:
        self.feed = Feed(self.launcher)

    # -- the loop ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `stop`; then return when what was observed so far is recorded."""
        observations = await self.inbox.take(0)  # what the start has found comes before anything new
        while True:
            await self.turn(observations)
            observations = await self.inbox.take(0 if self._stopping else self._patience_s())
            if self._stopping and not observations:
                await self._write()
                return

    @property
    def unready(self) -> str:
        """Why work that is dropped now would not be taken or not be run, in one line; empty: it would."""
        if self._stopping:
            return "it is stopping"
        if self.state.unavailable:
            return f"the folder is unavailable: {self.state.unavailable}"
        if not self.ready:
            return "the folder has not been seen whole yet"
        if self.draining:
            return "it is draining, nothing new starts"
        if self.launcher.shell.missing:
            return f"SHELL tasks wait: {self.launcher.shell.missing}"
        return "the disk is full, no new runs start" if self._degraded else ""

    def _patience_s(self) -> float | None:
        """Return how long nothing can happen by itself; the wall clock is looked at often, for it may be set."""
        now = self.clock.now()
        waits = [] if self._wake_s is None else [max(self._wake_s, self._judged_from_s) - now.mono_s]
        if self.state.calendar:
            waits.append(min(self.state.calendar[0][0] - now.wall_s, CALENDAR_LOOK_S))
        return max(0.0, min(waits)) if waits else None

    def stop(self) -> None:
        """Start nothing more and let `run` return."""
        self._stopping = True
        self.inbox.wake()

    async def close(self, *, kill: bool) -> None:
        """Let what is in flight end as the executors do it, record it, and end what runs beside the loop; once."""
        if self._was_closed:
            return
        self._was_closed = True
        self.stop()
        await self.launcher.close(kill=kill)
        await self.run()
        for work in list(self._beside):
            work.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self.archivist.write_statuses(self.state)
        self.preparer.close()
        for run_id in list(self.contexts):
            self._drop_context(run_id)

    async def turn(self, observations: Iterable[Observation]) -> None:
        """Take observations through decision, commit and act, once."""
        taken_back = not self._feed_goes_on(observations := list(observations))
        if taken_back:
            observations = await self._take_back(observations)
        now = self.clock.now()
        events: list[Event] = []
        touched: dict[RunId, None] = {}

        def decided(found: Iterable[Event]) -> None:
            for event in found:
                apply(self.state, event, now.wall_s, now)
                events.append(event)
                if run := getattr(event, "run", None):
                    touched[run] = None

        for observation in observations:
            decided(self._decide(observation, now))
        if taken_back:
            self.feed.close()
        self._settle(touched, decided, now)  # first: what ended in time while this process stood still is no time-out
        if self._may_judge(now):
            decided(overdue_runs(self.state, now))
            decided(expired_approvals(self.state, now))
            self._settle(touched, decided, now)
        if not self._stopping and not self.draining:
            if self.feed.run is not None and not self.feed.handed:
                self.feed.close()
            fed = self.feed.run
            held = self.held if fed is None else {*self.held, fed.id}
            while (start := next_start(self.state, now, self.capacity, held)) is not None:
                decided([start])
        self._wake_s = next_wake_s(self.state, now, self.capacity)
        at_once = not (self._stopping or self._writing.locked())
        if at_once:
            self._prepare_runs()  # what that asks of the journal waits there behind this turn's commit
        await self._record(events, now)
        if not self._stopping:
            self._fill_feed()
            if not at_once:
                self._prepare_runs()
            for workflow in due_workflows(self.state, now):
                self.in_background(self.run_due(workflow))
        for tell in self.turned:
            tell()

    def _feed_goes_on(self, observations: list[Observation]) -> bool:
        """Whether a turn can be made while the spawner starts what it was handed (`engine/feed`)."""
        if self.feed.run is None:
            return True
        due = self._wake_s is not None and self._wake_s <= self.clock.now().mono_s
        nothing_else = not (due or self._stopping or self.draining or self.feed.run.id in self.held)
        return nothing_else and self.feed.can_go_on(observations, self.state, self.capacity)

    async def _take_back(self, observations: list[Observation]) -> list[Observation]:
        """Take back what the spawner was handed; return the observations with all that it had started before them."""
        await self.launcher.take_back()
        observations += await self.inbox.take(0)
        return sorted(observations, key=lambda each: not isinstance(each, AttemptBegun | AttemptEnded))

    def _fill_feed(self) -> None:
        """Let the spawner have more than there are places for, where one run alone is in progress."""
        if self.draining or len(self.state.active) != 1 or not self.launcher.takes_backlog:
            return
        run_id = next(iter(self.state.active))
        if run_id in self.contexts and run_id not in self.held:
            self.feed.fill(self.state.runs[run_id], self.state, self.capacity, self.contexts[run_id])
        if self.feed.is_stale:
            self.inbox.wake()

    def _may_judge(self, now: Now) -> bool:
        """Whether deadlines count by now: after the process stood still (stopped, starved, not there at all) it
        first hears what came in time."""
        due_s = self._wake_s
        if due_s is not None and max(due_s, self._judged_from_s) < now.mono_s - STOOD_STILL_S:
            self._judged_from_s = now.mono_s + CATCH_UP_S
        return now.mono_s >= self._judged_from_s

    def _steer(self, run: Run, now: Now) -> list[Event]:
        """Return the ends of tasks whose instances have ended, and what happens to those that stand at their gate."""
        context = self.contexts.get(run.id)
        if context is None or run.ended_s is not None:
            return []
        events: list[Event] = []
        for name in sorted(run.collected, key=lambda name: run.tasks[name].position):
            group = run.tasks[name]
            events.append(end_group(run, group, context.spec(group), context.parts(group, ""), now))
        if events or run.cancelling is not None or run.paused:
            return events
        for name in sorted(run.gates, key=lambda name: run.tasks[name].position):
            task = run.tasks[name]
            setting = self.launcher.setting(run, task, context, NO_SECRETS)
            event = open_gate(run, task, context.spec(task), setting, now)
            events.append(event)
            if isinstance(event, TaskExpanded):
                events += reused_instances(
                    run, task, context.spec(task), event, context.standing(run, task, event.instances)
                )
        return events

    def _settle(self, touched: dict[RunId, None], decided: Callable[[Iterable[Event]], None], now: Now) -> None:
        """Apply all that follows for the runs that changed, until nothing more does."""
        for run_id in list(touched):
            run = self.state.runs.get(run_id)
            while run is not None and (following := settle(run, now) or self._steer(run, now)):
                decided(following)

    async def _record(self, events: list[Event], now: Now) -> None:
        """Write a turn; where all of it may run ahead, begin what it starts and write it with the next."""
        owed, is_first = self._owed, not self._owed.events
        owed.events += events
        owed.moments += [now.wall_s] * len(events)
        urgent = self._closed or self._answers or (owed.ended and not owed.events)
        if urgent or not all(may_run_ahead(event, self.state, self.contexts) for event in events):
            await self._write()
            return
        for event in events:
            if isinstance(event, TaskStarted) and (attempt := _attempt_of(event)) not in owed.begun:
                owed.begun.add(attempt)
                self._launch(event)
        if is_first and events:
            self.in_background(self._write_shortly())

    async def _write_shortly(self) -> None:
        await asyncio.sleep(SHARED_SYNC_S)
        await self._write()

    async def _write(self) -> None:
        """Bring all that is owed to the disk, in order; then act on it and tell it."""
        async with self._writing:
            owed, self._owed = self._owed, _Owed()
            answers, self._answers = self._answers, []
            if owed.events or self._closed:
                await self._commit(owed)
            if owed.ended:
                self.launcher.acknowledge(owed.ended)
            for request, events in answers:
                if not request.answer.done():
                    request.answer.set_result(events)

    async def _commit(self, owed: _Owed) -> None:
        definitions, self._definitions = self._definitions, {}
        closed, self._closed = self._closed, []
        began = self.clock.now()
        if self._failed:
            raise StateError("cannot record anything more: what was decided before could not be recorded")
        self._failed = True
        records = await self.journal.commit(Commit(owed.events, began.wall_s, definitions, closed, owed.moments))
        self._failed = False
        self.committed(self.clock.now().mono_s - began.mono_s)
        for record in records:
            self._act(record, owed.begun)
        for sink in self.sinks:
            sink.told(records)

    # -- decide -----------------------------------------------------------------------------------------------

    def _decide(self, observation: Observation, now: Now) -> Iterable[Event]:
        match observation:  # the most frequent first: each case is asked in turn
            case AttemptEnded():
                return self._decide_end(observation, now)
            case AttemptBegun():
                return self._decide_begun(observation.attempt)
            case SourceSeen() | SourceRefused() | SourceGone() | ScanDone():
                self.in_background(self._read_in_order(observation))
            case CompanionsSeen():
                self.in_background(self._read_again(observation.workflow))
            case ContentRead():
                return self._decide_content(observation, now)
            case InTurn():
                return self._decide_in_turn(observation.observation)
            case FolderUnavailable():
                return [] if self.state.unavailable else [FolderLost(observation.reason)]
            case FolderAvailable():
                return [FolderFound()] if self.state.unavailable else []
            case RunPrepared():
                return self._decide_start(observation.run, observation.plan, now)
            case RunUnprepared():
                return self._decide_unprepared(observation)
            case BacklogDropped():
                self.launcher.unwell = observation.unwell
            case RunStored():
                return self._decide_archived(observation.run)
            case RunClosed():
                self._close(observation.run)
            case Request():
                return self._decide_request(observation)
            case Facts():
                return observation.events
            case _:
                assert_never(observation)
        return []

    def _decide_in_turn(self, told: SourceRefused | SourceGone | ScanDone) -> Iterable[Event]:
        match told:
            case SourceRefused():
                path = told.paths[0] if told.paths else ""
                events = reject_content(self.state, told.workflow, path, told.stamp, told.problems)
                return [*events, *self._end_first_scan(told.workflow)]
            case SourceGone():
                return remove_workflow(self.state, told.workflow)
            case ScanDone():
                self._unseen = {
                    workflow
                    for workflow in (told.present if self._unseen is None else self._unseen & told.present)
                    if workflow not in self.state.workflows
                }
                events = self._end_first_scan()
                if not self.ready:
                    self.ready = True
                    events.append(DaemonReady(len(self.state.workflows)))
                return events

    def _decide_content(self, read: ContentRead, now: Now) -> Iterable[Event]:
        source, compiled = read.source, read.compiled
        if read.again and self._stamp_to_read_again(source.workflow) != read.stamp:
            return []  # the file has changed or gone meanwhile
        if compiled is None:
            if read.dotenv and self.folder is not None:  # what it lacks may come without a change of the file
                self.folder.follow(source.workflow, source.path, (), read.dotenv, read.companions)
            events = reject_content(self.state, source.workflow, source.path, read.stamp, read.problems)
            return [*events, *self._end_first_scan(source.workflow)]
        content = Content(
            source.workflow,
            source.path,
            read.stamp,
            compiled.digest,
            read.companions,
            compiled.definition,
            settled_s=now.wall_s - (now.mono_s - source.settled_s),
        )
        run_first = self.run_first or not self._is_of_first_scan(source.workflow)
        events = accept_content(self.state, content, self.run_ids.next(now.wall_s), run_first=run_first)
        if events:
            self.offer_definition(read.stamp, source.data)
        return [*events, *self._end_first_scan(source.workflow)]

    def _is_of_first_scan(self, workflow: WorkflowId) -> bool:
        """Whether a file was there when the folder was first seen: what had to settle is told after that scan."""
        if self.state.seen_once:
            return False
        return workflow in self._unseen if self._unseen is not None else workflow not in self.state.workflows

    def _end_first_scan(self, seen: WorkflowId | None = None) -> list[Event]:
        """Return that the first scan has ended, once all that it found has been told."""
        if self.state.seen_once or self._unseen is None:
            return []
        if seen is not None:
            self._unseen.discard(seen)
        return [] if self._unseen else [FirstScanEnded()]

    def _decide_start(self, run_id: RunId, plan: Plan, now: Now) -> Iterable[Event]:
        self._preparing.pop(run_id, None)
        run = self.state.runs.get(run_id)
        if run is None or run.status != "queued":  # cancelled meanwhile
            self._drop_context(run_id)
            return
        definition = self.contexts[run_id].compiled.definition
        pools = {task.pool for task in definition.all_tasks if task.pool} - self.capacity.pools.keys()
        if pools:
            self._drop_context(run_id)
            yield RunEnded(run.id, run.workflow, "failed", f"there is no pool {min(pools)!r} in the configuration")
            return
        yield RunStarted(
            run.id,
            run.workflow,
            plan_lines(plan, definition),
            now.mono_s,
            now.boot,
            definition.fail_fast,
            definition.concurrency.max_tasks,
            definition.timeout,
        )
        for task, planned in plan.tasks.items():
            if planned.reused is not None:
                earlier = planned.reused
                yield TaskReused(run.id, run.workflow, task, earlier.run, planned.reason, earlier.key, earlier.outputs)

    def _decide_unprepared(self, observation: RunUnprepared) -> Iterable[Event]:
        self._preparing.pop(observation.run, None)
        run = self.state.runs.get(observation.run)
        if run is None or run.status != "queued":
            return []
        if observation.retry_s is None:
            return [RunEnded(run.id, run.workflow, "failed", observation.reason)]
        log.warning("run has to wait", extra={"run": run.id, "error": observation.reason})
        self._later.add(run.id)
        self._call_later(observation.retry_s, lambda: self._later.discard(observation.run))
        return []

    def _find(self, attempt: AttemptId) -> tuple[Run | None, TaskRun | None, int]:
        """Return what an attempt is of, as far as that is known, and its number."""
        run_id, task_id, number = attempt.rsplit("/", 2)
        run = self.state.runs.get(RunId(run_id))
        return run, run.tasks.get(TaskId(task_id)) if run is not None else None, int(number)

    def _decide_begun(self, attempt: AttemptId) -> Iterable[Event]:
        """Record a start that the spawner has made of what it was handed."""
        self.feed.begun(attempt)
        run, task, number = self._find(attempt)
        if run is None or task is None or task.status != "pending" or run.cancelling is not None:
            if task is None or task.status != "running":
                self.launcher.cancel(attempt)
            return []
        self._owed.begun.add(attempt)
        return [TaskStarted(run.id, run.workflow, task.id, number)]

    def _decide_end(self, ended: AttemptEnded, now: Now) -> Iterable[Event]:
        self._owed.ended.append(ended.attempt)
        run, task, number = self._find(ended.attempt)
        if run is None or task is None or task.status != "running" or task.attempt != number:
            log.warning("an attempt ended that is not running", extra={"attempt": ended.attempt})
            return []
        context = self.contexts[run.id]
        sources = ended.outcome.sources if isinstance(ended.outcome, Succeeded) else ""
        parts: dict[str, str] = {}
        if isinstance(ended.outcome, Succeeded | Unchanged):
            parts = context.parts(task, sources)
        chance = random.random()  # noqa: S311 - jitter
        return [end_attempt(run, task, ended.outcome, context.policy(task), parts, now, chance)]

    def _decide_archived(self, run_id: RunId) -> Iterable[Event]:
        run = self.state.runs[run_id]
        self._archived[run_id] = run
        ended_s = run.ended_s or run.queued_s
        skipped = tuple(task.id for task in run.tasks.values() if task.status == "skipped")
        tolerated = tuple(task.id for task in run.tasks.values() if task.tolerated)
        duration_s = round(ended_s - (run.started_s or ended_s), 6)
        assert run.status in ("succeeded", "failed", "cancelled")  # noqa: S101 - it has ended
        return [RunArchived(run.id, run.workflow, run.status, run.reason, duration_s, run.trigger, skipped, tolerated)]

    def _decide_request(self, request: Request) -> Iterable[Event]:
        try:
            events = request.decide(self.state)
        except RequestError as error:
            if not request.answer.done():
                request.answer.set_exception(error)
            return []
        self._answers.append((request, events))
        return events

    # -- act --------------------------------------------------------------------------------------------------

    def _act(self, record: Record, begun: set[AttemptId]) -> None:
        event = record.event
        run_id = getattr(event, "run", None)
        context = self.contexts.get(run_id) if run_id else None
        if context is not None and context.events is not None:
            try:
                context.events.add(record)
            except OSError:  # full, or gone: it is made from the journal in the end
                context.events = None
        if run_id in self._preparing and context is None:
            self._preparing[run_id] = record.id
        match event:
            case TaskStarted() if _attempt_of(event) not in begun:
                self._launch(event)
            case RunCancelling():
                self.cancel_attempts(self.state.runs[event.run])
            case RunEnded():
                self.in_background(self.archivist.store(self.state.runs[event.run], context))
            case RunArchived():
                self.launcher.children.ended(self._archived[event.run])
                if context is not None:
                    context.unlock()  # the next run of the workflow need not wait for what is still written
                self.in_background(self.archivist.close(self._archived[event.run], context))
            case DefinitionAccepted() if self.folder is not None:
                self.folder.follow(event.workflow, event.path, event.sources, event.dotenv, event.companions)
            case WorkflowRemoved() if self.folder is not None:
                self.folder.forget(event.workflow)
            case _:
                pass
        workflow = getattr(event, "workflow", None)
        if workflow is not None and not isinstance(event, TaskEvent):
            self.archivist.stir(workflow)

    def _launch(self, event: TaskStarted) -> None:
        run = self.state.runs[event.run]
        self.launcher.launch(run, run.tasks[event.task], self.contexts[event.run])

    def cancel_attempts(self, run: Run) -> None:
        """End every attempt of a run that is under way."""
        for task in run.running:
            self.launcher.cancel(attempt_id(run.id, task, run.tasks[task].attempt))

    def _close(self, run_id: RunId) -> None:
        run = self._archived.pop(run_id, None)
        self._closed.append(run_id)
        if self._runs_closed % _TRIM_EVERY == 0:
            self.in_background(self.journal.trim(KEPT_RECORDS))
        self._runs_closed += 1
        self._drop_context(run_id)
        if run is not None and len(run.tasks) >= LARGE_RUN:
            self.in_background(asyncio.to_thread(give_back_memory))
        if waiter := self._waiters.pop(run_id, None):
            waiter.set()

    async def closed(self, run_id: RunId) -> None:
        """Return when everything of an archived run is on the disk."""
        if run_id in self._archived:
            await self._waiters.setdefault(run_id, asyncio.Event()).wait()

    def _drop_context(self, run_id: RunId) -> None:
        context = self.contexts.pop(run_id, None)
        if context is not None:
            context.unlock()

    def watch(self, folder: Folder) -> None:
        """Tell the watcher from here on what to look at beside definitions, beginning with what is known."""
        self.folder = folder
        for known in self.state.workflows.values():
            if known.path and (known.sources or known.dotenv):
                folder.follow(known.id, known.path, known.sources, known.dotenv, known.companions)

    def offer_definition(self, stamp: str, data: bytes) -> None:
        """Have the bytes of a definition written with the next commit."""
        self._definitions[stamp] = data

    # -- runs that are due ------------------------------------------------------------------------------------

    def _prepare_runs(self) -> None:
        if not (self.state.queued or self._degraded) or not self._has_room() or self.draining:
            return
        for run_id in list(runs_in_turn(self.state, self.capacity, self._preparing.keys() | self._later)):
            self._preparing[run_id] = 0
            self.in_background(self._prepare(self.state.runs[run_id]))

    def _has_room(self) -> bool:
        """Whether the disk has room for a run; says when that changes."""
        free = self.free_bytes()
        low = free < self.low_water
        if low and not self._degraded:
            reason = f"no new runs: {free >> 20} MiB free, the low-water mark is {self.low_water >> 20} MiB"
            self.inbox.put(Facts((DaemonDegraded(reason),)))
        if self._degraded and not low:
            self.inbox.put(Facts((DaemonRecovered(),)))
        if low:
            self._call_later(LOW_WATER_RETRY_S, lambda: None)
        self._degraded = low
        return not low

    def _call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(delay_s)
            function()
            self.inbox.wake()

        self.in_background(wait())

    async def _prepare(self, run: Run) -> None:
        observation, context = await self.preparer.prepare(run)
        if context is not None:
            if context.events is not None and context.events.newest < self._preparing[run.id]:
                context.events = None  # it was told more meanwhile: made from the journal in the end
            self.contexts[run.id] = context
            await self.launcher.warm_up(context)
        self.inbox.put(observation)

    async def _read_in_order(self, observation: SourceSeen | SourceRefused | SourceGone | ScanDone) -> None:
        """What the folder tells takes effect in the order in which it was told, however long a file is read."""
        if isinstance(observation, SourceSeen):
            self._unread += 1
            self._unread_bytes += len(observation.source.data)
            read = await self.preparer.read(observation.source)
            self._unread -= 1
            self._unread_bytes -= len(observation.source.data)
            self._read_one.set()
            self.inbox.put(read)
        else:
            await self.preparer.catch_up()
            self.inbox.put(InTurn(observation))

    async def _read_again(self, workflow: WorkflowId) -> None:
        stamp = self._stamp_to_read_again(workflow)
        if not stamp:
            return
        known = self.state.workflows[workflow]
        if known.problems:
            data = await self.preparer.still_there(known.path, stamp)
        else:
            data = await self.journal.definition(stamp)
        if data is not None:
            source = Source(workflow, known.path, data, len(data), 0, 0, self.clock.now().mono_s)
            self.inbox.put(replace(await self.preparer.read(source), again=True))

    def _stamp_to_read_again(self, workflow: WorkflowId) -> str:
        """Return which content of a definition counts by now; empty: it is not there."""
        known = self.state.workflows.get(workflow)
        if known is None or not known.path:
            return ""
        return known.stamp if known.problems else known.good_stamp

    async def room_to_read(self) -> None:
        """Wait while more sources than `MAX_UNREAD`, or larger ones, wait to be read: their bytes are in memory."""
        while self._unread > MAX_UNREAD or self._unread_bytes > MAX_UNREAD_BYTES:
            await self._read_one.wait()
            self._read_one.clear()

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a coroutine run beside the loop; what it raises ends the engine."""
        try:
            task = self.background.create_task(work)
        except RuntimeError:  # something in the group has failed, and all of it ends
            work.close()
            return
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
