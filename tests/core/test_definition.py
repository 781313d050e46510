"""The models of a definition: what its fields mean, and what is said of a field that is wrong."""

import json
import re
import string
import time
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonpath_ng.parser import parse

from wizflowd.core.attempt import OutputRule
from wizflowd.core.definition import Definition, EmailTask, Param, RestTask, ShellTask, definition_digest, task_fields
from wizflowd.core.draft import read_draft
from wizflowd.core.fields import FieldError, duration, json_path, relative_path, size, statuses, url
from wizflowd.core.messages import MAX_PROBLEMS

SHELL: dict[str, Any] = {"id": "a", "type": "SHELL", "command": "true"}
REST: dict[str, Any] = {"id": "a", "type": "RESTAPI", "method": "GET", "url": "https://example.com/"}
EMAIL: dict[str, Any] = {"id": "a", "type": "EMAIL", "recipients": ["ops@example.com"]}

HUGE = pytest.param(10**5_000, id="a number of 5,000 digits")  # pytest would write it out


def read(*tasks: Any, **header: Any) -> Definition:
    draft = read_draft({**header, "tasks": [*tasks] or [SHELL]}, "stem")
    assert not draft.problems
    assert draft.definition is not None
    return draft.definition


def refused(*tasks: Any, **header: Any) -> list[str]:
    problems = read_draft({**header, "tasks": [*tasks] or [SHELL]}, "stem").problems
    assert problems
    return [f"{'.'.join(map(str, problem.path))}: {problem.what}; {problem.hint}" for problem in problems]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("250ms", 0.25),
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5_400),
        ("2d", 172_800),
        ("1.5h", 5_400),
        ("90", 90),
        (30, 30),
        (0.5, 0.5),
        ("366d", 366 * 86_400),
    ],
)
def test_a_duration_is_seconds(written: object, seconds: float) -> None:
    assert duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    [
        *("", "s", "5x", "-5m", "1,5h", "00:05:00", "1h1h", "30m1h", "5 m", "1_0", "٣s", "367d", "1h" * 5_000),
        *(True, None, [1], {"s": 1}, float("nan"), float("inf"), -1, HUGE),
    ],
)
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(FieldError):
        duration(written)


def test_a_timeout_is_above_zero_and_a_delay_may_be_zero() -> None:
    assert "above 0" in refused({**SHELL, "timeout": 0})[0]

    task = read({**SHELL, "retry": {"limit": 1, "delay": 0}}).tasks[0]

    assert task.retry is not None
    assert task.retry.delay == 0


@pytest.mark.parametrize(("written", "count"), [("64KiB", 65_536), ("2GiB", 2**31), (5, 5), ("1.5KiB", 1_536)])
def test_a_size_is_bytes(written: object, count: int) -> None:
    assert size(written) == count


@pytest.mark.parametrize("written", ["lots", "5MB", "-1", 0, True, None, 1.5, HUGE, "9" * 5_000, "9000000TiB"])
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(FieldError):
        size(written)


def test_statuses_are_inclusive_ranges() -> None:
    assert statuses([200, "300-399"]) == ((200, 200), (300, 399))


@pytest.mark.parametrize("written", ["banana", [], [99], [600], ["399-300"], ["2xx"], [True], [200.0], [-1], 200])
def test_what_is_no_list_of_statuses_is_refused(written: object) -> None:
    with pytest.raises(FieldError):
        statuses(written)


@pytest.mark.parametrize(
    "written",
    [
        *("http://127.0.0.1:8080/x?y=1", "HTTPS://example.com", "http://[::1]:80/", "https://u:p@host/", "{{base}}/x"),
        *("http://{{host}}/", "http://{{host}}:{{port}}/", "https://example.com?x={{y}}", "http://bücher.example/"),
    ],
)
def test_an_http_address_is_a_url(written: str) -> None:
    assert url(written) == written


@pytest.mark.parametrize(
    "written",
    [
        *("", "example.org/x", "//example.org/x", "javascript:1", "ws://x/", "http+unix://x", "file:///etc/passwd", 5),
        *(
            "http:///x",
            "http://",
            "http://:80/",
            "http://x/\r\nX: 1",
            "http://a b/",
            "http://x:port/",
            "http://[::1/",
            "{{.x}}/",
        ),
    ],
)
def test_what_is_no_http_address_is_refused(written: object) -> None:
    with pytest.raises(FieldError):
        url(written)


