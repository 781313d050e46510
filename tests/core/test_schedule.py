"""What may start, in which order, and when to look again."""

import time

import pytest

from tests.core.scenes import (
    NOW,
    RUN,
    WORKFLOW,
    after,
    at,
    begun,
    failed,
    line,
    queued,
    retrying,
    run_started,
    started,
    succeeded,
    the_run,
)
from wizflowd.core.attempt import RunId, TaskId
from wizflowd.core.events import Now, PlanLine, RunCancelling, RunEnded, RunPaused, TaskAdmitted, TaskPaused
from wizflowd.core.schedule import Capacity, expired_approvals, next_start, next_wake_s, overdue_runs, runs_in_turn
from wizflowd.core.state import State

ROOMY = Capacity(max_tasks=100, max_runs=100)


def start_all(state: State, capacity: Capacity = ROOMY, now: Now = NOW) -> list[str]:
    """Start what may start, as the engine does; return it as `run/task`."""
    found = []
    while (start := next_start(state, now, capacity)) is not None:
        after(start, state=state, now=now)
        found.append(f"{start.run}/{start.task}" if start.run != RUN else start.task)
    return found


def two_runs(*lines: PlanLine) -> State:
    state = after(queued("r1", "w1"), queued("r2", "w2"))
    return after(
        run_started(*lines, run="r1", workflow="w1"), run_started(*lines, run="r2", workflow="w2"), state=state
    )


# -- the order of starts ------------------------------------------------------------------------------------------


def test_the_longest_path_goes_first_and_the_order_of_the_file_decides_between_equals() -> None:
    state = begun(line("short", rank=1), line("long", rank=3), line("long_too", rank=3), line("next", "long", rank=2))

    assert start_all(state) == ["long", "long_too", "short"]


def test_what_waits_for_another_task_is_not_started() -> None:
    state = begun(line("a"), line("b", "a"))
    assert start_all(state) == ["a"]

    after(succeeded("a"), state=state)
    assert start_all(state) == ["b"]


def test_no_more_tasks_run_than_the_capacity_has_places() -> None:
    state = begun(*map(line, "abcd"))

    assert start_all(state, Capacity(3, 1)) == ["a", "b", "c"]

    after(failed("b"), state=state)
    assert start_all(state, Capacity(3, 1)) == ["d"]


def test_no_more_tasks_of_a_run_run_than_its_max_tasks() -> None:
    state = begun(*map(line, "abc"), max_tasks=2)
    assert start_all(state) == ["a", "b"]

    after(succeeded("a"), state=state)
    assert start_all(state) == ["c"]


def test_runs_take_turns_so_that_a_large_one_does_not_starve_the_others() -> None:
    state = two_runs(*map(line, "abc"))

    assert start_all(state) == ["r1/a", "r2/a", "r1/b", "r2/b", "r1/c", "r2/c"]


def test_a_run_that_is_full_does_not_hold_up_another() -> None:
    state = after(queued("r1", "w1"), queued("r2", "w2"))
    after(run_started(*map(line, "ab"), run="r1", workflow="w1", max_tasks=1), state=state)
    after(run_started(*map(line, "ab"), run="r2", workflow="w2"), state=state)

    assert start_all(state) == ["r1/a", "r2/a", "r2/b"]


@pytest.mark.parametrize("stop", [RunCancelling(RUN, WORKFLOW, "cancelled", "by request"), RunPaused(RUN, WORKFLOW)])
def test_nothing_of_a_run_that_is_cancelled_or_paused_starts(stop: RunCancelling | RunPaused) -> None:
    state = begun(line("a"), line("b"))
    after(started("b"), retrying("b", delay_s=0.0), stop, state=state)

    assert start_all(state) == []


def test_a_priority_goes_before_a_longer_path() -> None:
    assert start_all(begun(line("long", rank=9), line("urgent", priority=1))) == ["urgent", "long"]


def test_a_pool_bounds_its_own_tasks_and_holds_up_no_other() -> None:
    state = begun(line("a", pool="db", rank=9), line("b", pool="db", rank=8), line("c"))
    one = Capacity(100, 100, {"db": 1})
    assert start_all(state, one) == ["a", "c"]

    after(retrying("a", delay_s=1.0), state=state)
    assert start_all(state, one) == ["b"]
    assert start_all(state, one, at(60.0)) == []  # the retry waits for the pool's place, too

    after(succeeded("b"), state=state)
    assert start_all(state, one, at(60.0)) == ["a"]


