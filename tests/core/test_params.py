"""Values given for the parameters of a run, as text of a command line and as JSON of a request."""

import pytest

from tests.core.scenes import compiled
from wizflowd.core.definition import Definition
from wizflowd.core.params import fit_params
from wizflowd.core.values import Json
from wizflowd.errors import RequestError

TEXT = """
params:
  day: today
  count: 3
  ratio: 0.5
  dry: false
  tags: [a]
  options: {type: object, default: {x: 1}}
  region: {enum: [eu, us], default: eu}
  code: {type: string, pattern: "^[A-Z]{2}$", description: two capitals}
  who: {type: string, required: true}
tasks: [{id: a, type: SHELL, command: x}]
"""


@pytest.fixture(scope="module")
def definition() -> Definition:
    return compiled(TEXT).definition


def refused(definition: Definition, given: dict[str, Json], *, as_text: bool = False) -> str:
    with pytest.raises(RequestError) as caught:
        fit_params(definition, given, as_text=as_text)
    assert caught.value.code == "bad_params"
    return str(caught.value)


def test_what_is_not_given_has_its_default(definition: Definition) -> None:
    assert fit_params(definition, {"who": "me"}) == {
        "day": "today",
        "count": 3,
        "ratio": 0.5,
        "dry": False,
        "tags": ["a"],
        "options": {"x": 1},
        "region": "eu",
        "code": None,
        "who": "me",
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("day", "2026-11-23", "2026-11-23"),
        ("day", "true", "true"),
        ("day", "", ""),
        ("count", "42", 42),
        ("count", "-1", -1),
        ("ratio", "1.5", 1.5),
        ("ratio", "2", 2),
        ("dry", "true", True),
        ("dry", "False", False),
        ("tags", '["x", "y"]', ["x", "y"]),
        ("options", '{"x": [1]}', {"x": [1]}),
        ("region", "us", "us"),
        ("code", "DE", "DE"),
    ],
)
def test_text_of_a_command_line_is_read_by_the_type(definition: Definition, name: str, text: str, value: Json) -> None:
    found = fit_params(definition, {"who": "me", name: text}, as_text=True)[name]

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("count", "many"),
        ("count", "1.5"),
        ("count", "true"),
        ("dry", "yes"),
        ("dry", "1"),
        ("tags", "a,b"),
        ("tags", "{}"),
        ("options", "[]"),
        ("count", "9" * 5000),
        ("tags", "[" * 100_000),
    ],
)
def test_text_that_does_not_fit_the_type_is_refused(definition: Definition, name: str, text: str) -> None:
    message = refused(definition, {"who": "me", name: text}, as_text=True)

    assert f"cannot run: parameter {name}: " in message
    assert "is not of type" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("ratio", "NaN", "it holds a number that is not finite"),
        ("ratio", "-Infinity", "it holds a number that is not finite"),
        ("ratio", "1e999", "it holds a number that is not finite"),
        ("tags", "[1, {}, [NaN]]", "it holds a number that is not finite"),
        ("tags", "[" * 33 + "]" * 33, "it is nested more than 32 deep"),
        ("options", '{"x":' * 500 + "1" + "}" * 500, "it is nested more than 32 deep"),
    ],
)
def test_a_value_that_could_not_be_recorded_is_refused(
    definition: Definition, name: str, text: str, problem: str
) -> None:
    assert refused(definition, {"who": "me", name: text}, as_text=True) == f"cannot run: parameter {name}: {problem}"


def test_a_value_may_be_nested_as_deep_as_in_a_definition(definition: Definition) -> None:
    fit_params(definition, {"who": "me", "tags": "[" * 32 + "]" * 32}, as_text=True)


def test_json_of_a_request_is_taken_as_it_is(definition: Definition) -> None:
    assert fit_params(definition, {"who": "me", "count": 7, "dry": True})["count"] == 7
    assert "is not of type integer" in refused(definition, {"who": "me", "count": "7"})
    assert "is not of type string" in refused(definition, {"who": None})


def test_a_value_is_held_to_enum_and_pattern(definition: Definition) -> None:
    assert 'parameter region: "mars" is not one of "eu", "us"' in refused(definition, {"who": "me", "region": "mars"})
    message = refused(definition, {"who": "me", "code": "de"})
    assert "does not match the pattern" in message
    assert message.endswith("; two capitals")


def test_a_parameter_that_is_required_and_has_no_value_is_named(definition: Definition) -> None:
    assert refused(definition, {}) == "cannot run: parameter who has no value; give it with -p who=..."


def test_an_unknown_parameter_is_refused_with_the_one_that_may_be_meant(definition: Definition) -> None:
    assert "there is no parameter 'dai'; did you mean \"day\"?" in refused(definition, {"who": "me", "dai": "x"})


def test_an_unknown_parameter_is_refused_with_those_that_there_are() -> None:
    none = compiled("tasks: [{id: a, type: SHELL, command: x}]").definition
    one = compiled("params: {day: x}\ntasks: [{id: a, type: SHELL, command: x}]").definition

    assert refused(none, {"zzz": "x"}).endswith("; the workflow has none")
    assert refused(one, {"zzzzzz": "x"}).endswith("; it has day")
