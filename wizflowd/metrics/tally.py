"""Records -> counters and histograms: what the event stream has said since the daemon started, counted.

A sink of the engine: told in the loop, after the commit. It costs a microsecond or two for each record, so children are
resolved once and kept. What is true *now* is for `present`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

from wizflowd.core.attempt import Facts, RunId, TaskId
from wizflowd.core.events import (
    DefinitionAccepted,
    DefinitionRejected,
    Record,
    RunArchived,
    RunQueued,
    RunStarted,
    TaskAdopted,
    TaskCancelled,
    TaskFailed,
    TaskRetrying,
    TaskReused,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
)
from wizflowd.core.observations import ScanDone
from wizflowd.core.state import State
from wizflowd.metrics.labels import WorkflowLabels

TypeOf = Callable[[RunId, TaskId], str]
"""Gives the type of a task of a live run: SHELL, RESTAPI, EMAIL, WORKFLOW."""
Metric = TypeVar("Metric", bound=MetricWrapperBase)
EndEvent = TaskSucceeded | TaskFailed | TaskSkipped | TaskCancelled

_RUN_S = (0.1, 0.5, 2, 10, 60, 300, 1800, 14400)
_TASK_S = (0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200)
_WAIT_S = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600, 3600)
_REACTION_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300)
_COMMIT_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)

# Each series would get a second one with its time of birth, under a name that nobody asked for.
disable_created_metrics()  # type: ignore[no-untyped-call]


class _Children(dict[tuple[str, ...], Metric], Generic[Metric]):
    """The children of one metric by their label values: a lookup, not the 0.8 us of `labels()`."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: tuple[str, ...]) -> Metric:
        child = self[values] = self._metric.labels(*values)
        return child


class Tally:
    """Counts into a registry. `state` is looked at for what a record does not say, and stays the engine's."""

    def __init__(self, registry: CollectorRegistry, labels: WorkflowLabels, state: State, type_of: TypeOf) -> None:
        self._labels = labels
        self._state = state
        self._type_of = type_of
        self._started = set(state.active)
        self._settled: dict[RunId, float] = {}
        self._define(registry)
        self._takers: dict[type[Any], Callable[[Any, float], None]] = {
            DefinitionAccepted: self._accepted,
            DefinitionRejected: lambda _event, _at_s: self._definition_errors.inc(),
            RunQueued: self._queued,
            RunStarted: lambda event, _: self._started.add(event.run),
            RunArchived: self._archived,
            TaskStarted: self._task_started,
            TaskAdopted: lambda _event, _at_s: self._adopted.inc(),
            TaskReused: lambda event, _: self._reused[self._labels.take(event.workflow),].inc(),
            TaskRetrying: self._retrying,
            TaskSucceeded: lambda event, _: self._ended(event, "succeeded", event.facts),
            TaskFailed: lambda event, _: self._ended(event, "failed", event.facts if event.attempt else None),
            TaskSkipped: lambda event, _: self._ended(event, "skipped", None),
            TaskCancelled: lambda event, _: self._ended(event, "cancelled", event.facts),
        }
        for workflow in state.workflows.values():
            self._labels.take(workflow.id)

    def _define(self, registry: CollectorRegistry) -> None:
        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"wizflow_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"wizflow_{name}", what, labels, buckets=buckets, registry=registry)

        self._runs = _Children(counter("runs_total", "Runs that ended.", "workflow", "trigger", "status"))
        self._run_s = _Children(
            histogram("run_duration_seconds", "From start to end of runs that started.", _RUN_S, "workflow")
        )
        self._tasks = _Children(
            counter("tasks_total", "Tasks that ended; reused ones count elsewhere.", "workflow", "type", "status")
        )
        self._task_s = _Children(
            histogram("task_duration_seconds", "From start to end of attempts, retried ones too.", _TASK_S, "type")
        )
        self._retries = _Children(
            counter("task_retries_total", "Attempts that failed or were lost and are tried again.", "workflow")
        )
        self._reused = _Children(
            counter("reused_tasks_total", "Tasks not run again because an earlier success stands.", "workflow")
        )
        self._wait_s = histogram(
            "task_wait_seconds", "From all needs met until the first attempt of a task starts.", _WAIT_S
        )
        self._reaction_s = histogram(
            "reaction_seconds", "From a changed file found settled until the first task of its run starts.", _REACTION_S
        )
        self._definition_errors = counter("definition_errors_total", "Definitions that were refused.")
        self._adopted = counter("adopted_tasks_total", "Running tasks taken over from before a restart.")
        self._commit_s = histogram("journal_commit_seconds", "Until a commit was durable on the disk.", _COMMIT_S)
        self._overflows = counter("watch_overflows_total", "Looks at the folder after hints of changes were lost.")
        self._scanned_s = Gauge(
            "wizflow_watch_last_scan_timestamp_seconds",
            "When the folder was last looked at as a whole; 0: not yet.",
            registry=registry,
        )

    def told(self, records: Sequence[Record]) -> None:
        """Count records."""
        for record in records:
            take = self._takers.get(type(record.event))
            if take is not None:
                take(record.event, record.at_s)

    def committed(self, seconds: float) -> None:
        """Count a commit of the journal."""
        self._commit_s.observe(seconds)

    def scanned(self, scan: ScanDone, at_s: float) -> None:
        """Count a look at the whole folder."""
        self._scanned_s.set(at_s)
        if scan.overflow:
            self._overflows.inc()

    def _accepted(self, event: DefinitionAccepted, _: float) -> None:
        self._labels.take(event.workflow)

    def _queued(self, event: RunQueued, _: float) -> None:
        if event.settled_s:
            self._settled[event.run] = event.settled_s

    def _archived(self, event: RunArchived, _: float) -> None:
        label = self._labels.take(event.workflow)
        self._runs[label, event.trigger, event.status].inc()
        self._settled.pop(event.run, None)
        if event.run in self._started:
            self._started.discard(event.run)
            self._run_s[label,].observe(event.duration_s)

    def _task_started(self, event: TaskStarted, at_s: float) -> None:
        settled_s = self._settled.pop(event.run, None)
        if settled_s is not None:
            self._reaction_s.observe(max(0.0, at_s - settled_s))
        run = self._state.runs.get(event.run)
        if event.attempt == 1 and run is not None:
            self._wait_s.observe(max(0.0, at_s - run.tasks[event.task].ready_s))

    def _retrying(self, event: TaskRetrying, _: float) -> None:
        self._retries[self._labels.take(event.workflow),].inc()
        self._attempt_ended(self._type_of(event.run, event.task), event.facts)

    def _ended(self, event: EndEvent, status: str, facts: Facts | None) -> None:
        kind = self._type_of(event.run, event.task)
        self._tasks[self._labels.take(event.workflow), kind, status].inc()
        if (
            facts is not None and not isinstance(event, TaskSkipped) and event.attempt
        ):  # what was never tried, or was its instances, took no time of its own
            self._attempt_ended(kind, facts)

    def _attempt_ended(self, kind: str, facts: Facts) -> None:
        self._task_s[kind,].observe(max(0.0, facts.ended_s - facts.started_s))
