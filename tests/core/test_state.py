"""What each event changes, and that nothing else is ever changed by one."""

import copy
from typing import Any

import pytest

from tests.core.scenes import (
    FACTS,
    NOW,
    RUN,
    WORKFLOW,
    after,
    begun,
    failed,
    line,
    queued,
    retrying,
    run_started,
    skipped,
    started,
    succeeded,
    the_run,
)
from wizflowd.core.attempt import RunId, TaskId
from wizflowd.core.events import (
    DefinitionAccepted,
    DefinitionRejected,
    Event,
    FirstScanEnded,
    FolderFound,
    FolderLost,
    InstanceLine,
    Now,
    RunArchived,
    RunCancelling,
    RunEnded,
    RunFinishing,
    RunPaused,
    RunResumed,
    RunStatus,
    SpawnerJoined,
    TaskAdmitted,
    TaskAdopted,
    TaskCancelled,
    TaskExpanded,
    TaskPaused,
    TaskReused,
    WorkflowRemoved,
)
from wizflowd.core.state import ENDED, TRANSITIONS, Ended, State, TaskStatus, apply
from wizflowd.errors import IllegalTransitionError

A = TaskId("a")
SAMPLES: dict[str, Event] = {
    "TaskStarted": started("a"),
    "TaskAdopted": TaskAdopted(RUN, WORKFLOW, A, 1),
    "TaskSucceeded": succeeded("a"),
    "TaskRetrying": retrying("a"),
    "TaskFailed": failed("a"),
    "TaskReused": TaskReused(RUN, WORKFLOW, A, "earlier", "nothing changed"),
    "TaskSkipped": skipped("a", blamed=True),
    "TaskCancelled": TaskCancelled(RUN, WORKFLOW, A, "cancelled by request"),
    "TaskAdmitted": TaskAdmitted(RUN, WORKFLOW, A),
    "TaskPaused": TaskPaused(RUN, WORKFLOW, A),
    "TaskExpanded": TaskExpanded(RUN, WORKFLOW, A, (InstanceLine(TaskId("a[x]"), 0, {"item": "x"}),)),
}
WAYS: dict[TaskStatus, tuple[Event, ...]] = {
    "pending": (),
    "running": (started("a"),),
    "retrying": (started("a"), retrying("a")),
    "paused": (TaskPaused(RUN, WORKFLOW, A),),
    "succeeded": (started("a"), succeeded("a")),
    "failed": (started("a"), failed("a")),
    "skipped": (skipped("a", blamed=False),),
    "cancelled": (TaskCancelled(RUN, WORKFLOW, A, "cancelled by request"),),
}
# ARCHITECTURE.md, "Transitions: the whole life of a task"; a mail found equal is reused while it runs, and a task of
# which nothing could be tried fails where it stands
LEADS_TO = {
    "TaskStarted": ("running", {"pending", "retrying"}),
    "TaskAdopted": ("running", {"running"}),
    "TaskSucceeded": ("succeeded", {"running"}),
    "TaskRetrying": ("retrying", {"running"}),
    "TaskFailed": ("failed", {"running", "pending", "paused"}),
    "TaskReused": ("succeeded", {"pending", "running"}),
    "TaskSkipped": ("skipped", {"pending", "retrying", "paused"}),
    "TaskCancelled": ("cancelled", {"pending", "retrying", "paused", "running"}),
    "TaskAdmitted": ("pending", {"pending", "paused"}),
    "TaskPaused": ("paused", {"pending"}),
    "TaskExpanded": ("running", {"pending"}),
}


@pytest.mark.parametrize("status", WAYS)
@pytest.mark.parametrize("kind", SAMPLES)
def test_an_event_leads_where_the_table_says_or_is_refused_and_changes_nothing(kind: str, status: TaskStatus) -> None:
    state = after(*WAYS[status], state=begun(line("a"), line("b", "a")))
    before = copy.deepcopy(state)
    to, allowed = LEADS_TO[kind]

    if status in allowed:
        after(SAMPLES[kind], state=state)
        assert the_run(state).tasks[A].status == to
    else:
        with pytest.raises(IllegalTransitionError, match=f"cannot apply {kind} to r/a: it is {status}"):
            after(SAMPLES[kind], state=state)
        assert state == before


