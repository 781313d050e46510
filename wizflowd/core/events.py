"""What can be recorded: facts in the past tense, and their two written forms.

Made by the decisions (`reconcile`, `schedule`, `finish`), applied by `state.apply`, stored by the journal, told to
sinks. A released journal replays for ever: an event gains fields with defaults and never changes meaning.
`to_json`/`from_json` are the stored form, `public_data` what the event stream shows of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, ClassVar, Literal, NewType

from msgspec import Struct

from wizflowd.core.attempt import Facts, Reason, RunId, TaskId
from wizflowd.core.observations import WorkflowId
from wizflowd.core.values import Json, decode_json, encode_json

Trigger = Literal["change", "sources", "manual", "schedule", "retry", "workflow"]
RunStatus = Literal["succeeded", "failed", "cancelled"]
Sequence = NewType("Sequence", int)


class Now(Struct, frozen=True):
    """One moment: seconds since the epoch, monotonic seconds, and the boot in which the latter count."""

    wall_s: float
    mono_s: float
    boot: str


class DaemonStarted(Struct, frozen=True):
    public: ClassVar[str] = "daemon.started"
    version: str


class DaemonReady(Struct, frozen=True):
    public: ClassVar[str] = "daemon.ready"
    workflows: int


class DaemonStopping(Struct, frozen=True):
    public: ClassVar[str] = "daemon.stopping"
    reason: str


class DaemonDegraded(Struct, frozen=True):
    public: ClassVar[str] = "daemon.degraded"
    reason: str


class DaemonRecovered(Struct, frozen=True):
    public: ClassVar[str] = "daemon.recovered"


class SpawnerJoined(Struct, frozen=True):
    """From here on attempts go to this spawner: one that it does not know was never started."""

    public: ClassVar[str] = ""
    spawner: str


class FirstScanEnded(Struct, frozen=True):
    """The folder has been seen whole once; what comes after it is a change."""

    public: ClassVar[str] = ""


class DefinitionAccepted(Struct, frozen=True):
    """The content is in force. `stamp` is the hash of the bytes, `digest` that of the canonical definition.

    `companions` is the hash of what the `sources` globs and `dotenv` files of its tasks hold; `schedule` has cron
    expression, time zone and catch-up of each.
    """

    workflow: WorkflowId
    path: str
    stamp: str
    digest: str
    companions: str
    change: Literal["added", "changed", "unchanged"]
    note: str = ""
    sources: tuple[str, ...] = ()
    dotenv: tuple[str, ...] = ()
    schedule: tuple[tuple[str, str, str], ...] = ()

    @property
    def public(self) -> str:
        return f"workflow.{self.change}"


class SchedulePassed(Struct, frozen=True):
    """Everything scheduled up to `until_s` (wall time) has been acted upon, or passed over for the reason in `note`."""

    public: ClassVar[str] = ""
    workflow: WorkflowId
    until_s: float
    note: str = ""


class DefinitionRejected(Struct, frozen=True):
    public: ClassVar[str] = "workflow.invalid"
    workflow: WorkflowId
    path: str
    stamp: str
    problems: tuple[str, ...]


class WorkflowRemoved(Struct, frozen=True):
    public: ClassVar[str] = "workflow.removed"
    workflow: WorkflowId


class FolderLost(Struct, frozen=True):
    public: ClassVar[str] = "workflow.unavailable"
    reason: str


class FolderFound(Struct, frozen=True):
    public: ClassVar[str] = ""


class RunQueued(Struct, frozen=True):
    """A run is due. What runs is the content with this `stamp`.

    `settled_s`: the wall time at which the file that caused it was found settled; 0: something else caused it.
    `scheduled_s`: the wall time that it was scheduled for; `parent`: the attempt of another run that waits for it.
    """

    public: ClassVar[str] = "run.queued"
    run: RunId
    workflow: WorkflowId
    path: str
    stamp: str
    digest: str
    trigger: Trigger
    params: Mapping[str, Json] = {}
    incremental: bool = False
    retry_of: str = ""
    from_task: str = ""
    policy: Literal["queue", "replace", "forbid", "allow"] = "queue"
    on_remove: Literal["finish", "cancel"] = "finish"
    settled_s: float = 0.0
    parent: str = ""
    scheduled_s: float = 0.0


class PlanLine(Struct, frozen=True, gc=False):
    """One task of a recorded plan.

    `gated`: something is decided when its needs have ended (a condition, an approval, its instances); `final`: of
    `finally`; `child`: a run of another workflow, which takes no place of its own;
    `tolerated`: a failure of it is.
    """

    task: TaskId
    needs: tuple[TaskId, ...]
    action: Literal["run", "reuse"]
    reason: str
    run_on: Literal["success", "failure", "always"] = "success"
    rank: int = 0
    gated: bool = False
    final: bool = False
    child: bool = False
    priority: int = 0
    pool: str = ""
    tolerated: bool = False


class RunStarted(Struct, frozen=True):
    """The plan is fixed. `timeout_s` bounds the whole run and counts from `mono_s` in this boot."""

    public: ClassVar[str] = "run.started"
    run: RunId
    workflow: WorkflowId
    plan: tuple[PlanLine, ...]
    mono_s: float = 0.0
    boot: str = ""
    fail_fast: bool = False
    max_tasks: int | None = None
    timeout_s: float | None = None


class RunPaused(Struct, frozen=True):
    """Nothing of it starts until it is resumed; what runs goes on."""

    public: ClassVar[str] = "run.paused"
    run: RunId
    workflow: WorkflowId


class RunResumed(Struct, frozen=True):
    public: ClassVar[str] = "run.resumed"
    run: RunId
    workflow: WorkflowId


class RunCancelling(Struct, frozen=True):
    """Nothing more of it starts, what runs is being ended; it will end with `status`."""

    public: ClassVar[str] = ""
    run: RunId
    workflow: WorkflowId
    status: RunStatus
    reason: str


class RunFinishing(Struct, frozen=True):
    """Everything but `finally` has ended, and so; its tasks follow, with the run's time anew from `mono_s` on."""

    public: ClassVar[str] = ""
    run: RunId
    workflow: WorkflowId
    status: RunStatus
    reason: str = ""
    mono_s: float = 0.0
    boot: str = ""


