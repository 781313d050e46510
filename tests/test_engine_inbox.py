"""The engine's inbox: everything at once, in order, and a wake-up without anything."""

import asyncio
import time

import pytest

from wizflowd.core.attempt import AttemptId, Facts, Failed, Outcome, RunId, Succeeded, TaskId
from wizflowd.core.observations import WorkflowId
from wizflowd.core.state import Run, State, TaskRun
from wizflowd.engine.inbox import MANY, AttemptEnded, Inbox, Observation, RunClosed, RunStored, portions

FAILED, SUCCEEDED = Failed(Facts(1.0, 2.0), "exit", "exit code 1"), Succeeded(Facts(1.0, 2.0))


async def test_everything_that_waits_is_taken_at_once_and_in_order() -> None:
    inbox = Inbox()
    told: list[Observation] = [RunStored(RunId("r1")), RunClosed(RunId("r1")), RunStored(RunId("r2"))]
    for observation in told:
        inbox.put(observation)

    assert await inbox.take(None) == told
    assert await inbox.take(0) == []


async def test_whoever_waits_is_woken_by_the_next_observation() -> None:
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.take(None))
    await asyncio.sleep(0)

    inbox.put(RunStored(RunId("r1")))

    assert await asyncio.wait_for(waiting, 5) == [RunStored(RunId("r1"))]


async def test_a_wake_up_brings_nothing_and_is_used_up() -> None:
    inbox = Inbox()
    inbox.wake()

    assert await inbox.take(None) == []
    began_s = time.monotonic()
    assert await inbox.take(0.05) == []
    assert time.monotonic() - began_s > 0.04


def ended(task: str, outcome: Outcome) -> AttemptEnded:
    return AttemptEnded(AttemptId(f"r1/{task}/1"), outcome)


def state_of(*, fail_fast: bool, dependents: int = 0, tasks: int = 0) -> State:
    """Return a state with a run: `a` has so many dependents, beside tasks that stand alone."""
    run = Run(RunId("r1"), WorkflowId("etl"), "etl.json", "s", "d", "change", 0.0, fail_fast=fail_fast)
    run.dependents[TaskId("a")] = [TaskId(f"d{number}") for number in range(dependents)]
    for number in range(tasks):
        run.tasks[TaskId(f"t{number}")] = TaskRun(TaskId(f"t{number}"), (), "run", "", number)
    return State(runs={run.id: run})


@pytest.mark.parametrize(
    "state",
    [state_of(fail_fast=False, dependents=MANY), state_of(fail_fast=True, tasks=MANY)],
    ids=["many depend on it", "the whole run fails with it"],
)
def test_an_end_that_may_skip_many_tasks_is_the_last_of_its_portion(state: State) -> None:
    told: list[Observation] = [ended("a", SUCCEEDED), ended("a", FAILED), ended("a", FAILED), RunStored(RunId("r1"))]

    assert list(portions(told, state)) == [told[:2], told[2:3], told[3:]]
    assert list(portions(told[:2], state)) == [told[:2]]


def test_all_else_is_one_portion() -> None:
    small = state_of(fail_fast=False, dependents=MANY - 1, tasks=MANY)
    told: list[Observation] = [ended("a", FAILED), ended("b", FAILED), RunStored(RunId("r1"))]

    assert list(portions(told, small)) == [told]
    assert list(portions(told, State())) == [told]
    assert list(portions([], small)) == [[]]