def test_the_table_knows_every_event_of_a_task() -> None:
    assert {kind.__name__ for kind in TRANSITIONS} == SAMPLES.keys() == LEADS_TO.keys()


def test_nothing_happens_to_a_task_of_a_run_that_has_ended() -> None:
    state = after(started("a"), succeeded("a"), RunEnded(RUN, WORKFLOW, "succeeded"), state=begun(line("a")))

    with pytest.raises(IllegalTransitionError, match="it is succeeded, the run succeeded"):
        after(SAMPLES["TaskStarted"], state=state)


# -- when a task becomes ready ------------------------------------------------------------------------------------

ENDS: dict[str, tuple[Event, ...]] = {
    "succeeded": (started("a"), succeeded("a")),
    "reused": (SAMPLES["TaskReused"],),
    "failed": (started("a"), failed("a")),
    "tolerated": (started("a"), failed("a", tolerated=True)),
    "skipped": (skipped("a", blamed=False),),
    "skipped for a failure": (skipped("a", blamed=True),),
    "cancelled": (SAMPLES["TaskCancelled"],),
}


@pytest.mark.parametrize(
    ("run_on", "wanted"),
    [
        ("success", {"succeeded", "reused", "tolerated"}),
        ("failure", {"failed", "tolerated", "skipped for a failure"}),
        ("always", set(ENDS)),
    ],
)
@pytest.mark.parametrize("end", ENDS)
def test_run_on_says_after_which_end_a_task_is_ready(run_on: str, wanted: set[str], end: str) -> None:
    state = after(*ENDS[end], state=begun(line("a"), line("b", "a", run_on=run_on)))

    assert (the_run(state).ready == {"b"}) == (end in wanted)
    assert (the_run(state).unsettled == {"b"}) == (end not in wanted)


def test_a_task_waits_for_all_its_needs_even_where_one_failure_would_do() -> None:
    state = begun(line("a"), line("b"), line("c", "a b", run_on="failure"))

    after(started("a"), failed("a"), state=state)
    assert the_run(state).ready == {"b"}

    after(started("b"), succeeded("b"), state=state)
    assert the_run(state).ready == {"c"}


def test_one_need_that_did_not_succeed_settles_a_task_before_the_others_have_ended() -> None:
    state = after(started("a"), failed("a"), state=begun(line("a"), line("b"), line("c", "a b")))

    assert the_run(state).unsettled == {"c"}


# -- instances ----------------------------------------------------------------------------------------------------


def expanded(count: int, max_parallel: int | None = None) -> TaskExpanded:
    lines = tuple(InstanceLine(TaskId(f"a.{index}"), index, {"item": index}) for index in range(count))
    return TaskExpanded(RUN, WORKFLOW, A, lines, max_parallel)


def test_a_task_becomes_its_instances_and_waits_for_them() -> None:
    state = after(expanded(2), state=begun(line("a", gated=True), line("b", "a")))
    assert the_run(state).ready == {"a.0", "a.1"}
    assert state.running_tasks == 0  # the task itself takes no place

    after(started("a.1"), succeeded("a.1"), started("a.0"), failed("a.0"), state=state)

    assert the_run(state).collected == {"a"}
    assert the_run(state).tasks[A].status == "running"


def test_no_more_instances_are_let_go_than_may_be_in_flight() -> None:
    state = after(expanded(4, 2), state=begun(line("a", gated=True)))
    assert the_run(state).ready == {"a.0", "a.1"}

    after(started("a.0"), retrying("a.0"), state=state)
    assert the_run(state).ready == {"a.1"}

    after(started("a.1"), succeeded("a.1"), state=state)
    assert the_run(state).ready == {"a.2"}


