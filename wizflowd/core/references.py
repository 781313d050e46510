"""The references of a definition: where they stand, what is wrong with them, and what each task needs for them.

In: a definition and its `Names`. Out: `Problem`s and needs for `core.compile`, and for planning the names on which a
task depends. Linear in the size of the definition. What one reference leads to is told by `core.names`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from wizflowd.core.attempt import TaskId
from wizflowd.core.conditions import read_condition
from wizflowd.core.definition import Definition, EmailTask, PluginTask, RestTask, ShellTask, Task, WorkflowTask
from wizflowd.core.fields import shown
from wizflowd.core.kinds import own_fields
from wizflowd.core.messages import MAX_PROBLEMS
from wizflowd.core.names import (
    ROOTS,
    Names,
    Path,
    Scope,
    Target,
    UnresolvedError,
    expect_output,
    names_of,
    resolve,
    scope_of,
)
from wizflowd.core.placeholders import Reference, find
from wizflowd.core.suggest import did_you_mean
from wizflowd.errors import Problem

__all__ = [
    "Found",
    "Names",
    "Reach",
    "Scope",
    "Target",
    "UnresolvedError",
    "check_references",
    "field_of",
    "names_of",
    "names_reaching",
    "resolve",
    "scope_of",
    "texts_of",
]


class Found(Struct, frozen=True):
    """A reference where it stands, `offset` characters into the text at `path`, and what it leads to."""

    path: Path
    text: str
    offset: int
    reference: Reference
    scope: Scope
    target: Target | UnresolvedError


def _found_in_task(task: Task, names: Names) -> Iterator[Found]:
    """Yield the references in a task's texts, equal ones within a text once."""
    scope: Scope | None = None
    texts = texts_of(task) if task.when is None else chain(texts_of(task), [(("when",), task.when)])
    for path, text in texts:
        if "{{" not in text and path != ("when",):
            continue
        scope = scope or scope_of(task, names)
        yield from _found_in(path, text, replace(scope, field=str(path[0])))


def _found_in_workflow(names: Names) -> Iterator[Found]:
    for name, text in names.env.items():
        yield from _found_in(("env", name), text, _workflow_scope(names))


def _workflow_scope(names: Names) -> Scope:
    return Scope(names, None, frozenset())


def _found_in(path: Path, text: str, scope: Scope) -> Iterator[Found]:
    seen: set[str] = set()
    for offset, reference in _references(path, text):
        if reference.text in seen:
            continue
        seen.add(reference.text)
        target: Target | UnresolvedError
        try:
            target = resolve(reference, scope)
        except UnresolvedError as error:
            target = error
        yield Found(path, text, offset, reference, scope, target)


def _references(path: Path, text: str) -> Iterable[tuple[int, Reference]]:
    if path == ("when",):
        return ((0, reference) for reference in read_condition(text).references)
    return find(text)


def _problem(found: Found, error: UnresolvedError) -> Problem:
    line = found.text.count("\n", 0, found.offset)
    return Problem(found.path, error.message, error.hint, text_line=line)


def texts_of(task: Task) -> Iterator[tuple[Path, str]]:
    """Yield every text of a task in which placeholders can stand, with its path below the task."""
    if isinstance(task.for_each, str):
        yield ("for_each",), task.for_each
    for name, text in task.inputs.items():
        yield ("inputs", name), text
    for name, text in task.env.items():
        yield ("env", name), text
    for name, rule in task.outputs.items():
        if rule.path:
            yield ("outputs", name, "path"), rule.path
    match task:
        case ShellTask():
            yield from _strings(task.command, ("command",))
            if task.working_dir is not None:
                yield ("working_dir",), task.working_dir
            if task.stdin is not None:
                yield ("stdin",), task.stdin
        case RestTask():
            yield from _rest_texts(task)
        case EmailTask():
            yield ("subject",), task.subject
            yield ("emailBody",), task.email_body
            yield from _strings(task.recipients, ("recipients",))
            yield from _strings(task.attachments, ("attachments",))
        case WorkflowTask():
            yield from _strings(task.params, ("params",))
        case PluginTask():
            for name, value in own_fields(task).items():
                yield from _strings(value, (name,))
        case _:
            assert_never(task)


