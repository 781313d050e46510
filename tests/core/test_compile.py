"""From bytes to a workflow, and every problem with its place in the file."""

import json
import time

import pytest

from wizflowd.core.compile import Compiled, compile_definition, validate_definition, warnings_of
from wizflowd.core.loader import LoadLimits, Syntax
from wizflowd.errors import ConfigError, DefinitionError


def compiled(text: str, **dotenv: str) -> Compiled:
    return compile_definition(text.encode(), Syntax.YAML, stem="etl", read_dotenv=lambda _: dotenv)


def refused(text: str) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        compile_definition(text.encode(), Syntax.YAML, stem="etl")
    return list(caught.value.lines("etl.yaml"))


def warned(text: str) -> list[str]:
    return [problem.render("etl.yaml") for problem in validate_definition(text.encode(), Syntax.YAML, stem="etl")]


def test_a_workflow_is_named_after_its_file_unless_it_says_otherwise() -> None:
    tasks = "tasks: [{id: a, type: SHELL, command: x}]"

    assert compiled(tasks).definition.workflow_name == "etl"
    assert compiled(f"workflow_name: Nightly\n{tasks}").definition.workflow_name == "Nightly"


def test_json_and_yaml_of_one_workflow_have_one_digest() -> None:
    tree = {"tasks": [{"id": "a", "type": "SHELL", "command": "x", "timeout": 60}]}
    text = "# a comment\ntasks:\n- {timeout: 1m, command: x, id: a, type: shell, position: {x: 1}}\n"

    from_json = compile_definition(json.dumps(tree).encode(), Syntax.JSON, stem="etl")

    assert compiled(text).digest == from_json.digest


def test_references_are_edges_of_the_graph() -> None:
    built = compiled("""
tasks:
  - {id: c, type: SHELL, command: "echo {{tasks.a.status}}", depends_on: [b]}
  - {id: b, type: SHELL, command: x, input_mappings: {v: {from_task: a, output: o}}}
  - {id: a, type: SHELL, command: x}
""")

    assert built.graph.order == ("a", "b", "c")
    assert built.graph.needs["c"] == ("b", "a")  # type: ignore[index]


def test_every_kind_of_problem_is_told_at_once_and_in_its_place() -> None:
    lines = refused("""\
retentoin: {runs: 5}
secrets: {S: {env: S}}
tasks:
  - id: a
    type: SHELL
    command: |
      echo one
      echo {{nope}}
      echo $(( {{params.x}} ))
    timeout: -5
  - id: b
    type: RESTAPI
    method: GET
  - {id: c, type: SHELL, command: x, depends_on: [d]}
  - {id: d, type: SHELL, command: x, depends_on: [c]}
  - {id: e, type: SHELL, command: [x, "{{secrets.S}}"], depends_on: [zzz, b]}
""")

    assert [line.removeprefix("etl.yaml:").split(": ")[0] for line in lines] == [
        *("1:1", "8:7", "9:7", "9:7", "10:14", "11:5", "14:5", "16:39", "16:70")
    ]


def test_a_wrong_field_does_not_hide_a_wrong_name_in_the_same_task() -> None:
    lines = refused('tasks:\n- id: a\n  type: SHELL\n  timeout: 5x\n  command: "{{nope}}"\n')

    assert [line.split(": ")[0] for line in lines] == ["etl.yaml:4:12", "etl.yaml:5:12"]


def test_a_wrong_param_does_not_make_its_name_unknown() -> None:
    lines = refused('params: {p: {typ: x}}\ntasks: [{id: a, type: SHELL, command: "{{params.p}}"}]')

    assert lines == ['etl.yaml:1:14: params.p.typ: unknown field; did you mean "type"?']


def test_a_cycle_is_told_at_its_first_task() -> None:
    (line,) = refused("""\
tasks:
- {id: left, type: SHELL, command: x, depends_on: [right]}
- {id: right, type: SHELL, command: x, depends_on: [left]}
""")

    assert line.startswith("etl.yaml:2:3: tasks[0]: tasks wait for each other: left -> right -> left; ")


def test_the_variables_of_dotenv_files_can_be_referred_to() -> None:
    text = 'dotenv: [.env]\ntasks: [{id: a, type: SHELL, command: "{{env.A}}"}]'

    assert compiled(text, A="1").graph.levels == 1
    with pytest.raises(DefinitionError):
        compiled(text, B="1")
    assert validate_definition(text.encode(), Syntax.YAML, stem="etl") == ()


def test_a_dotenv_file_that_cannot_be_read_is_a_problem_of_the_definition() -> None:
    def fail(_: tuple[str, ...]) -> dict[str, str]:
        raise ConfigError("cannot read .env: no such file", hint="create it")

    text = b'dotenv: [.env]\ntasks: [{id: a, type: SHELL, command: "{{env.A}}"}]'
    with pytest.raises(DefinitionError) as caught:
        compile_definition(text, Syntax.YAML, stem="etl", read_dotenv=fail)

    assert caught.value.lines("etl.yaml") == ("etl.yaml:1:9: dotenv: cannot read .env: no such file; create it",)


def test_what_is_legal_but_seldom_meant_is_a_warning() -> None:
    lines = warned("""\
params: {p: x}
tasks:
  - id: a
    type: SHELL
    command: |
      echo {{ p }}
      ssh host echo {{params.p}}
""")

    assert lines[0].startswith("etl.yaml:5:14: tasks[0].command: {{ p }} is text, not a placeholder")
    assert any(line.startswith("etl.yaml:7:7: ") for line in lines)


def test_a_plain_workflow_has_no_warnings() -> None:
    built = compiled("tasks: [{id: a, type: SHELL, command: 'docker inspect -f \"{{ json . }}\" x'}]")

    assert warnings_of(built) == ()


def test_limits_are_those_of_the_caller() -> None:
    data = b"tasks: [{id: a, type: SHELL, command: x}, {id: b, type: SHELL, command: x}]"

    with pytest.raises(DefinitionError):
        compile_definition(data, Syntax.YAML, stem="etl", limits=LoadLimits(tasks=1))


def test_ten_thousand_tasks_are_compiled_quickly() -> None:
    tasks = [
        {"id": f"t{n}", "type": "SHELL", "command": "true", "depends_on": [f"t{n - 1}"] if n % 9 else []}
        for n in range(10_000)
    ]
    data = json.dumps({"tasks": tasks}).encode()
    compile_definition(b'{"tasks": [{"id": "a", "type": "SHELL", "command": "x"}]}', Syntax.JSON, stem="warm")

    began = time.process_time()
    built = compile_definition(data, Syntax.JSON, stem="etl")

    assert built.graph.levels == 9
    assert time.process_time() - began < 1