def test_an_instance_that_is_reused_while_others_hold_the_places_lets_none_go() -> None:
    state = after(expanded(3, 1), state=begun(line("a", gated=True)))

    after(TaskReused(RUN, WORKFLOW, TaskId("a.1"), "earlier", "nothing changed"), state=state)
    assert the_run(state).ready == {"a.0"}

    after(started("a.0"), succeeded("a.0"), state=state)
    assert the_run(state).ready == {"a.2"}


def test_a_task_without_instances_has_ended_at_once() -> None:
    assert the_run(after(expanded(0), state=begun(line("a", gated=True)))).collected == {"a"}


# -- finally ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "let_go"),
    [("succeeded", {"good", "any"}), ("failed", {"bad", "any"}), ("cancelled", {"any"})],
)
def test_tasks_of_finally_come_after_all_others_as_the_run_ended(verdict: RunStatus, let_go: set[str]) -> None:
    finals = [
        line("good", final=True),
        line("bad", final=True, run_on="failure"),
        line("any", final=True, run_on="always"),
    ]
    state = begun(line("a"), *finals)
    assert the_run(state).ready == {"a"}

    after(started("a"), succeeded("a"), RunFinishing(RUN, WORKFLOW, verdict), state=state)

    assert the_run(state).ready == let_go
    assert the_run(state).unsettled == {"good", "bad", "any"} - let_go


def test_a_run_cannot_turn_to_finally_while_something_else_is_open_or_twice() -> None:
    state = begun(line("a"), line("f", final=True))
    with pytest.raises(IllegalTransitionError, match="cannot finish r: 1 tasks are open"):
        after(RunFinishing(RUN, WORKFLOW, "succeeded"), state=state)

    after(started("a"), succeeded("a"), RunFinishing(RUN, WORKFLOW, "succeeded"), state=state)
    with pytest.raises(IllegalTransitionError, match="cannot finish r"):
        after(RunFinishing(RUN, WORKFLOW, "succeeded"), state=state)


# -- what a task keeps of its attempts ------------------------------------------------------------------------------


def test_every_attempt_is_kept_with_its_error() -> None:
    state = begun(line("a"))

    after(started("a"), retrying("a"), started("a", 2), failed("a", 2), state=state)

    task = the_run(state).tasks[A]
    assert task.attempts == (Ended(1, FACTS, "exit code 1"), Ended(2, FACTS, "exit code 1"))
    assert (task.attempt, task.failure, task.message) == (2, "exit", "exit code 1")


def test_an_attempt_that_never_was_leaves_none_behind() -> None:
    state = after(failed("a", 0), state=begun(line("a")))

    assert the_run(state).tasks[A].attempts == ()


def test_only_lost_attempts_count_as_lost() -> None:
    state = begun(line("a"))

    after(started("a"), retrying("a"), started("a", 2), retrying("a", 2, reason="lost"), state=state)

    assert the_run(state).tasks[A].lost == 1


def test_what_is_reused_gives_its_outputs_and_is_no_attempt() -> None:
    reused = TaskReused(RUN, WORKFLOW, A, "earlier", "nothing changed", "key", {"n": 3})

    task = the_run(after(reused, state=begun(line("a")))).tasks[A]

    assert (task.outputs, task.key, task.reused_from, task.reused) == ({"n": 3}, "key", "earlier", True)
    assert (task.attempt, task.attempts) == (0, ())


# -- moments of another boot --------------------------------------------------------------------------------------


