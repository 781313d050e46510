"""What is counted of which record, under which label, and what that costs."""

import timeit
from collections.abc import Iterable

import pytest

from tests.core.scenes import FACTS, NOW, failed, line, queued, run_started, skipped, started, succeeded
from tests.metrics.serving import Scene
from wizflowd.core.attempt import RunId, TaskId
from wizflowd.core.events import Event, Now, Record, RunArchived, RunEnded, RunStatus, TaskCancelled, TaskRetrying
from wizflowd.core.observations import ScanDone, WorkflowId
from wizflowd.core.state import apply
from wizflowd.metrics import Monitor


def moment(wall_s: float) -> Now:
    return Now(wall_s, NOW.mono_s, NOW.boot)


class Told:
    """A tally that is told what becomes true, as the engine does it: first the state, then the sink."""

    def __init__(self, scene: Scene, max_workflows: int = 2000) -> None:
        self.scene = scene
        self.monitor: Monitor = scene.monitor(max_workflows=max_workflows)

    def tell(self, *events: Event, at_s: float = NOW.wall_s) -> None:
        for event in events:
            apply(self.scene.state, event, at_s, moment(at_s))
            self.monitor.tally.told([Record(1, None, at_s, event)])

    def value(self, name: str, **labels: str) -> float | None:
        found: float | None = self.monitor.registry.get_sample_value(f"wizflow_{name}", labels)
        return found


@pytest.fixture
def told() -> Told:
    return Told(Scene())


def ended(status: RunStatus, run: str, workflow: str, duration_s: float = 0.0) -> Iterable[Event]:
    names = RunId(run), WorkflowId(workflow)
    return RunEnded(*names, status), RunArchived(*names, status, "", duration_s, "manual")


def test_a_run_is_counted_when_its_end_is_public(told: Told) -> None:
    end, archived = ended("succeeded", "r", "team/etl", 2.5)
    labels = {"workflow": "team/etl", "trigger": "manual", "status": "succeeded"}

    told.tell(queued(), run_started(line("a")), started("a"), succeeded("a"), end)
    before = told.value("runs_total", **labels)
    told.tell(archived)

    assert (before, told.value("runs_total", **labels)) == (None, 1)
    assert told.value("run_duration_seconds_sum", workflow="team/etl") == 2.5


def test_a_run_that_never_started_has_no_duration(told: Told) -> None:
    told.tell(queued(), *ended("cancelled", "r", "team/etl"))

    assert told.value("runs_total", workflow="team/etl", trigger="manual", status="cancelled") == 1
    assert told.value("run_duration_seconds_count", workflow="team/etl") is None


def test_a_run_that_began_before_the_daemon_has_its_duration() -> None:
    scene = Scene()
    for event in (queued(), run_started(line("a")), started("a"), succeeded("a")):
        apply(scene.state, event, NOW.wall_s, NOW)
    told = Told(scene)

    told.tell(*ended("succeeded", "r", "team/etl", 9.0))

    assert told.value("run_duration_seconds_sum", workflow="team/etl") == 9.0


def test_each_attempt_has_its_duration_and_each_task_one_end(told: Told) -> None:
    retrying = TaskRetrying(
        RunId("r"), WorkflowId("team/etl"), TaskId("a"), 1, FACTS, "exit", "exit code 1", 0.0, NOW.mono_s, NOW.boot
    )

    told.tell(queued(), run_started(line("a"), line("b", "a")), started("a"), retrying, started("a", 2))
    told.tell(failed("a", 2), skipped("b", blamed=True))

    assert told.value("task_duration_seconds_count", type="SHELL") == 2
    assert told.value("task_retries_total", workflow="team/etl") == 1
    assert told.value("tasks_total", workflow="team/etl", type="SHELL", status="failed") == 1
    assert told.value("tasks_total", workflow="team/etl", type="SHELL", status="skipped") == 1


def test_a_task_that_was_cancelled_before_it_started_has_no_duration(told: Told) -> None:
    cancelled = TaskCancelled(RunId("r"), WorkflowId("team/etl"), TaskId("a"), "cancelled by request")

    told.tell(queued(), run_started(line("a")), cancelled)

    assert told.value("tasks_total", workflow="team/etl", type="SHELL", status="cancelled") == 1
    assert told.value("task_duration_seconds_count", type="SHELL") is None


def test_waiting_counts_from_the_end_of_the_last_need(told: Told) -> None:
    told.tell(queued(), run_started(line("a"), line("b", "a")), at_s=1000.0)
    told.tell(started("a"), at_s=1001.0)
    told.tell(succeeded("a"), at_s=1010.0)
    told.tell(started("b"), at_s=1014.0)

    assert told.value("task_wait_seconds_count") == 2
    assert told.value("task_wait_seconds_sum") == 1.0 + 4.0


def test_reaction_counts_from_the_settled_file_to_the_first_task_only(told: Told) -> None:
    told.tell(queued(trigger="change", settled_s=999.5), run_started(line("a"), line("b")))
    told.tell(started("a"), at_s=1000.25)
    told.tell(started("b"), at_s=1007.0)

    assert told.value("reaction_seconds_count") == 1
    assert told.value("reaction_seconds_sum") == 0.75


def test_over_the_budget_workflows_are_told_together() -> None:
    told = Told(Scene(), max_workflows=2)

    for number in range(5):
        told.tell(queued(f"r{number}", f"w{number}"), *ended("cancelled", f"r{number}", f"w{number}"))
    told.tell(queued("again", "w0"), *ended("cancelled", "again", "w0"))

    counts = {name: told.value("runs_total", workflow=name, trigger="manual", status="cancelled") for name in NAMES}
    assert counts == {"w0": 2, "w1": 1, "_other": 3, "w2": None}


NAMES = ("w0", "w1", "_other", "w2")


def test_a_scan_has_its_time_and_lost_hints_are_counted(told: Told) -> None:
    told.monitor.tally.scanned(ScanDone(frozenset(), overflow=False), 5.0)
    told.monitor.tally.scanned(ScanDone(frozenset(), overflow=True), 6.0)

    assert told.value("watch_last_scan_timestamp_seconds") == 6.0
    assert told.value("watch_overflows_total") == 1


def test_a_record_costs_microseconds(told: Told) -> None:
    told.tell(queued(), run_started(line("a")), started("a"))
    records = [Record(1, None, NOW.wall_s, event) for event in (started("a"), succeeded("a"))]

    def tell() -> None:
        for record in records:
            told.monitor.tally.told([record])

    cost_s = min(timeit.repeat(tell, number=1000, repeat=5)) / 1000 / len(records)

    assert cost_s < 10e-6, "measured: 1.5 us; a look-up of labels for each record doubles it"
