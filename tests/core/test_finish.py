"""What follows from an end: another try, a skip, the end of the run."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.scenes import (
    FACTS,
    NOW,
    RUN,
    WORKFLOW,
    after,
    at,
    begun,
    compiled,
    failed,
    line,
    queued,
    retrying,
    started,
    succeeded,
    the_run,
)
from wizflowd.core.attempt import Cancelled, Facts, Failed, Lost, Outcome, Succeeded, TaskId, Unchanged
from wizflowd.core.definition import Retry
from wizflowd.core.events import (
    Event,
    InstanceLine,
    RunCancelling,
    RunEnded,
    RunFinishing,
    TaskCancelled,
    TaskExpanded,
    TaskFailed,
    TaskRetrying,
    TaskReused,
    TaskSkipped,
    TaskSucceeded,
)
from wizflowd.core.finish import (
    MAX_LOST_DELAY_S,
    MAX_RETRY_AFTER_S,
    Policy,
    counts,
    delay_before,
    end_attempt,
    end_group,
    policy_of,
    settle,
)
from wizflowd.core.plan import key_of, outcome_key
from wizflowd.core.schedule import overdue_runs
from wizflowd.core.state import State

A = TaskId("a")
PLAIN = Policy(Retry(), "retry", tolerated=False)
EXIT = Failed(FACTS, "exit", "exit code 1")


def policy(*, on_lost: str = "retry", tolerated: bool = False, **retry: Any) -> Policy:
    return Policy(Retry(**retry), on_lost, tolerated)


def end_of(outcome: Outcome, policy: Policy = PLAIN, *before: Event, chance: float = 0.5) -> Event:
    """Return what an outcome means for the task `a`, running in its first attempt unless `before` says otherwise."""
    run = the_run(after(*(before or (started("a"),)), state=begun(line("a"))))
    return end_attempt(run, run.tasks[A], outcome, policy, {"command": "hash"}, NOW, chance)


# -- how long until another try -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retries", "retry", "expected_s"),
    [
        (1, Retry(delay=3), 3.0),
        (4, Retry(delay=3), 3.0),
        (1, Retry(delay=3, backoff=2), 3.0),
        (2, Retry(delay=3, backoff=2), 6.0),
        (4, Retry(delay=3, backoff=2), 24.0),
        (4, Retry(delay=3, backoff=2, max_delay=10), 10.0),
        (9, Retry(delay=0, backoff=2), 0.0),
        (40, Retry(delay=1, backoff=2), MAX_RETRY_AFTER_S),
        (1000, Retry(delay=1, backoff=1000), MAX_RETRY_AFTER_S),
        (1000, Retry(delay=1, backoff=1000, max_delay=7200), 7200.0),
        (1000, Retry(delay=0, backoff=1000), 0.0),
        (1, Retry(delay=7200), 7200.0),
    ],
)
def test_each_delay_is_the_one_before_times_the_backoff_up_to_the_cap(
    retries: int, retry: Retry, expected_s: float
) -> None:
    assert delay_before(retries, retry, None, 0.5) == expected_s


@pytest.mark.parametrize(("chance", "expected_s"), [(0.0, 8.0), (0.5, 10.0), (0.75, 11.0), (1.0, 12.0)])
def test_jitter_leaves_its_share_of_a_delay_to_chance(chance: float, expected_s: float) -> None:
    assert delay_before(1, Retry(delay=10, jitter=0.2), None, chance) == pytest.approx(expected_s)


@pytest.mark.parametrize(
    ("retry", "asked_s", "expected_s"),
    [
        (Retry(delay=2), 30.0, 30.0),
        (Retry(delay=2), 1.0, 2.0),
        (Retry(delay=2, max_delay=10), 30.0, 10.0),
        (Retry(delay=2), 1e9, MAX_RETRY_AFTER_S),
        (Retry(delay=2), -5.0, 2.0),
    ],
)
def test_what_the_other_side_asks_for_is_waited_up_to_the_cap(retry: Retry, asked_s: float, expected_s: float) -> None:
    assert delay_before(1, retry, asked_s, 0.5) == expected_s


@given(
    retries=st.integers(1, 1001),
    retry=st.builds(
        Retry,
        delay=st.floats(0, 366 * 86400),
        backoff=st.floats(1, 1000),
        max_delay=st.none() | st.floats(0.001, 366 * 86400),
        jitter=st.floats(0, 1),
    ),
    asked_s=st.none() | st.floats(0, 1e12),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_delay_is_never_negative_and_never_over_the_cap_and_its_jitter(
    retries: int, retry: Retry, asked_s: float | None, chance: float
) -> None:
    cap_s = retry.max_delay if retry.max_delay is not None else max(MAX_RETRY_AFTER_S, retry.delay)

    assert 0 <= delay_before(retries, retry, asked_s, chance) <= cap_s * (1 + retry.jitter) * 1.000001


# -- which failures are tried again ---------------------------------------------------------------------------------


def ended(**facts: Any) -> Facts:
    return Facts(1.0, 2.0, **facts)


@pytest.mark.parametrize(
    ("outcome", "retry", "expected"),
    [
        (Failed(ended(exit_code=1), "exit", ""), Retry(), True),
        (Failed(ended(exit_code=1), "exit", "", retryable=False), Retry(), False),
        (Failed(ended(exit_code=75), "exit", ""), Retry(on_exit=(75,)), True),
        (Failed(ended(exit_code=1), "exit", ""), Retry(on_exit=(75,)), False),
        (Failed(ended(exit_code=1), "exit", ""), Retry(on_status=(503,)), False),
        (Failed(ended(status_code=503), "status", ""), Retry(on_status=(429, 503)), True),
        (Failed(ended(status_code=500), "status", ""), Retry(on_status=(429, 503)), False),
        (Failed(ended(), "connection", ""), Retry(on_status=(503,)), True),
        (Failed(ended(), "timeout", ""), Retry(on_status=(503,)), True),
        (Failed(ended(pid=7, signal=15), "timeout", ""), Retry(on_exit=(75,)), False),
        (Failed(ended(pid=7, signal=9), "signal", ""), Retry(on_exit=(75,)), False),
        (Failed(ended(pid=7, signal=9), "signal", ""), Retry(), True),
        (Failed(ended(exit_code=0), "output", ""), Retry(on_exit=(0,)), True),
    ],
)
def test_a_failure_is_tried_again_as_on_exit_and_on_status_say(outcome: Failed, retry: Retry, expected: bool) -> None:
    assert counts(outcome, retry) is expected


def test_a_failure_is_tried_again_until_the_limit() -> None:
    twice = policy(limit=2, delay=4, backoff=3)

    first = end_of(EXIT, twice)
    second = end_of(EXIT, twice, started("a"), retrying("a"), started("a", 2))
    third = end_of(EXIT, twice, started("a"), retrying("a"), started("a", 2), retrying("a", 2), started("a", 3))

    place = (RUN, WORKFLOW, A)
    assert first == TaskRetrying(*place, 1, FACTS, "exit", "exit code 1", 4.0, NOW.mono_s + 4.0, NOW.boot)
    assert isinstance(second, TaskRetrying)
    assert (second.attempt, second.delay_s) == (2, 12.0)
    assert third == TaskFailed(*place, 3, FACTS, "exit", "exit code 1")


def test_without_a_retry_the_first_failure_is_final() -> None:
    assert isinstance(end_of(EXIT), TaskFailed)


def test_a_failure_in_a_run_that_is_being_cancelled_is_not_tried_again() -> None:
    cancelling = RunCancelling(RUN, WORKFLOW, "cancelled", "by request")

    assert isinstance(end_of(EXIT, policy(limit=5), started("a"), cancelling), TaskFailed)


def test_a_lost_attempt_does_not_count_against_the_limit() -> None:
    event = end_of(EXIT, policy(limit=1), started("a"), retrying("a", reason="lost"), started("a", 2))

    assert isinstance(event, TaskRetrying)


def test_a_tolerated_failure_says_so() -> None:
    event = end_of(EXIT, policy(tolerated=True))

    assert isinstance(event, TaskFailed)
    assert event.tolerated


# -- lost attempts --------------------------------------------------------------------------------------------------

LOST = Lost(FACTS, "its spawner ended while it ran")


def test_a_lost_attempt_is_tried_again_at_once() -> None:
    event = end_of(LOST)

    assert isinstance(event, TaskRetrying)
    assert (event.reason, event.delay_s, event.not_before_s) == ("lost", 0.0, NOW.mono_s)
    assert event.message == "outcome unknown: its spawner ended while it ran"


def test_a_task_that_is_lost_again_and_again_is_tried_less_and_less_often() -> None:
    delays = []
    before: list[Event] = [started("a")]
    for attempt in range(1, 12):
        event = end_of(LOST, PLAIN, *before)
        assert isinstance(event, TaskRetrying)
        delays.append(event.delay_s)
        before += [retrying("a", attempt, reason="lost"), started("a", attempt + 1)]

    assert delays == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, *[MAX_LOST_DELAY_S] * 4]


def test_a_lost_attempt_fails_where_a_repeat_could_harm() -> None:
    event = end_of(LOST, policy(on_lost="fail", limit=5, tolerated=True))

    assert isinstance(event, TaskFailed)
    assert (event.reason, event.tolerated) == ("lost", True)
    assert event.message.startswith("outcome unknown: ")


def test_a_lost_attempt_of_a_run_that_is_being_cancelled_is_cancelled() -> None:
    event = end_of(LOST, PLAIN, started("a"), RunCancelling(RUN, WORKFLOW, "cancelled", "by request"))

    assert isinstance(event, TaskCancelled)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("type: SHELL, command: x", "retry"),
        ("type: RESTAPI, method: get, url: 'http://h/'", "retry"),
        ("type: RESTAPI, method: PUT, url: 'http://h/'", "retry"),
        ("type: RESTAPI, method: DELETE, url: 'http://h/'", "retry"),
        ("type: RESTAPI, method: POST, url: 'http://h/'", "fail"),
        ("type: RESTAPI, method: PATCH, url: 'http://h/'", "fail"),
        ("type: EMAIL, recipients: [a@b.c]", "fail"),
        ("type: EMAIL, recipients: [a@b.c], on_lost: retry", "retry"),
        ("type: SHELL, command: x, on_lost: fail", "fail"),
    ],
)
def test_what_is_lost_is_repeated_unless_that_could_harm_or_the_task_says_otherwise(task: str, expected: str) -> None:
    (spec,) = compiled(f"tasks: [{{id: a, {task}}}]").definition.tasks

    assert policy_of(spec).on_lost == expected


def test_a_task_has_its_own_retry_or_the_default_one() -> None:
    text = """
