"""The state -> gauges: how many of what there are now. Looked at when somebody asks, never kept up to date.

Two halves: `look`, in the loop, copies what changes under one's hands and costs by what is under way; `collect`, in the
thread that writes the page, goes through the workflows.
"""

from collections import Counter as Count
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from wizflowd import __version__
from wizflowd.core.observations import WorkflowId
from wizflowd.core.state import State, Workflow
from wizflowd.metrics.disks import Disks
from wizflowd.metrics.labels import WorkflowLabels

WORKFLOW_STATES = ("idle", "queued", "running", "paused", "waiting", "invalid", "unavailable")
RUN_STATES = ("queued", "running", "paused")
TASK_STATES = ("pending", "running", "retrying", "paused")


class StreamCounts(Protocol):
    """The event stream, as far as it counts its clients."""

    lagged: int

    @property
    def clients(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Moment:
    """A copy of what the page needs; the workflows themselves are shared and only read."""

    workflows: list[Workflow]
    busy: Mapping[WorkflowId, str]
    runs: Mapping[str, int]
    tasks: Mapping[str, int]
    unavailable: bool
    clients: int
    lagged: int
    free_bytes: Mapping[str, int]


@dataclass(slots=True, eq=False)
class Present(Collector):
    """A collector. `state_of` names the state of a workflow as `status.json` has it."""

    state: State
    labels: WorkflowLabels
    state_of: Callable[[State, Workflow], str]
    stream: StreamCounts
    disks: Disks
    _moment: _Moment | None = None

    async def look(self) -> None:
        """Copy what changes, for the next `collect`."""
        free_bytes = await self.disks.free_bytes()
        state = self.state
        busy = {workflow: state.workflows[workflow] for workflow in {run.workflow for run in state.runs.values()}}
        runs = Count({"queued": len(state.queued)})
        tasks: Count[str] = Count()
        for active in state.active:
            run = state.runs[active]
            if run.ended_s is not None:
                continue
            runs[run.shown] += 1
            running, retrying, paused = len(run.running), len(run.retrying), len(run.waiting)
            pending = run.open - running - retrying - paused
            tasks.update(running=running, retrying=retrying, paused=paused, pending=pending)
        self._moment = _Moment(
            list(state.workflows.values()),
            {workflow: self.state_of(state, known) for workflow, known in busy.items()},
            runs,
            tasks,
            bool(state.unavailable),
            self.stream.clients,
            self.stream.lagged,
            free_bytes,
        )

    def collect(self) -> Iterable[Metric]:
        """Yield the families of the moment that was looked at last."""
        moment = self._moment
        if moment is None:
            return
        yield _gauge("build_info", "1, labelled with the version that runs.", {__version__: 1}, "version")
        yield _gauge("workflows", "Workflows by state.", self._workflows(moment), "state")
        yield _gauge("runs", "Runs under way by state.", _all(RUN_STATES, moment.runs), "state")
        yield _gauge("tasks", "Tasks of runs under way by state.", _all(TASK_STATES, moment.tasks), "state")
        yield from self._last_runs(moment)
        yield from _of_parts(moment)

    def _workflows(self, moment: _Moment) -> dict[str, int]:
        count: Count[str] = Count()
        for workflow in moment.workflows:
            if workflow.path:
                count["unavailable" if moment.unavailable else moment.busy.get(workflow.id) or _at_rest(workflow)] += 1
        return _all(WORKFLOW_STATES, count)

    def _last_runs(self, moment: _Moment) -> Iterable[Metric]:
        """Yield how the last run of each workflow ended; of `_other`: the newest success, and whether any failed."""
        success: dict[str, float] = {}
        failed: dict[str, float] = {}
        for workflow in moment.workflows:
            if not workflow.path:
                continue
            label = self.labels.look(workflow.id)
            if workflow.last_success_s is not None:
                success[label] = max(workflow.last_success_s, success.get(label, 0.0))
            if workflow.last_status is not None:
                failed[label] = max(float(workflow.last_status == "failed"), failed.get(label, 0.0))
        yield _gauge("last_success_timestamp_seconds", "When a run last succeeded.", success, "workflow")
        yield _gauge("last_run_failed", "1 if the last run failed, else 0.", failed, "workflow")


def _at_rest(workflow: Workflow) -> str:
    """Return the state of a workflow without runs; see `engine.archive.describe_workflow`."""
    if workflow.problems:
        return "invalid"
    return "waiting" if workflow.note.startswith("waiting") else "idle"


def _of_parts(moment: _Moment) -> Iterable[Metric]:
    yield _gauge("stream_clients", "Connections to the event stream.", {"": moment.clients})
    lagged = "Clients of the event stream that were closed for reading too slowly."
    yield CounterMetricFamily("wizflow_stream_lagged_total", lagged, value=moment.lagged)
    yield _gauge("disk_free_bytes", "Room for wizflowd on the disk below a path.", moment.free_bytes, "path")


def _all(names: Iterable[str], counted: Mapping[str, int]) -> dict[str, int]:
    return {name: counted.get(name, 0) for name in names}


def _gauge(name: str, what: str, values: Mapping[str, float], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"wizflow_{name}", what, labels=labels)
    for label, value in values.items():
        family.add_metric([label] if labels else [], value)
    return family