def test_in_the_same_boot_a_delay_goes_on_and_in_another_it_counts_from_the_begin_of_that() -> None:
    events = (queued(), run_started(line("a"), timeout_s=100.0), started("a"), retrying("a", delay_s=5.0))

    same = the_run(after(*events, now=Now(2_000.0, 53.0, NOW.boot)))
    others = [the_run(after(*events, now=Now(2_000.0, mono_s, "another boot"))) for mono_s in (7.0, 80.0)]

    assert (same.tasks[A].due_s, same.deadline_s) == (NOW.mono_s + 5.0, NOW.mono_s + 100.0)
    assert [(other.tasks[A].due_s, other.deadline_s) for other in others] == [(5.0, 100.0), (5.0, 100.0)]


# -- runs ---------------------------------------------------------------------------------------------------------


def refusals() -> list[tuple[State, Event, str]]:
    ended = after(RunCancelling(RUN, WORKFLOW, "cancelled", "x"), state=begun())
    after(RunEnded(RUN, WORKFLOW, "cancelled"), state=ended)
    cancelling = after(RunCancelling(RUN, WORKFLOW, "cancelled", "x"), state=begun(line("a")))
    cancel = RunCancelling(RUN, WORKFLOW, "failed", "the run timed out")
    return [
        (begun(line("a")), queued(), "cannot queue r: it exists"),
        (begun(line("a")), run_started(line("a")), "cannot start r: it is running"),
        (State(), run_started(line("a")), "cannot apply RunStarted: no run r"),
        (begun(line("a")), RunEnded(RUN, WORKFLOW, "succeeded"), "cannot end r: 1 tasks are open"),
        (copy.deepcopy(ended), RunEnded(RUN, WORKFLOW, "cancelled"), "cannot end r: 0 tasks are open, it is cancelled"),
        (begun(line("a")), RunArchived(RUN, WORKFLOW, "succeeded"), "cannot archive r: it has not ended"),
        (copy.deepcopy(ended), cancel, "cannot cancel r: it is cancelled"),
        (cancelling, cancel, "being cancelled already"),
        (copy.deepcopy(ended), RunPaused(RUN, WORKFLOW), "cannot apply RunPaused to r: it is cancelled"),
        (begun(line("a")), RunResumed(RUN, WORKFLOW), "cannot apply RunResumed to r: it is running"),
        (State(), WorkflowRemoved(WORKFLOW), "cannot remove team/etl: it is not known"),
        (begun(line("a")), started("z"), "cannot apply TaskStarted to r/z: no such task"),
    ]


@pytest.mark.parametrize(("state", "event", "message"), refusals(), ids=lambda value: type(value).__name__)
def test_an_event_that_does_not_fit_is_refused_and_changes_nothing(state: State, event: Event, message: str) -> None:
    before = copy.deepcopy(state)

    with pytest.raises(IllegalTransitionError, match=message):
        apply(state, event, NOW.wall_s, NOW)

    assert state == before


def test_a_run_that_was_never_started_can_end() -> None:
    state = after(queued(), RunEnded(RUN, WORKFLOW, "cancelled", "superseded by r2"))

    assert state.queued == {}
    assert (the_run(state).status, the_run(state).reason) == ("cancelled", "superseded by r2")


def test_a_run_is_active_until_its_results_are_public() -> None:
    state = after(started("a"), succeeded("a"), RunEnded(RUN, WORKFLOW, "succeeded"), state=begun(line("a")))
    assert state.active == {RUN: None}

    after(RunArchived(RUN, WORKFLOW, "succeeded"), state=state)
    assert (state.active, state.runs) == ({}, {})


def last_run(status: RunStatus, *events: Event) -> tuple[str | None, str | None]:
    """Return what a workflow in the folder says of its last run, after a run ended that way."""
    accepted = DefinitionAccepted(WORKFLOW, "team/etl.yaml", "stamp", "digest", "", "added")
    ended = RunEnded(RUN, WORKFLOW, status)
    known = after(accepted, queued(), *events, ended, RunArchived(RUN, WORKFLOW, status)).workflows[WORKFLOW]
    return known.last_run, known.last_status