class RunEnded(Struct, frozen=True):
    """Nothing of it is open any more; its results are not written yet."""

    public: ClassVar[str] = ""
    run: RunId
    workflow: WorkflowId
    status: RunStatus
    reason: str = ""


class RunArchived(Struct, frozen=True):
    """The public end: the results are there."""

    run: RunId
    workflow: WorkflowId
    status: RunStatus
    reason: str = ""
    duration_s: float = 0.0
    trigger: str = ""
    skipped: tuple[TaskId, ...] = ()
    tolerated: tuple[TaskId, ...] = ()

    @property
    def public(self) -> str:
        return f"run.{self.status}"


class TaskStarted(Struct, frozen=True, gc=False):
    """An attempt is about to be performed; recorded before anything is done."""

    public: ClassVar[str] = "task.started"
    run: RunId
    workflow: WorkflowId
    task: TaskId
    attempt: int


class TaskAdmitted(Struct, frozen=True):
    """Nothing stands in its way any more. `approved_by`: who said so, where that was asked for."""

    public: ClassVar[str] = ""
    run: RunId
    workflow: WorkflowId
    task: TaskId
    approved_by: str = ""


class TaskPaused(Struct, frozen=True):
    """It waits for approval, for `timeout_s` from `mono_s` in this boot, or for ever."""

    public: ClassVar[str] = "task.paused"
    run: RunId
    workflow: WorkflowId
    task: TaskId
    timeout_s: float | None = None
    mono_s: float = 0.0
    boot: str = ""


class InstanceLine(Struct, frozen=True):
    """One instance of a task: its id, its number among them, and what `matrix.X` or `item` stand for."""

    task: TaskId
    index: int
    values: Mapping[str, Json]


