"""What a file that is seen, goes away or is asked for means for the runs."""

from typing import Any

import pytest

from tests.core.scenes import (
    RUN,
    WORKFLOW,
    after,
    begun,
    compiled,
    line,
    queued,
    run_started,
    started,
    succeeded,
    the_run,
)
from wizflowd.core.attempt import RunId
from wizflowd.core.events import (
    DefinitionAccepted,
    DefinitionRejected,
    Event,
    RunArchived,
    RunCancelling,
    RunEnded,
    RunPaused,
    RunQueued,
    RunResumed,
    WorkflowRemoved,
)
from wizflowd.core.reconcile import (
    Asked,
    Content,
    accept_content,
    cancel_run,
    pause_run,
    reject_content,
    remove_workflow,
    request_run,
)
from wizflowd.core.state import State
from wizflowd.errors import RequestError

TASKS = "tasks: [{id: a, type: SHELL, command: VERSION, sources: ['*.sql']}]"
PATH = "team/etl.yaml"


def content(version: str = "one", head: str = "", **rest: Any) -> Content:
    """Return the content of the file whose task runs `version`; its bytes are as different as its meaning."""
    workflow = compiled(f"{head}\n{TASKS.replace('VERSION', version)}")
    values = {"path": PATH, "stamp": f"bytes of {version}", "digest": workflow.digest, "companions": ""}
    return Content(WORKFLOW, definition=workflow.definition, **(values | rest))


def see(state: State, content: Content, run: str, **rest: Any) -> list[Event]:
    """Let a file be seen; return what follows, and add it to the state."""
    events = accept_content(state, content, RunId(run), **rest)
    after(*events, state=state)
    return events


def seen(content: Content, run: str = RUN) -> State:
    state = State()
    see(state, content, run)
    return state


def kinds(events: list[Event]) -> list[str]:
    """Return `Kind run` of each event, or `Kind` where it is about no run."""
    return [" ".join(filter(None, (type(event).__name__, getattr(event, "run", "")))) for event in events]


def note_of(events: list[Event]) -> str:
    (accepted,) = events
    assert isinstance(accepted, DefinitionAccepted)
    return accepted.note


def run_to_end(state: State, run: str) -> None:
    after(run_started(run=run), RunEnded(RunId(run), WORKFLOW, "succeeded"), state=state)
    after(RunArchived(RunId(run), WORKFLOW, "succeeded"), state=state)


# -- one run per change ---------------------------------------------------------------------------------------------


def test_a_new_file_is_in_force_and_runs() -> None:
    one = content(head="params: {day: today}\nconcurrency: {policy: replace}\non_remove: cancel\ndotenv: [.env]")

    accepted, run = accept_content(State(), one, RUN)

    assert accepted == DefinitionAccepted(
        WORKFLOW, PATH, one.stamp, one.digest, "", "added", sources=("*.sql",), dotenv=(".env",)
    )
    assert run == RunQueued(
        RUN,
        WORKFLOW,
        PATH,
        one.stamp,
        one.digest,
        "change",
        {"day": "today"},
        incremental=True,
        policy="replace",
        on_remove="cancel",
    )


def test_the_same_file_again_means_nothing() -> None:
    assert see(seen(content()), content(), "again") == []


def test_other_bytes_with_the_same_meaning_run_nothing() -> None:
    events = see(seen(content()), content(stamp="with a comment"), "again")

    assert kinds(events) == ["DefinitionAccepted"]
    assert isinstance(events[0], DefinitionAccepted)
    assert (events[0].change, events[0].stamp) == ("unchanged", "with a comment")


def test_a_file_under_another_suffix_runs_nothing() -> None:
    (event,) = see(seen(content()), content(path="team/etl.yml"), "again")

    assert isinstance(event, DefinitionAccepted)
    assert (event.change, event.path) == ("unchanged", "team/etl.yml")


def test_a_change_runs_once_and_going_back_is_a_change() -> None:
    state = seen(content("one"))
    run_to_end(state, RUN)

    assert kinds(see(state, content("two"), "r2")) == ["DefinitionAccepted", "RunQueued r2"]
    assert see(state, content("two"), "r3") == []
    run_to_end(state, "r2")
    assert kinds(see(state, content("one"), "r3")) == ["DefinitionAccepted", "RunQueued r3"]


