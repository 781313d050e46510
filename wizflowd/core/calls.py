"""A task and the values around it -> the call that an executor performs, every placeholder filled.

In: a `Setting`, gathered by the engine just before an attempt. Out: a `Call`. Raises FillError where a value cannot
stand where its placeholder stands. Called for each attempt anew, so that secrets are never recorded.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from wizflowd.core.attempt import (
    AttemptId,
    Call,
    EmailCall,
    Job,
    Limits,
    OutputRule,
    PluginCall,
    RestCall,
    ShellCall,
    TaskId,
    WorkflowCall,
)
from wizflowd.core.definition import Definition, EmailTask, PluginTask, RestTask, ShellTask, Task, WorkflowTask
from wizflowd.core.kinds import fill_task
from wizflowd.core.names import Names, Scope, Target, UnresolvedError, resolve, scope_of
from wizflowd.core.placeholders import Lookup, Reference, fill_header, fill_text, fill_url, fill_value, walk
from wizflowd.core.references import field_of, texts_of
from wizflowd.core.shell import fill_command, shell_argv
from wizflowd.core.state import Run
from wizflowd.core.values import Json, text_of
from wizflowd.errors import FillError

MAX_ARGUMENT = 128 * 1024
"""Bytes of an argument or of `NAME=value`, with its NUL, that Linux passes to a program (MAX_ARG_STRLEN)."""
_OUTER_ENV = ("PATH", "HOME", "USER", "SHELL", "LANG", "TZ", "TMPDIR")


class Setting(Struct, frozen=True):
    """What surrounds one attempt. `env` holds the unfilled texts of workflow and task, dotenv values first.

    `values` are those of an instance, `task_id` its id and `label` a name for it that fits everywhere (`build.0`).
    `missing_secrets` says why a secret has no value; `home` is the folder of the definition.
    """

    attempt: AttemptId
    run: Run
    definition: Definition
    names: Names
    workspace: Path
    run_folder: str
    home: Path
    log_path: str
    log_max: int
    scratch: str
    grace_s: float
    outer_env: Mapping[str, str]
    dotenv: Mapping[str, str] = {}
    secrets: Mapping[str, str] = {}
    missing_secrets: Mapping[str, str] = {}
    last_mail: str = ""
    values: Mapping[str, Json] = {}
    task_id: str = ""
    label: str = ""


def build_call(setting: Setting, task: Task) -> Call:
    """Return the call of one attempt of a task."""
    values = Values(setting, task)
    lookup = values.lookup
    job = _job(setting, task, lookup)
    match task:
        case ShellTask():
            return _shell_call(setting, task, job, values)
        case RestTask():
            return _rest_call(setting, task, job, lookup)
        case EmailTask():
            return _email_call(setting, task, job, lookup)
        case WorkflowTask():
            params: dict[str, Json] = {name: fill_value(value, lookup) for name, value in task.params.items()}
            return WorkflowCall(job, task.workflow, params, task.wait)
        case PluginTask():
            return PluginCall(job, task.type, fill_task(task, lookup))
        case _:
            assert_never(task)


def build_adopted_call(setting: Setting, task: Task) -> ShellCall:
    """Return the call of an attempt that runs already: only its end is left, for which nothing is filled again."""
    job = _job(setting, task, Values(setting, task).lookup)
    unmaskable = next((f"secret {name!r} has no value now: {why}" for name, why in setting.missing_secrets.items()), "")
    call = ShellCall(job, (), {}, setting.workspace, setting.scratch, grace_s=setting.grace_s)
    return replace(call, unmaskable=unmaskable)


def inherited_env(outer: Mapping[str, str]) -> dict[str, str]:
    """Return what a task inherits of the daemon's environment (SPEC section 2)."""
    return {name: value for name, value in outer.items() if name in _OUTER_ENV or name.startswith("LC_")}


