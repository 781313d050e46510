"""Placeholders: what is one, what is left alone, and what the values become."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wizflowd.core.placeholders import (
    Lookup,
    Reference,
    fill_header,
    fill_text,
    fill_url,
    fill_value,
    find,
    near_misses,
    walk,
)
from wizflowd.core.values import Json
from wizflowd.errors import FillError


def lookup(**values: Json) -> Lookup:
    return lambda reference: values[reference.text]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("name", ("name",)),
        ("_a-b", ("_a-b",)),
        ("params.day", ("params", "day")),
        ("tasks.fetch.outputs.items[0].id", ("tasks", "fetch", "outputs", "items", 0, "id")),
        ("tasks.0-a.status", ("tasks", "0-a", "status")),
        ("item[0][12]", ("item", 0, 12)),
        ("tasks-x", ("tasks-x",)),
        ("tasks", ("tasks",)),
    ],
)
def test_a_placeholder_is_found_with_its_steps(text: str, steps: tuple[str | int, ...]) -> None:
    assert find(f"é{{{{{text}}}}} ") == ((1, Reference(text, steps)),)


@pytest.mark.parametrize(
    "text",
    [
        *("{{}}", "{{.Name}}", "{{7*7}}", "{{ json . }}", "{{range .items}}", "{{params.p", "{{a.}}", "{{a.0}}"),
        *("{{a[}}", "{{a[-1]}}", "{{a[x]}}", "{{a b}}", "{{a}", "{ {a}}", "{{é}}", "{{a\n}}", "{{1a}}", "{{tasks.}}"),
        *("\\{{.Name}}", "\\{{}}", "${{ }}", "{% raw %}", "{{a..b}}", "{{a[9999999999]}}"),
    ],
)
def test_what_has_not_the_shape_of_a_placeholder_is_left_alone(text: str) -> None:
    assert find(text) == ()
    assert fill_text(text, lookup()) == text


def test_a_backslash_makes_a_placeholder_literal() -> None:
    text = r"\{{a}} {{a}} \\{{a}}"

    assert [offset for offset, _ in find(text)] == [7]
    assert fill_text(text, lookup(a="x")) == r"{{a}} x \{{a}}"


def test_braces_round_a_placeholder_stay() -> None:
    assert fill_text("{{{a}}}", lookup(a="x")) == "{x}"


def test_a_value_is_filled_once_and_never_again() -> None:
    assert fill_text("{{a}}{{b}}", lookup(a="{{b}}", b="{{a}}")) == "{{b}}{{a}}"


@pytest.mark.parametrize("text", ["{{a.b[" * 100_000, "{{" + "a" * 600_000, "{{a" + ".b" * 300_000, "{{" * 300_000])
def test_a_hostile_text_is_read_in_linear_time(text: str) -> None:
    start = time.monotonic()

    assert find(text) == ()
    assert near_misses(text) == ()

    assert time.monotonic() - start < 2


@given(st.text(st.sampled_from("{}\\ab.[0] "), max_size=30))
def test_whatever_is_no_placeholder_survives_to_the_byte(text: str) -> None:
    filled = fill_text(text, lambda reference: f"{{{{{reference.text}}}}}")

    assert filled.replace("\\", "") == text.replace("\\", "")
    assert text.count("\\") - filled.count("\\") <= text.count("\\{{")


def test_blanks_in_the_braces_are_a_near_miss() -> None:
    text = r"{{ name }} {{a.b }} {{ json . }} {{name}} \{{ x }}"

    assert near_misses(text) == ("{{ name }}", "{{a.b }}")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "true"), (3, "3"), ("x", "x"), ([1, {"a": None}], '[1,{"a":null}]')],
)
def test_a_value_in_a_text_is_its_text(value: Json, text: str) -> None:
    assert fill_text("<{{a}}>", lookup(a=value)) == f"<{text}>"


def test_a_json_string_that_is_only_a_placeholder_takes_the_type_of_the_value() -> None:
    body: Json = {"{{a}}": ["{{a}}", "n={{a}}", r"\{{a}}", 1, None]}

    assert fill_value(body, lookup(a=[1, "x"])) == {"{{a}}": [[1, "x"], 'n=[1,"x"]', "{{a}}", 1, None]}


def test_steps_lead_into_a_value() -> None:
    reference = Reference("o.items[1].id", ("o", "items", 1, "id"))

    assert walk({"items": [{}, {"id": 7}]}, ("items", 1, "id"), reference) == 7


@pytest.mark.parametrize(
    ("value", "step", "said"),
    [
        ({"a": 1}, "id", "no field 'id'"),
        ([1], 1, "no item [1] in a list of 1"),
        ([1], "id", "a list has no field 'id'"),
        ({"a": 1}, 0, "a mapping has no item [0]"),
        (None, "id", "a null has no field 'id'"),
        ("text", 0, "a text has no item [0]"),
    ],
)
def test_a_step_that_leads_nowhere_is_named(value: Json, step: str | int, said: str) -> None:
    with pytest.raises(FillError) as raised:
        walk(value, (step,), Reference("o.x", ("o", "x")))

    assert "{{o.x}}" in raised.value.message
    assert said in raised.value.message


def test_a_value_in_a_url_is_percent_encoded_and_one_that_begins_it_is_not() -> None:
    filled = fill_url("{{base}}/{{id}}?q={{id}}", lookup(base="https://h:8/a?b", id="../é&x=1#"))

    assert filled == "https://h:8/a?b/..%2F%C3%A9%26x%3D1%23?q=..%2F%C3%A9%26x%3D1%23"


@pytest.mark.parametrize(
    "base",
    [*("file:///etc/passwd", "", "//h/", "http://", "javascript:x", "http://h/\nX", "http://[h/", "http://h:x/"), " "],
)
def test_a_url_that_is_not_http_with_a_host_is_refused_without_telling_the_value(base: str) -> None:
    with pytest.raises(FillError) as raised:
        fill_url("{{base}}", lookup(base=base))

    assert "{{base}}" in str(raised.value)
    assert len(base) < 2 or base not in raised.value.message


@pytest.mark.parametrize("value", ["a\r\nX: 1", "\n", "\0", "\x1b[0m", "\x85"])
def test_a_control_character_in_a_header_is_refused(value: str) -> None:
    with pytest.raises(FillError, match=r"\{\{a\}\}"):
        fill_header("Bearer {{a}}", lookup(a=value))


def test_a_header_is_filled() -> None:
    assert fill_header("Bearer {{a}}\tx", lookup(a="é")) == "Bearer é\tx"
