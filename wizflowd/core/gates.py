"""What is decided about a task when its needs have ended: whether it runs (`when`), whether somebody has to approve it,
and into which instances it falls (`matrix`, `for_each`).

In: a task of a run that stands at its gate, and its values. Out: one event, after which the engine asks again until the
task is past its gate. Pure.
"""

from collections.abc import Mapping

from wizflowd.core.attempt import Facts, TaskId
from wizflowd.core.calls import Setting, Values
from wizflowd.core.conditions import ConditionError, evaluate, read_condition
from wizflowd.core.definition import Task
from wizflowd.core.events import (
    InstanceLine,
    Now,
    TaskAdmitted,
    TaskEvent,
    TaskExpanded,
    TaskFailed,
    TaskPaused,
    TaskReused,
    TaskSkipped,
)
from wizflowd.core.fanout import Instance, item_instances, matrix_instances
from wizflowd.core.placeholders import fill_value
from wizflowd.core.plan import Success
from wizflowd.core.state import Run, TaskRun
from wizflowd.errors import FillError


def open_gate(run: Run, task: TaskRun, spec: Task, setting: Setting, now: Now) -> TaskEvent:
    """Return what happens to a task at its gate; a gate that cannot be judged fails its task."""
    place = (run.id, run.workflow, task.id)
    try:
        if spec.when is not None and not task.approved:
            skipped = _why_skipped(spec.when, Values(setting, spec))
            if skipped:
                return TaskSkipped(*place, skipped)
        if spec.breakpoint is not None and not task.approved:
            return TaskPaused(*place, spec.breakpoint.timeout, now.mono_s, now.boot)
        if spec.matrix or spec.for_each is not None:
            lines = tuple(
                InstanceLine(TaskId(each.id), each.index, each.values)
                for each in _instances(spec, Values(setting, spec))
            )
            taken = next((line.task for line in lines if line.task in run.tasks), None)
            if taken is not None:
                raise FillError(f"cannot run {task.id}: its instance {taken} has the id of another task")
            return TaskExpanded(*place, lines, spec.max_parallel)
    except (FillError, ConditionError) as error:
        facts = Facts(now.wall_s, now.wall_s)
        return TaskFailed(*place, 0, facts, "input", str(error), spec.continue_on_failure)
    return TaskAdmitted(*place)


def _why_skipped(text: str, values: Values) -> str:
    """Return the expression and what made it false; empty: it is true."""
    holds, seen = evaluate(read_condition(text), values.lookup)
    if holds:
        return ""
    because = ", ".join(f"{name} is {value!r}" for name, value in seen.items())
    return f"when: {text} is false{f' ({because})' if because else ''}"


def _instances(spec: Task, values: Values) -> list[Instance]:
    if spec.matrix:
        return matrix_instances(spec.id, spec.matrix)
    items = spec.for_each if isinstance(spec.for_each, str) else [*(spec.for_each or ())]
    return item_instances(spec.id, fill_value(items, values.lookup))


def reused_instances(
    run: Run, group: TaskRun, spec: Task, expanded: TaskExpanded, standing: Mapping[TaskId, Success]
) -> list[TaskReused]:
    """Return the instances that need not run: nothing upstream ran, and an earlier success was with just this.

    `standing` are the earlier successes of instances whose parts are still the same, by id.
    """
    if spec.cache == "never" or any(not run.tasks[need].reused for need in group.needs):
        return []
    reused = ((line.task, standing[line.task]) for line in expanded.instances if line.task in standing)
    return [
        TaskReused(run.id, run.workflow, task, success.run, "nothing changed", success.key, success.outputs)
        for task, success in reused
    ]