def test_a_run_of_another_workflow_takes_no_place() -> None:
    state = begun(line("a", child=True, rank=3), line("b", rank=2), line("c", rank=1))

    assert start_all(state, Capacity(1, 1)) == ["a", "b"]


# -- approvals ----------------------------------------------------------------------------------------------------


def test_an_approval_that_does_not_come_in_time_fails_its_task_once() -> None:
    state = begun(line("a", gated=True, tolerated=True))
    after(TaskPaused(RUN, WORKFLOW, TaskId("a"), 10.0, NOW.mono_s, NOW.boot), state=state)
    assert next_wake_s(state, NOW, ROOMY) == 60.0
    assert list(expired_approvals(state, at(59.9))) == []

    (expired,) = expired_approvals(state, at(60.0))

    assert (expired.task, expired.reason, expired.tolerated) == ("a", "timeout", True)
    after(expired, state=state)
    assert list(expired_approvals(state, at(61.0))) == []


def test_an_approval_in_time_is_not_failed_later() -> None:
    state = begun(line("a", gated=True))
    after(TaskPaused(RUN, WORKFLOW, TaskId("a"), 10.0, NOW.mono_s, NOW.boot), state=state)

    after(TaskAdmitted(RUN, WORKFLOW, TaskId("a"), "me"), TaskAdmitted(RUN, WORKFLOW, TaskId("a")), state=state)

    assert list(expired_approvals(state, at(61.0))) == []
    assert start_all(state) == ["a"]


# -- retries ------------------------------------------------------------------------------------------------------


def test_a_retry_starts_when_its_time_has_come_and_not_before() -> None:
    state = after(started("a"), retrying("a", delay_s=5.0), state=begun(line("a")))

    assert start_all(state, now=at(54.999)) == []
    assert next_start(state, at(55.0), ROOMY) == started("a", 2)


def test_of_a_run_that_is_held_neither_a_task_nor_a_retry_starts() -> None:
    state = begun(line("a"), line("b"))
    after(started("a"), retrying("a", delay_s=5.0), state=state)

    assert next_start(state, at(55.0), ROOMY, {RUN}) is None
    assert next_start(state, at(55.0), ROOMY) == started("a", 2)


def test_a_retry_that_is_due_goes_before_what_was_never_tried() -> None:
    state = begun(line("a"), line("b", rank=9))
    after(started("a"), retrying("a", delay_s=1.0), state=state)

    assert start_all(state, now=at(60.0)) == ["a", "b"]


def test_of_two_retries_the_one_that_is_due_first_goes_first() -> None:
    state = begun(line("a"), line("b"))
    after(started("a"), retrying("a", delay_s=2.0), started("b"), retrying("b", delay_s=1.0), state=state)

    assert start_all(state, now=at(60.0)) == ["b", "a"]


def test_a_second_retry_waits_its_own_time_where_the_first_one_took_the_last_place() -> None:
    one_place = Capacity(1, 1)
    state = begun(line("a"))
    after(started("a"), retrying("a", delay_s=1.0), state=state)
    assert start_all(state, one_place, at(51.0)) == ["a"]

    after(retrying("a", 2, delay_s=8.0, not_before_s=60.0), state=state, now=at(52.0))

    assert start_all(state, one_place, at(59.0)) == []
    assert start_all(state, one_place, at(60.0)) == ["a"]


def test_a_retry_of_a_run_that_is_full_lets_another_run_go_on() -> None:
    state = two_runs(*map(line, "ab"))
    the_full_one = state.runs[RunId("r1")]
    the_full_one.max_tasks = 1
    after(started("a", run="r1"), retrying("a", run="r1", delay_s=1.0), started("b", run="r1"), state=state)
    after(started("a", run="r2"), retrying("a", run="r2", delay_s=2.0), state=state)

    assert start_all(state, now=at(60.0)) == ["r2/a", "r2/b"]

    after(succeeded("b", run="r1"), state=state)
    assert start_all(state, now=at(60.0)) == ["r1/a"]


# -- when to look again -------------------------------------------------------------------------------------------


def test_nothing_wakes_an_engine_that_waits_for_nothing() -> None:
    assert next_wake_s(begun(line("a")), NOW, ROOMY) is None