@pytest.mark.parametrize("written", ["/etc/passwd", "../x", "a/../../b", "a/..", "", "a\nb", "..", 5])
def test_a_path_that_may_lead_out_is_refused(written: object) -> None:
    with pytest.raises(FieldError):
        relative_path(written)


@pytest.mark.parametrize("written", ["a", "a/b.txt", "./a", "..a/b", "{{name}}/x", "a..b", "."])
def test_a_path_below_its_folder_is_taken(written: str) -> None:
    assert relative_path(written) == written


@pytest.mark.parametrize(
    "written",
    ["$", "response.json", "$.items[*].id", "items[0]", "$['a b'].c", "$[1:3]", "$[::2]", "$[-1]", "[*]", "$['where']"],
)
def test_members_indexes_and_slices_are_a_json_path(written: str) -> None:
    assert json_path(written) == written


@pytest.mark.parametrize(
    "written",
    [
        "$.[",
        "$..a",
        "$[?(@.x > 1)]",
        "$.a.`len`",
        "",
        "$.where",
        "a.",
        "$['']",
        "$.*",
        "a b",
        "$[1,2]",
        "$.",
        "[" * 9_999,
        5,
    ],
)
def test_filters_and_the_like_are_no_json_path(written: object) -> None:
    with pytest.raises(FieldError):
        json_path(written)


_MEMBERS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,5}", fullmatch=True)
_STEPS = st.one_of(
    _MEMBERS.map(".{}".format),
    st.integers(-99, 99).map("[{}]".format),
    st.just("[*]"),
    st.from_regex(r"\[-?[0-9]?:-?[0-9]?(:-?[1-9])?\]", fullmatch=True).filter(
        lambda step: "-:" not in step and "-]" not in step
    ),
    st.text(string.ascii_letters + ' .[]*$"éß', min_size=1, max_size=6).map("['{}']".format),
)


@given(st.sampled_from(["$", "a", "where", "parent", "[0]"]), st.lists(_STEPS, max_size=4))
def test_jsonpath_ng_reads_every_json_path_that_is_taken(root: str, steps: list[str]) -> None:
    written = root + "".join(steps)

    try:
        json_path(written)
    except FieldError:
        assert re.search(r"(^|\.)where(not)?\b|''", written)
    else:
        parse(written)


def test_a_shell_task_left_bare_has_its_defaults() -> None:
    task = read(SHELL).tasks[0]

    assert isinstance(task, ShellTask)
    assert (task.shell, task.stdin, task.working_dir, task.run_on, task.cache) == (
        "/bin/sh",
        None,
        None,
        "success",
        "auto",
    )
    assert dict(task.outputs) == {}


def test_the_type_of_a_task_is_read_in_any_letter_case() -> None:
    tasks = read(
        {**SHELL, "type": "sHeLL"}, {**REST, "id": "b", "type": "restapi"}, {**EMAIL, "id": "c", "type": "Email"}
    ).tasks

    assert [task.type for task in tasks] == ["SHELL", "RESTAPI", "EMAIL"]


def test_what_the_editor_keeps_in_a_task_means_nothing() -> None:
    plain = read(SHELL)

    drawn = read({**SHELL, "status": "PENDING", "loading": False, "position": {"x": 1}, "breakpoint": False})

    assert definition_digest(drawn) == definition_digest(plain)


def test_a_command_as_a_list_is_argv() -> None:
    task = read({**SHELL, "command": ["printf", "%s", 5]}).tasks[0]

    assert isinstance(task, ShellTask)
    assert task.command == ("printf", "%s", "5")


def test_values_of_env_are_text() -> None:
    definition = read({**SHELL, "env": {"A": 1, "B": True, "C": 1.5, "D": "x"}}, env={"E": 2.0})

    assert definition.tasks[0].env == {"A": "1", "B": "true", "C": "1.5", "D": "x"}
    assert definition.env == {"E": "2"}


