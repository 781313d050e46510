"""Definitions as text for people: YAML in the order of SPEC section 1, with what was left out as comments on top."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from wizflowd.core.compile import compile_definition
from wizflowd.core.loader import Syntax
from wizflowd.core.placeholders import find
from wizflowd.core.yaml_scalars import BadScalarError, resolve
from wizflowd.errors import DefinitionError, WizflowError, printable

_ID_MAX = 64
_MOST_REPAIRS = 100
_DISPENSABLE = frozenset({"name", "env", "retry", "timeout", "shell", "stdin", "outputs", "when", "depends_on", "from"})


@dataclass(frozen=True, slots=True)
class Imported:
    """Definitions by file name, and one line for each thing that could not be carried over."""

    files: Mapping[str, str]
    left_out: tuple[str, ...]


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and in quotes what YAML 1.2 takes for a number, unlike 1.1: `08`."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None if _is_text(text) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _is_text(plain: str) -> bool:
    """Return whether a text without quotes is read as it is."""
    try:
        return resolve(plain) == plain
    except BadScalarError:
        return False


_Dumper.add_representer(str, _text)


def write_definition(definition: Mapping[str, Any], left_out: Sequence[str]) -> str:
    """Return the text of a definition; empty fields are left away."""
    kept = {name: value for name, value in definition.items() if value not in (None, {}, [], "")}
    comments = "".join(f"# left out: {printable(line)}\n" for line in left_out)
    return comments + yaml.dump(kept, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def make_valid(definition: dict[str, Any], left_out: list[str]) -> dict[str, Any]:
    """Return a definition that is accepted: what is refused of it is left out and told, field by field."""
    for _ in range(_MOST_REPAIRS):
        try:
            compile_definition(write_definition(definition, ()).encode(), Syntax.YAML, stem="imported")
        except DefinitionError as error:
            problem = error.problems[0]
            left_out.append(f"{problem.where}: {problem.what}")
            definition = _without(definition, problem.where)
        else:
            return definition
    raise WizflowError("cannot import the file: too little of it can be said in a workflow")


def _without(definition: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a definition without the field at a path; a task that cannot be without it fails until it is rewritten."""
    found = re.match(r"(tasks|finally)\[(\d+)\](?:\.(\w+))?", where)
    if found is None:
        name = re.split(r"[.\[]", where, maxsplit=1)[0]
        return {key: value for key, value in definition.items() if key != name}
    key, index, name = found[1], int(found[2]), found[3]
    tasks = list(definition[key])
    if name in _DISPENSABLE:
        tasks[index] = {field: value for field, value in tasks[index].items() if field != name}
    else:
        kept = {field: tasks[index][field] for field in ("id", "depends_on") if field in tasks[index]}
        tasks[index] = {**kept, "type": "SHELL", "command": "echo 'rewrite this task' >&2\nexit 1\n"}
    return {**definition, key: tasks}


def identifier(text: str, taken: Mapping[str, Any] | set[str], fallback: str = "task") -> str:
    """Return an id made of a text, unlike those that are taken."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[: _ID_MAX - 5] or fallback
    plain = plain if plain[0].isalnum() else f"{fallback}_{plain}"
    found, number = plain, 2
    while found in taken:
        found, number = f"{plain}_{number}", number + 1
    return found


def literal(text: str) -> str:
    """Return a text in which nothing is taken for a placeholder."""
    for offset, _ in reversed(find(text)):
        text = f"{text[:offset]}\\{text[offset:]}"
    return text
