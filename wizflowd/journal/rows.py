"""What goes into the journal and what comes out of it: values without a word of SQL."""

from collections.abc import Iterable, Mapping, Sequence, Set

from msgspec import Struct

from wizflowd.core.attempt import RunId, TaskId
from wizflowd.core.events import Event, Record, RunStatus
from wizflowd.core.observations import WorkflowId
from wizflowd.core.plan import Success


class WorkflowRow(Struct, frozen=True):
    """What the journal knows of a workflow in the folder."""

    workflow: WorkflowId
    path: str
    stamp: str
    digest: str
    companions: str
    good_stamp: str
    problems: tuple[str, ...]
    note: str
    sources: tuple[str, ...]
    dotenv: tuple[str, ...]
    last_run: RunId | None
    last_status: RunStatus | None
    last_ended_s: float | None
    last_skipped: int
    last_tolerated: int
    last_success_s: float | None


class RunRow(Struct, frozen=True):
    """One line of the history of runs; times in seconds since the epoch. `skipped`, `tolerated`: how many tasks.

    `number` gives their order: the wall clock may have been set between two of them.
    """

    run: RunId
    workflow: WorkflowId
    path: str
    stamp: str
    digest: str
    trigger: str
    status: str
    reason: str
    queued_s: float
    started_s: float | None
    ended_s: float | None
    closed: int
    skipped: int
    tolerated: int
    parent: str = ""
    number: int = 0


class ScheduleRow(Struct, frozen=True):
    """The schedule of a workflow, as rows of cron expression, zone and catch-up; all up to `passed_s` is done with."""

    workflow: WorkflowId
    schedule: tuple[tuple[str, str, str], ...]
    passed_s: float


class Recovered(Struct, frozen=True):
    """What a start begins with: the workflows, the runs that are not closed, and every record of those."""

    workflows: tuple[WorkflowRow, ...]
    runs: tuple[RunRow, ...]
    records: tuple[Record, ...]
    schedules: tuple[ScheduleRow, ...]
    spawner: str
    seen_once: bool


class Past(Struct, frozen=True):
    """What a plan goes by: the last success of each task, the tasks that ran and have not succeeded since, and the
    digest of the message last sent by each."""

    successes: Mapping[TaskId, Success]
    unsuccessful: Set[TaskId]
    mails: Mapping[TaskId, str]


class Due(Struct, frozen=True):
    """What the journal has for a run that is to start; `definition`: its bytes, `records`: those of the run so far."""

    past: Past
    definition: bytes
    records: Sequence[Record]


class Commit(Struct, frozen=True):
    """One transaction: events with their wall time, new definitions by stamp, runs that are closed.

    `moments` has the time of each event where not all are of `at_s`.
    """

    events: Sequence[Event]
    at_s: float
    definitions: Mapping[str, bytes] = {}
    closed: Sequence[RunId] = ()
    moments: Sequence[float] = ()

    @property
    def timed_events(self) -> Iterable[tuple[Event, float]]:
        """The events, each with its wall time."""
        return zip(self.events, self.moments or [self.at_s] * len(self.events), strict=True)