def test_a_file_that_was_broken_for_a_while_runs_nothing_when_it_is_as_before() -> None:
    state = seen(content())
    after(*reject_content(state, WORKFLOW, PATH, "bad", ("etl.yaml:1:1: empty",)), state=state)

    events = see(state, content(), "again")

    assert kinds(events) == ["DefinitionAccepted"]
    assert state.workflows[WORKFLOW].problems == ()


def test_what_was_broken_from_the_start_is_new_when_it_is_mended() -> None:
    state = after(*reject_content(State(), WORKFLOW, PATH, "bad", ("etl.yaml:1:1: empty",)))

    accepted, run = see(state, content(), RUN)

    assert isinstance(accepted, DefinitionAccepted)
    assert accepted.change == "added"
    assert isinstance(run, RunQueued)


def test_another_content_of_its_companions_is_a_change_by_sources() -> None:
    state = seen(content())
    run_to_end(state, RUN)

    events = see(state, content(companions="other sql"), "r2")

    assert kinds(events) == ["DefinitionAccepted", "RunQueued r2"]
    assert isinstance(events[1], RunQueued)
    assert (events[1].trigger, events[1].incremental) == ("sources", True)
    assert see(state, content(companions="other sql"), "r3") == []


def test_a_change_of_the_file_and_its_companions_at_once_is_one_change() -> None:
    events = see(seen(content()), content("two", companions="other sql"), "r2")

    assert isinstance(events[-1], RunQueued)
    assert events[-1].trigger == "change"


# -- what is recorded and not run -----------------------------------------------------------------------------------


def test_a_first_scan_can_record_without_running() -> None:
    state = State()

    assert note_of(see(state, content(), "r1", run_first=False)) == "recorded at the first scan, not run"
    assert see(state, content(), "r2") == []
    assert kinds(see(state, content("two"), "r2")) == ["DefinitionAccepted", "RunQueued r2"]


def test_a_change_is_recorded_where_the_workflow_says_so() -> None:
    state = State()

    assert note_of(see(state, content(head="on_change: record"), "r1")) == "recorded, not run (on_change: record)"
    assert see(state, content(head="on_change: record"), "r2") == []
    kept = see(state, content(head="on_change: record", companions="other sql"), "r3")
    assert note_of(kept) == "recorded, not run (on_change: record)"


WAITING = "params: {day: {required: true, type: string}, who: {required: true, default: me}}"


def test_a_file_waits_for_a_required_param_without_a_value() -> None:
    state = State()

    note = note_of(see(state, content(head=WAITING), "r1"))

    assert note == "waiting for a value of day: give it with `wizflow trigger`"
    assert state.queued == {}


def test_it_still_waits_after_a_change_that_means_nothing() -> None:
    state = seen(content(head=WAITING))

    see(state, content(head=WAITING, stamp="with a comment"), "again")

    assert state.workflows[WORKFLOW].note.startswith("waiting for a value of day")


# -- changed while it runs ------------------------------------------------------------------------------------------


def running(policy: str) -> State:
    """Return a state in which `r` runs and its file is known."""
    return after(run_started(line("a")), state=seen(content(head=head(policy))))


def head(policy: str) -> str:
    return f"concurrency: {{policy: {policy}}}"


def test_under_queue_the_newest_content_waits_and_older_changes_are_dropped() -> None:
    state = running("queue")

    assert kinds(see(state, content("two", head("queue")), "r2")) == ["DefinitionAccepted", "RunQueued r2"]
    events = see(state, content("three", head("queue")), "r3")

    assert kinds(events) == ["DefinitionAccepted", "RunEnded r2", "RunQueued r3"]
    assert events[1] == RunEnded(RunId("r2"), WORKFLOW, "cancelled", "superseded by r3")
    assert [*state.queued] == ["r3"]
    assert the_run(state).cancelling is None


@pytest.mark.parametrize("trigger", ["manual", "retry", "schedule"])
def test_under_queue_runs_that_were_asked_for_wait_their_turn(trigger: str) -> None:
    state = running("queue")
    after(queued("asked", trigger=trigger), queued("by sources", trigger="sources"), state=state)

    see(state, content("two", head("queue")), "r2")

    assert [*state.queued] == ["asked", "r2"]


