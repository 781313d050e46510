"""What placeholders lead to, what is said of those that lead nowhere, and what a task needs and can see."""

import time
from typing import Any

import pytest
from msgspec.structs import replace

from wizflowd.core.attempt import TaskId
from wizflowd.core.definition import Definition
from wizflowd.core.draft import read_draft
from wizflowd.core.placeholders import find
from wizflowd.core.references import (
    Names,
    Reach,
    Target,
    UnresolvedError,
    check_references,
    names_of,
    names_reaching,
    resolve,
    scope_of,
    texts_of,
)


def shell(task: str, command: Any = "true", **fields: Any) -> dict[str, Any]:
    return {"id": task, "type": "SHELL", "command": command, **fields}


def define(*tasks: dict[str, Any], **header: Any) -> Definition:
    draft = read_draft({**header, "tasks": [*tasks]}, "stem")
    assert draft.definition is not None
    assert not draft.problems
    return draft.definition


def target(text: str, *tasks: dict[str, Any], field: str = "", **header: Any) -> Target:
    """Return what `{{text}}` leads to in the last of the tasks."""
    definition = define(*tasks, **header)
    scope = replace(scope_of(definition.tasks[-1], names_of(definition)), field=field)
    ((_, reference),) = find(f"{{{{{text}}}}}")
    return resolve(reference, scope)


def problems(*tasks: dict[str, Any], dotenv: list[str] | None = None, **header: Any) -> list[str]:
    definition = define(*tasks, **header)
    found, _ = check_references(definition, names_of(definition, dotenv=dotenv))
    return [f"{'.'.join(map(str, problem.path))}: {problem.what}; {problem.hint}" for problem in found]


def needs(*tasks: dict[str, Any]) -> dict[TaskId, tuple[TaskId, ...]]:
    definition = define(*tasks)
    found, needed = check_references(definition, names_of(definition))
    assert not found
    return needed


MAKER = shell("maker", outputs={"o": {"type": "json"}, "status": {"type": "text"}})
OTHER = shell("other", outputs={"o": {"type": "text"}})
CALL = {"id": "call", "type": "RESTAPI", "method": "GET", "url": "http://x/", "outputs": {"r": {"type": "json"}}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("o", Target("output", "o", TaskId("maker"))),
        ("o.items[0].id", Target("output", "o", TaskId("maker"), ("items", 0, "id"))),
        ("status", Target("output", "status", TaskId("maker"))),
        ("tasks.maker.outputs.o", Target("output", "o", TaskId("maker"))),
        ("tasks.maker.outputs.o[2]", Target("output", "o", TaskId("maker"), (2,))),
        ("tasks.maker.outputs.undeclared", Target("output", "undeclared", TaskId("maker"))),
        ("tasks.maker.status", Target("status", "status", TaskId("maker"))),
        ("params.day", Target("param", "day")),
        ("params.day.x", Target("param", "day", steps=("x",))),
        ("secrets.KEY", Target("secret", "KEY")),
        ("env.LANG", Target("env", "LANG")),
        ("env.OWN", Target("env", "OWN")),
        ("mapped", Target("mapping", "status", TaskId("maker"))),
        ("mapped[0]", Target("mapping", "status", TaskId("maker"), (0,))),
        ("given", Target("input", "given")),
        ("run.id", Target("run", "id")),
        ("run.dir", Target("run", "dir")),
        ("workflow.name", Target("workflow", "name")),
        ("workflow.dir", Target("workflow", "dir")),
    ],
)
def test_a_reference_leads_to_its_target(text: str, expected: Target) -> None:
    task = shell(
        "t",
        depends_on=["maker"],
        input_mappings={"mapped": {"from_task": "maker", "output": "status"}},
        inputs={"given": "x"},
        env={"OWN": "1"},
    )
    header: dict[str, Any] = {"params": {"day": 1}, "secrets": {"KEY": {"env": "K"}}, "env": {"LANG": "C"}}

    assert target(text, MAKER, task, **header) == expected


def test_input_mappings_come_before_inputs_and_inputs_before_outputs() -> None:
    both = {"inputs": {"o": "mine"}, "depends_on": ["maker"]}
    mapping = {"input_mappings": {"o": {"from_task": "maker", "output": "o"}}}

    assert target("o", MAKER, shell("t", **both, **mapping)).kind == "mapping"
    assert target("o", MAKER, shell("t", **both)).kind == "input"
    assert target("o", MAKER, shell("t", depends_on=["maker"])).kind == "output"