def test_an_output_can_be_used_as_an_output_rule() -> None:
    rule = read({**SHELL, "outputs": {"o": {"type": "file", "path": "x.txt"}}}).tasks[0].outputs["o"]

    assert isinstance(rule, OutputRule)
    assert (rule.type, rule.path, rule.json_path, rule.required) == ("file", "x.txt", "$", False)


def test_email_fields_are_written_as_in_the_wizflow_editor() -> None:
    task = read({**EMAIL, "emailBody": "hello", "from": "a@example.com"}).tasks[0]

    assert isinstance(task, EmailTask)
    assert (task.email_body, task.sender, task.recipients) == ("hello", "a@example.com", ("ops@example.com",))


def test_a_rest_task_has_its_method_in_capitals_and_its_body_as_it_is() -> None:
    body = {"v": [1, 2.5, None, True, {"x": "{{y}}"}]}
    task = read({**REST, "method": "post", "body": body, "expect_status": ["200-204"]}).tasks[0]

    assert isinstance(task, RestTask)
    assert (task.method, task.body, task.expect_status) == ("POST", body, ((200, 204),))


def test_defaults_are_merged_into_tasks_that_say_nothing() -> None:
    definition = read(
        SHELL,
        {**SHELL, "id": "b", "timeout": 5, "retry": {"limit": 9}},
        {**SHELL, "id": "c", "timeout": None},
        defaults={"timeout": "10m", "retry": {"limit": 2, "delay": "5s"}},
    )

    assert [task.timeout for task in definition.tasks] == [600, 5, None]
    assert [task.retry and task.retry.limit for task in definition.tasks] == [2, 9, 2]


def test_a_definition_cannot_be_changed() -> None:
    definition = read()

    with pytest.raises(FrozenInstanceError):
        definition.tasks[0].id = "b"  # type: ignore[misc, assignment]
    with pytest.raises(TypeError):
        definition.tasks[0].env["A"] = "b"  # type: ignore[index]


@pytest.mark.parametrize(
    ("written", "kind", "default"),
    [
        ("today", "string", "today"),
        (5, "integer", 5),
        (1.5, "number", 1.5),
        (True, "boolean", True),
        ([1], "list", [1]),
        (None, "string", None),
        ({"default": 5}, "integer", 5),
        ({"enum": [1.5, 2.5]}, "number", None),
        ({"required": True}, "string", None),
        ({"type": "object", "default": {"a": 1}}, "object", {"a": 1}),
        ({"type": "number", "default": 5}, "number", 5),
    ],
)
def test_a_param_has_the_type_of_its_default(written: object, kind: str, default: object) -> None:
    param = read(params={"p": written}).params["p"]

    assert (param.type, param.default) == (kind, default)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"type": "integer", "default": "x"}, '"x" is not of type integer'),
        ({"type": "integer", "default": True}, "true is not of type integer"),
        ({"enum": ["low", "high"], "default": "mid"}, '"mid" is not one of "low", "high"'),
        ({"enum": []}, "is an empty list"),
        ({"type": "integer", "enum": ["x"]}, '"x" is not of type integer'),
        ({"pattern": "^a+$", "default": "b"}, '"b" does not match the pattern'),
        ({"pattern": "("}, "is not a regular expression"),
        ({"pattern": "(?=x)"}, "is not a regular expression"),
        ({"type": "integer", "pattern": "1"}, "has no pattern"),
        ({"a": 1}, "unknown field"),
        ({}, ""),
    ],
)
def test_a_param_that_contradicts_itself_is_refused(written: object, said: str) -> None:
    if said:
        assert said in refused(params={"p": written})[0]
    else:
        assert read(params={"p": written}).params["p"].default is None