def test_the_next_retry_or_deadline_wakes_the_engine() -> None:
    state = begun(line("a"), line("b"), timeout_s=4.0)
    after(started("a"), retrying("a", delay_s=5.0), state=state)
    assert next_wake_s(state, NOW, ROOMY) == 54.0

    after(started("b"), retrying("b", delay_s=3.0), state=state)
    assert next_wake_s(state, NOW, ROOMY) == 53.0


def test_a_retry_that_waits_for_a_place_does_not_wake_the_engine_again_and_again() -> None:
    state = begun(line("a"), line("b"), line("c"), max_tasks=1)
    after(started("a"), retrying("a", delay_s=1.0), state=state)
    after(started("b"), retrying("b", delay_s=9.0), started("c"), state=state)

    # the run is full: only time can make a difference to b, an end of c to a
    assert next_start(state, at(52.0), ROOMY) is None
    assert next_wake_s(state, at(52.0), ROOMY) == 59.0
    # the host is full: no time makes a difference
    assert next_wake_s(state, at(52.0), Capacity(1, 1)) is None


# -- runs that are due ----------------------------------------------------------------------------------------------


def in_turn(state: State, max_runs: int = 100, preparing: str = "") -> list[str]:
    return list(runs_in_turn(state, Capacity(100, max_runs), {RunId(run) for run in preparing.split()}))


def test_the_runs_of_one_workflow_go_one_after_the_other() -> None:
    state = after(queued("r1"), queued("r2"), queued("other", "w2"))
    assert in_turn(state) == ["r1", "other"]
    assert in_turn(state, preparing="r1") == ["other"]

    after(run_started(run="r1"), state=state)
    assert in_turn(state) == ["other"]


def test_a_run_waits_until_the_results_of_the_one_before_are_written() -> None:
    state = after(queued("r1"), queued("r2"), run_started(run="r1"), RunEnded(RunId("r1"), WORKFLOW, "succeeded"))

    assert in_turn(state) == []


def test_under_allow_runs_go_side_by_side() -> None:
    state = after(queued("r1", policy="allow"), queued("r2", policy="allow"), run_started(run="r1"))

    assert in_turn(state) == ["r2"]


def test_a_run_that_has_to_be_alone_waits_for_those_side_by_side_that_came_before_it() -> None:
    state = after(queued("r1", policy="allow"), queued("r2"))

    assert in_turn(state) == ["r1"]


def test_no_more_runs_are_under_way_than_the_capacity_allows() -> None:
    state = after(*(queued(f"r{number}", f"w{number}") for number in range(5)), run_started(run="r0", workflow="w0"))

    assert in_turn(state, max_runs=3) == ["r1", "r2"]
    assert in_turn(state, max_runs=3, preparing="r1") == ["r2"]
    assert in_turn(state, max_runs=1) == []


def test_a_queued_run_that_is_cancelled_or_paused_lets_the_next_one_go() -> None:
    state = after(queued("r1"), queued("r2"), queued("r3"))
    after(RunCancelling(RunId("r1"), WORKFLOW, "cancelled", "replaced"), RunPaused(RunId("r2"), WORKFLOW), state=state)

    assert in_turn(state) == ["r3"]


# -- runs whose time is up ------------------------------------------------------------------------------------------


def test_a_run_whose_time_is_up_fails_once() -> None:
    state = begun(line("a"), timeout_s=10.0)

    assert list(overdue_runs(state, at(59.9))) == []
    (overdue,) = overdue_runs(state, at(60.0))
    assert overdue == RunCancelling(RUN, WORKFLOW, "failed", "the run timed out")

    after(overdue, state=state)
    assert list(overdue_runs(state, at(61.0))) == []


def test_a_run_that_is_ending_already_does_not_time_out() -> None:
    state = begun(line("a"), timeout_s=10.0)
    after(RunCancelling(RUN, WORKFLOW, "cancelled", "by request"), state=state)

    assert list(overdue_runs(state, at(99.0))) == []
    assert the_run(state).cancelling == "cancelled"


# -- cost -----------------------------------------------------------------------------------------------------------


def test_the_last_of_many_tasks_costs_no_more_than_the_first() -> None:
    """With a step that looks at every task, 20,000 of them would take minutes."""
    count = 20_000
    names = [f"t{number}" for number in range(count)]
    state = begun(*map(line, names), line("end", " ".join(names)))
    begin_s = time.process_time()

    for name in names:
        start = next_start(state, NOW, ROOMY)
        assert start is not None
        after(start, succeeded(name), state=state)

    assert time.process_time() - begin_s < 5.0
    assert start_all(state) == ["end"]