class TaskExpanded(Struct, frozen=True):
    """A task became its instances, at most `max_parallel` of them in flight."""

    public: ClassVar[str] = ""
    run: RunId
    workflow: WorkflowId
    task: TaskId
    instances: tuple[InstanceLine, ...]
    max_parallel: int | None = None


class TaskAdopted(Struct, frozen=True):
    """The attempt was found alive, or ended, in the spawner after a restart."""

    public: ClassVar[str] = "task.adopted"
    run: RunId
    workflow: WorkflowId
    task: TaskId
    attempt: int
    pid: int | None = None


class TaskSucceeded(Struct, frozen=True, gc=False):
    """`key` and `parts` say with what; `files` what its declared files held."""

    public: ClassVar[str] = "task.succeeded"
    run: RunId
    workflow: WorkflowId
    task: TaskId
    attempt: int
    facts: Facts
    outputs: Mapping[str, Json] = {}
    files: Mapping[str, str] = {}
    key: str = ""
    parts: Mapping[str, str] = {}
    mail: str = ""


class TaskReused(Struct, frozen=True):
    """Nothing was done: the success of an earlier run stands; with `parts` where it was judged in its turn."""

    public: ClassVar[str] = "task.reused"
    run: RunId
    workflow: WorkflowId
    task: TaskId
    reused_from: str
    reason: str
    key: str = ""
    outputs: Mapping[str, Json] = {}
    parts: Mapping[str, str] = {}


class TaskRetrying(Struct, frozen=True):
    """The attempt failed or was lost, another follows when `delay_s` have passed in this boot."""

    public: ClassVar[str] = "task.retrying"
    run: RunId
    workflow: WorkflowId
    task: TaskId
    attempt: int
    facts: Facts
    reason: Reason
    message: str
    delay_s: float
    not_before_s: float
    boot: str


class TaskFailed(Struct, frozen=True):
    """Finally. `tolerated`: the run does not fail of it. `attempt` 0: it could not even be tried."""

    public: ClassVar[str] = "task.failed"
    run: RunId
    workflow: WorkflowId
    task: TaskId
    attempt: int
    facts: Facts
    reason: Reason
    message: str
    tolerated: bool = False


class TaskSkipped(Struct, frozen=True):
    """It will not run. `blamed`: because something upstream failed."""

    public: ClassVar[str] = "task.skipped"
    run: RunId
    workflow: WorkflowId
    task: TaskId
    reason: str
    blamed: bool = False


class TaskCancelled(Struct, frozen=True):
    """It was ended, or kept from starting, on request. `facts` of the attempt that was ended."""

    public: ClassVar[str] = "task.cancelled"
    run: RunId
    workflow: WorkflowId
    task: TaskId
    reason: str
    attempt: int = 0
    facts: Facts | None = None


DaemonEvent = (
    DaemonStarted
    | DaemonReady
    | DaemonStopping
    | DaemonDegraded
    | DaemonRecovered
    | SpawnerJoined
    | FirstScanEnded
    | FolderLost
    | FolderFound
)
WorkflowEvent = DefinitionAccepted | DefinitionRejected | WorkflowRemoved | SchedulePassed
RunEvent = RunQueued | RunStarted | RunPaused | RunResumed | RunCancelling | RunFinishing | RunEnded | RunArchived
TaskEvent = (
    TaskAdmitted
    | TaskPaused
    | TaskExpanded
    | TaskStarted
    | TaskAdopted
    | TaskSucceeded
    | TaskReused
    | TaskRetrying
    | TaskFailed
    | TaskSkipped
    | TaskCancelled
)
Event = DaemonEvent | WorkflowEvent | RunEvent | TaskEvent

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in Event.__args__}
_NESTED = {"facts": Facts, "plan": PlanLine, "instances": InstanceLine}
_FACTS = ("pid", "exit_code", "signal", "status_code", "log", "notes")
_NOTHING: tuple[object, ...] = (None, "", (), {})
_HIDDEN = frozenset(
    {
        "run",
        "workflow",
        "task",
        "stamp",
        "key",
        "parts",
        "plan",
        "boot",
        "mono_s",
        "not_before_s",
        "on_remove",
        "policy",
        "settled_s",
        "sources",
        "dotenv",
        "companions",
        "schedule",
        "scheduled_s",
        "instances",
    }
)