def test_a_pattern_cannot_take_for_ever() -> None:
    param = Param(type="string", pattern="^(a+)+$")

    assert "does not match" in param.problem_with("a" * 50_000 + "b")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("comand", "x", 'unknown field; did you mean "command"?'),
        ("time_out", "5m", 'did you mean "timeout"?'),
        ("url", "http://x/", "unknown field; only RESTAPI tasks have it"),
        ("x" * 100_000, 1, "unknown field"),
        ("command", 5, "must be text or a list of texts, not 5"),
        ("command", " ", "is empty"),
        ("command", [], "is an empty list"),
        ("command", [{"a": 1}], "a.tasks.0.command.0: must be text, not a mapping"[2:]),
        ("id", "a b", '"a b" is not an id'),
        ("id", None, "must be text, not null"),
        ("id", "a\n", "is not an id"),
        ("name", "\x1b[2J", "a control character"),
        ("name", "a\u2028b", "a control character"),
        ("depends_on", "b", "must be a list, not"),
        ("depends_on", [1], "must be text, not 1; put it in quotes"),
        ("env", {"a-b": "x"}, "is not a name of a variable"),
        ("env", {"A": None}, 'must be text, not null; write ""'),
        ("env", ["A=1"], "must be a mapping, not a list"),
        ("inputs", {"1a": "x"}, '"1a" is not a name'),
        ("outputs", {"o": {"type": "file"}}, 'missing field "path"'),
        ("outputs", {"o": {"type": "text", "path": "x"}}, "a text output has no path"),
        ("outputs", {"o": {"type": "file", "path": "../x"}}, "may lead out"),
        ("outputs", {"o": {"type": "json", "json_path": "$..x"}}, "looks at every depth"),
        ("outputs", {"o": {"type": "pickle"}}, '"pickle" is not one of "json", "file", "text"'),
        ("input_mappings", {"v": {"from_task": "x"}}, 'missing field "output"'),
        ("retry", {"limit": True}, "must be a whole number, not true"),
        ("retry", {"limit": 1_001}, "must be from 0 to 1,000"),
        ("retry", {"limit": 10**30}, "out of range"),
        ("retry", {"jitter": 1.5}, "must be from 0 to 1"),
        ("retry", {"deley": 1}, 'did you mean "delay"?'),
        ("retry", {"on_status": [99]}, "tasks.0.retry.on_status.0: 99 is out of range"),
        ("run_on", "sucess", 'did you mean "success"?'),
        ("continue_on_failure", "yes", 'must be true or false, not "yes"; write true'),
        ("limits", {"memory": "lots"}, '"lots" is not a size'),
        ("limits", {"open_files": 0}, "out of range"),
        ("working_dir", "/tmp", "is absolute"),
        ("shell", "bash '", "is not closed"),
        ("sources", ["../*"], "may lead out"),
        ("when", "a = 1", "not a CEL expression"),
        ("when", "(" * 5000, "at most 4096 are read"),
        ("matrix", [1], "must be a mapping, not a list"),
        ("matrix", {"os": "linux"}, "must be a list of values"),
        ("for_each", "two {{a}} {{b}}", "must be a list, or one placeholder"),
        ("max_parallel", 0, "out of range"),
        ("priority", 5000, "out of range"),
        ("breakpoint", "yes", "must be a mapping"),
        ("runs_on", "a b", "is not an id"),
    ],
)
def test_a_wrong_field_of_a_shell_task_is_told(field: str, value: object, said: str) -> None:
    problems = refused({**SHELL, field: value})

    assert len(problems) == 1
    assert said in problems[0]
    assert len(problems[0]) < 300 + len(field)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({**REST, "method": "FOO BAR"}, '"FOO BAR" is not a method'),
        ({**REST, "url": "ftp://x/"}, "is not a URL"),
        ({**REST, "headers": {"X": "a\r\nEvil: 1"}}, "a control character"),
        ({**REST, "headers": {"X\r\nEvil": "1"}}, "is not a name of a header"),
        ({**REST, "headers": {"": "1"}}, "is not a name of a header"),
        ({**REST, "auth": {"digest": {}}}, "tasks.0.auth.digest: unknown field; there are basic, bearer"),
        ({**REST, "auth": {}}, "exactly one of basic and bearer"),
        ({**REST, "auth": {"basic": {"username": "x"}}}, 'missing field "password"'),
        ({**REST, "tls": {"key_file": "/k"}}, 'missing field "cert_file"'),
        ({**REST, "verify": False}, "tasks.0.verify: unknown field"),
        ({**REST, "follow_redirects": "maybe"}, "must be true or false"),
        ({**EMAIL, "recipients": []}, "tasks.0.recipients: is empty"),
        ({**EMAIL, "recipients": "ops@example.com"}, "must be a list, not"),
        ({**EMAIL, "recipients": ["a@b\r\nRCPT TO:<x@y>"]}, "tasks.0.recipients.0: a control character"),
        ({**EMAIL, "subject": "a\nBcc: x"}, "tasks.0.subject: a control character"),
        ({**EMAIL, "from": "a\r\nb"}, "tasks.0.from: a control character"),
        ({**EMAIL, "emailbody": "x"}, 'did you mean "emailBody"?'),
        ({**EMAIL, "sender": "x"}, "unknown field"),
        ({"id": "a", "type": "SHELL"}, 'missing field "command"; the SHELL task "a" needs it'),
        ({"id": "a"}, 'missing field "type"; the task "a" is one of SHELL, RESTAPI, EMAIL, WORKFLOW'),
        ({**SHELL, "type": "shel"}, '"shel" is not a type of task; did you mean "SHELL"?'),
        ({**SHELL, "type": ["SHELL"]}, "tasks.0.type: must be text, not a list"),
        ({"id": "a", "type": "workflow"}, 'missing field "workflow"; the WORKFLOW task "a" needs it'),
        ({"id": "a", "type": "workflow", "workflow": "../x"}, "is not an identity"),
        (None, "tasks.0: must be a mapping, not null"),
        ("echo", 'tasks.0: must be a mapping, not "echo"'),
    ],
)
def test_a_wrong_task_is_told(task: object, said: str) -> None:
    problems = refused(task)

    assert len(problems) == 1
    assert said in problems[0]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"retentoin": {}}, 'retentoin: unknown field; did you mean "retention"?'),
        ({"concurrency": {"max_task": 3}}, 'concurrency.max_task: unknown field; did you mean "max_tasks"?'),
        ({"concurrency": {"policy": "Queue"}}, 'did you mean "queue"?'),
        ({"concurrency": {"max_tasks": 0}}, "out of range"),
        ({"secrets": {"K": {}}}, "exactly one of credential, env, file and encrypted"),
        ({"secrets": {"K": {"env": "A", "file": "/b"}}}, "exactly one of credential, env, file and encrypted"),
        ({"secrets": {"K": {"vault": "x"}}}, "secrets.K.vault: unknown field"),
        ({"secrets": {"K": {"credential": "../x"}}}, "is not a name of a credential"),
        ({"secrets": {"K": ["x"]}}, "secrets.K: must be a mapping, not a list"),
        ({"dotenv": ["/etc/x"]}, "is absolute"),
        ({"dotenv": ".env"}, "must be a list"),
        ({"fail_fast": "maybe"}, "must be true or false"),
        ({"fail_fast": "Off"}, 'must be true or false, not "Off"; write false'),
        ({"timeout": "400d"}, "out of range"),
        ({"schedule": [{"cron": "* * *"}]}, "is not a cron expression"),
        ({"schedule": [{"cron": "@daily", "timezone": "Mars/Base"}]}, "there is no time zone"),
        ({"finally": []}, "finally: is empty"),
        ({"workflow_name": "a\nb"}, "a control character"),
        ({"defaults": {"retry": {"limit": -1}}}, "defaults.retry.limit: -1 is out of range"),
        ({"params": {"1": 1}}, '"1" is not a name'),
    ],
)
def test_a_wrong_header_is_told(header: dict[str, Any], said: str) -> None:
    problems = refused(SHELL, **header)

    assert len(problems) == 1
    assert said in problems[0]


