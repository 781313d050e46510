"""pydantic's errors in the words of our users.

In: the errors in one part of a definition and where that part stands. Out: `Problem`s. Called by
`core.draft`. Nothing of pydantic's own wording reaches a message, and no value longer than a line.
"""

import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic_core import ErrorDetails

from wizflowd.core.fields import (
    CREDENTIAL_PATTERN,
    ENV_PATTERN,
    FIELD_NAME_PATTERN,
    ID_PATTERN,
    LINE_PATTERN,
    NAME_PATTERN,
    FieldError,
    is_number,
    shown,
)
from wizflowd.core.flow_fields import WORKFLOW_PATTERN
from wizflowd.core.suggest import did_you_mean
from wizflowd.core.task import TASK_TYPES
from wizflowd.errors import Problem

Path = tuple[str | int, ...]

MAX_PROBLEMS = 500
"""Nobody reads more, and a hostile file could have a million."""

_LISTED = 8

_TYPES = {
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "dataclass_type": "a mapping",
    "tuple_type": "a list",
}
_MEANT = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
"""Texts by the boolean that their writer meant: words of YAML 1.1, and what stands in quotes."""
_PATTERNS = {
    ID_PATTERN: ("an id", "an id is 1 to 64 letters, digits, - and _, and begins with a letter or digit"),
    NAME_PATTERN: ("a name", "a name is 1 to 64 letters, digits, - and _, and begins with a letter or _"),
    ENV_PATTERN: ("a name of a variable", "it is 1 to 64 letters, digits and _, and begins with a letter or _"),
    FIELD_NAME_PATTERN: ("a name of a header", "write letters, digits and -, as in Content-Type"),
    CREDENTIAL_PATTERN: ("a name of a credential", "write letters, digits, -, _ and ."),
    WORKFLOW_PATTERN: ("an identity", "it is the path in the watched folder without the suffix, as in team/etl"),
}


def problems_of(details: Sequence[ErrorDetails], model: type, at: Path = (), owner: str = "") -> Iterator[Problem]:
    """Yield a problem for each error in `model`, whose mapping stands at `at`; `owner` needs what is missing there."""
    for detail in details[:MAX_PROBLEMS]:
        if detail["type"] == "too_short" and detail["input"]:  # its items are wrong, and are told
            continue
        yield _problem(detail, model, at, owner)


def _problem(detail: ErrorDetails, model: type, at: Path, owner: str) -> Problem:
    path, value = at + detail["loc"], detail["input"]
    match detail["type"]:
        case "missing":
            needed = f"{owner} needs it" if len(detail["loc"]) == 1 and owner else ""
            problem = Problem(path[:-1], f'missing field "{path[-1]}"', needed)
        case "unexpected_keyword_argument":
            problem = _unknown_field(path, model_at(model, detail["loc"][:-1]))
        case "value_error" if isinstance(wrong := detail["ctx"]["error"], FieldError):
            problem = Problem(path + wrong.below, wrong.what, wrong.hint)
        case "string_pattern_mismatch":
            problem = _mismatch(path, value, detail["ctx"]["pattern"])
        case "literal_error":
            choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
            meant = did_you_mean(value, choices) if isinstance(value, str) else ""
            problem = Problem(path, f"{shown(value)} is not one of {', '.join(map(shown, choices))}", meant)
        case "too_short":
            problem = Problem(path, "is empty", "name at least one")
        case kind if kind in _TYPES:
            problem = Problem(path, f"must be {_TYPES[kind]}, not {shown(value)}", _mend(kind, value))
        case _:
            problem = Problem(path, detail["msg"])
    return problem


def _mend(kind: str, value: object) -> str:
    if kind == "string_type" and is_number(value):
        return "put it in quotes"
    if kind == "bool_type" and isinstance(value, str) and (meant := _MEANT.get(value.lower())):
        return f"write {meant}"
    return "write it as a list: [...]" if kind == "tuple_type" and isinstance(value, str) else ""


def _mismatch(path: Path, value: str, pattern: str) -> Problem:
    at_key = path[-1] == "[key]"
    path = path[:-1] if at_key else path
    if pattern == LINE_PATTERN:
        return Problem(path, f"a control character in {shown(value)}", "it must be one line of printable text")
    noun, hint = _PATTERNS[pattern]
    return Problem(path, f"{shown(value)} is not {noun}", hint, at_key=at_key)


def _unknown_field(path: Path, model: type) -> Problem:
    key = str(path[-1])
    known, hint = field_names(model), ""
    if model in TASK_TYPES.values():
        owners = [kind for kind, other in TASK_TYPES.items() if key in field_names(other)]
        hint = f"only {' and '.join(owners)} tasks have it" if owners else ""
    hint = hint or did_you_mean(key, known) or (f"there are {', '.join(known)}" if len(known) <= _LISTED else "")
    return Problem(path, "unknown field", hint, at_key=True)


def field_names(model: type) -> list[str]:
    """Return the fields of a model as they are written in a file."""
    described = model.__pydantic_fields__  # type: ignore[attr-defined]
    return [described[field.name].alias or field.name for field in fields(model)]


def model_at(model: type, path: Path) -> type:
    """Return the model of the mapping to which `path` leads from the mapping of `model`."""
    for step in path:
        described = model.__pydantic_fields__.get(step)  # type: ignore[attr-defined]
        inner = next(_models_in(described.annotation), None) if described else None
        model = inner or model
    return model


def _models_in(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and is_dataclass(annotation):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)