def test_inputs_are_not_seen_within_inputs() -> None:
    task = shell("t", depends_on=["maker"], inputs={"o": "{{o}}", "x": "{{o}}"})

    assert target("o", MAKER, task, field="inputs").kind == "output"
    assert "inputs cannot be used within inputs" in problems(shell("t", inputs={"a": "{{b}}", "b": "x"}))[0]


def test_no_variable_stands_for_itself() -> None:
    assert target("env.A", shell("t", env={"B": "x"}), field="env", env={"A": "1"}) == Target("env", "A")
    assert "cannot be used within the env" in problems(shell("t", env={"A": "{{env.A}}x"}), env={"A": "1"})[0]
    assert "env of the workflow can use params" in problems(shell("t"), env={"A": "1", "B": "{{env.A}}"})[0]


def test_the_env_of_a_workflow_sees_params_and_secrets_and_no_tasks() -> None:
    header: dict[str, Any] = {"params": {"p": 1}, "secrets": {"S": {"env": "S"}}}

    assert not problems(shell("t"), env={"A": "{{params.p}} {{secrets.S}} {{run.id}} {{workflow.name}}"}, **header)
    assert problems(shell("t"), env={"A": "{{tasks.t.status}}"})[0].startswith(
        "env.A: {{tasks.t.status}} leads nowhere"
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("{{nope}}", 'tasks.1.command: unknown name "nope"; write \\{{nope}} if it is meant as text'),
        ("{{o}}", 'unknown name "o"; add "maker" to depends_on, or write {{tasks.maker.outputs.o}}'),
        ("{{day}}", 'unknown name "day"; write {{params.day}}'),
        ("{{params.dya}}", 'there is no param "dya"; did you mean "day"?'),
        ("{{params}}", "{{params}} leads nowhere; write params.NAME"),
        ("{{secrets.X}}", 'there is no secret "X"; add it to secrets'),
        ("{{secrets.KEY.x}}", "leads nowhere"),
        ("{{env.HOME}}", 'there is no variable "HOME"; add it to env'),
        ("{{tasks.zzz.outputs.o}}", 'there is no task "zzz"'),
        ("{{tasks.makre.outputs.o}}", 'there is no task "makre"; did you mean "maker"?'),
        ("{{tasks.maker.outptus.o}}", "a task has outputs and a status: maker"),
        ("{{tasks.maker.outputs}}", "write tasks.maker.outputs.NAME"),
        ("{{tasks.maker.status.x}}", "a task has outputs and a status: maker"),
        ("{{tasks}}", "{{tasks}} leads nowhere"),
        ("{{run.status}}", "run.status is not known before the run has ended"),
        ("{{run.name}}", "{{run.name}} leads nowhere; there are run.id and run.dir"),
        ("{{workflow.id}}", "there are workflow.name and workflow.dir"),
        ("{{item}}", "only a task with for_each has it"),
        ("{{matrix.os}}", "only a task with a matrix has it"),
        ("{{__class__}}", 'unknown name "__class__"'),
        ("{{" + "a" * 100_000 + "}}", 'unknown name "aaaa'),
    ],
)
def test_a_reference_that_leads_nowhere_is_told(command: str, said: str) -> None:
    found = problems(MAKER, shell("t", command), params={"day": 1}, secrets={"KEY": {"env": "K"}})

    assert len(found) == 1
    assert said in found[0]
    assert len(found[0]) < 300


def test_a_name_of_two_dependencies_is_ambiguous_in_short_and_clear_at_length() -> None:
    both = {"depends_on": ["maker", "other"]}

    assert problems(MAKER, OTHER, shell("t", "{{o}}", **both)) == [
        'tasks.2.command: "o" is an output of both maker and other; write {{tasks.maker.outputs.o}} for one of them'
    ]
    assert not problems(MAKER, OTHER, shell("t", "{{tasks.maker.outputs.o}} {{tasks.other.outputs.o}}", **both))


def test_a_name_that_many_others_have_too_is_that_of_the_dependency() -> None:
    others = [shell(f"x{n}", outputs={"o": {"type": "text"}}) for n in range(5)]

    assert target("o", MAKER, *others, shell("t", depends_on=["maker", "maker"])).task == "maker"