@pytest.mark.parametrize("tree", [None, [], "x", 5, {}, {"tasks": None}, {"tasks": {}}, {"tasks": []}])
def test_what_is_no_workflow_is_refused(tree: Any) -> None:
    assert len(read_draft(tree, "stem").problems) == 1


def test_all_problems_of_a_file_are_told_at_once() -> None:
    problems = refused(
        {**SHELL, "timeout": -5, "comand": "x"},
        {**REST, "id": "b b", "url": ""},
        SHELL,
        {"id": "c", "type": "EMAIL"},
        params=[],
    )

    assert [problem.split(":")[0] for problem in problems] == [
        "params",
        *("tasks.0.timeout", "tasks.0.comand", "tasks.1.id", "tasks.1.url", "tasks.2.id", "tasks.3"),
    ]


def test_two_tasks_with_one_id_are_refused() -> None:
    assert refused(SHELL, EMAIL) == ['tasks.1.id: the id "a" is taken by tasks[0]; ']


def test_a_file_of_nothing_but_problems_is_not_read_to_its_end() -> None:
    draft = read_draft({"tasks": [{"id": f"t{n}", "type": "SHELL", "comand": "x"} for n in range(50_000)]}, "stem")

    assert MAX_PROBLEMS <= len(draft.problems) < MAX_PROBLEMS + 5
    assert draft.definition is None


