"""Small scenes for tests of the core: a workflow from YAML, and a state made by the events that lead to it."""

from typing import Any

from wizflowd.core.attempt import Facts, RunId, TaskId
from wizflowd.core.compile import Compiled, compile_definition
from wizflowd.core.events import (
    Event,
    Now,
    PlanLine,
    RunQueued,
    RunStarted,
    TaskFailed,
    TaskRetrying,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
)
from wizflowd.core.loader import Syntax
from wizflowd.core.observations import WorkflowId
from wizflowd.core.state import Run, State, apply

NOW = Now(1_000.0, 50.0, "boot")
FACTS = Facts(1_000.0, 1_002.5, pid=7, exit_code=1)
RUN = RunId("r")
WORKFLOW = WorkflowId("team/etl")


def compiled(text: str, **dotenv: str) -> Compiled:
    return compile_definition(text.encode(), Syntax.YAML, stem="etl", read_dotenv=lambda _: dotenv)


def at(mono_s: float) -> Now:
    """Return a moment of the one boot."""
    return Now(NOW.wall_s + mono_s - NOW.mono_s, mono_s, NOW.boot)


def line(task: str, needs: str = "", **rest: Any) -> PlanLine:
    """Return a line of a plan; `needs` are words."""
    return PlanLine(TaskId(task), tuple(map(TaskId, needs.split())), "run", "never ran", **rest)


def queued(run: str = RUN, workflow: str = WORKFLOW, **rest: Any) -> RunQueued:
    values: dict[str, Any] = {"path": f"{workflow}.yaml", "stamp": "stamp", "digest": "digest", "trigger": "manual"}
    return RunQueued(RunId(run), WorkflowId(workflow), **(values | rest))


def run_started(*lines: PlanLine, run: str = RUN, workflow: str = WORKFLOW, **rest: Any) -> RunStarted:
    values: dict[str, Any] = {"mono_s": NOW.mono_s, "boot": NOW.boot}
    return RunStarted(RunId(run), WorkflowId(workflow), lines, **(values | rest))


def after(*events: Event, state: State | None = None, now: Now = NOW) -> State:
    """Return the state that the events give, added to a state where there is one."""
    state = state if state is not None else State()
    for event in events:
        apply(state, event, now.wall_s, now)
    return state


def begun(*lines: PlanLine, **rest: Any) -> State:
    """Return a state with one run that has started."""
    return after(queued(), run_started(*lines, **rest))


def the_run(state: State) -> Run:
    return state.runs[RUN]


def started(task: str, attempt: int = 1, run: str = RUN) -> TaskStarted:
    return TaskStarted(RunId(run), WORKFLOW, TaskId(task), attempt)


def succeeded(task: str, attempt: int = 1, run: str = RUN, **rest: Any) -> TaskSucceeded:
    return TaskSucceeded(RunId(run), WORKFLOW, TaskId(task), attempt, FACTS, **rest)


def failed(task: str, attempt: int = 1, run: str = RUN, **rest: Any) -> TaskFailed:
    return TaskFailed(RunId(run), WORKFLOW, TaskId(task), attempt, FACTS, "exit", "exit code 1", **rest)


def retrying(task: str, attempt: int = 1, delay_s: float = 5.0, run: str = RUN, **rest: Any) -> TaskRetrying:
    values: dict[str, Any] = {"reason": "exit", "not_before_s": NOW.mono_s + delay_s, "boot": NOW.boot} | rest
    return TaskRetrying(
        RunId(run), WORKFLOW, TaskId(task), attempt, FACTS, message="exit code 1", delay_s=delay_s, **values
    )


def skipped(task: str, *, blamed: bool, run: str = RUN) -> TaskSkipped:
    return TaskSkipped(RunId(run), WORKFLOW, TaskId(task), "upstream", blamed=blamed)