@dataclass(frozen=True, slots=True)
class Record:
    """An event with its place: `id` of its row, `sequence` where it is public, its wall time.

    What is told of it is made once, for all who tell it.
    """

    id: int
    sequence: Sequence | None
    at_s: float
    event: Event
    _told: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def shown(self) -> dict[str, Json]:
        """Its public data; not to be changed."""
        if "" not in self._told:
            self._told[""] = public_data(self.event)
        shown: dict[str, Json] = self._told[""]
        return shown

    def line(self, source: str) -> bytes:
        """Return it as the event stream and `events.ndjson` have it."""
        if source not in self._told:
            self._told[source] = encode_json(cloud_event(self, source)) + b"\n"
        line: bytes = self._told[source]
        return line


def to_json(event: Event) -> tuple[str, str]:
    """Return the stored form of an event: the name of its kind, and its fields as JSON."""
    return type(event).__name__, encode_json(event).decode()


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    return [*value] if isinstance(value, tuple) else value


def _nested(kind: type[Any], data: Mapping[str, Any]) -> Any:
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})


def from_json(kind: str, data: str) -> Event:
    """Return the event that `to_json` wrote; fields it does not know of yet take their defaults."""
    values: dict[str, Any] = {}
    for name, value in decode_json(data).items():
        nested = _NESTED.get(name)
        if nested is None:
            values[name] = _tuples(value)
        elif isinstance(value, list):
            values[name] = tuple(_nested(nested, item) for item in value)
        else:
            values[name] = None if value is None else _nested(nested, value)
    event: Event = _KINDS[kind](**values)
    return event


@cache
def _fields_shown(kind: type[Any]) -> tuple[str, ...]:
    return tuple(name for name in kind.__struct_fields__ if name not in _HIDDEN)


def public_data(event: Event) -> dict[str, Json]:
    """Return what the event stream shows: the fields that are set, facts of an attempt laid flat."""
    shown: dict[str, Json] = {}
    for name in _fields_shown(type(event)):
        value = getattr(event, name)
        if name == "facts" and value is not None:
            shown["duration_s"] = round(value.ended_s - value.started_s, 6)
            for fact in _FACTS:
                if (said := getattr(value, fact)) is not None and said != ():
                    shown[fact] = _listed(said)
        elif value not in _NOTHING:
            shown[name] = _listed(value)
    if isinstance(event, RunQueued) and event.scheduled_s:
        shown["scheduled_for"] = rfc3339(event.scheduled_s)
    if isinstance(event, RunStarted):
        reused = sum(line.action == "reuse" for line in event.plan)
        shown |= {"tasks": len(event.plan), "reused": reused}
    return shown


def rfc3339(at_s: float) -> str:
    """Return a wall time as RFC 3339 in UTC with microseconds."""
    seconds, microseconds = divmod(round(at_s * 1e6), 1_000_000)
    return f"{_second(seconds)}.{microseconds:06d}Z"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def subject_of(event: Event) -> str:
    """Return what an event is about: `team/etl/RUN/TASK`, `team/etl/RUN`, `team/etl`, or nothing."""
    parts = [getattr(event, name, "") for name in ("workflow", "run", "task")]
    return "/".join([part for part in parts if part])


def cloud_event(record: Record, source: str) -> dict[str, Json]:
    """Return a public record as a CloudEvents 1.0 object (SPEC section 4)."""
    return {
        "specversion": "1.0",
        "id": str(record.sequence),
        "sequence": f"{record.sequence:020d}",
        "source": source,
        "type": f"wizflow.{record.event.public}",
        "time": rfc3339(record.at_s),
        "subject": subject_of(record.event),
        "data": record.shown,
    }