def field_of(path: Path) -> str:
    """Return the field to which a path below a task leads, as `auth.basic.password`; places in lists left out."""
    return ".".join(step for step in path if isinstance(step, str))


def _rest_texts(task: RestTask) -> Iterator[tuple[Path, str]]:
    yield ("url",), task.url
    yield from _strings(task.query, ("query",))
    yield from _strings(task.headers, ("headers",))
    yield from _strings(task.body, ("body",))
    if task.auth is not None and task.auth.bearer is not None:
        yield ("auth", "bearer"), task.auth.bearer
    if task.auth is not None and task.auth.basic is not None:
        yield ("auth", "basic", "username"), task.auth.basic.username
        yield ("auth", "basic", "password"), task.auth.basic.password


def _strings(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the texts inside a JSON value in order, without recursion; keys are no texts."""
    waiting = [(path, value)]
    while waiting:
        path, value = waiting.pop()
        match value:
            case str():
                yield path, value
            case list() | tuple():
                waiting += [((*path, index), item) for index, item in reversed([*enumerate(value)])]
            case Mapping():
                waiting += [((*path, key), item) for key, item in reversed([*value.items()])]


def check_references(
    definition: Definition, names: Names, places: Mapping[TaskId, tuple[str, int]] | None = None
) -> tuple[list[Problem], dict[TaskId, tuple[TaskId, ...]]]:
    """Return what is wrong with the references of a definition, and what each task needs.

    Needed are the tasks in `depends_on`, `input_mappings` and placeholders, in this order, each once. `places` are
    where the tasks stand in the file.
    """
    in_workflow = ((found, found.target) for found in _found_in_workflow(names))
    problems = [_problem(found, error) for found, error in in_workflow if isinstance(error, UnresolvedError)]
    needs: dict[TaskId, tuple[TaskId, ...]] = {}
    places = places if places is not None else placed(definition)
    for task in definition.all_tasks:
        needed: dict[TaskId, None] = {}
        for item in chain(_upstream(task, names), _of_texts(task, names)):
            if isinstance(item, Problem):
                problems.append(dataclasses.replace(item, path=(*places[task.id], *item.path)))
            elif task.id not in names.final or item in names.final:  # what is final comes after all the others anyway
                needed[item] = None
        needs[task.id] = tuple(needed)
        if len(problems) >= MAX_PROBLEMS:
            break
    return problems, needs


def placed(definition: Definition) -> dict[TaskId, tuple[str, int]]:
    """Return where each task stands, in a file that holds no others."""
    both = (("tasks", definition.tasks), ("finally", definition.final_tasks))
    return {task.id: (key, index) for key, tasks in both for index, task in enumerate(tasks)}


def _upstream(task: Task, names: Names) -> Iterator[TaskId | Problem]:
    for index, upstream in enumerate(task.depends_on):
        if _comes_later(upstream, task, names):
            yield Problem(("depends_on", index), *_later(upstream))
        else:
            yield upstream if upstream in names.tasks else _unknown_task(upstream, names, ("depends_on", index))
    for name, mapping in task.input_mappings.items():
        if _comes_later(mapping.from_task, task, names):
            yield Problem(("input_mappings", name, "from_task"), *_later(mapping.from_task))
            continue
        if mapping.from_task not in names.tasks:
            yield _unknown_task(mapping.from_task, names, ("input_mappings", name, "from_task"))
            continue
        yield mapping.from_task
        if (owner := names.tasks[mapping.from_task]) is not None:
            try:
                expect_output(mapping.output, owner)
            except UnresolvedError as error:
                yield Problem(("input_mappings", name, "output"), error.message, error.hint)


def _comes_later(upstream: TaskId, task: Task, names: Names) -> bool:
    return upstream in names.final and task.id not in names.final


def _later(upstream: TaskId) -> tuple[str, str]:
    """Return what is wrong with the need of a `finally` task, and what would be right."""
    return f"{upstream} is in finally", "finally comes after every other task"


def _unknown_task(task: TaskId, names: Names, path: Path) -> Problem:
    if "{{" in task:
        return Problem(path, f"there is no task {shown(task)}", "what a task depends on is fixed: no placeholders here")
    return Problem(path, f"there is no task {shown(task)}", did_you_mean(task, names.tasks))


def _of_texts(task: Task, names: Names) -> Iterator[TaskId | Problem]:
    # A name that is unknown because the task that gives it is unknown or unreadable is not told a second time.
    unsure = any(names.tasks.get(upstream) is None for upstream in task.depends_on)
    argv: list[Found] = []
    for found in _found_in_task(task, names):
        if isinstance(found.target, UnresolvedError):
            if not (unsure and str(found.reference.steps[0]) not in ROOTS):
                yield _problem(found, found.target)
        elif found.target.task is not None:
            if _comes_later(found.target.task, task, names):
                message, hint = _later(found.target.task)
                yield _problem(found, UnresolvedError(message, hint=hint))
            else:
                yield found.target.task
        if found.path[0] == "command" and len(found.path) > 1:
            argv.append(found)
    if any(target.kind == "secret" for target in _closure(argv)):
        hint = "everybody on the host can read it there; use env or stdin"
        for found in argv:
            if any(target.kind == "secret" for target in _closure([found])):
                yield Problem(found.path, "a secret cannot stand in an argv list", hint)


_NONE: frozenset[str] = frozenset()


class Reach(Struct, frozen=True):
    """The names of params, variables, secrets and other tasks on which an attempt of a task can depend."""

    params: frozenset[str]
    env: frozenset[str]
    secrets: frozenset[str]
    tasks: frozenset[TaskId]


def names_reaching(task: Task, names: Names) -> Reach:
    """Return what of params, env, secrets and tasks a task can see: in its texts, and behind its inputs and variables.

    Every variable of the workflow and the task reaches a SHELL task, and so does all of `dotenv`, of which only what
    a placeholder names is told here.
    """
    is_shell = isinstance(task, ShellTask)
    found = [*_found_in_task(task, names)]
    around = [*_found_in_workflow(names)] if is_shell and names.env else []
    if not (found or around):  # most tasks name nothing
        return Reach(_NONE, frozenset((*names.env, *task.env)) if is_shell else _NONE, _NONE, frozenset())
    reached = {*_closure(found)}
    env = {target.name for target in reached if target.kind == "env"}
    if is_shell:
        env |= {*names.env, *task.env}
        reached |= {*_closure(around)}
    params = frozenset(target.name for target in reached if target.kind == "param")
    secrets = frozenset(target.name for target in reached if target.kind == "secret")
    tasks = frozenset(target.task for target in reached if target.task is not None)
    return Reach(params, frozenset(env), secrets, tasks)


def _closure(found: Iterable[Found]) -> Iterator[Target]:
    """Yield what references lead to, and what the texts of those inputs and variables lead to in turn, each once."""
    waiting = [*found]
    seen: set[tuple[Target, str]] = set()
    while waiting:
        target, scope = waiting[-1].target, waiting.pop().scope
        if isinstance(target, UnresolvedError) or (target, scope.field) in seen:
            continue
        seen.add((target, scope.field))
        yield target
        if target.kind == "input" and scope.task is not None:
            text = scope.task.inputs[target.name]
            waiting += _found_in(("inputs", target.name), text, replace(scope, field="inputs"))
        elif target.kind == "env" and scope.task is not None:
            own = scope.task.env.get(target.name)
            inside = _workflow_scope(scope.names) if own is None else replace(scope, field="env")
            text = scope.names.env.get(target.name, "") if own is None else own
            waiting += _found_in(("env", target.name), text, inside)
