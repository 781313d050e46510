"""Warnings of `wizflow validate` on what YAML 1.1 reads otherwise."""

import pytest

from wizflowd.core.compile import validate_definition
from wizflowd.core.loader import Syntax

TASK = "tasks: [{id: a, type: SHELL, command: 'true'%s}]"


def warned(text: str) -> list[str]:
    problems = validate_definition(text.encode(), Syntax.YAML, stem="etl")
    return [f"{problem.line}:{problem.column}: {problem.where}: {problem.what}; {problem.hint}" for problem in problems]


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("yes", 'yes is text; write true, or "yes"'),
        ("No", 'No is text; write false, or "No"'),
        ("ON", 'ON is text; write true, or "ON"'),
        ("off", 'off is text; write false, or "off"'),
        ("1_000", "1_000 is text; write 1000 if it is a number"),
        ("1:30", '1:30 is text; write "1:30", or a number'),
        ("0644", '0644 is the number 644; write 644, or "0644" for text'),
    ],
)
def test_a_param_is_not_what_yaml_1_1_makes_of_it(written: str, what: str) -> None:
    assert warned(f"params: {{p: {written}}}\n{TASK % ''}") == [f"1:13: params.p: {what}"]
    assert warned(f'params: {{p: "{written}"}}\n{TASK % ""}') == []
    assert warned(f"params: {{p: {{default: {written}}}}}\n{TASK % ''}") == [f"1:23: params.p.default: {what}"]


def test_a_param_that_is_declared_as_text_may_be_such_a_word() -> None:
    assert warned(f"params: {{p: {{type: string, default: on, enum: [on, off]}}}}\n{TASK % ''}") == []


def test_in_variables_all_is_text_and_only_a_lost_zero_is_told() -> None:
    text = f"env: {{A: yes, B: 1:30, C: 1_0, D: 022}}\n{TASK % ', env: {A: off, MODE: 0755}'}"

    assert warned(text) == [
        '1:35: env.D: 022 is the number 22; write 22, or "022" for text',
        '2:67: tasks[0].env.MODE: 0755 is the number 755; write 755, or "0755" for text',
    ]


@pytest.mark.parametrize("field", ["body: {a: {b: %s}}", "body: [%s]"])
def test_a_body_is_sent_as_yaml_1_2_reads_it(field: str) -> None:
    text = "tasks: [{id: a, type: RESTAPI, method: PUT, url: 'http://x/', %s}]"

    assert [line.split(": ", 2)[2] for line in warned(text % (field % "yes"))] == ['yes is text; write true, or "yes"']
    assert warned(text % (field % "true")) == []


def test_a_word_among_others_is_what_it_looks_like() -> None:
    assert warned(TASK % ", matrix: {country: [DE, NO, FR]}") == []
    assert len(warned(TASK % ", matrix: {debug: [yes, no]}")) == 2
    assert len(warned(TASK % ", for_each: [on, off]")) == 2


def test_merging_is_told_where_it_would_pass_for_data() -> None:
    text = f"params: {{base: {{default: &b {{a: 1}}}}, more: {{default: {{<<: *b, c: 2}}}}}}\n{TASK % ''}"

    (line,) = warned(text)

    assert line.startswith('1:55: params.more.default["<<"]: << is a key like any other; ')


def test_ids_and_commands_may_be_such_words() -> None:
    text = "tasks:\n- {id: on, type: SHELL, command: yes}\n- {id: no, type: SHELL, command: 'off', depends_on: [on]}\n"

    assert warned(text) == []


def test_json_has_no_such_habits() -> None:
    data = b'{"params": {"p": "yes"}, "tasks": [{"id": "a", "type": "SHELL", "command": "x"}]}'

    assert validate_definition(data, Syntax.JSON, stem="etl") == ()