@pytest.mark.parametrize("place", ["header", "task", "env", "params"])
def test_tens_of_thousands_of_wrong_names_are_refused_quickly(place: str) -> None:
    wrong: dict[str, Any] = {f"comand {n}": n for n in range(30_000)}
    tree = {
        "header": {**wrong, "tasks": [SHELL]},
        "task": {"tasks": [{**SHELL, **wrong}]},
        "env": {"tasks": [{**SHELL, "env": wrong}]},
        "params": {"params": wrong, "tasks": [SHELL]},
    }[place]

    began = time.process_time()
    draft = read_draft(tree, "stem")

    assert len(draft.problems) == MAX_PROBLEMS
    assert time.process_time() - began < 2


def test_a_draft_of_the_editor_is_told_each_field_that_is_to_be_filled_in() -> None:
    assert refused({"id": "m", "type": "EMAIL"}, {"id": "r", "type": "RESTAPI", "breakpoint": False}) == [
        'tasks.0: missing field "recipients"; the EMAIL task "m" needs it',
        'tasks.1: missing field "method"; the RESTAPI task "r" needs it',
        'tasks.1: missing field "url"; the RESTAPI task "r" needs it',
    ]


def test_the_fields_of_a_task_are_those_that_differ_from_the_defaults() -> None:
    task = read(
        {**EMAIL, "name": "Tell", "emailBody": "x", "retry": {"limit": 1, "delay": "1s"}, "run_on": "success"}
    ).tasks[0]

    assert task_fields(task) == {
        "id": "a",
        "type": "EMAIL",
        "recipients": ["ops@example.com"],
        "emailBody": "x",
        "retry": {"limit": 1},
    }
    assert json.loads(json.dumps(task_fields(task))) == task_fields(task)


@pytest.mark.parametrize(
    "same",
    [
        {"tasks": [{"command": "true", "type": "shell", "id": "a", "timeout": "1m30s"}], "timeout": "1h"},
        {"timeout": 3_600, "tasks": [{**SHELL, "timeout": 90, "status": "RUNNING", "position": {"x": 5}, "env": {}}]},
        {
            "timeout": 3_600,
            "tasks": [{**SHELL, "timeout": 90, "shell": "/bin/sh", "cache": "auto"}],
            "fail_fast": False,
        },
        {
            "timeout": 3_600,
            "tasks": [{**SHELL, "timeout": 90.0}],
            "workflow_name": "stem",
            "concurrency": {"policy": "queue"},
        },
    ],
)
def test_the_digest_is_the_same_for_every_way_to_write_the_same_workflow(same: dict[str, Any]) -> None:
    definition = read({**SHELL, "timeout": 90}, timeout=3_600)

    other = read_draft(same, "stem").definition

    assert other is not None
    assert definition_digest(other) == definition_digest(definition)


@pytest.mark.parametrize(
    "change",
    [{"command": "false"}, {"timeout": 5}, {"depends_on": ["b"]}, {"env": {"A": "1"}}, {"name": "A"}, {"id": "c"}],
)
def test_the_digest_changes_with_the_workflow(change: dict[str, Any]) -> None:
    assert definition_digest(read({**SHELL, **change})) != definition_digest(read(SHELL))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["id", "type", "command", "retry", "env", "outputs", "depends_on", "auth", "x"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_value_of_a_task_does_more_than_to_be_refused(value: Any) -> None:
    for base in (SHELL, REST, EMAIL):
        entry = {**base, **value} if isinstance(value, dict) else value

        draft = read_draft({"tasks": [entry], "params": {"p": value}, "secrets": value, "defaults": value}, "stem")

        assert draft.problems or draft.definition