def test_under_replace_the_present_run_is_cancelled() -> None:
    state = running("replace")

    events = see(state, content("two", head("replace")), "r2")

    assert kinds(events) == ["DefinitionAccepted", "RunCancelling r", "RunQueued r2"]
    assert events[1] == RunCancelling(RUN, WORKFLOW, "cancelled", "replaced by r2")


def test_a_run_that_is_being_cancelled_is_not_cancelled_again() -> None:
    state = running("replace")
    see(state, content("two", head("replace")), "r2")
    assert kinds(see(state, content("three", head("replace")), "r3")) == [
        "DefinitionAccepted",
        "RunEnded r2",
        "RunQueued r3",
    ]


def test_under_forbid_the_change_is_recorded_and_not_run() -> None:
    state = running("forbid")

    note = note_of(see(state, content("two", head("forbid")), "r2"))

    assert note == "not run: a run is in progress (policy forbid)"
    run_ended: list[Event] = [started("a"), succeeded("a"), RunEnded(RUN, WORKFLOW, "succeeded")]
    after(*run_ended, RunArchived(RUN, WORKFLOW, "succeeded"), state=state)
    assert see(state, content("two", head("forbid")), "r3") == []
    assert kinds(see(state, content("three", head("forbid")), "r3")) == ["DefinitionAccepted", "RunQueued r3"]


def test_under_allow_runs_go_side_by_side() -> None:
    state = running("allow")
    see(state, content("two", head("allow")), "r2")

    assert kinds(see(state, content("three", head("allow")), "r3")) == ["DefinitionAccepted", "RunQueued r3"]
    assert [*state.queued] == ["r2", "r3"]


def test_the_policy_of_the_new_content_decides() -> None:
    assert "RunCancelling r" in kinds(see(running("queue"), content("two", head("replace")), "r2"))
    assert "RunCancelling r" not in kinds(see(running("replace"), content("two", head("queue")), "r2"))


def test_other_workflows_are_left_alone() -> None:
    state = after(queued("other", "another", trigger="change"), state=running("replace"))

    see(state, content("two", head("replace")), "r2")

    assert state.runs[RunId("other")].status == "queued"


# -- broken files ---------------------------------------------------------------------------------------------------


def test_a_broken_file_is_told_once_and_again_when_it_is_broken_otherwise() -> None:
    state = seen(content())
    broken = (WORKFLOW, PATH, "bad", ("etl.yaml:1:1: empty",))

    assert reject_content(state, *broken) == [DefinitionRejected(*broken)]
    after(DefinitionRejected(*broken), state=state)
    assert reject_content(state, *broken) == []
    assert len(reject_content(state, WORKFLOW, PATH, "worse", ("etl.yaml:1:1: empty",))) == 1
    assert len(reject_content(state, WORKFLOW, PATH, "bad", ("etl.yaml:2:1: no tasks",))) == 1


# -- removed files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_remove", "expected"),
    [
        ("finish", ["WorkflowRemoved", "RunEnded r2"]),
        ("cancel", ["WorkflowRemoved", "RunCancelling r", "RunEnded r2"]),
    ],
)
def test_the_run_in_progress_of_a_removed_file_finishes_unless_it_says_otherwise(
    on_remove: str, expected: list[str]
) -> None:
    said = f"on_remove: {on_remove}"
    state = after(run_started(line("a")), state=seen(content(head=said)))
    see(state, content("two", said), "r2")

    events = remove_workflow(state, WORKFLOW)

    assert kinds(events) == expected
    after(*events, state=state)
    assert remove_workflow(state, WORKFLOW) == []


def test_a_removed_file_that_is_added_again_is_new() -> None:
    state = after(run_started(line("a")), state=seen(content()))
    after(*remove_workflow(state, WORKFLOW), state=state)

    accepted, run = see(state, content(), "r2")

    assert isinstance(accepted, DefinitionAccepted)
    assert accepted.change == "added"
    assert isinstance(run, RunQueued)
    assert [other.id for other in state.live_runs(WORKFLOW)] == [RUN, "r2"]


def test_what_is_not_known_cannot_be_removed() -> None:
    assert remove_workflow(State(), WORKFLOW) == []


def test_a_run_that_has_ended_is_left_to_be_archived() -> None:
    state = after(run_started(), RunEnded(RUN, WORKFLOW, "succeeded"), state=seen(content(head="on_remove: cancel")))

    assert remove_workflow(state, WORKFLOW) == [WorkflowRemoved(WORKFLOW)]