def test_undeclared_outputs_are_those_of_commands_only() -> None:
    def mapped(task: str, output: str) -> dict[str, Any]:
        return shell("t", input_mappings={"v": {"from_task": task, "output": output}})

    assert not problems(MAKER, shell("t", "{{tasks.maker.outputs.late}}"))
    assert not problems(MAKER, mapped("maker", "late"))
    assert problems(CALL, shell("t", "{{tasks.call.outputs.late}}"))[0].startswith(
        "tasks.1.command: the task call has no"
    )
    assert problems(CALL, mapped("call", "rr"))[0] == (
        'tasks.1.input_mappings.v.output: the task call has no output "rr"; did you mean "r"?'
    )


def test_unknown_tasks_are_told_where_they_are_named() -> None:
    mapping = {"v": {"from_task": "makr", "output": "o"}}

    assert problems(MAKER, shell("t", depends_on=["maker", "Maker", "{{params.x}}"], input_mappings=mapping)) == [
        'tasks.1.depends_on.1: there is no task "Maker"; did you mean "maker"?',
        'tasks.1.depends_on.2: there is no task "{{params.x}}"; what a task depends on is fixed: no placeholders here',
        'tasks.1.input_mappings.v.from_task: there is no task "makr"; did you mean "maker"?',
    ]


def test_a_name_is_not_doubted_where_the_task_that_gives_it_is_unknown() -> None:
    assert problems(shell("t", "{{o}} {{params.x}}", depends_on=["lost"])) == [
        'tasks.0.depends_on.0: there is no task "lost"; ',
        'tasks.0.command: there is no param "x"; add it to params',
    ]


def test_a_broken_task_and_an_unread_field_are_not_told_as_unknown() -> None:
    definition = define(shell("t", "{{tasks.bad.outputs.x}} {{o}} {{params.p}}", depends_on=["bad"]))

    names = names_of(definition, broken=[TaskId("bad")], unread=frozenset({"params"}))

    assert check_references(definition, names) == ([], {"t": ("bad",)})


def test_variables_of_dotenv_are_checked_once_they_are_known() -> None:
    task = shell("t", "{{env.A}}")

    assert not problems(task, dotenv=["A"], env={})
    assert problems(task, dotenv=["B"]) == ['tasks.0.command: there is no variable "A"; add it to env']
    definition = define(task, dotenv=[".env"])
    assert check_references(definition, names_of(definition))[0] == []


def test_placeholders_stand_in_every_text_of_a_task() -> None:
    text = "{{nope}}"
    common = {"env": {"E": text}, "inputs": {"i": text}, "outputs": {"o": {"type": "file", "path": text}}}
    auth = {"basic": {"username": text, "password": text}}

    found = problems(
        shell("a", text, working_dir=text, stdin=text, **common),
        shell("b", ["x", text]),
        {**CALL, "url": text, "query": {"q": text}, "headers": {"H": text}, "body": {"k": [1, text]}, "auth": auth},
        {**CALL, "id": "d", "auth": {"bearer": text}},
        {
            "id": "e",
            "type": "EMAIL",
            "subject": text,
            "emailBody": text,
            "recipients": [text],
            "attachments": [text],
        },
    )

    assert [line.split(":")[0] for line in found] == [
        *("tasks.0.inputs.i", "tasks.0.env.E", "tasks.0.outputs.o.path", "tasks.0.command", "tasks.0.working_dir"),
        *("tasks.0.stdin", "tasks.1.command.1", "tasks.2.url", "tasks.2.query.q", "tasks.2.headers.H"),
        *("tasks.2.body.k.1", "tasks.2.auth.basic.username", "tasks.2.auth.basic.password", "tasks.3.auth.bearer"),
        *("tasks.4.subject", "tasks.4.emailBody", "tasks.4.recipients.0", "tasks.4.attachments.0"),
    ]


def test_keys_of_a_body_are_no_texts() -> None:
    task = define({**CALL, "body": {"{{nope}}": "x"}}).tasks[0]

    assert (("body", "{{nope}}"), "x") in list(texts_of(task))
    assert not problems({**CALL, "body": {"{{nope}}": "x"}})


