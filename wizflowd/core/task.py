"""The tasks of a definition: frozen models of what SPEC section 1 lets a task say.

In: one task's mapping, its `type` in capitals, without the Wizflow editor's own fields (`core.draft` sees to both).
Out: a `Task`. Durations are seconds, sizes bytes; everything left out has its default.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic.dataclasses import dataclass

from wizflowd.core import attempt
from wizflowd.core.attempt import TaskId
from wizflowd.core.fields import (
    MODEL,
    AnyJson,
    Command,
    Count,
    Delay,
    Duration,
    EnvName,
    ExitCode,
    FieldError,
    FilledLine,
    Flag,
    HeaderName,
    Id,
    JsonPath,
    Line,
    Method,
    Name,
    RelativePath,
    Shell,
    Size,
    Status,
    Statuses,
    Text,
    TextLine,
    Url,
    count_between,
    nothing,
    number_between,
)
from wizflowd.core.flow_fields import Axis, Condition, Items, Priority, WorkflowName

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""RFC 9110 section 9.2.2."""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class InputMapping:
    """One output of another task under a name of one's own."""

    from_task: Id
    """The id of the task."""
    output: Name
    """The name of its output."""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Output(attempt.OutputRule):
    """A declared output, usable wherever an `OutputRule` is."""

    type: Literal["json", "file", "text"]
    """What it is: a value of JSON, a file that must be there at the end, or stdout (of a call, the body) as text."""
    path: RelativePath = ""
    """For `file`: where the task leaves it, relative to the workspace."""
    json_path: JsonPath = "$"
    """For `json`: what to take of the response body, or of stdout."""
    required: Flag = False
    """For `json`: fail the task when nothing matches."""

    @model_validator(mode="after")
    def _fits_its_type(self) -> "Output":
        if self.type == "file" and not self.path:
            raise FieldError('missing field "path"', "a file output needs it")
        if self.type != "file" and self.path:
            raise FieldError(f"a {self.type} output has no path", 'write type: file, or leave "path" out', ("path",))
        if self.type != "json" and self.json_path != "$":
            raise FieldError(f"a {self.type} output has no json_path", "write type: json", ("json_path",))
        return self


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Retry:
    """How often and when a failed attempt is followed by another."""

    limit: Annotated[
        int,
        BeforeValidator(count_between(0, 1_000)),
        WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 1_000}),
    ] = 0
    """Tries after the first."""
    delay: Delay = 1.0
    """Before the first of them."""
    backoff: Annotated[
        float,
        BeforeValidator(number_between(1, 1_000)),
        WithJsonSchema({"type": "number", "minimum": 1, "maximum": 1_000}),
    ] = 1.0
    """Each delay is the one before times this."""
    max_delay: Duration | None = None
    """No delay is longer, whatever `backoff` or the other side says."""
    jitter: Annotated[
        float,
        BeforeValidator(number_between(0, 1)),
        WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1}),
    ] = 0.0
    """The part of a delay, from 0 to 1, that is left to chance."""
    on_status: tuple[Status, ...] = ()
    """Only these HTTP statuses are tried again; empty: any failure. Connection errors always are."""
    on_exit: tuple[ExitCode, ...] = ()
    """Only these exit codes are tried again; empty: any failure."""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Limits(attempt.Limits):
    """Bounds on one attempt's processes."""

    memory: Size | None = None
    """Of all its processes together where the host can count so, else of each."""
    cpu_time: Duration | None = None
    """Of each process."""
    open_files: Count | None = None
    """Of each process."""
    processes: Count | None = None
    """At one time."""
    file_size: Size | None = None
    """Of each file that it writes."""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class BasicAuth:
    """A user and a password for HTTP."""

    username: TextLine
    """The name of the user."""
    password: TextLine
    """Best a placeholder: `{{secrets.NAME}}`."""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Auth:
    """Exactly one way to say who is asking."""

    basic: BasicAuth | None = None
    """A user and a password."""
    bearer: FilledLine | None = None
    """A token, best a placeholder: `{{secrets.NAME}}`."""

    @model_validator(mode="after")
    def _is_one(self) -> "Auth":
        if (self.basic is None) == (self.bearer is None):
            raise FieldError("must name exactly one of basic and bearer", "as in {bearer: TOKEN}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Tls:
    """Files of the host for TLS, which is always verified."""

    ca_file: FilledLine | None = None
    """Whom to trust besides the host's own authorities."""
    cert_file: FilledLine | None = None
    """The certificate to show."""
    key_file: FilledLine | None = None
    """The key of that certificate; left out, it stands in the same file."""

    @model_validator(mode="after")
    def _has_certificate(self) -> "Tls":
        if self.key_file is not None and self.cert_file is None:
            raise FieldError('missing field "cert_file"', "a key_file needs it")
        return self


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Breakpoint:
    """A wait for approval."""

    timeout: Duration | None = None
    """How long; then the task fails. Left out: for ever."""


def _breakpoint(value: object) -> object:
    if isinstance(value, bool):
        return Breakpoint() if value else None
    return value


Pause = Annotated[
    Breakpoint | None,
    BeforeValidator(_breakpoint),
    WithJsonSchema(
        {"anyOf": [{"type": "boolean"}, {"type": "object", "properties": {"timeout": {"type": ["string", "number"]}}}]}
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class BaseTask:
    """What every task can say. `type` stands in the kinds of task.

    A kind says besides, here and for each of its tasks: what of it is `secret`, and whether it is `reusable` and
    `repeatable`.
    """

    secret: ClassVar[frozenset[str]] = frozenset()
    """Fields that hold secrets, as `auth.bearer`: masked wherever they show, and better not written in clear."""

    id: Id
    """Unique in the file."""
    name: Line = ""
    """For people."""
    depends_on: tuple[TaskId, ...] = ()
    """Ids of the tasks that end before this one starts."""
    input_mappings: Mapping[Name, InputMapping] = Field(default_factory=nothing)
    """Outputs of other tasks under names of one's own."""
    inputs: Mapping[Name, Text] = Field(default_factory=nothing)
    """Texts under names of one's own."""
    outputs: Mapping[Name, Output] = Field(default_factory=nothing)
    """What the task gives to others."""
    env: Mapping[EnvName, Text] = Field(default_factory=nothing)
    """Variables of the command."""
    timeout: Duration | None = None
    """For one attempt."""
    retry: Retry | None = None
    """Left out: as in `defaults`, or none."""
    run_on: Literal["success", "failure", "always"] = "success"
    """What must have come of the tasks before it; in `finally` of the run, and then left out: always."""
    continue_on_failure: Flag = False
    """A failure of this task is tolerated."""
    cache: Literal["auto", "never", "always"] = "auto"
    """Whether an earlier success may be reused."""
    sources: tuple[RelativePath, ...] = ()
    """Globs relative to the definition; the content of these files counts as input."""
    on_lost: Literal["retry", "fail"] | None = None
    """What follows when nobody knows what came of an attempt; left out: retry, or fail where a repeat could harm."""
    limits: Limits | None = None
    """Bounds on the processes of an attempt."""
    when: Condition | None = None
    """A CEL expression; false: the task is skipped."""
    matrix: Mapping[Name, Axis] = Field(default_factory=nothing)
    """One instance for each combination of the axes; `include` and `exclude` add and drop combinations."""
    for_each: Items | None = None
    """One instance for each item of a list, or of the list that one placeholder stands for."""
    max_parallel: Count | None = None
    """Instances in flight."""
    priority: Priority = 0
    """Higher ones start first."""
    pool: Id | None = None
    """A pool of the configuration, in whose size the task takes a place."""
    runs_on: Id | None = None
    """The executor of the configuration that performs it; left out: this host."""
    breakpoint: Pause = None
    """Wait before it for somebody's approval, at most `timeout`."""

    @property
    def reusable(self) -> bool:
        """Whether an earlier success can stand for it when nothing has changed."""
        return True

    @property
    def repeatable(self) -> bool:
        """Whether doing it twice does no harm: what `on_lost` is where the task does not say."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class ShellTask(BaseTask):
    """A command on this host."""

    type: Literal["SHELL"]
    command: Command
    """Text for the shell, or a list: argv without a shell."""
    shell: Shell = "/bin/sh"
    """What runs a command that is text, with its options."""
    working_dir: RelativePath | None = None
    """Relative to the workspace, which is the default."""
    stdin: Text | None = None
    """Left out: nothing to read."""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class RestTask(BaseTask):
    """One HTTP exchange."""

    secret: ClassVar[frozenset[str]] = frozenset({"auth.bearer", "auth.basic.password"})

    type: Literal["RESTAPI"]
    method: Method
    """Of HTTP."""
    url: Url
    """http or https."""
    query: Mapping[str, Text] = Field(default_factory=nothing)
    """Added to the URL, percent-encoded."""
    headers: Mapping[HeaderName, TextLine] = Field(default_factory=nothing)
    """Sent beside those that the body needs."""
    body: AnyJson = None
    """A JSON value, or text that is sent as it is."""
    auth: Auth | None = None
    """Who is asking."""
    expect_status: Statuses = ((200, 299),)
    """Inclusive ranges; any other status is a failure."""
    follow_redirects: Flag = False
    """Follow answers that lead elsewhere."""
    max_response_bytes: Size = 10 * 1024 * 1024
    """A longer response is a failure."""
    tls: Tls | None = None
    """Certificates beside those of the host."""

    @property
    def repeatable(self) -> bool:
        return self.method in IDEMPOTENT_METHODS


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class EmailTask(BaseTask):
    """One message to every recipient."""

    type: Literal["EMAIL"]
    recipients: Annotated[tuple[FilledLine, ...], Field(min_length=1)]
    """Each gets it."""
    subject: TextLine = ""
    """One line."""
    email_body: Text = Field(default="", alias="emailBody")
    """Plain text."""
    sender: FilledLine = Field(default="", alias="from")
    """Left out: as configured in the daemon."""
    attachments: tuple[RelativePath, ...] = ()
    """Relative to the workspace, or else to the definition."""

    @property
    def repeatable(self) -> bool:
        return False


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class WorkflowTask(BaseTask):
    """A run of another workflow."""

    type: Literal["WORKFLOW"]
    workflow: WorkflowName
    """Its identity: the path in the watched folder without the suffix."""
    params: Mapping[Name, AnyJson] = Field(default_factory=nothing)
    """Values for its parameters."""
    wait: Flag = True
    """Take its end as this task's own."""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class PluginTask(BaseTask):
    """A task of a kind that a package adds: its model has the fields of its own (`core.kinds`)."""

    type: str

    @property
    def repeatable(self) -> bool:
        return False


Task = ShellTask | RestTask | EmailTask | WorkflowTask | PluginTask
TASK_TYPES: dict[str, type[Task]] = {
    "SHELL": ShellTask,
    "RESTAPI": RestTask,
    "EMAIL": EmailTask,
    "WORKFLOW": WorkflowTask,
}
