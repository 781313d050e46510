"""A kind that a package adds: how its model is read, filled and planned, and what it says of its tasks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from tests.core.scenes import RUN, after, compiled, queued, run_started
from wizflowd.core import kinds
from wizflowd.core.attempt import AttemptId, Call, PluginCall
from wizflowd.core.calls import Setting, build_call
from wizflowd.core.compile import validate_definition
from wizflowd.core.finish import policy_of
from wizflowd.core.kinds import KINDS, KindCall, register
from wizflowd.core.loader import Syntax
from wizflowd.core.names import names_of
from wizflowd.core.task import TASK_TYPES, Task
from wizflowd.core.values import Json
from wizflowd.errors import DefinitionError, FillError
from wizflowd.plugins import MODEL, AnyJson, Duration, FieldError, Flag, PluginTask, Text, Url

EVERYTHING = """{id: a, type: FTP, host: h, name: n, depends_on: [up], env: {E: e}, timeout: 1m30s, cache: always,
  retry: {limit: 3, delay: 0, on_status: [503]}, run_on: always, continue_on_failure: true, sources: [x/*],
  input_mappings: {m: {from_task: up, output: v}}, inputs: {i: "{{m}}"}, limits: {memory: 1MiB}, on_lost: fail,
  outputs: {o: {type: json, json_path: "$.x", required: true}, f: {type: file, path: "f.txt"}}, when: "true",
  matrix: {x: [1, 2], exclude: [{x: 2}]}, max_parallel: 2, priority: 3, pool: db, runs_on: local,
  breakpoint: {timeout: 5m}}"""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Login:
    user: Text
    passphrase: Text = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class FtpTask(PluginTask):
    """A transfer."""

    secret: ClassVar[frozenset[str]] = frozenset({"login.passphrase", "keys"})

    host: Text
    """Where to."""
    sender: Text = Field(default="", alias="from")
    login: Login | None = None
    keys: tuple[Text, ...] = ()
    extra: AnyJson = None
    wait: Duration = 1.0
    url: Url = "https://example.com/"
    upload: Flag = False

    @property
    def reusable(self) -> bool:
        return self.upload

    @property
    def repeatable(self) -> bool:
        return not self.upload


class Ftp:
    task = FtpTask

    async def perform(self, call: KindCall[FtpTask]) -> Json:
        return call.task.host


@pytest.fixture(autouse=True)
def ftp() -> Iterator[None]:
    register("FTP", Ftp())
    yield
    del KINDS["FTP"], TASK_TYPES["FTP"]


def call_of(fields: str, *, secrets: Mapping[str, str] | None = None, **params: Json) -> tuple[Task, Call]:
    """Return a task as it was written and the call of its attempt."""
    head = "secrets: {S: {env: S}}\nparams: {p: 1, q: {type: list, default: []}}\n"
    definition = compiled(f"{head}tasks: [{{id: a, {fields}}}]").definition
    run = after(queued(params=params), run_started()).runs[RUN]
    here = Path("/nowhere")
    setting = Setting(
        AttemptId("r/a/1"),
        run,
        definition,
        names_of(definition),
        workspace=here,
        run_folder=str(here),
        home=here,
        log_path=f"{here}/a.1.log",
        log_max=1000,
        scratch=str(here),
        grace_s=1.0,
        outer_env={},
        secrets=secrets or {},
    )
    (task,) = definition.tasks
    return task, build_call(setting, task)


def task_of(fields: str, *, secrets: Mapping[str, str] | None = None, **params: Json) -> tuple[FtpTask, PluginCall]:
    """Return an FTP task and the call of its attempt."""
    task, call = call_of(f"type: ftp, {fields}", secrets=secrets, **params)
    assert isinstance(task, FtpTask)
    assert isinstance(call, PluginCall)
    return task, call


def refused(fields: str) -> tuple[str, ...]:
    with pytest.raises(DefinitionError) as caught:
        compiled(f"tasks: [{{id: a, type: FTP, {fields}}}]")
    return caught.value.lines("x.yaml")


def warned(fields: str) -> list[str]:
    text = f"secrets: {{S: {{env: S}}}}\ntasks: [{{id: a, type: FTP, host: h, {fields}}}]"
    return [problem.where for problem in validate_definition(text.encode(), Syntax.YAML, stem="x")]


def test_placeholders_are_filled_in_texts_at_any_depth() -> None:
    fields = "host: 'h{{params.p}}', from: '{{secrets.S}}', login: {user: '{{run.id}}'}, extra: [{k: '{{params.q}}'}]"

    _, call = task_of(fields, secrets={"S": "correct-horse"}, p=5, q=[1, 2])

    task = call.task
    assert (task.host, task.sender, task.login.user, task.extra) == ("h5", "correct-horse", RUN, [{"k": [1, 2]}])


def test_what_is_not_a_placeholder_stays_what_was_read() -> None:
    written, call = task_of("host: h, wait: 90s, keys: [a, b], upload: true")

    assert call.task == written
    assert call.task.wait == 90.0


def test_a_task_that_says_everything_is_filled_into_itself() -> None:
    up = "{id: up, type: SHELL, command: x, outputs: {v: {type: json}}}"
    definition = compiled(f"tasks: [{up}, {EVERYTHING}]").definition
    task = definition.tasks[1]
    assert isinstance(task, FtpTask)

    assert kinds.fill_task(task, lambda _: None) == task


def test_a_value_that_does_not_fit_is_a_failure_of_the_attempt() -> None:
    with pytest.raises(FillError, match=r"cannot use what was filled into url: .* is not a URL"):
        task_of("host: h, url: '{{params.p}}'", p="ftp://example.com/")

    with pytest.raises(FillError, match=r"into login\.user: must be text, not a list"):
        task_of("host: h, login: {user: '{{params.q}}'}", q=[1])


def test_a_placeholder_that_leads_nowhere_is_found_where_it_stands() -> None:
    (line,) = refused("host: h, from: '{{nobody}}'")

    assert line.startswith("x.yaml:1:43: tasks[0].from: unknown name")


def test_a_secret_field_is_masked_and_better_not_written_in_clear() -> None:
    _, call = task_of("host: h, login: {user: ann, passphrase: correct-horse}, keys: [battery-staple]")

    assert {"correct-horse", "battery-staple"} <= {*call.job.secrets}
    assert "ann" not in call.job.secrets
    assert warned("login: {user: ann, passphrase: correct-horse}, keys: ['{{secrets.S}}', battery-staple]") == [
        "tasks[0].login.passphrase",
        "tasks[0].keys[1]",
    ]


def test_a_task_says_whether_it_may_be_repeated_and_the_user_has_the_last_word() -> None:
    reads, _ = task_of("host: h")
    writes, _ = task_of("host: h, upload: true")
    told, _ = task_of("host: h, upload: true, on_lost: retry")

    assert [policy_of(task).on_lost for task in (reads, writes, told)] == ["retry", "fail", "retry"]


@pytest.mark.parametrize("auth", ["bearer: correct-horse", "basic: {username: ann, password: correct-horse}"])
def test_our_own_kinds_say_what_is_secret_in_the_same_way(auth: str) -> None:
    _, call = call_of(f"type: RESTAPI, method: GET, url: 'http://h/', auth: {{{auth}}}")

    assert call.job.secrets == ("correct-horse",)


def test_a_rule_of_its_own_speaks_as_ours_do() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
    class OddTask(PluginTask):
        odd: int

        def __post_init__(self) -> None:
            if self.odd % 2 == 0:
                raise FieldError(f"{self.odd} is even", f"write {self.odd + 1}", ("odd",))

    class Odd:
        task = OddTask

        async def perform(self, call: KindCall[OddTask]) -> Json:
            return None

    register("ODD", Odd())
    try:
        with pytest.raises(DefinitionError) as caught:
            compiled("tasks: [{id: a, type: odd, odd: 4}]")
    finally:
        del KINDS["ODD"], TASK_TYPES["ODD"]

    assert caught.value.lines("x.yaml") == ("x.yaml:1:33: tasks[0].odd: 4 is even; write 5",)