def test_a_problem_names_the_line_within_the_text() -> None:
    definition = define(shell("t", "echo\n\necho {{nope}}\n"))

    (problem,), _ = check_references(definition, names_of(definition))

    assert problem.text_line == 2


def test_the_needs_of_a_task_are_in_stable_order_and_each_once() -> None:
    tasks = [shell(name, outputs={name: {"type": "text"}}) for name in "abcd"]
    task = shell(
        "t",
        "{{tasks.d.status}} {{c}} {{tasks.a.outputs.a}} {{m}}",
        depends_on=["c", "a", "c"],
        input_mappings={"m": {"from_task": "b", "output": "b"}},
    )

    assert needs(*tasks, task)[TaskId("t")] == ("c", "a", "b", "d")


def test_a_task_can_need_itself() -> None:
    assert needs(shell("t", "{{tasks.t.outputs.o}}"))[TaskId("t")] == ("t",)


@pytest.mark.parametrize(
    "command", [["x", "{{secrets.S}}"], ["x", "{{hidden}}"], ["x", "{{env.HIDDEN}}"], ["x", "{{env.OUTER}}"]]
)
def test_a_secret_in_an_argv_list_is_refused(command: list[str]) -> None:
    task = shell("t", command, inputs={"hidden": "{{secrets.S}}"}, env={"HIDDEN": "{{secrets.S}}"})

    found = problems(task, secrets={"S": {"env": "S"}}, env={"OUTER": "x{{secrets.S}}"})

    assert found == [
        (
            "tasks.0.command.1: a secret cannot stand in an argv list; "
            "everybody on the host can read it there; use env or stdin"
        )
    ]


def test_other_values_in_an_argv_list_and_secrets_elsewhere_are_fine() -> None:
    env = {"S": "{{secrets.S}}"}

    assert not problems(shell("t", ["x", "{{params.p}}"], env=env), params={"p": 1}, secrets={"S": {"env": "S"}})
    assert not problems(shell("t", "x {{secrets.S}}"), secrets={"S": {"env": "S"}})


def test_a_task_is_reached_by_what_it_names_and_what_stands_behind_that() -> None:
    header: dict[str, Any] = {
        "params": {"a": 1, "b": 2, "c": 3, "unused": 4},
        "secrets": {"S": {"env": "S"}, "T": {"env": "T"}, "U": {"env": "U"}},
        "env": {"DEEP": "{{params.c}} {{secrets.S}}", "OTHER": "{{secrets.U}}"},
    }
    inputs = {"i": "{{params.a}} {{env.DEEP}} {{tasks.m.outputs.o}}"}
    task = {**CALL, "url": "http://x/{{i}}", "body": "{{params.b}}", "inputs": inputs, "depends_on": ["m"]}
    definition = define(shell("m", outputs={"o": {"type": "text"}}), task, **header)

    reach = names_reaching(definition.tasks[1], names_of(definition))

    assert reach == Reach(frozenset("abc"), frozenset({"DEEP"}), frozenset("S"), frozenset({TaskId("m")}))


def test_every_variable_of_workflow_and_task_reaches_a_command() -> None:
    header: dict[str, Any] = {"params": {"a": 1, "b": 2}, "env": {"A": "{{params.a}}"}, "secrets": {"S": {"env": "S"}}}
    definition = define(shell("t", env={"B": "{{secrets.S}}"}), **header)

    reach = names_reaching(definition.tasks[0], names_of(definition))

    assert reach == Reach(frozenset("a"), frozenset("AB"), frozenset("S"), frozenset())


def test_many_references_to_many_tasks_are_looked_up_in_linear_time() -> None:
    makers = [shell(f"m{n}", outputs={f"o{n}": {"type": "text"}}) for n in range(4_000)]
    user = shell("t", " ".join(f"{{{{o{n}}}}}" for n in range(4_000)), depends_on=[f"m{n}" for n in range(4_000)])
    definition = define(*makers, user)
    names: Names = names_of(definition)

    began = time.process_time()
    found, _ = check_references(definition, names)

    assert not found
    assert time.process_time() - began < 1


def test_resolving_raises_what_a_person_can_read() -> None:
    with pytest.raises(UnresolvedError, match='there is no task "zzz"'):
        target("tasks.zzz.status", shell("t"))
