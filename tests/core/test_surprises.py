"""Warnings of `wizflow validate` on what is legal but seldom meant: unused outputs, tasks that never run."""

import csv
import json
import time
from pathlib import Path

import pytest

from wizflowd.core.compile import validate_definition
from wizflowd.core.loader import Syntax, syntax_of

CORPUS = Path(__file__).parent.parent / "corpus"
EXPECTED = {
    "accept/kitchen_sink.yaml": ["tasks[0].outputs.list: no task reads this output"],
    "accept/octal_old_timeout.yaml": ["tasks[0].timeout: 010 is the number 10"],
}
"""Cases of the corpus that are meant to be surprising."""


def warned(text: str) -> list[str]:
    """Return `line:column: where: what` of each warning."""
    problems = validate_definition(text.encode(), Syntax.YAML, stem="etl")
    return [problem.render("etl.yaml").removeprefix("etl.yaml:").split("; ")[0] for problem in problems]


def test_an_output_that_no_task_reads_is_told_where_it_is_declared() -> None:
    text = """\
tasks:
  - id: a
    type: SHELL
    command: "true"
    outputs:
      read: {type: text}
      unread: {type: text}
  - {id: b, type: SHELL, command: "echo {{read}}", depends_on: [a]}
"""

    assert warned(text) == ["7:7: tasks[0].outputs.unread: no task reads this output"]


@pytest.mark.parametrize(
    "reader",
    [
        'command: "echo {{o}}", depends_on: [a]',
        'command: "echo {{tasks.a.outputs.o.field[0]}}"',
        'command: "x", input_mappings: {p: {from_task: a, output: o}}',
        'command: "x", when: "tasks.a.outputs.o.size() > 0"',
        'command: "x {{item}}", for_each: "{{tasks.a.outputs.o}}"',
        'command: "x", env: {A: "{{o}}"}, depends_on: [a]',
    ],
)
def test_an_output_may_be_read_in_any_of_the_ways_there_are(reader: str) -> None:
    text = f"""\
tasks:
  - {{id: a, type: SHELL, command: "echo 1", outputs: {{o: {{type: json}}}}}}
  - {{id: b, type: SHELL, {reader}}}
"""

    assert warned(text) == []


def test_results_files_and_checks_need_no_reader() -> None:
    text = """\
tasks:
  - id: a
    type: SHELL
    command: "true"
    outputs: {file: {type: file, path: f}, check: {type: json, json_path: $.id, required: true}}
  - {id: b, type: SHELL, command: "true", depends_on: [a], outputs: {result: {type: text}}}
"""

    assert warned(text) == []


def test_a_task_that_waits_for_a_failure_needs_something_that_can_fail() -> None:
    text = """\
tasks:
  - {id: alone, type: SHELL, command: "true", run_on: failure}
  - {id: after, type: SHELL, command: "true", run_on: failure, depends_on: [alone]}
finally:
  - {id: last, type: SHELL, command: "true", run_on: failure}
"""

    assert warned(text) == ["2:55: tasks[0].run_on: the task never runs: nothing before it could fail"]


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("when: 'false'", "tasks[0].when: the task never runs: this is always false"),
        ("when: '1 > 2'", "tasks[0].when: the task never runs: this is always false"),
        ("when: 'true'", "tasks[0].when: this is always true"),
        ("for_each: []", "tasks[0].for_each: the task never runs: the list is empty"),
        ("matrix: {a: []}", "tasks[0].matrix: the task never runs: no combination is left"),
        ("matrix: {a: [1], exclude: [{a: 1}]}", "tasks[0].matrix: the task never runs: no combination is left"),
    ],
)
def test_a_task_that_can_never_run_is_told(field: str, what: str) -> None:
    (line,) = warned(f"tasks: [{{id: a, type: SHELL, command: 'true', {field}}}]")

    assert line.endswith(what)


@pytest.mark.parametrize(
    "field", ["when: 'params.p == 1'", "when: '1 / 0 == 1'", "for_each: [1]", "matrix: {a: [1], include: [{b: 2}]}"]
)
def test_what_depends_on_values_is_not_judged(field: str) -> None:
    assert warned(f"params: {{p: 2}}\ntasks: [{{id: a, type: SHELL, command: 'true', {field}}}]") == []


def test_good_definitions_raise_no_alarm() -> None:
    with (CORPUS / "index.tsv").open(encoding="utf-8", newline="") as file:
        accepted = [row[0] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row[1] == "accept"]
    small = [name for name in accepted if (CORPUS / name).is_file() and name.startswith("accept/")]

    told = {name: _unplaced(CORPUS / name) for name in small}

    assert len(small) > 70
    assert {name: lines for name, lines in told.items() if lines} == EXPECTED


def _unplaced(path: Path) -> list[str]:
    problems = validate_definition(path.read_bytes(), syntax_of(path.name), stem=path.stem)
    return [f"{problem.where}: {problem.what}" for problem in problems]


def test_looking_for_surprises_is_linear() -> None:
    tasks = [
        {"id": f"t{n}", "type": "SHELL", "command": "x {{o}}" if n else "x", "outputs": {"o": {"type": "text"}}}
        | ({"depends_on": [f"t{n - 1}"]} if n else {})
        for n in range(5_000)
    ]
    data = json.dumps({"tasks": tasks}).encode()

    began = time.process_time()
    assert validate_definition(data, Syntax.YAML, stem="etl") == ()

    assert time.process_time() - began < 6
