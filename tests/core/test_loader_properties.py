"""The loader against generated values and bytes."""

import contextlib
import json
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from wizflowd.core.loader import Document, LoadLimits, Syntax, load
from wizflowd.core.values import Json
from wizflowd.core.yaml_bounds import least_tasks, least_values
from wizflowd.errors import DefinitionError, Problem

# what can stand in a file: no control characters, no surrogates, and nothing that libyaml takes for a line end
TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\u2028\u2029\ufeff\ufffe\uffff"), max_size=20
)
LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=20
)
DEFINITIONS = st.dictionaries(TEXT, VALUES, min_size=1, max_size=5)
INDENTS = st.sampled_from([None, 0, 1, 2])


def paths(value: Json, path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Json]]:
    """Return every path of a value with what it leads to."""
    steps: list[tuple[str | int, Json]] = []
    if isinstance(value, dict):
        steps = list(value.items())
    elif isinstance(value, list):
        steps = list(enumerate(value))
    return [(path, value), *(found for step, child in steps for found in paths(child, (*path, step)))]


def token_at(document: Document, path: tuple[str | int, ...], *, at_key: bool) -> str:
    """Return the text of the file from where a problem at `path` is located."""
    (located,) = document.locate([Problem(path, "x", at_key=at_key)])
    lines = re.split("(?<=\n)", document.data.decode())
    return "".join(lines[located.line - 1 :])[located.column - 1 :]


@given(value=DEFINITIONS, ascii_only=st.booleans(), indent=INDENTS)
def test_json_comes_back_as_it_was(value: dict[str, Json], ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    assert repr(load(text.encode(), Syntax.JSON).value) == repr(value)


@given(value=DEFINITIONS, indent=INDENTS)
def test_json_means_the_same_as_yaml(value: dict[str, Json], indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)

    assert repr(load(text.encode(), Syntax.YAML).value) == repr(value)


@given(value=DEFINITIONS, syntax=st.sampled_from(Syntax), indent=INDENTS)
@settings(max_examples=50)
def test_every_path_is_located_at_its_token(value: dict[str, Json], syntax: Syntax, indent: int | None) -> None:
    document = load(json.dumps(value, ensure_ascii=False, indent=indent).encode(), syntax)

    for path, child in paths(value):
        text = token_at(document, path, at_key=False)
        assert text.startswith(json.dumps(child, ensure_ascii=False, indent=indent)[:1])
        if not isinstance(child, list | dict):
            assert text.startswith(json.dumps(child, ensure_ascii=False))
        if path and isinstance(path[-1], str):
            assert token_at(document, path, at_key=True).startswith(json.dumps(path[-1], ensure_ascii=False))


@given(value=DEFINITIONS, syntax=st.sampled_from(Syntax))
@settings(max_examples=50)
def test_a_path_that_leads_nowhere_is_located_at_its_parent(value: dict[str, Json], syntax: Syntax) -> None:
    document = load(json.dumps(value, ensure_ascii=False).encode(), syntax)

    for path, child in paths(value):
        if isinstance(child, dict):
            nowhere = token_at(document, (*path, "\0", 3), at_key=True)
            assert nowhere == token_at(document, path, at_key=False)


FRAGMENTS = st.sampled_from(
    [
        *"{}[],:\"'\\-\n \t\r|>a1.%@é\u2028\0",
        ": ",
        "\\u",
        "d83d",
        "0000",
        "- ",
        "0x",
        "e9",
        "&a",
        "*a",
        "!t ",
        "<<",
        "? ",
        "#",
        "---\n",
        "...\n",
        "NaN",
    ]
)


@given(text=st.lists(FRAGMENTS, max_size=40).map("".join) | st.text(), syntax=st.sampled_from(Syntax))
@settings(max_examples=500)
def test_any_text_is_loaded_or_refused_with_printable_lines(text: str, syntax: Syntax) -> None:
    try:
        document = load(text.encode("utf-8", "replace"), syntax)
    except DefinitionError as error:
        lines = error.lines("F")
    else:
        problems = [Problem(path, "x", at_key=True) for path, _ in paths(document.value)]
        lines = tuple(located.render("F") for located in document.locate(problems))
        json.dumps(document.value, allow_nan=False).encode()

    assert lines
    assert all(line.isprintable() for line in lines)


@given(text=st.lists(FRAGMENTS, max_size=40).map("".join))
@settings(max_examples=500)
def test_there_are_never_fewer_values_than_the_bound_says(text: str) -> None:
    try:
        document = load(text.encode(), Syntax.YAML)
    except DefinitionError:
        return

    assert least_values(document.data, LoadLimits()) <= len(paths(document.value))


@given(data=st.binary(), syntax=st.sampled_from(Syntax))
def test_any_bytes_are_loaded_or_refused(data: bytes, syntax: Syntax) -> None:
    with contextlib.suppress(DefinitionError):
        load(data, syntax)


@given(value=DEFINITIONS, cut=st.integers(min_value=1))
def test_a_json_file_cut_short_is_refused(value: dict[str, Json], cut: int) -> None:
    data = json.dumps(value).encode()

    with pytest.raises(DefinitionError):
        load(data[: cut % len(data)], Syntax.JSON)


@given(
    tasks=st.lists(st.dictionaries(TEXT, LEAF, min_size=1, max_size=3) | TEXT, min_size=1, max_size=5),
    style=st.sampled_from([None, "|", ">", "'", '"']),
    indent=st.integers(min_value=2, max_value=6),
)
def test_what_is_taken_for_a_task_at_a_glance_is_one(tasks: list[Json], style: str | None, indent: int) -> None:
    texts = {"description": "- a\n- b\n\n- c: d\n", "tasks": tasks, "zone": ["- x\n- y", "z"]}
    text = yaml.safe_dump(texts, default_style=style, indent=indent, allow_unicode=True, sort_keys=False)

    assert least_tasks(text.encode().replace(b'"tasks"', b"tasks"))[0] <= len(tasks)
