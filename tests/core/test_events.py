"""What is recorded comes back as it was, and what the stream shows of it is what SPEC section 4 says."""

import json
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.scenes import NOW, RUN, WORKFLOW, failed, line, queued, run_started, started, succeeded
from wizflowd.core.attempt import Facts, TaskId
from wizflowd.core.events import (
    DaemonStarted,
    DefinitionAccepted,
    Event,
    InstanceLine,
    PlanLine,
    Record,
    RunStarted,
    Sequence,
    TaskCancelled,
    TaskSucceeded,
    cloud_event,
    from_json,
    public_data,
    rfc3339,
    subject_of,
    to_json,
)

KINDS: tuple[type[Any], ...] = Event.__args__
SPEC_TYPES = {
    "daemon": "started ready stopping degraded recovered",
    "workflow": "added changed unchanged invalid removed unavailable",
    "run": "queued started paused resumed succeeded failed cancelled",
    "task": "started retrying paused succeeded failed skipped reused cancelled adopted",
}

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
HALF_A_PAIR = "\ud800"  # a task's JSON can hold one
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.just(HALF_A_PAIR), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    """Return values of the type of a field."""
    if hint == Facts | None:
        return st.none() | built(Facts)
    if hint == float | None:
        return st.none() | FLOATS
    if hint == tuple[PlanLine, ...]:
        return st.lists(built(PlanLine), max_size=2).map(tuple)
    if hint == tuple[InstanceLine, ...]:
        return st.lists(built(InstanceLine), max_size=2).map(tuple)
    if hint == tuple[str, ...]:
        return st.lists(TEXTS, max_size=3).map(tuple)
    if get_origin(hint) is Mapping:
        return st.dictionaries(TEXTS, TEXTS if get_args(hint)[1] is str else VALUES, max_size=3)
    if hint is Facts:
        return built(Facts)
    simple: dict[Any, st.SearchStrategy[Any]] = {str: TEXTS, float: FLOATS}
    return simple[hint] if hint in simple else st.from_type(hint)


def built(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Return instances of a kind with something in every field."""
    hints = get_type_hints(kind)
    return st.builds(kind, **{name: of_type(hints[name]) for name in kind.__struct_fields__})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_an_event_comes_back_from_the_journal_as_it_was(kind: type[Any], data: st.DataObject) -> None:
    event = data.draw(built(kind))

    read = from_json(*to_json(event))

    assert read == event
    assert repr(read) == repr(event)  # a tuple is a tuple again, 1 is not 1.0


def test_a_record_of_an_older_wizflowd_is_read_with_defaults_for_what_it_lacks() -> None:
    plan = [{"task": "a", "needs": [], "action": "run", "reason": "never ran"}]

    event = from_json("RunStarted", json.dumps({"run": "r", "workflow": "team/etl", "plan": plan}))

    assert event == RunStarted(RUN, WORKFLOW, (PlanLine(TaskId("a"), (), "run", "never ran"),))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_public_event_has_a_type_of_the_specification(kind: type[Any]) -> None:
    known = {f"{subject}.{verb}" for subject, verbs in SPEC_TYPES.items() for verb in verbs.split()}
    values = {"run": RUN, "workflow": WORKFLOW, "change": "changed", "status": "failed"}
    event = kind(**{name: values.get(name, "x") for name in kind.__struct_fields__})

    assert event.public in known | {""}


def test_a_public_event_is_a_cloud_event_with_a_sequence_of_20_digits() -> None:
    record = Record(77, Sequence(1234), 1_795_400_712.123456, succeeded("count", outputs={"n": 3}))

    event = cloud_event(record, "/wizflowd/host1")

    assert event == {
        "specversion": "1.0",
        "id": "1234",
        "sequence": "00000000000000001234",
        "source": "/wizflowd/host1",
        "type": "wizflow.task.succeeded",
        "time": "2026-11-23T02:25:12.123456Z",
        "subject": "team/etl/r/count",
        "data": {"attempt": 1, "duration_s": 2.5, "pid": 7, "exit_code": 1, "outputs": {"n": 3}},
    }


@pytest.mark.parametrize(
    ("event", "subject"),
    [
        (started("count"), "team/etl/r/count"),
        (queued(), "team/etl/r"),
        (DefinitionAccepted(WORKFLOW, "team/etl.yaml", "s", "d", "c", "added"), "team/etl"),
        (DaemonStarted("1.0"), ""),
    ],
)
def test_the_subject_says_what_an_event_is_about(event: Event, subject: str) -> None:
    assert subject_of(event) == subject


def test_the_start_of_a_run_shows_how_much_of_it_is_reused_and_not_its_plan() -> None:
    reused = PlanLine(TaskId("a"), (), "reuse", "nothing changed")

    assert public_data(run_started(reused, line("b", "a"))) == {"fail_fast": False, "tasks": 2, "reused": 1}


def test_what_only_the_daemon_needs_is_not_shown() -> None:
    event = succeeded("a", key="k", parts={"command": "h"}, files={"out.txt": "h"}, mail="m")

    assert public_data(event).keys().isdisjoint({"key", "parts", "run", "workflow", "task"})
    assert public_data(queued(policy="allow")).keys().isdisjoint({"policy", "on_remove", "stamp"})


def test_facts_that_are_not_known_are_left_out() -> None:
    facts = Facts(NOW.wall_s, NOW.wall_s + 0.25)

    cancelled = TaskCancelled(RUN, WORKFLOW, TaskId("a"), "cancelled by request", 1, facts)

    assert public_data(cancelled) == {"reason": "cancelled by request", "attempt": 1, "duration_s": 0.25}
    assert "duration_s" not in public_data(TaskCancelled(RUN, WORKFLOW, TaskId("a"), "never started"))


def test_a_failure_shows_its_exit_code_and_a_code_of_zero_is_shown_too() -> None:
    assert public_data(failed("a"))["exit_code"] == 1
    assert public_data(TaskSucceeded(RUN, WORKFLOW, TaskId("a"), 1, Facts(1.0, 2.0, exit_code=0)))["exit_code"] == 0


def test_times_are_utc_with_microseconds_even_where_these_are_zero() -> None:
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000000Z"


def test_an_unknown_kind_is_loud() -> None:
    with pytest.raises(KeyError):
        from_json("TaskTeleported", "{}")