class Values:
    """Looks up references of one task, each once: values are filled once and never scanned again."""

    def __init__(self, setting: Setting, task: Task) -> None:
        self._setting = setting
        self._task = task
        self._scope = scope_of(task, setting.names)
        self._found: dict[tuple[str | int, ...], Json] = {}

    def lookup(self, reference: Reference) -> Json:
        """Return the value of a reference in the task's own fields. Raises FillError."""
        if reference.steps not in self._found:
            self._found[reference.steps] = self._value(reference, self._scope)
        return self._found[reference.steps]

    def in_env(self, reference: Reference) -> Json:
        """Return the value of a reference that stands in the task's `env`."""
        return self._value(reference, replace(self._scope, field="env"))

    def in_workflow_env(self, reference: Reference) -> Json:
        """Return the value of a reference that stands in the workflow's `env`."""
        return self._value(reference, Scope(self._setting.names, None, frozenset()))

    def _value(self, reference: Reference, scope: Scope) -> Json:
        try:
            target = resolve(reference, scope)
        except UnresolvedError as error:
            raise FillError(f"cannot fill {{{{{reference.text}}}}}: {error}") from error
        return walk(self._base(target, reference), target.steps, reference)

    def _base(self, target: Target, reference: Reference) -> Json:
        setting = self._setting
        match target.kind:
            case "mapping" | "output":
                return _output(setting.run, target, reference)
            case "status":
                return setting.run.tasks[_task_of(target)].status
            case "input":
                inner = replace(self._scope, field="inputs")
                return fill_value(self._task.inputs[target.name], lambda ref: self._value(ref, inner))
            case "param":
                return setting.run.params.get(target.name)
            case "env":
                return self._variable(target.name)
            case "secret":
                if target.name in setting.secrets:
                    return setting.secrets[target.name]
                raise FillError(f"secret {target.name!r} has no value: {setting.missing_secrets.get(target.name, '')}")
            case "matrix":
                return setting.values.get(target.name)
            case "item":
                return setting.values.get("item")
            case "run" if target.name == "status":
                return setting.run.verdict
            case "run":
                return setting.run.id if target.name == "id" else setting.run_folder
            case "workflow":
                return setting.definition.workflow_name if target.name == "name" else str(setting.home)
            case _:
                assert_never(target.kind)

    def _variable(self, name: str) -> str:
        if name in self._task.env:
            return fill_text(self._task.env[name], self.in_env)
        if name in self._setting.definition.env:
            return fill_text(self._setting.definition.env[name], self.in_workflow_env)
        if name in self._setting.dotenv:
            return self._setting.dotenv[name]
        raise FillError(f"cannot fill {{{{env.{name}}}}}: no file of dotenv has it")

    def environment(self) -> dict[str, str]:
        """Return what the definition adds to the task's environment: dotenv, the workflow's env, its own."""
        setting = self._setting
        env = {
            **setting.dotenv,
            **{name: fill_text(text, self.in_workflow_env) for name, text in setting.definition.env.items()},
            **{name: fill_text(text, self.in_env) for name, text in self._task.env.items()},
        }
        for name, value in env.items():
            if fault := _no_argument(f"{name}={value}"):
                raise FillError(f"cannot set {name} in the environment: {fault}")
        return env


def _task_of(target: Target) -> TaskId:
    assert target.task is not None  # noqa: S101 - told by its kind
    return target.task


def _output(run: Run, target: Target, reference: Reference) -> Json:
    upstream = run.tasks[_task_of(target)]
    if target.name in upstream.outputs:
        return upstream.outputs[target.name]
    state = "" if upstream.status == "succeeded" else f", which is {upstream.status}"
    raise FillError(
        f"cannot fill {{{{{reference.text}}}}}: there is no output {target.name!r} of {upstream.id!r}{state}"
    )


def _job(setting: Setting, task: Task, lookup: Lookup) -> Job:
    outputs: dict[str, OutputRule] = {}
    for name, rule in task.outputs.items():
        path = fill_text(rule.path, lookup) if rule.path else ""
        if path:
            _inside(setting.workspace, path, f"output {name!r}")
        outputs[name] = OutputRule(rule.type, path, rule.json_path, rule.required)
    return Job(
        setting.attempt,
        setting.workspace,
        setting.log_path,
        setting.log_max,
        outputs,
        setting.home,
        task.sources,
        (*setting.secrets.values(), *setting.dotenv.values(), *_secrets_of(task, lookup)),
        task.timeout,
    )


def _secrets_of(task: Task, lookup: Lookup) -> Iterator[str]:
    """Yield what stands in the fields that the kind of a task calls secret."""
    if task.secret:
        for path, text in texts_of(task):
            if field_of(path) in task.secret:
                yield fill_text(text, lookup)


