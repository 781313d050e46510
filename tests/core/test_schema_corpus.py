"""The JSON Schema and the program say the same: of every good definition, and of the mistakes that a schema can see."""

import csv
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from wizflowd.core.loader import load, syntax_of
from wizflowd.core.schema import definition_schema
from wizflowd.core.values import Json
from wizflowd.errors import DefinitionError

CORPUS = Path(__file__).parent.parent / "corpus"
LARGEST = 100_000
BEYOND = frozenset(("E_CYCLE", "E_DEP", "E_TEMPLATE", "E_CEL", "R_INJECT"))
"""Kinds of mistakes that are no matter of single values."""
UNSEEN = frozenset(
    (
        *("finally_dup_id", "id_newline_end"),
        *("schedule_reversed", "schedule_step_zero", "schedule_timezone", "schedule_timezone_path"),
    )
)
"""Cases that only the program sees."""


def cases(verdict: str) -> list[Any]:
    """Return path, kind of mistake and value of the cases that can be loaded."""
    found = []
    with (CORPUS / "index.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for name, said, _, _, kind, *_ in rows:
        path = CORPUS / name
        if said != verdict or path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            continue
        try:
            value = load(path.read_bytes(), syntax_of(path.name)).value
        except DefinitionError:
            continue
        found.append(pytest.param(path, kind, value, id=name))
    return found


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = definition_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize(("path", "kind", "value"), cases("accept"))
def test_a_good_definition_fits_the_schema(validator: Draft202012Validator, path: Path, kind: str, value: Json) -> None:
    assert [error.message for error in validator.iter_errors(value)] == []


@pytest.mark.parametrize(
    ("path", "kind", "value"),
    [case for case in cases("reject") if BEYOND.isdisjoint(case.values[1].split("|"))],
)
def test_a_wrong_value_does_not_fit_the_schema(
    validator: Draft202012Validator, path: Path, kind: str, value: Json
) -> None:
    assert validator.is_valid(value) == (path.stem in UNSEEN)


def test_the_corpus_is_looked_at() -> None:
    assert len(cases("accept")) > 60
    assert len(cases("reject")) > 150


def test_every_field_has_a_description() -> None:
    schema: Any = definition_schema()
    models = {"Definition": schema, **schema["$defs"]}

    bare = [
        f"{name}.{field}"
        for name, model in models.items()
        for field, described in model.get("properties", {}).items()
        if not described.get("description")
    ]

    assert bare == []