defaults: {retry: {limit: 3, delay: 2}}
tasks:
  - {id: own, type: SHELL, command: x, retry: {limit: 1}}
  - {id: default, type: SHELL, command: x, continue_on_failure: true}
"""
    own, default = map(policy_of, compiled(text).definition.tasks)

    assert (own.retry.limit, own.retry.delay, own.tolerated) == (1, 1.0, False)
    assert (default.retry.limit, default.retry.delay, default.tolerated) == (3, 2.0, True)


# -- other ends -----------------------------------------------------------------------------------------------------


def test_a_success_is_recorded_with_its_key_and_what_it_is_made_of() -> None:
    run = the_run(
        after(
            started("a"), succeeded("a", outputs={"n": 1}, key="key-of-a"), started("b"),
            state=begun(line("a"), line("b", "a")),
        )
    )  # fmt: skip
    outcome = Succeeded(FACTS, {"m": 2}, {"out.txt": "hash"}, mail="mail")

    event = end_attempt(run, run.tasks[TaskId("b")], outcome, PLAIN, {"command": "h"}, NOW, 0.5)

    key, parts = key_of({"command": "h"}, {A: outcome_key("key-of-a", {"n": 1})})
    assert event == TaskSucceeded(
        RUN, WORKFLOW, TaskId("b"), 1, FACTS, {"m": 2}, {"out.txt": "hash"}, key, parts, "mail"
    )
    assert parts.keys() == {"command", "upstream a"}


def test_a_mail_that_equals_the_last_one_is_reused_with_its_key() -> None:
    event = end_of(Unchanged(FACTS))

    assert isinstance(event, TaskReused)
    assert (event.reason, event.key, event.parts) == (
        "equals the last message sent",
        key_of({"command": "hash"}, {})[0],
        {"command": "hash"},
    )


def test_an_attempt_that_was_ended_is_cancelled_for_the_reason_of_its_run() -> None:
    event = end_of(Cancelled(FACTS), PLAIN, started("a"), RunCancelling(RUN, WORKFLOW, "failed", "the run timed out"))

    assert event == TaskCancelled(RUN, WORKFLOW, A, "the run timed out", 1, FACTS)


# -- what follows for the others ------------------------------------------------------------------------------------


def settled(state: State) -> list[Event]:
    """Apply what follows until nothing more does, as the engine does, and return it."""
    events: list[Event] = []
    while following := settle(the_run(state), NOW):
        after(*following, state=state)
        events += following
    return events


def skips(events: list[Event]) -> dict[str, tuple[str, bool]]:
    return {event.task: (event.reason, event.blamed) for event in events if isinstance(event, TaskSkipped)}


def test_what_depends_on_a_failure_is_skipped_and_other_branches_go_on() -> None:
    state = begun(line("a"), line("b", "a"), line("c", "b"), line("other"))

    events = settled(after(started("a"), failed("a"), state=state))

    assert skips(events) == {"b": ("upstream a failed", True), "c": ("upstream b was skipped", True)}
    assert the_run(state).ready == {"other"}
    assert the_run(state).ended_s is None


def test_an_alarm_is_skipped_where_nothing_failed_and_blames_nobody() -> None:
    state = begun(line("a"), line("alarm", "a", run_on="failure"), line("after", "alarm"))

    events = settled(after(started("a"), succeeded("a"), state=state))

    assert skips(events) == {
        "alarm": ("nothing upstream failed", False),
        "after": ("upstream alarm was skipped", False),
    }
    assert events[-1] == RunEnded(RUN, WORKFLOW, "succeeded")


def test_an_alarm_runs_where_something_further_up_failed() -> None:
    state = begun(line("a"), line("b", "a"), line("alarm", "b", run_on="failure"))

    settled(after(started("a"), failed("a"), state=state))

    assert the_run(state).ready == {"alarm"}


def test_what_depends_on_a_tolerated_failure_goes_on_and_the_run_succeeds() -> None:
    state = begun(line("a"), line("b", "a"))
    settled(after(started("a"), failed("a", tolerated=True), state=state))
    assert the_run(state).ready == {"b"}

    assert settled(after(started("b"), succeeded("b"), state=state)) == [RunEnded(RUN, WORKFLOW, "succeeded")]


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ([failed("a"), succeeded("b"), succeeded("c")], "a failed"),
        ([succeeded("a"), failed("c"), failed("b")], "b failed and 1 more"),
        ([failed("c"), failed("a"), failed("b")], "a failed and 2 more"),
    ],
)
def test_a_failed_run_names_the_first_that_failed_in_the_order_of_the_file(ends: list[Event], reason: str) -> None:
    state = after(*(started(task) for task in "abc"), *ends, state=begun(line("a"), line("b"), line("c")))

    assert settled(state) == [RunEnded(RUN, WORKFLOW, "failed", reason)]


def test_a_task_fails_of_its_instances_and_the_run_names_the_task_alone() -> None:
    (spec,) = compiled("tasks: [{id: a, type: SHELL, command: x, for_each: [1, 2, 3]}]").definition.tasks
    lines = tuple(InstanceLine(TaskId(f"a.{index}"), index, {"item": index}) for index in range(3))
    state = begun(line("a", gated=True))
    after(TaskExpanded(RUN, WORKFLOW, A, lines), *(started(f"a.{index}") for index in range(3)), state=state)
    after(failed("a.0"), succeeded("a.1"), failed("a.2"), state=state)

    end = end_group(the_run(state), the_run(state).tasks[A], spec, {}, NOW)

    assert isinstance(end, TaskFailed)
    assert (end.attempt, end.reason, end.message) == (0, "exit", "2 of 3 instances failed: a.0, a.2")
    assert settled(after(end, state=state)) == [RunEnded(RUN, WORKFLOW, "failed", "a failed")]


def test_the_outputs_of_a_task_with_instances_are_lists_in_their_order() -> None:
    text = "tasks: [{id: a, type: SHELL, command: x, for_each: [1, 2], outputs: {n: {type: json}}}]"
    (spec,) = compiled(text).definition.tasks
    lines = tuple(InstanceLine(TaskId(f"a.{index}"), index, {"item": index}) for index in range(2))
    state = after(TaskExpanded(RUN, WORKFLOW, A, lines), state=begun(line("a", gated=True)))
    after(started("a.1"), succeeded("a.1", outputs={"n": 2, "more": "x"}), state=state)
    after(started("a.0"), succeeded("a.0", outputs={"n": 1}), state=state)

    end = end_group(the_run(state), the_run(state).tasks[A], spec, {}, NOW)

    assert isinstance(end, TaskSucceeded)
    assert (end.attempt, end.outputs) == (0, {"n": [1, 2], "more": [None, "x"]})


def test_finally_follows_the_verdict_and_its_own_failure_fails_the_run() -> None:
    state = begun(line("a"), line("f", final=True, run_on="always"))
    events = settled(after(started("a"), succeeded("a"), state=state))
    assert events == [RunFinishing(RUN, WORKFLOW, "succeeded", "", NOW.mono_s, NOW.boot)]

    after(started("f"), failed("f"), state=state)
    assert settled(state) == [RunEnded(RUN, WORKFLOW, "failed", "f failed")]


def test_a_cancelled_run_still_does_what_is_in_finally() -> None:
    state = begun(line("a"), line("f", final=True, run_on="always"), line("g", final=True))
    events = settled(after(RunCancelling(RUN, WORKFLOW, "cancelled", "by request"), state=state))

    assert [type(event).__name__ for event in events] == ["TaskCancelled", "RunFinishing", "TaskSkipped"]
    assert the_run(state).ready == {"f"}

    after(started("f"), succeeded("f"), state=state)
    assert settled(state) == [RunEnded(RUN, WORKFLOW, "cancelled", "by request")]


def test_a_plan_without_anything_to_do_has_succeeded() -> None:
    assert settled(begun()) == [RunEnded(RUN, WORKFLOW, "succeeded")]


def test_fail_fast_ends_what_runs_and_skips_the_rest() -> None:
    state = begun(line("a"), line("b"), line("c", "b"), line("d", run_on="always"), fail_fast=True)
    after(started("a"), started("b"), failed("a"), state=state)

    events = settled(state)

    cancelling = RunCancelling(RUN, WORKFLOW, "failed", "fail_fast: a failed")
    assert events[0] == cancelling
    assert skips(events) == {"c": (cancelling.reason, True), "d": (cancelling.reason, True)}
    assert the_run(state).ended_s is None  # b is still being ended

    ending = TaskCancelled(RUN, WORKFLOW, TaskId("b"), "fail_fast: a failed", 1, FACTS)
    assert settled(after(ending, state=state)) == [RunEnded(RUN, WORKFLOW, "failed", cancelling.reason)]


def test_what_is_in_finally_has_the_time_of_the_run_anew_also_where_that_timed_out() -> None:
    state = begun(line("a"), line("f", final=True, run_on="always"), timeout_s=100.0)
    after(started("a"), *overdue_runs(state, at(NOW.mono_s + 100.0)), state=state)
    cancelled = TaskCancelled(RUN, WORKFLOW, A, "the run timed out", 1, FACTS)
    (finishing,) = settle(the_run(after(cancelled, state=state)), at(NOW.mono_s + 110.0))
    after(finishing, started("f"), state=state)

    assert the_run(state).deadline_s == NOW.mono_s + 210.0
    assert list(overdue_runs(state, at(NOW.mono_s + 209.0))) == []
    assert len(list(overdue_runs(state, at(NOW.mono_s + 210.0)))) == 1


def test_fail_fast_names_the_first_that_failed_in_the_order_of_the_file() -> None:
    names = [f"t{number}" for number in range(20)]
    state = begun(*map(line, names), fail_fast=True)
    after(*map(started, names), *(failed(name) for name in reversed(names)), state=state)

    (cancelling,) = settle(the_run(state), NOW)

    assert isinstance(cancelling, RunCancelling)
    assert cancelling.reason == "fail_fast: t0 failed"


def test_fail_fast_does_not_mind_a_tolerated_failure() -> None:
    state = begun(line("a"), line("b"), fail_fast=True)

    assert settled(after(started("a"), failed("a", tolerated=True), state=state)) == []


def test_cancelling_ends_what_waits_and_then_the_run() -> None:
    state = begun(line("a"), line("b"), line("c", "a"))
    after(started("a"), retrying("a"), RunCancelling(RUN, WORKFLOW, "cancelled", "by request"), state=state)

    events = settled(state)

    ended = [TaskCancelled(RUN, WORKFLOW, TaskId(task), "by request") for task in "abc"]
    assert events == [*ended, RunEnded(RUN, WORKFLOW, "cancelled", "by request")]


def test_a_queued_run_that_is_cancelled_ends_without_having_started() -> None:
    state = after(queued(), RunCancelling(RUN, WORKFLOW, "cancelled", "replaced by r2"))

    assert settled(state) == [RunEnded(RUN, WORKFLOW, "cancelled", "replaced by r2")]
    assert settle(the_run(after(queued())), NOW) == []


def test_nothing_follows_from_an_end_that_was_told_already() -> None:
    state = begun(line("a"))
    settled(after(started("a"), succeeded("a"), state=state))

    assert settle(the_run(state), NOW) == []
    assert settle(the_run(begun(line("a"))), NOW) == []
