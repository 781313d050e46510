"""What one placeholder leads to, by the rules of SPEC section 1, "Placeholders".

In: a reference, the `Scope` in which it stands and the `Names` of the definition. Out: its `Target`. Called by
`core.references` for the plan and by the engine for an attempt, so that both follow the same rules.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Literal

from msgspec import Struct

from wizflowd.core.attempt import TaskId
from wizflowd.core.definition import Definition, ShellTask, Task, WorkflowTask
from wizflowd.core.fields import shown
from wizflowd.core.placeholders import Reference
from wizflowd.core.suggest import did_you_mean
from wizflowd.errors import WizflowError

Path = tuple[str | int, ...]
Kind = Literal["mapping", "input", "output", "status", "param", "env", "secret", "run", "workflow", "matrix", "item"]

ROOTS = ("tasks", "params", "env", "secrets", "run", "workflow", "matrix", "item")
_FACTS: Mapping[str, tuple[Kind, tuple[str, ...]]] = {
    "run": ("run", ("id", "dir")),
    "workflow": ("workflow", ("name", "dir")),
}


class UnresolvedError(WizflowError):
    """A reference leads nowhere."""


class Target(Struct, frozen=True):
    """What a reference stands for; `steps` remain to be walked inside the value.

    `mapping`, `output`: the output `name` of `task`; `status`: the state of `task`; the others: the thing of that name.
    """

    kind: Kind
    name: str
    task: TaskId | None = None
    steps: tuple[str | int, ...] = ()


class Names(Struct, frozen=True):
    """Everything in a definition that a reference can lead to, to be looked up in constant time.

    A task that is None is there but could not be read; `producers` are the tasks that declare an output of that name.
    Not all names of the `open_roots` are known: `env` while the files of `dotenv` are unread.
    """

    tasks: Mapping[TaskId, Task | None]
    producers: Mapping[str, Sequence[TaskId]]
    params: frozenset[str]
    env: Mapping[str, str]
    dotenv: frozenset[str]
    secrets: frozenset[str]
    open_roots: frozenset[str] = frozenset()
    final: frozenset[TaskId] = frozenset()


def names_of(
    definition: Definition,
    *,
    dotenv: Iterable[str] | None = None,
    broken: Iterable[TaskId] = (),
    unread: frozenset[str] = frozenset(),
) -> Names:
    """Return the names of a definition.

    `dotenv` are the variables in its files (None: not read); `broken` tasks and `unread` fields could not be read.
    """
    tasks: dict[TaskId, Task | None] = dict.fromkeys(broken)
    producers: defaultdict[str, list[TaskId]] = defaultdict(list)
    for task in definition.all_tasks:
        tasks[task.id] = task
        for name in task.outputs:
            producers[name].append(task.id)
    unknown_env = {"env"} if ("dotenv" in unread or (definition.dotenv and dotenv is None)) else set()
    return Names(
        tasks,
        dict(producers),
        frozenset(definition.params),
        definition.env,
        frozenset(dotenv or ()),
        frozenset(definition.secrets),
        unread | unknown_env,
        frozenset(task.id for task in definition.final_tasks),
    )


class Scope(Struct, frozen=True):
    """Where a reference stands: in a task (None: in the workflow's own `env`), and in which of its fields.

    Inside `inputs` no inputs are seen, and inside `env` none of the variables beside it: values are filled once, and
    no value can stand for itself.
    """

    names: Names
    task: Task | None
    upstream: frozenset[TaskId]
    field: str = ""


def scope_of(task: Task, names: Names) -> Scope:
    """Return the scope of a task; `replace(scope, field="inputs")` is that of its inputs."""
    return Scope(names, task, frozenset(task.depends_on))


def resolve(reference: Reference, scope: Scope) -> Target:
    """Return what a reference leads to; raises `UnresolvedError`.

    Looked up first in `input_mappings`, `inputs` and the outputs of the tasks in `depends_on`, then among the roots.
    """
    if scope.task is not None and (target := _local(reference, scope, scope.task)):
        return target
    match reference.steps:
        case ("tasks", str(task), *rest) if scope.task is not None:
            return _of_task(TaskId(task), tuple(rest), scope.names)
        case ("params", str(name), *rest):
            _expect(name, scope.names.params, "param", "params", scope.names)
            return Target("param", name, steps=tuple(rest))
        case ("secrets", str(name)):
            _expect(name, scope.names.secrets, "secret", "secrets", scope.names)
            return Target("secret", name)
        case ("env", str(name)) if scope.task is not None:
            _expect_variable(name, scope, scope.task)
            return Target("env", name)
        case (("run" | "workflow") as root, str(name)) if name in _FACTS[root][1]:
            return Target(_FACTS[root][0], name)
        case ("run", "status") if scope.task is not None and scope.task.id in scope.names.final:
            return Target("run", "status")
        case ("run", "status", *_):
            raise UnresolvedError("run.status is not known before the run has ended", hint="only finally can use it")
        case ("matrix", str(name), *rest) if scope.task is not None and scope.task.matrix:
            _expect(name, axes_of(scope.task), "axis", "matrix", scope.names)
            return Target("matrix", name, steps=tuple(rest))
        case ("item", *rest) if scope.task is not None and scope.task.for_each is not None:
            return Target("item", "item", steps=tuple(rest))
        case (str(root), *_) if root in ROOTS:
            raise UnresolvedError(f"{_as_written(_cut(reference), scope)} leads nowhere", hint=_root_hint(root, scope))
    raise UnresolvedError(f'unknown name "{_cut(reference)}"', hint=_hint(reference, scope))


def axes_of(task: Task) -> frozenset[str]:
    """Return the names that `matrix.X` can have: the axes, and what `include` adds."""
    added = (name for entry in task.matrix.get("include", ()) if isinstance(entry, dict) for name in entry)
    return frozenset({name for name in task.matrix if name not in ("include", "exclude")} | {*added})


def _local(reference: Reference, scope: Scope, task: Task) -> Target | None:
    name, rest = str(reference.steps[0]), reference.steps[1:]
    if mapping := task.input_mappings.get(name):
        return Target("mapping", mapping.output, mapping.from_task, rest)
    if scope.field != "inputs" and name in task.inputs:
        return Target("input", name, steps=rest)
    owners = _owners(name, scope, task)
    if len(owners) > 1:
        first, second = owners[:2]
        what = f'"{name}" is an output of both {first} and {second}'
        hint = f"write {_as_written(f'tasks.{first}.outputs.{name}', scope)} for one of them"
        raise UnresolvedError(what, hint=hint)
    return Target("output", name, owners[0], rest) if owners else None


def _owners(name: str, scope: Scope, task: Task) -> list[TaskId]:
    """Return the tasks in `depends_on` that declare an output, by way of whichever of the two lists is shorter."""
    producers, tasks = scope.names.producers.get(name, ()), scope.names.tasks
    if len(producers) <= len(scope.upstream):
        return [producer for producer in producers if producer in scope.upstream]
    upstream = ((up, tasks.get(up)) for up in dict.fromkeys(task.depends_on))
    return [up for up, owner in upstream if owner is not None and name in owner.outputs]


def _of_task(task: TaskId, steps: tuple[str | int, ...], names: Names) -> Target:
    if task not in names.tasks:
        raise UnresolvedError(f'there is no task "{task}"', hint=did_you_mean(task, names.tasks))
    match steps:
        case ("status",):
            return Target("status", "status", task)
        case ("outputs", str(name), *rest):
            owner = names.tasks[task]
            if owner is not None:
                expect_output(name, owner)
            return Target("output", name, task, tuple(rest))
    raise UnresolvedError(f"a task has outputs and a status: {task}", hint=f"write tasks.{task}.outputs.NAME")


def expect_output(name: str, owner: Task) -> None:
    """Raise `UnresolvedError` unless a task can have an output; a command adds some of its own, WORKFLOW `run`."""
    of_its_own = isinstance(owner, ShellTask) or (isinstance(owner, WorkflowTask) and name == "run")
    if name not in owner.outputs and not of_its_own:
        hint = did_you_mean(name, owner.outputs) or "declare it in its outputs"
        raise UnresolvedError(f'the task {owner.id} has no output "{name}"', hint=hint)


def _expect(name: str, known: Set[str], noun: str, root: str, names: Names) -> None:
    if name not in known and root not in names.open_roots:
        raise UnresolvedError(f'there is no {noun} "{name}"', hint=did_you_mean(name, known) or f"add it to {root}")


def _expect_variable(name: str, scope: Scope, task: Task) -> None:
    # What a task sets itself hides a variable of that name further out, inside its `env` too: otherwise
    # A: "{{env.A}}" would stand for itself.
    if name in task.env:
        if scope.field == "env":
            raise UnresolvedError(f'the variable "{name}" cannot be used within the env that sets it')
        return
    _expect(name, scope.names.env.keys() | scope.names.dotenv, "variable", "env", scope.names)


def _cut(reference: Reference) -> str:
    return shown(reference.text)[1:-1]


def _root_hint(root: str, scope: Scope) -> str:
    if scope.task is None and root in ("tasks", "env"):
        return "the env of the workflow can use params, secrets, run and workflow"
    return {
        "tasks": "write tasks.ID.outputs.NAME or tasks.ID.status",
        "run": "there are run.id and run.dir",
        "workflow": "there are workflow.name and workflow.dir",
        "matrix": "only a task with a matrix has it: matrix.AXIS",
        "item": "only a task with for_each has it",
    }.get(root, f"write {root}.NAME")


def _hint(reference: Reference, scope: Scope) -> str:
    """Return where a name is that was not found, or how to write braces that are meant as text."""
    name, names = str(reference.steps[0]), scope.names
    for root, known in (("params", names.params), ("secrets", names.secrets), ("env", names.env)):
        if name in known:
            return f"write {_as_written(f'{root}.{name}', scope)}"
    if scope.task is not None:
        if scope.field == "inputs" and name in scope.task.inputs:
            return "inputs cannot be used within inputs"
        if producers := names.producers.get(name):
            long_form = _as_written(f"tasks.{producers[0]}.outputs.{name}", scope)
            return f'add "{producers[0]}" to depends_on, or write {long_form}'
        upstream = (names.tasks.get(task) for task in scope.task.depends_on)
        outputs = (output for task in upstream if task is not None for output in task.outputs)
        if meant := did_you_mean(name, (*scope.task.input_mappings, *scope.task.inputs, *outputs, *ROOTS)):
            return meant
    if scope.field == "when":
        return f"write '{_cut(reference)}' in quotes if it is meant as text"
    return rf"write \{{{{{_cut(reference)}}}}} if it is meant as text"


def _as_written(name: str, scope: Scope) -> str:
    """Return a name as it stands in its field: in braces, but plain in a condition."""
    return name if scope.field == "when" else f"{{{{{name}}}}}"
