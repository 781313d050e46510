"""Random plans for histories of runs: graphs with everything that a plan can say, ready to be drawn by Hypothesis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from hypothesis import strategies as st

from wizflowd.core.attempt import TaskId
from wizflowd.core.definition import Retry, ShellTask
from wizflowd.core.events import PlanLine
from wizflowd.core.finish import Policy
from wizflowd.core.observations import WorkflowId
from wizflowd.core.schedule import Capacity
from wizflowd.core.state import RunOn

POOL = "db"
Gate = Literal["", "condition is false", "approval", "approval for a while", "instances"]


@dataclass(frozen=True, slots=True)
class FanOut:
    """How many instances a task falls into, how many of them at once, and the one that need not run."""

    instances: int
    max_parallel: int | None
    reused: int | None


@dataclass(frozen=True, slots=True)
class Step:
    """One task of a plan to be: its line, what its definition says about its ends, and what stands at its gate."""

    line: PlanLine
    policy: Policy
    gate: Gate
    fan_out: FanOut

    @property
    def spec(self) -> ShellTask:
        return ShellTask(id=self.line.task, type="SHELL", command="x", continue_on_failure=self.policy.tolerated)


@dataclass(frozen=True, slots=True)
class Work:
    """One run to be."""

    workflow: WorkflowId
    steps: tuple[Step, ...]
    fail_fast: bool = False
    max_tasks: int | None = None
    timeout_s: float | None = None
    side_by_side: bool = False

    def step(self, task: str) -> Step:
        """Return the step of a task, or of the task that an instance belongs to."""
        return next(step for step in self.steps if step.line.task == task.partition(".")[0])


@dataclass(frozen=True, slots=True)
class Draft:
    """A step before its place is known: it needs those so many places before it."""

    needs: frozenset[int]
    run_on: RunOn
    tolerated: bool
    retries: int
    delay_s: float
    on_lost: str
    reuse: bool
    gate: Gate
    fan_out: FanOut
    pool: str
    priority: int
    child: bool


DRAFTS = st.builds(
    Draft,
    needs=st.frozensets(st.integers(1, 4), max_size=2),
    run_on=st.sampled_from(["success", "success", "success", "failure", "always"]),
    tolerated=st.booleans(),
    retries=st.sampled_from([0, 2, 3]),
    delay_s=st.sampled_from([0.0, 1.0, 1.0, 7.0]),
    on_lost=st.sampled_from(["retry", "fail"]),
    reuse=st.sampled_from([False, False, True]),
    gate=st.sampled_from([*[""] * 5, *get_args(Gate)[1:], "instances"]),
    fan_out=st.builds(FanOut, st.integers(0, 4), st.sampled_from([None, 1, 2]), st.sampled_from([None, None, 0, 1, 2])),
    pool=st.sampled_from(["", POOL]),
    priority=st.sampled_from([0, 0, 5]),
    child=st.sampled_from([False, False, False, True]),
)


def plan_of(drafts: Sequence[Draft], final: int) -> tuple[Step, ...]:
    """Return a plan whose last `final` tasks are of `finally`; reused is what needs nothing but what is reused."""
    names = [TaskId(f"t{place}") for place in range(len(drafts))]
    first_final = max(1, len(names) - final)
    needs: list[tuple[TaskId, ...]] = []
    for place, draft in enumerate(drafts):
        first = first_final if place >= first_final else 0
        needs.append(tuple(names[place - back] for back in sorted(draft.needs) if place - back >= first))
    rank = dict.fromkeys(names, 1)
    for name, upstream in reversed([*zip(names, needs, strict=True)]):
        for need in upstream:
            rank[need] = max(rank[need], rank[name] + 1)
    reused: set[TaskId] = set()
    steps = []
    for place, draft in enumerate(drafts):
        name, is_final = names[place], place >= first_final
        if draft.reuse and not is_final and reused.issuperset(needs[place]):
            reused.add(name)
        line = PlanLine(
            name,
            needs[place],
            "reuse" if name in reused else "run",
            "",
            draft.run_on,
            rank[name],
            gated=bool(draft.gate),
            final=is_final,
            child=draft.child,
            priority=draft.priority,
            pool=draft.pool,
            tolerated=draft.tolerated,
        )
        retry = Retry(limit=draft.retries, delay=draft.delay_s, backoff=2, jitter=0.5)
        steps.append(Step(line, Policy(retry, draft.on_lost, draft.tolerated), draft.gate, draft.fan_out))
    return tuple(steps)


WORK = st.builds(
    Work,
    workflow=st.sampled_from([WorkflowId("w0"), WorkflowId("w1")]),
    steps=st.builds(plan_of, st.lists(DRAFTS, min_size=2, max_size=8), st.sampled_from([0, 0, 1, 2])),
    fail_fast=st.sampled_from([False, False, True]),
    max_tasks=st.sampled_from([None, None, 1, 2]),
    timeout_s=st.sampled_from([None, None, 3.0, 20.0]),
    side_by_side=st.booleans(),
)
WORKS = st.lists(WORK, min_size=1, max_size=6)
CAPACITIES = st.builds(
    Capacity,
    max_tasks=st.sampled_from([1, 2, 3, 5, 5]),
    max_runs=st.integers(1, 3),
    pools=st.sampled_from([{}, {POOL: 1}, {POOL: 1}, {POOL: 2}]),
)
