"""What is legal in a definition but seldom meant: outputs that nobody reads, and tasks that can never run.

In: a valid definition and its graph. Out: warnings as problems, for `core.compile`. Linear in the size of the
definition.
"""

from collections.abc import Collection, Iterator

from wizflowd.core.conditions import ConditionError, evaluate, read_condition
from wizflowd.core.definition import Definition, Task
from wizflowd.core.fanout import matrix_instances
from wizflowd.core.graph import Graph
from wizflowd.core.placeholders import Reference, find
from wizflowd.core.references import placed, texts_of
from wizflowd.errors import FillError, Problem

Path = tuple[str | int, ...]


def surprises(definition: Definition, graph: Graph) -> Iterator[Problem]:
    """Yield the warnings, task by task."""
    places = placed(definition)
    read = {pair for task in definition.all_tasks for pair in _outputs_read(task)}
    for task in definition.all_tasks:
        place = places[task.id]
        if graph.dependents[task.id]:  # the outputs of a last task are the results of the run
            yield from _unused_outputs(task, place, read)
        if task.run_on == "failure" and place[0] == "tasks" and not graph.needs[task.id]:
            hint = "name what may fail in depends_on, or move the task to finally"
            yield Problem((*place, "run_on"), "the task never runs: nothing before it could fail", hint)
        yield from _never(task, place)


def _unused_outputs(task: Task, place: Path, read: Collection[tuple[str, str]]) -> Iterator[Problem]:
    """Warn of values that are taken for nobody; a file or a `required` value is a check as well."""
    for name, rule in task.outputs.items():
        if rule.type != "file" and not rule.required and (task.id, name) not in read:
            what = "no task reads this output"
            yield Problem((*place, "outputs", name), what, "use it, or take it out", at_key=True)


def _outputs_read(task: Task) -> Iterator[tuple[str, str]]:
    """Yield what a task reads, as (task, output); a short name may be the output of any task in `depends_on`."""
    for mapping in task.input_mappings.values():
        yield mapping.from_task, mapping.output
    for reference in _references(task):
        match reference.steps:
            case ("tasks", str(upstream), "outputs", str(name), *_):
                yield upstream, name
            case (str(name), *_):
                yield from ((upstream, name) for upstream in task.depends_on)


def _references(task: Task) -> Iterator[Reference]:
    for _, text in texts_of(task):
        yield from (reference for _, reference in find(text))
    if task.when is not None:
        yield from read_condition(task.when).references


def _never(task: Task, place: Path) -> Iterator[Problem]:
    """Warn of a task that does not run whatever the others come to, or of a condition that decides nothing."""
    match _constant(task.when) if task.when is not None else None:
        case False:
            yield Problem((*place, "when"), "the task never runs: this is always false", "name a value that can change")
        case True:
            yield Problem((*place, "when"), "this is always true", "take the condition out")
    if task.for_each == ():
        yield Problem((*place, "for_each"), "the task never runs: the list is empty", "name at least one item")
    if task.matrix and _has_no_instance(task):
        yield Problem((*place, "matrix"), "the task never runs: no combination is left", "look at the axes and exclude")


def _constant(text: str) -> bool | None:
    """Return what a condition without any reference comes to, None for all others."""
    condition = read_condition(text)
    if condition.references:
        return None
    try:
        return evaluate(condition, _no_value)[0]
    except ConditionError:
        return None


def _no_value(reference: Reference) -> None:
    raise FillError(reference.text)


def _has_no_instance(task: Task) -> bool:
    try:
        return not matrix_instances(task.id, task.matrix)
    except FillError:  # too many
        return False
