"""A parsed, valid workflow: the frozen `Definition`, its canonical form and its digest.

Made by `core.compile` of a loaded document; read by planning, the engine and the executors. The models of tasks and
params are those of `core.task` and `core.param`, offered here as well so that readers need one import.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, SkipValidation, TypeAdapter, WithJsonSchema, model_validator
from pydantic.dataclasses import dataclass

from wizflowd.core.fields import (
    MODEL,
    Count,
    CredentialName,
    Duration,
    EnvName,
    FieldError,
    FilledLine,
    Flag,
    Name,
    RelativePath,
    Text,
    nothing,
)
from wizflowd.core.flow_fields import Cron, Zone
from wizflowd.core.param import Param, ParamEntry
from wizflowd.core.task import (
    Auth,
    BasicAuth,
    EmailTask,
    InputMapping,
    Limits,
    Output,
    PluginTask,
    RestTask,
    Retry,
    ShellTask,
    Task,
    Tls,
    WorkflowTask,
)
from wizflowd.core.values import Json, digest

__all__ = [
    "Auth",
    "BasicAuth",
    "Concurrency",
    "Defaults",
    "Definition",
    "EmailTask",
    "InputMapping",
    "Limits",
    "Output",
    "Param",
    "PluginTask",
    "RestTask",
    "Retention",
    "Retry",
    "Schedule",
    "SecretSource",
    "ShellTask",
    "Task",
    "Tls",
    "WorkflowTask",
    "definition_digest",
    "task_fields",
]


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class SecretSource:
    """Where the daemon finds a secret when it is needed: exactly one of these."""

    credential: CredentialName | None = None
    """A systemd credential of the daemon."""
    env: EnvName | None = None
    """A variable in the daemon's environment."""
    file: FilledLine | None = None
    """A file of the host."""
    encrypted: FilledLine | None = None
    """The value itself, as `wizflow secrets encrypt` prints it."""

    @model_validator(mode="after")
    def _is_one(self) -> "SecretSource":
        if sum(source is not None for source in (self.credential, self.env, self.file, self.encrypted)) != 1:
            raise FieldError("must name exactly one of credential, env, file and encrypted", "as in {credential: NAME}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Concurrency:
    """What happens when the workflow is wanted while it runs, and how wide it runs."""

    policy: Literal["queue", "replace", "forbid", "allow"] = "queue"
    """queue: after the present run. replace: instead of it. forbid: not at all. allow: side by side."""
    max_tasks: Count | None = None
    """Tasks in flight; left out: the daemon's own limit alone."""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Schedule:
    """Times at which the workflow runs by itself."""

    cron: Cron
    """Five fields, or @daily and its like."""
    timezone: Zone = "UTC"
    """In which the fields are read."""
    catch_up: Literal["latest", "all", "none"] = "latest"
    """What becomes of times that passed while wizflowd was not there."""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Defaults:
    """What a task has that does not say otherwise."""

    timeout: Duration | None = None
    """For one attempt."""
    retry: Retry | None = None
    """As in a task."""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Retention:
    """How much of the past is kept."""

    runs: Count | None = None
    """How many of the newest are kept."""
    days: Count | None = None
    """How long they are kept."""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Header:
    """All that a definition says besides its tasks."""

    workflow_name: FilledLine
    """For people; left out, the name of the file."""
    description: Text = ""
    """For people: what it is for."""
    version: Text = ""
    """For people; nothing follows from it."""
    params: Mapping[Name, ParamEntry] = Field(default_factory=nothing)
    """name: default, or name: {type, default, required, enum, pattern, description}."""
    env: Mapping[EnvName, Text] = Field(default_factory=nothing)
    """Environment of every SHELL task."""
    dotenv: tuple[RelativePath, ...] = ()
    """Files of variables, relative to the definition; later ones win."""
    secrets: Mapping[Name, SecretSource] = Field(default_factory=nothing)
    """Where values come from that nobody may read; masked in every log, result and event."""
    timeout: Duration | None = None
    """For a whole run."""
    concurrency: Concurrency = Concurrency()
    """What happens when it is wanted while it runs, and how wide it runs."""
    schedule: tuple[Schedule, ...] = ()
    """When it runs by itself."""
    on_change: Literal["run", "record"] | None = None
    """record: a change is planned, but runs only when it is triggered or due. Left out: run, or record where there is
    a schedule."""
    on_remove: Literal["finish", "cancel"] = "finish"
    """What becomes of a run in progress when the file goes away."""
    fail_fast: Flag = False
    """The first final failure cancels what runs and skips the rest."""
    defaults: Defaults = Defaults()
    """What a task has that does not say otherwise."""
    retention: Retention | None = None
    """How much of the past is kept; left out: as configured in the daemon."""


AnyTask = Annotated[Task, SkipValidation, SerializeAsAny(), WithJsonSchema({"type": "object"})]
"""A task that `core.draft` has read by the model of its type; packages may add types."""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Definition(Header):
    """A workflow. Every task carries its effective `timeout` and `retry`: `defaults` are merged into it."""

    tasks: tuple[AnyTask, ...]
    """What is done, in the order of `depends_on` and of the placeholders."""
    final_tasks: tuple[AnyTask, ...] = Field(default=(), alias="finally")
    """Run after everything else ended, whatever happened; `run_on` narrows it."""

    @property
    def all_tasks(self) -> tuple[Task, ...]:
        """Every task, those of `finally` last."""
        return self.tasks + self.final_tasks

    @property
    def runs_on_change(self) -> bool:
        """Whether a change of the file is run by itself."""
        return self.on_change == "run" or (self.on_change is None and not self.schedule)


DEFINITION: TypeAdapter[Definition] = TypeAdapter(Definition)
_TASK: TypeAdapter[Task] = TypeAdapter(AnyTask)


def complete(header: Header, tasks: tuple[Task, ...], final_tasks: tuple[Task, ...]) -> Definition:
    """Return the definition of a header, at least one task, and those of `finally`."""
    fields: dict[str, Any] = {name: getattr(header, name) for name in Header.__dataclass_fields__}
    fields["finally"] = final_tasks  # a keyword of Python
    return Definition(**fields, tasks=tasks)


def task_fields(task: Task) -> dict[str, Json]:
    """Return the canonical form of a task, for keys of reuse: by field as written, defaults and `name` left out."""
    fields: dict[str, Json] = _TASK.dump_python(
        task, mode="json", by_alias=True, exclude_defaults=True, exclude={"name"}
    )
    return fields


def definition_digest(definition: Definition) -> str:
    """Return the SHA-256 of the canonical definition: the same for every way to write the same workflow."""
    return digest(DEFINITION.dump_python(definition, mode="json", by_alias=True, exclude_defaults=True))
