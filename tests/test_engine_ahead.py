"""Which events may be recorded after what follows from them is done: few, and these only."""

import json
from pathlib import Path
from typing import Any

import pytest

from wizflowd.core.attempt import Facts, RunId, TaskId
from wizflowd.core.compile import compile_definition
from wizflowd.core.events import (
    Event,
    Now,
    RunCancelling,
    RunQueued,
    RunStarted,
    TaskFailed,
    TaskStarted,
    TaskSucceeded,
)
from wizflowd.core.loader import Syntax
from wizflowd.core.observations import WorkflowId
from wizflowd.core.plan import Disk, Surroundings, make_plan, plan_lines
from wizflowd.core.state import State, apply
from wizflowd.engine.ahead import may_run_ahead
from wizflowd.engine.context import Context
from wizflowd.results import Places

ETL, RUN, TASK = WorkflowId("etl"), RunId("r1"), TaskId("a")
NOW = Now(100.0, 10.0, "boot")
PLACE = (RUN, ETL, TASK)
SHELL = {"id": "a", "type": "SHELL", "command": "true"}
REST = {"id": "a", "type": "RESTAPI", "method": "GET", "url": "http://127.0.0.1/"}
STARTED = TaskStarted(*PLACE, 1)
SUCCEEDED = TaskSucceeded(*PLACE, 1, Facts(1.0, 2.0, pid=7, exit_code=0))


def judge(events: list[Event], surroundings: Surroundings | None = None, **definition: Any) -> list[bool]:
    """Return of each event whether it may run ahead, in a run of a definition with the task `a`."""
    text = json.dumps({"tasks": [SHELL], **definition}).encode()
    compiled = compile_definition(text, Syntax.JSON, stem="etl")
    around = surroundings or Surroundings()
    plan = make_plan(ETL, compiled, around, {}, Disk())
    state = State()
    apply(state, RunQueued(RUN, ETL, "etl.json", "s", compiled.digest, "change"), NOW.wall_s, NOW)
    apply(state, RunStarted(RUN, ETL, plan_lines(plan, compiled.definition)), NOW.wall_s, NOW)
    contexts = {RUN: Context(compiled, around, Places(Path("etl.runs"), Path()), Path("etl.runs/workspace"), False)}
    judged = []
    for event in events:
        apply(state, event, NOW.wall_s, NOW)
        judged.append(may_run_ahead(event, state, contexts))
    return judged


def test_the_first_attempt_of_a_command_and_its_good_end_run_ahead() -> None:
    assert judge([STARTED, SUCCEEDED]) == [True, True]


@pytest.mark.parametrize(
    "task",
    [
        SHELL | {"on_lost": "fail"},
        SHELL | {"when": "true"},
        SHELL | {"matrix": {"n": [1]}},
        REST | {"method": "POST"},
        {"id": "a", "type": "EMAIL", "recipients": ["a@example.com"]},
        {"id": "a", "type": "WORKFLOW", "workflow": "other"},
    ],
    ids=["may not be repeated", "has a condition", "becomes instances", "POST", "mail", "workflow"],
)
def test_what_would_not_be_decided_again_just_so_waits_for_its_record(task: dict[str, Any]) -> None:
    assert judge([STARTED], tasks=[task]) == [False]


def test_a_task_of_finally_waits_for_the_record_of_how_the_rest_ended() -> None:
    first = SHELL | {"id": "first"}

    assert judge([STARTED], None, **{"finally": [SHELL]}, tasks=[first]) == [False]


def test_an_end_with_outputs_waits_since_they_may_change_before_they_are_read_again() -> None:
    facts = SUCCEEDED.facts

    assert judge([STARTED, TaskSucceeded(*PLACE, 1, facts, outputs={"n": 1})]) == [True, False]
    assert judge([STARTED, TaskSucceeded(*PLACE, 1, facts, files={"out": "h"})]) == [True, False]


def test_a_call_that_may_be_repeated_runs_ahead_and_its_end_where_nothing_follows() -> None:
    after = SHELL | {"id": "b", "depends_on": ["a"]}

    assert judge([STARTED, SUCCEEDED], None, tasks=[REST]) == [True, True]
    assert judge([STARTED, SUCCEEDED], None, tasks=[REST, after]) == [True, False]


def test_a_bad_end_waits() -> None:
    failed = TaskFailed(*PLACE, 1, SUCCEEDED.facts, "exit", "exit code 1")

    assert judge([STARTED, failed]) == [True, False]


def test_nothing_runs_ahead_in_a_run_that_is_being_cancelled() -> None:
    cancelling = RunCancelling(RUN, ETL, "cancelled", "asked for")

    assert judge([STARTED, cancelling, SUCCEEDED]) == [True, False, False]


def test_what_is_read_anew_for_each_attempt_keeps_all_from_running_ahead() -> None:
    assert judge([STARTED], secrets={"TOKEN": {"env": "TOKEN"}}) == [False]
    assert judge([STARTED], surroundings=Surroundings(dotenv={"A": "1"})) == [False]