# -- runs that are asked for ----------------------------------------------------------------------------------------


def test_a_run_by_hand_has_its_params_and_runs_everything() -> None:
    one = content(head="params: {day: today, count: 1}\non_change: record")

    (run,) = request_run(seen(one), one, RUN, Asked(params={"count": "7"}, as_text=True))

    assert run == RunQueued(
        RUN, WORKFLOW, PATH, one.stamp, one.digest, "manual", {"day": "today", "count": 7}, incremental=False
    )


@pytest.mark.parametrize(
    ("asked", "incremental"),
    [(Asked(), False), (Asked(incremental=True), True), (Asked("retry", retry_of="r0", from_task="a"), True)],
)
def test_a_run_that_is_asked_for_reuses_only_where_that_is_asked_for_too(asked: Asked, incremental: bool) -> None:
    (run,) = request_run(seen(content()), content(), RUN, asked)

    assert isinstance(run, RunQueued)
    assert (run.trigger, run.incremental) == (asked.trigger, incremental)
    assert (run.retry_of, run.from_task) == (asked.retry_of, asked.from_task)


def test_a_run_without_a_required_param_is_refused() -> None:
    with pytest.raises(RequestError, match="parameter day has no value"):
        request_run(State(), content(head=WAITING), RUN, Asked())


def test_under_forbid_a_second_run_is_refused() -> None:
    with pytest.raises(RequestError, match="a run is in progress and its policy is forbid") as caught:
        request_run(running("forbid"), content(head=head("forbid")), RunId("r2"), Asked())

    assert caught.value.code == "busy"


def test_under_replace_a_run_that_is_asked_for_cancels_the_present_one() -> None:
    state = running("replace")

    events = request_run(state, content(head=head("replace")), RunId("r2"), Asked())

    assert events[0] == RunCancelling(RUN, WORKFLOW, "cancelled", "replaced by r2")
    after(*events, state=state)
    assert kinds(request_run(state, content(head=head("replace")), RunId("r3"), Asked())) == ["RunQueued r3"]


@pytest.mark.parametrize("policy", ["queue", "allow"])
def test_otherwise_a_run_that_is_asked_for_waits_for_its_turn(policy: str) -> None:
    assert kinds(request_run(running(policy), content(head=head(policy)), RunId("r2"), Asked())) == ["RunQueued r2"]


# -- cancel, pause, resume ------------------------------------------------------------------------------------------


def test_a_queued_run_that_is_cancelled_has_ended() -> None:
    state = after(queued())

    assert cancel_run(the_run(state), "by request") == [RunEnded(RUN, WORKFLOW, "cancelled", "by request")]


def test_a_run_in_progress_is_cancelled_once() -> None:
    state = begun(line("a"))
    events = cancel_run(the_run(state), "by request")

    assert events == [RunCancelling(RUN, WORKFLOW, "cancelled", "by request")]
    assert cancel_run(the_run(after(*events, state=state)), "by request") == []


def test_a_run_that_has_ended_cannot_be_cancelled() -> None:
    assert cancel_run(the_run(after(RunEnded(RUN, WORKFLOW, "succeeded"), state=begun())), "by request") == []


def test_a_run_is_paused_and_resumed() -> None:
    state = begun(line("a"))

    assert pause_run(the_run(state), paused=True) == [RunPaused(RUN, WORKFLOW)]
    after(RunPaused(RUN, WORKFLOW), state=state)
    assert pause_run(the_run(state), paused=False) == [RunResumed(RUN, WORKFLOW)]


@pytest.mark.parametrize(
    ("paused", "before", "message"),
    [
        (False, (), "cannot resume r: it is running"),
        (True, (RunPaused(RUN, WORKFLOW),), "cannot pause r: it is paused"),
        (True, (RunCancelling(RUN, WORKFLOW, "cancelled", "by request"),), "cannot pause r: it is ending"),
    ],
)
def test_what_is_so_already_cannot_be_paused_or_resumed(paused: bool, before: tuple[Event, ...], message: str) -> None:
    state = after(*before, state=begun(line("a")))

    with pytest.raises(RequestError, match=message):
        pause_run(the_run(state), paused=paused)