def _inside(base: Path, relative: str, what: str) -> Path:
    """Return a path below `base`. Raises FillError when it leads out, links resolved."""
    try:
        path = Path(os.path.realpath(base / relative))
    except ValueError as exc:
        raise FillError(f"cannot use {relative!r} for {what}: it is no path ({exc})") from exc
    if not path.is_relative_to(os.path.realpath(base)):
        raise FillError(f"cannot use {relative!r} for {what}: it leads out of {base}")
    return base / relative


def _no_argument(text: str) -> str:
    """Return why no process can be given a text as an argument or a variable; empty: it can."""
    if "\0" in text:
        return "a value with NUL cannot be passed"
    if not _is_text(text):
        return "a value that is not valid text cannot be passed"
    size = len(text.encode("utf-8", "surrogateescape")) + 1
    return "a value over 128 KiB cannot be passed" if size > MAX_ARGUMENT else ""


def _is_text(text: str) -> bool:
    """Return whether a text has a form in bytes: JSON of a task can hold half a surrogate pair, which has none."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _shell_call(setting: Setting, task: ShellTask, job: Job, values: Values) -> ShellCall:
    run, lookup = setting.run, values.lookup
    env = {
        **inherited_env(setting.outer_env),
        **values.environment(),
        "WIZFLOW_WORKFLOW": run.workflow,
        "WIZFLOW_RUN": run.id,
        "WIZFLOW_TASK": setting.task_id or task.id,
        "WIZFLOW_ATTEMPT": setting.attempt.rsplit("/", 1)[1],
        "WIZFLOW_OUTPUT": setting.scratch,
    }
    if isinstance(task.command, str):
        command, variables = fill_command(task.command, lookup, env)
        argv = shell_argv(task.shell, command)
        env |= variables
    else:
        argv = tuple(fill_text(word, lookup) for word in task.command)
        if fault := next(filter(None, map(_no_argument, argv)), ""):
            raise FillError(f"cannot start the command: in an argument, {fault}")
    cwd = setting.workspace
    if task.working_dir is not None:
        cwd = _inside(cwd, fill_text(task.working_dir, lookup), "working_dir")
    stdin = fill_text(task.stdin, lookup) if task.stdin is not None else None
    if stdin is not None and not _is_text(stdin):
        raise FillError("cannot give the command its stdin: it is not valid text")
    limits = task.limits or Limits()
    bounds = Limits(limits.memory, limits.cpu_time, limits.open_files, limits.processes, limits.file_size)
    return ShellCall(job, argv, env, cwd, setting.scratch, stdin, bounds, setting.grace_s)


def _rest_call(setting: Setting, task: RestTask, job: Job, lookup: Lookup) -> RestCall:
    auth, tls = task.auth, task.tls
    basic = bearer = None
    if auth is not None and auth.basic is not None:
        basic = (fill_text(auth.basic.username, lookup), fill_text(auth.basic.password, lookup))
    elif auth is not None and auth.bearer is not None:
        bearer = fill_header(auth.bearer, lookup)
    files = (tls.ca_file, tls.cert_file, tls.key_file) if tls is not None else (None, None, None)
    ca_file, cert_file, key_file = (setting.home / name if name else None for name in files)
    return RestCall(
        job,
        task.method.upper(),
        fill_url(task.url, lookup),
        tuple((name, text_of(fill_value(text, lookup))) for name, text in task.query.items()),
        tuple((name, fill_header(text, lookup)) for name, text in task.headers.items()),
        fill_value(task.body, lookup),
        basic,
        bearer,
        task.expect_status,
        task.follow_redirects,
        task.max_response_bytes,
        ca_file,
        cert_file,
        key_file,
        idempotency_key=f"{setting.run.id}-{setting.label or task.id}",
    )


def _email_call(setting: Setting, task: EmailTask, job: Job, lookup: Lookup) -> EmailCall:
    return EmailCall(
        job,
        fill_header(task.subject, lookup),
        fill_text(task.email_body, lookup),
        tuple(fill_header(recipient, lookup) for recipient in task.recipients),
        fill_header(task.sender, lookup),
        tuple(_attachment(setting, fill_text(name, lookup)) for name in task.attachments),
        f"<{setting.run.id}.{setting.label or task.id}@wizflowd>",
        setting.last_mail,
    )


def _attachment(setting: Setting, name: str) -> Path:
    """Return where an attachment is looked for: the workspace, and beside the definition when it is not there."""
    path = _inside(setting.workspace, name, "an attachment")
    return path if os.path.exists(path) else _inside(setting.home, name, "an attachment")
