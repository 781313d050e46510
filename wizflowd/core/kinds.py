"""Kinds of tasks that packages add beside SHELL, RESTAPI, EMAIL and WORKFLOW.

In: a `Kind` of each package, registered once when a program starts (`wizflowd.plugins`, through which packages import
what is here). Out: its model among the types of tasks, and the kind itself for whoever performs its attempts.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from wizflowd.core.messages import field_names, problems_of
from wizflowd.core.placeholders import Lookup, fill_value
from wizflowd.core.task import TASK_TYPES, PluginTask
from wizflowd.core.values import Json
from wizflowd.errors import FillError, WizflowError

TaskT = TypeVar("TaskT", bound=PluginTask)


class KindError(WizflowError):
    """An attempt that did not do what it should. `retryable` False: another try cannot help."""

    def __init__(self, message: str, *, hint: str = "", retryable: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class KindCall(Generic[TaskT]):
    """One attempt. In `task` every placeholder is filled, and what was filled in is valid as well.

    `workspace` is the folder in which the task works; `log` takes a line for its log, in which secrets are masked.
    """

    task: TaskT
    workspace: Path
    log: Callable[[str], None]


class Kind(Protocol[TaskT]):
    """What stands behind an entry point of the group `wizflowd.executors`: an object, or a class without arguments."""

    task: type[TaskT]
    """The model of its tasks, a subclass of PluginTask: its fields; what is `secret`, `reusable`, `repeatable`."""

    async def perform(self, call: KindCall[TaskT]) -> Json:
        """Do it once and return the result, of which the declared outputs are taken. Raises KindError.

        Cancelled, as any asyncio task, on timeout and on request: nothing of it goes on after that. Runs in the
        daemon's own loop, and must not block it.
        """
        ...


KINDS: dict[str, Kind[Any]] = {}
"""By what `type` says."""
UNUSABLE: dict[str, str] = {}
"""Kinds that are installed and could not be added, and why."""
_COMMON = frozenset(field_names(PluginTask))


def register(name: str, kind: Kind[Any]) -> None:
    """Add a kind under the name that `type` says. Raises WizflowError where it cannot be one."""
    fault = _fault(name, kind)
    if fault:
        raise WizflowError(f"cannot add the kind of tasks {name}: {fault}")
    TypeAdapter(kind.task).json_schema()  # raises what would else be raised when an editor asks for the schema
    KINDS[name] = kind
    TASK_TYPES[name] = kind.task


def _fault(name: str, kind: Kind[Any]) -> str:
    if not (name.isascii() and name.isalnum() and name == name.upper()):
        return "its name must be of capital letters and digits"
    if name in TASK_TYPES:
        return "there is one of that name"
    model = kind.task
    if not issubclass(model, PluginTask):
        return f"its model {model.__name__} is no subclass of PluginTask"
    if "__pydantic_fields__" not in vars(model) or model.__pydantic_config__.get("extra") != "forbid":  # type: ignore[attr-defined]
        return f"its model {model.__name__} must stand below @dataclass(frozen=True, kw_only=True, config=MODEL)"
    if any(model.__name__ == other.__name__ for other in TASK_TYPES.values()):
        return f"its model is called {model.__name__}, and there is one of that name"
    if not inspect.iscoroutinefunction(kind.perform):
        return "its perform() must be `async def`"
    return ""


def own_fields(task: PluginTask) -> dict[str, Json]:
    """Return the fields that a task has beside those of every task, as a file has them."""
    return {name: value for name, value in _tree(task).items() if name not in _COMMON}


def fill_task(task: PluginTask, lookup: Lookup) -> PluginTask:
    """Return a task with the placeholders in its own fields filled. Raises FillError."""
    tree = _tree(task)
    filled = {name: value if name in _COMMON else fill_value(value, lookup) for name, value in tree.items()}
    try:
        return TypeAdapter(type(task)).validate_python(filled)
    except ValidationError as error:
        problem = next(problems_of(error.errors(include_url=False), type(task)))
        place = ".".join(map(str, problem.path))
        raise FillError(f"cannot use what was filled into {place}: {problem.what}", hint=problem.hint) from None


def _tree(task: PluginTask) -> dict[str, Json]:
    """Return a task as a file has it, what it leaves out left out."""
    tree: dict[str, Json] = TypeAdapter(type(task)).dump_python(task, mode="json", by_alias=True, exclude_defaults=True)
    return tree