def test_the_last_run_is_one_that_ran_or_could_not() -> None:
    assert last_run("succeeded", run_started()) == (RUN, "succeeded")
    assert last_run("failed") == (RUN, "failed")
    assert last_run("cancelled") == (None, None)


def test_a_paused_run_has_nothing_to_start_until_it_is_resumed() -> None:
    state = begun(line("a"))

    after(RunPaused(RUN, WORKFLOW), state=state)
    assert (state.startable, the_run(state).shown) == ({}, "paused")

    after(RunResumed(RUN, WORKFLOW), state=state)
    assert (state.startable, the_run(state).shown) == ({RUN: None}, "running")


def test_a_paused_run_that_is_cancelled_still_comes_to_its_end() -> None:
    state = after(RunPaused(RUN, WORKFLOW), state=begun(line("a"), line("f", final=True, run_on="always")))
    cancelled = TaskCancelled(RUN, WORKFLOW, A, "by request")

    after(RunCancelling(RUN, WORKFLOW, "cancelled", "by request"), cancelled, state=state)
    after(RunFinishing(RUN, WORKFLOW, "cancelled", "by request"), state=state)

    assert state.startable == {RUN: None}


# -- workflows ----------------------------------------------------------------------------------------------------


def test_a_rejected_definition_leaves_the_one_before_in_force() -> None:
    accepted = DefinitionAccepted(WORKFLOW, "team/etl.yaml", "good", "digest", "", "added")

    state = after(accepted, DefinitionRejected(WORKFLOW, "team/etl.yml", "bad", ("etl.yml:1:1: empty",)))

    known = state.workflows[WORKFLOW]
    assert (known.good_stamp, known.digest, known.stamp) == ("good", "digest", "bad")
    assert (known.path, known.problems) == ("team/etl.yaml", ("etl.yml:1:1: empty",))


def test_an_accepted_definition_takes_the_error_away() -> None:
    rejected = DefinitionRejected(WORKFLOW, "team/etl.yaml", "bad", ("etl.yaml:1:1: empty",))
    accepted = DefinitionAccepted(WORKFLOW, "team/etl.yaml", "s", "d", "c", "added", "a note", ("*.sql",), (".env",))

    known = after(rejected, accepted).workflows[WORKFLOW]

    assert (known.problems, known.note, known.companions) == ((), "a note", "c")
    assert (known.sources, known.dotenv) == (("*.sql",), (".env",))


def test_a_removed_workflow_is_remembered_for_its_runs_alone() -> None:
    accepted = DefinitionAccepted(WORKFLOW, "team/etl.yaml", "stamp", "digest", "", "added")
    state = after(accepted, queued(), queued("r2"), WorkflowRemoved(WORKFLOW))
    assert (state.workflows[WORKFLOW].digest, state.workflows[WORKFLOW].path) == ("", "")

    for run in ("r", "r2"):
        assert next(other.id for other in state.live_runs(WORKFLOW)) == run
        after(RunEnded(RunId(run), WORKFLOW, "cancelled"), RunArchived(RunId(run), WORKFLOW, "cancelled"), state=state)
    assert state.workflows == {}


def test_facts_about_the_daemon_are_kept() -> None:
    state = after(SpawnerJoined("s1"), FirstScanEnded(), FolderLost("it is unmounted"))
    assert (state.spawner, state.seen_once, state.unavailable) == ("s1", True, "it is unmounted")

    assert after(FolderFound(), state=state).unavailable == ""


@pytest.mark.parametrize("kind", [kind for kind in Event.__args__ if kind.__name__.startswith("Daemon")])
def test_news_of_the_daemon_change_nothing(kind: type[Any]) -> None:
    assert after(kind(**dict.fromkeys(kind.__struct_fields__, "x"))) == State()


def test_every_end_closes_a_task() -> None:
    for end in ENDS.values():
        run = the_run(after(*end, state=begun(line("a"))))
        assert run.open == 0
        assert run.tasks[A].status in ENDED
