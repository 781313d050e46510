"""A task and the values around it become the call that an executor performs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.core.scenes import RUN, WORKFLOW, after, compiled, failed, line, queued, run_started, started, succeeded
from wizflowd.core.attempt import AttemptId, Call, EmailCall, Limits, OutputRule, RestCall, ShellCall
from wizflowd.core.calls import MAX_ARGUMENT, Setting, build_call, inherited_env
from wizflowd.core.names import names_of
from wizflowd.core.state import Run
from wizflowd.core.values import Json
from wizflowd.errors import FillError

UPSTREAM = "{id: up, type: SHELL, command: x, outputs: {v: {type: json}, w: {type: json}}}"
HALF_A_PAIR = "\ud800"


def run_of(outputs: Mapping[str, Json] | None, params: Mapping[str, Json]) -> Run:
    """Return a run whose task `up` has succeeded with these outputs, or failed."""
    end = failed("up", tolerated=True) if outputs is None else succeeded("up", outputs=outputs)
    state = after(queued(params=params), run_started(line("up"), line("a", "up")), started("up"), end)
    return state.runs[RUN]


def call_of(
    task: str,
    *,
    head: str = "",
    outputs: Mapping[str, Json] | None = {"v": "value"},
    params: Mapping[str, Json] | None = None,
    base: Path = Path("/nowhere"),
    **rest: Any,
) -> Call:
    """Return the call of the task `a`, third attempt, in `base`/workspace; `rest` are fields of the `Setting`."""
    dotenv = rest.get("dotenv", {})
    definition = compiled(f"{head}\ntasks: [{UPSTREAM}, {{id: a, depends_on: [up], {task}}}]", **dotenv).definition
    values = {"outer_env": {"PATH": "/bin", "HOME": "/root"}} | rest
    setting = Setting(
        attempt=AttemptId("r/a/3"),
        run=run_of(outputs, params or {}),
        definition=definition,
        names=names_of(definition, dotenv=dotenv),
        workspace=base / "workspace",
        run_folder=f"{base}/runs/r",
        home=base / "home",
        log_path=f"{base}/a.3.log",
        log_max=1000,
        scratch="/state/attempts/r.a.3",
        grace_s=7.0,
        **values,
    )
    return build_call(setting, definition.tasks[1])


def shell(task: str, **rest: Any) -> ShellCall:
    call = call_of(f"type: SHELL, {task}", **rest)
    assert isinstance(call, ShellCall)
    return call


def rest_call(task: str, **rest: Any) -> RestCall:
    call = call_of(f"type: RESTAPI, {task}", **rest)
    assert isinstance(call, RestCall)
    return call


def email(task: str, **rest: Any) -> EmailCall:
    call = call_of(f"type: EMAIL, {task}", **rest)
    assert isinstance(call, EmailCall)
    return call


def refused(task: str, **rest: Any) -> str:
    with pytest.raises(FillError) as caught:
        call_of(task, **rest)
    return str(caught.value)


# -- commands -------------------------------------------------------------------------------------------------------


def test_a_command_is_run_by_its_shell_in_the_workspace() -> None:
    call = shell("command: 'echo {{v}}', shell: 'bash -eu', timeout: 5m")

    assert call.argv == ("bash", "-eu", "-c", 'echo "${WIZFLOW_V1}"')
    assert call.env["WIZFLOW_V1"] == "value"
    assert call.cwd.resolve() == Path("/nowhere/workspace")
    assert (call.stdin, call.grace_s, call.scratch) == (None, 7.0, "/state/attempts/r.a.3")
    assert (call.job.attempt, call.job.timeout_s, call.job.log_max) == ("r/a/3", 300.0, 1000)
    assert (call.job.workspace, call.job.log_path) == (Path("/nowhere/workspace"), "/nowhere/a.3.log")


def test_a_list_is_run_without_a_shell_and_each_word_is_one_argument() -> None:
    call = shell("command: [printf, '%s', '{{v}} and {{w}}']", outputs={"v": "$(reboot); 'x'", "w": [1, {"a": None}]})

    assert call.argv == ("printf", "%s", "$(reboot); 'x' and [1,{\"a\":null}]")


def test_a_task_sees_of_the_daemon_s_environment_only_what_is_harmless() -> None:
    outer = {name: name.lower() for name in ("PATH", "HOME", "USER", "SHELL", "LANG", "TZ", "TMPDIR", "LC_ALL")}
    hidden = {
        "AWS_SECRET_ACCESS_KEY": "x",
        "WIZFLOWD_SMTP__PASSWORD": "x",
        "LD_PRELOAD": "x",
        "LCALL": "x",
        "path": "x",
    }

    assert inherited_env(outer | hidden) == outer
    env = shell("command: x", outer_env=outer | hidden).env
    assert env.keys() - outer.keys() == {f"WIZFLOW_{n}" for n in ("WORKFLOW", "RUN", "TASK", "ATTEMPT", "OUTPUT")}


def test_a_task_is_told_where_it_is() -> None:
    env = shell("command: x").env

    assert {name: value for name, value in env.items() if name.startswith("WIZFLOW_")} == {
        "WIZFLOW_WORKFLOW": WORKFLOW,
        "WIZFLOW_RUN": "r",
        "WIZFLOW_TASK": "a",
        "WIZFLOW_ATTEMPT": "3",
        "WIZFLOW_OUTPUT": "/state/attempts/r.a.3",
    }


def test_the_nearer_variable_wins_and_none_can_pose_as_ours() -> None:
    env = shell(
        "command: x, env: {C: task, WIZFLOW_RUN: forged}",
        head="dotenv: [.env]\nenv: {B: workflow, C: workflow}",
        dotenv={"A": "dotenv", "B": "dotenv", "C": "dotenv", "PATH": "/opt/bin"},
    ).env

    assert {name: env[name] for name in "ABC"} == {"A": "dotenv", "B": "workflow", "C": "task"}
    assert (env["PATH"], env["HOME"], env["WIZFLOW_RUN"]) == ("/opt/bin", "/root", "r")


def test_a_variable_can_hold_what_a_placeholder_gives() -> None:
    head = "params: {day: x}\nenv: {DAY: 'on {{params.day}}'}\nsecrets: {T: {env: T}}"

    env = shell(
        "command: 'echo {{env.DAY}}', env: {V: '<{{v}}>', T: '{{secrets.T}}'}",
        head=head,
        params={"day": "mon"},
        secrets={"T": "s3cret-token"},
    ).env

    assert (env["DAY"], env["V"], env["T"], env["WIZFLOW_V1"]) == ("on mon", "<value>", "s3cret-token", "on mon")


def test_values_are_filled_once() -> None:
    call = shell("command: [echo, '{{v}}', '{{i}}'], inputs: {i: '{{v}}!'}", outputs={"v": "{{params.day}}"})

    assert call.argv == ("echo", "{{params.day}}", "{{params.day}}!")


def test_a_placeholder_can_reach_everything_that_the_specification_names() -> None:
    words = [
        "{{v.items[1].id}}",
        "{{tasks.up.outputs.w}}",
        "{{tasks.up.status}}",
        "{{params.day}}",
        "{{env.E}}",
        "{{run.id}}",
        "{{run.dir}}",
        "{{workflow.name}}",
        "{{workflow.dir}}",
        "{{mapped}}",
        "{{input}}",
    ]
    call = shell(
        f"command: {words}, env: {{E: e}}, inputs: {{input: 'in {{{{params.day}}}}'}},"
        " input_mappings: {mapped: {from_task: up, output: w}}",
        head="workflow_name: Nightly\nparams: {day: x}",
        outputs={"v": {"items": [{}, {"id": 7}]}, "w": True},
        params={"day": "mon"},
    )

    assert call.argv == (
        "7",
        "true",
        "succeeded",
        "mon",
        "e",
        "r",
        "/nowhere/runs/r",
        "Nightly",
        "/nowhere/home",
        "true",
        "in mon",
    )


def test_stdin_and_limits_are_handed_on() -> None:
    call = shell("command: x, stdin: 'a {{v}}', limits: {memory: 64MiB, cpu_time: 2s, processes: 5}")

    assert call.stdin == "a value"
    assert call.limits == Limits(memory=64 << 20, cpu_time=2.0, processes=5)


# -- what cannot be filled ------------------------------------------------------------------------------------------


def test_a_secret_without_a_value_fails_with_the_reason() -> None:
    message = refused(
        "type: SHELL, command: x, env: {T: '{{secrets.T}}'}",
        head="secrets: {T: {env: NO_SUCH}}",
        missing_secrets={"T": "the daemon has no variable NO_SUCH"},
    )

    assert message == "secret 'T' has no value: the daemon has no variable NO_SUCH"


def test_a_secret_that_is_missing_and_not_needed_harms_nobody() -> None:
    call = shell("command: x", head="secrets: {T: {env: NO_SUCH}}", missing_secrets={"T": "there is none"})

    assert call.job.secrets == ()


@pytest.mark.parametrize(
    ("task", "outputs", "message"),
    [
        ("command: 'echo {{v}}'", {}, "there is no output 'v' of 'up'"),
        ("command: 'echo {{v}}'", None, "there is no output 'v' of 'up', which is failed"),
        ("command: 'echo {{v.items[3]}}'", {"v": {"items": [1]}}, "there is no item [3] in a list of 1"),
        ("command: [echo, '{{v}}']", {"v": "a\0b"}, "a value with NUL cannot be passed"),
        ("command: [echo, '{{v}}']", {"v": "x" * MAX_ARGUMENT}, "a value over 128 KiB cannot be passed"),
        ("command: [echo, '{{v}}']", {"v": HALF_A_PAIR}, "a value that is not valid text cannot be passed"),
        ("command: x, env: {V: '{{v}}'}", {"v": "a\0b"}, "cannot set V in the environment: a value with NUL"),
        ("command: x, env: {V: '{{v}}'}", {"v": "x" * MAX_ARGUMENT}, "cannot set V in the environment: a value over"),
        ("command: x, env: {V: '{{v}}'}", {"v": HALF_A_PAIR}, "cannot set V in the environment: a value that is not"),
        ("command: x, stdin: '{{v}}'", {"v": HALF_A_PAIR}, "cannot give the command its stdin"),
        ("command: 'echo {{v}}'", {"v": HALF_A_PAIR}, "the value is not valid text"),
        ("command: x, working_dir: '{{v}}'", {"v": "a\0b"}, "for working_dir: it is no path"),
        ("command: x, working_dir: '{{v}}'", {"v": HALF_A_PAIR}, "for working_dir: it is no path"),
        ("command: x, working_dir: '{{v}}'", {"v": "/etc"}, "for working_dir: it leads out of /nowhere/workspace"),
        ("command: x, working_dir: 'a/{{v}}'", {"v": "../../.."}, "it leads out of /nowhere/workspace"),
        ("command: x, outputs: {f: {type: file, path: '{{v}}'}}", {"v": "../x"}, "'../x' for output 'f': it leads out"),
        ("command: x, outputs: {f: {type: file, path: '{{v}}'}}", {"v": "a\0b"}, "for output 'f': it is no path"),
    ],
)
def test_a_value_that_cannot_stand_where_it_should_fails_the_attempt(
    task: str, outputs: Mapping[str, Json] | None, message: str
) -> None:
    assert message in refused(f"type: SHELL, {task}", outputs=outputs)


def test_a_long_value_that_linux_still_passes_is_passed() -> None:
    longest = "x" * (MAX_ARGUMENT - 1)

    assert shell("command: [echo, '{{v}}']", outputs={"v": longest}).argv[1] == longest
    assert shell("command: x, env: {V: '{{v}}'}", outputs={"v": longest[2:]}).env["V"] == longest[2:]


# -- paths ----------------------------------------------------------------------------------------------------------


def test_a_working_dir_may_be_a_link_that_stays_inside(tmp_path: Path) -> None:
    (tmp_path / "workspace" / "real").mkdir(parents=True)
    (tmp_path / "workspace" / "link").symlink_to("real")

    assert shell("command: x, working_dir: link", base=tmp_path).cwd == tmp_path / "workspace" / "link"


def test_a_working_dir_that_leads_out_by_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "link").symlink_to(tmp_path)

    message = refused("type: SHELL, command: x, working_dir: link/deeper", base=tmp_path)

    assert message.startswith("cannot use 'link/deeper' for working_dir: it leads out of ")


def test_a_workspace_that_is_itself_behind_a_link_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "real" / "workspace" / "sub").mkdir(parents=True)
    (tmp_path / "base").symlink_to("real")

    assert shell("command: x, working_dir: sub", base=tmp_path / "base").cwd == tmp_path / "base/workspace/sub"


def test_declared_outputs_and_sources_are_handed_on_filled() -> None:
    call = shell(
        "command: x, sources: ['sql/*.sql'], outputs: {f: {type: file, path: 'out-{{v}}.txt'},"
        " j: {type: json, json_path: '$.a', required: true}}"
    )

    assert call.job.outputs == {
        "f": OutputRule("file", "out-value.txt"),
        "j": OutputRule("json", json_path="$.a", required=True),
    }
    assert (call.job.source_folder, call.job.source_globs) == (Path("/nowhere/home"), ("sql/*.sql",))


def test_secrets_and_dotenv_values_are_there_to_be_masked() -> None:
    call = shell("command: x", head="dotenv: [.env]\nsecrets: {T: {env: T}}", secrets={"T": "s"}, dotenv={"P": "d"})

    assert call.job.secrets == ("s", "d")


# -- HTTP -----------------------------------------------------------------------------------------------------------


def test_a_request_is_filled_where_placeholders_can_stand() -> None:
    call = rest_call(
        "method: post, url: 'https://h/{{v}}', query: {q: '{{w}}', r: 'a {{v}}'}, headers: {X-V: '{{v}}'},"
        " body: {whole: '{{w}}', part: 'n={{w.n}}', '{{v}}': key}, expect_status: [200, '300-399'],"
        " follow_redirects: true, max_response_bytes: 1KiB",
        outputs={"v": "a b/c", "w": {"n": 1}},
    )

    assert (call.method, call.url) == ("POST", "https://h/a%20b%2Fc")
    assert call.query == (("q", '{"n":1}'), ("r", "a a b/c"))
    assert call.headers == (("X-V", "a b/c"),)
    assert call.body == {"whole": {"n": 1}, "part": "n=1", "{{v}}": "key"}
    assert call.expect_status == ((200, 200), (300, 399))
    assert (call.follow_redirects, call.max_response_bytes) == (True, 1024)
    assert (call.basic, call.bearer) == (None, None)


def test_all_attempts_of_a_request_carry_one_key() -> None:
    assert rest_call("method: POST, url: 'http://h/'").idempotency_key == "r-a"


def test_a_request_can_say_who_asks() -> None:
    head, secrets = "secrets: {T: {env: T}}", {"T": "token"}
    url = "method: GET, url: 'http://h/'"

    bearer = rest_call(f"{url}, auth: {{bearer: '{{{{secrets.T}}}}'}}", head=head, secrets=secrets)
    basic = rest_call(
        f"{url}, auth: {{basic: {{username: me, password: '{{{{secrets.T}}}}'}}}}", head=head, secrets=secrets
    )

    assert (bearer.bearer, bearer.basic) == ("token", None)
    assert (basic.bearer, basic.basic) == (None, ("me", "token"))


def test_files_for_tls_are_looked_for_beside_the_definition() -> None:
    call = rest_call("method: GET, url: 'https://h/', tls: {ca_file: ca.pem, cert_file: /etc/c.pem, key_file: k.pem}")

    home = Path("/nowhere/home")
    assert (call.ca_file, call.cert_file, call.key_file) == (home / "ca.pem", Path("/etc/c.pem"), home / "k.pem")


@pytest.mark.parametrize(
    ("task", "value", "message"),
    [
        ("url: '{{v}}'", "file:///etc/passwd", "it is neither http nor https"),
        ("url: 'http://h/', headers: {X: '{{v}}'}", "a\r\nEvil: 1", "into a header: it holds a line end"),
        ("url: 'http://h/', auth: {bearer: '{{v}}'}", "a\nb", "into a header: it holds a line end"),
    ],
)
def test_a_value_that_would_change_the_request_fails_the_attempt(task: str, value: str, message: str) -> None:
    assert message in refused(f"type: RESTAPI, method: GET, {task}", outputs={"v": value})


# -- mail -----------------------------------------------------------------------------------------------------------


def test_a_message_is_filled_where_placeholders_can_stand() -> None:
    call = email(
        "recipients: ['{{v}}@example.com', ops@example.com], subject: 's {{v}}', emailBody: 'b {{v}}', from: 'f@h.org'",
        outputs={"v": "me"},
        last_mail="digest of the last",
    )

    assert call.recipients == ("me@example.com", "ops@example.com")
    assert (call.subject, call.body, call.sender) == ("s me", "b me", "f@h.org")
    assert (call.message_id, call.last_sent) == ("<r.a@wizflowd>", "digest of the last")


def test_an_attachment_is_looked_for_in_the_workspace_and_then_beside_the_definition(tmp_path: Path) -> None:
    for folder, names in (("workspace", ["both.txt"]), ("home", ["both.txt", "beside.txt"])):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()

    call = email("recipients: [a@b.c], attachments: [both.txt, 'bes{{v}}.txt']", outputs={"v": "ide"}, base=tmp_path)

    assert call.attachments == (tmp_path / "workspace/both.txt", tmp_path / "home/beside.txt")


@pytest.mark.parametrize("value", ["../outside.txt", "link/outside.txt", "a\0b", HALF_A_PAIR])
def test_an_attachment_from_elsewhere_is_refused(tmp_path: Path, value: str) -> None:
    for folder in ("workspace", "home"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "link").symlink_to(tmp_path)
    (tmp_path / "outside.txt").touch()

    message = refused("type: EMAIL, recipients: [a@b.c], attachments: ['{{v}}']", outputs={"v": value}, base=tmp_path)

    assert "for an attachment: it " in message


def test_a_name_too_long_to_be_one_is_left_to_whoever_opens_it(tmp_path: Path) -> None:
    call = email("recipients: [a@b.c], attachments: ['{{v}}']", outputs={"v": "x" * 5000}, base=tmp_path)

    assert call.attachments == (tmp_path / "home" / ("x" * 5000),)


@pytest.mark.parametrize("task", ["recipients: ['{{v}}']", "recipients: [a@b.c], subject: '{{v}}'"])
def test_a_line_end_in_a_recipient_or_subject_fails_the_attempt(task: str) -> None:
    message = refused(f"type: EMAIL, {task}", outputs={"v": "a@b.c\nBcc: x@y.z"})

    assert "it holds a line end" in message
