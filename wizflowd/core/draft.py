"""A definition as far as it can be read: its healthy part, and what is wrong with the rest.

In: the tree of a document. Out: a `Draft` for `core.compile`, which checks references in the healthy part too, so that
one wrong field does not hide a wrong name elsewhere.
"""

import functools
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from wizflowd.core.attempt import TaskId
from wizflowd.core.definition import Definition, Header, complete
from wizflowd.core.fields import shown
from wizflowd.core.kinds import UNUSABLE
from wizflowd.core.messages import MAX_PROBLEMS, field_names, problems_of
from wizflowd.core.suggest import did_you_mean
from wizflowd.core.task import TASK_TYPES, BaseTask, Task
from wizflowd.core.values import Json
from wizflowd.errors import Problem

EDITOR_FIELDS = frozenset({"status", "loading", "position"})
"""What the Wizflow editor keeps in a task for itself; accepted, and means nothing."""

# A task with one of these unread would be told of names that are unknown only because of it.
_NAMING_FIELDS = frozenset({"id", "depends_on", "input_mappings", "inputs", "outputs"})

_READ_HEADER: Callable[[Any], Header] = TypeAdapter(Header).validator.validate_python
_READ_BASE: Callable[[Any], BaseTask] = TypeAdapter(BaseTask).validator.validate_python
Place = tuple[str, int]
"""Where a task stands: in `tasks` or `finally`, and at which index."""


@functools.cache
def _reader(kind: str) -> Callable[[Any], Task]:
    return TypeAdapter(TASK_TYPES[kind]).validator.validate_python


@dataclass(slots=True)
class Draft:
    """`definition` holds the readable tasks, `places` the path of each in the file; None: there is nothing to check.

    `broken` are the ids of unreadable tasks and `unread` the fields of the header that were left out: names in them
    may exist.
    """

    definition: Definition | None = None
    places: dict[TaskId, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[TaskId] = field(default_factory=set)
    unread: frozenset[str] = frozenset()


def read_draft(tree: Json, stem: str) -> Draft:
    """Return all that can be read of a definition; `stem` is its name where it has none of its own."""
    draft = Draft()
    if not isinstance(tree, dict):
        problem = f"must be a mapping with a list of tasks, not {shown(tree)}"
        draft.problems.append(Problem((), problem, "begin with tasks:"))
        return draft
    header = _read_header({"workflow_name": stem, **tree}, draft)
    tasks = _read_tasks(tree, "tasks", header, draft)
    final_tasks = _read_tasks(tree, "finally", header, draft) if "finally" in tree else []
    if tasks and len(draft.problems) < MAX_PROBLEMS:  # else the rest was not read, and names in it would be unknown
        draft.definition = complete(header, tuple(tasks), tuple(final_tasks))
    return draft


def _read_header(tree: dict[str, Any], draft: Draft) -> Header:
    tree.pop("tasks", None)
    tree.pop("finally", None)
    try:
        return _READ_HEADER(tree)
    except ValidationError as error:
        details = error.errors(include_url=False)
        draft.problems += problems_of(details, Header)
        draft.unread = frozenset(str(detail["loc"][0]) for detail in details)
        readable = {key: value for key, value in tree.items() if key not in draft.unread}
        return _READ_HEADER({"workflow_name": "?", **readable})


def _read_tasks(tree: dict[str, Json], key: str, header: Header, draft: Draft) -> list[Task]:
    tasks: list[Task] = []
    entries = tree.get(key)
    if key not in tree:
        draft.problems.append(Problem((), f'missing field "{key}"', "a workflow is a list of at least one task"))
    elif not isinstance(entries, list):
        problem = Problem((key,), f"must be a list of tasks, not {shown(entries)}", "begin each task with a dash")
        draft.problems.append(problem)
    elif not entries:
        draft.problems.append(Problem((key,), "is empty", "name at least one task"))
    else:
        defaults = {"timeout": header.defaults.timeout, "retry": header.defaults.retry}
        inherited: dict[str, Any] = {name: value for name, value in defaults.items() if value is not None}
        if key == "finally":
            inherited["run_on"] = "always"
        for index, entry in enumerate(entries):
            task = _read_task((key, index), entry, inherited, draft)
            if task is not None and task.id in draft.places:
                first = "{}[{}]".format(*draft.places[task.id])
                draft.problems.append(Problem((key, index, "id"), f"the id {shown(task.id)} is taken by {first}"))
            elif task is not None:
                draft.places[task.id] = (key, index)
                tasks.append(task)
            if len(draft.problems) >= MAX_PROBLEMS:
                break
    return tasks


def _read_task(at: Place, entry: Json, inherited: Mapping[str, Any], draft: Draft) -> Task | None:
    if not isinstance(entry, dict):
        draft.problems.append(Problem(at, f"must be a mapping, not {shown(entry)}"))
        return None
    written = entry.get("type")
    kind = written.upper() if isinstance(written, str) else ""
    if kind not in TASK_TYPES:
        _refuse_kind(at, entry, draft)
        return None
    if kind != written:
        entry = {**entry, "type": kind}
    if not EDITOR_FIELDS.isdisjoint(entry):
        entry = {key: value for key, value in entry.items() if key not in EDITOR_FIELDS}
    if inherited:
        entry = {**inherited, **entry}
    try:
        return _reader(kind)(entry)
    except ValidationError as error:
        return _mend(at, entry, error, draft)


def _mend(at: Place, entry: dict[str, Any], error: ValidationError, draft: Draft) -> Task | None:
    """Tell what is wrong with a task, and read it without that where what it names and offers stays the same."""
    kind, name = entry["type"], entry.get("id")
    owner = f"the {kind} task {shown(name)}" if isinstance(name, str) else f"a {kind} task"
    details = error.errors(include_url=False)
    draft.problems += problems_of(details, TASK_TYPES[kind], at, owner)
    wrong = {detail["loc"][0] for detail in details if detail["loc"]}  # none where fields do not fit together
    if wrong.isdisjoint(_NAMING_FIELDS):
        with suppress(ValidationError):  # without a field that it must have
            return _reader(kind)({key: value for key, value in entry.items() if key not in wrong})
    if isinstance(name, str):
        draft.broken.add(TaskId(name))
    return None


def _refuse_kind(at: Place, entry: dict[str, Any], draft: Draft) -> None:
    """Tell that a task is of no known type, and what is wrong with the fields that all types share."""
    name, kind = entry.get("id"), entry.get("type")
    owner, kinds = f"the task {shown(name)}" if isinstance(name, str) else "a task", ", ".join(TASK_TYPES)
    if "type" not in entry:
        draft.problems.append(Problem(at, 'missing field "type"', f"{owner} is one of {kinds}"))
    elif not isinstance(kind, str):
        draft.problems.append(Problem((*at, "type"), f"must be text, not {shown(kind)}", f"write one of {kinds}"))
    else:
        hint = did_you_mean(kind, TASK_TYPES) or f"write one of {kinds}, or install the package that adds it"
        if why := UNUSABLE.get(kind.upper()):
            hint = f"mend the package that adds it, which cannot be used: {why}"
        draft.problems.append(Problem((*at, "type"), f"{shown(kind)} is not a type of task", hint))
    shared = {key: value for key, value in entry.items() if key in field_names(BaseTask)}
    try:
        _READ_BASE(shared)
    except ValidationError as error:
        draft.problems += problems_of(error.errors(include_url=False), BaseTask, at, owner)
    if isinstance(name, str):
        draft.broken.add(TaskId(name))
