"""Habits from YAML 1.1 that mean something else in YAML 1.2: `yes` is text, 0755 a number of three digits, `<<` a key.

In: the bytes of a definition that was loaded, and its value. Out: warnings as problems, for `core.compile`. Where only
text can stand (`env`, `command`), what is written is what is meant, and only a lost zero is told.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml
from yaml.events import CollectionEndEvent, CollectionStartEvent, MappingStartEvent, NodeEvent, ScalarEvent

from wizflowd.core.places import shown
from wizflowd.core.values import Json
from wizflowd.errors import Problem

Path = tuple[str | int, ...]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_LOST_ZERO = re.compile(r"[-+]?0[0-9]+")
_GROUPED = re.compile(r"[-+]?[1-9][0-9]*(?:_[0-9]+)+")
_BASE_60 = re.compile(r"[-+]?[0-9]+(?::[0-5]?[0-9])+")
_LIKELY = re.compile(rb"(?i)(?<![\w.\"'-])(?:yes|no|on|off|0[0-9]+|[0-9]+[:_][0-9]+|<<)(?![\w.])")
_VALUES = frozenset(("body", "params", "matrix", "for_each"))
"""Fields of a task that hold values of any type."""


def yaml_habits(data: bytes, value: Json) -> Iterator[Problem]:
    """Yield a warning for each plain scalar that YAML 1.1 reads otherwise where that matters."""
    if not _LIKELY.search(data):
        return
    for path, event in _scalars(data):
        if event is None:
            hint = "anchors can be used, merging cannot: write the fields out"
            yield Problem(path, "<< is a key like any other", hint, at_key=True)
        elif problem := _habit(path, event.value, value):
            yield problem


def _habit(path: Path, text: str, root: Json) -> Problem | None:
    if _LOST_ZERO.fullmatch(text):
        return Problem(
            path, f"{shown(text)} is the number {int(text)}", f'write {int(text)}, or "{shown(text)}" for text'
        )
    if not _holds_values(path, root):
        return None
    if word := _WORDS.get(text.lower()):
        if _is_one_of_many(path, root):
            return None
        return Problem(path, f"{text} is text", f'write {word}, or "{text}"')
    if _GROUPED.fullmatch(text):
        return Problem(path, f"{shown(text)} is text", f"write {shown(text.replace('_', ''))} if it is a number")
    if _BASE_60.fullmatch(text):
        return Problem(path, f"{shown(text)} is text", f'write "{shown(text)}", or a number')
    return None


def _holds_values(path: Path, root: Json) -> bool:
    """Return whether a value of any type can stand at `path`: elsewhere a wrong type is an error, or all is text."""
    if path[0] == "params":
        return path[2:3] in ((), ("default",), ("enum",)) and _at(root, (*path[:2], "type")) != "string"
    return path[0] in ("tasks", "finally") and len(path) > 2 and path[2] in _VALUES


def _is_one_of_many(path: Path, root: Json) -> bool:
    """Return whether a word stands in a list with others that are no such words, as NO does between country codes."""
    siblings = _at(root, path[:-1])
    return isinstance(siblings, list) and any(str(sibling).lower() not in _WORDS for sibling in siblings)


def _at(value: Json, path: Path) -> Json:
    for step in path:
        match value, step:
            case dict(), str():
                value = value.get(step)
            case list(), int():
                value = value[step]
            case _:
                return None
    return value


@dataclass(slots=True)
class _Open:
    """A container under way; `step` leads to the child that comes next (None: a key comes first)."""

    is_mapping: bool
    step: str | int | None

    def pass_on(self) -> None:
        self.step = self.step + 1 if isinstance(self.step, int) else None


def _scalars(data: bytes) -> Iterator[tuple[Path, ScalarEvent | None]]:
    """Yield each plain scalar that is a value with its path; None stands for a plain key `<<`."""
    way = [_Open(is_mapping=False, step=0)]
    for event in yaml.parse(data, Loader=_LOADER):
        here = way[-1]
        if isinstance(event, CollectionEndEvent):
            way.pop()
            way[-1].pass_on()
        elif isinstance(event, CollectionStartEvent):
            is_mapping = isinstance(event, MappingStartEvent)
            way.append(_Open(is_mapping, None if is_mapping else 0))
        elif isinstance(event, ScalarEvent) and here.step is None:
            here.step = event.value
            if event.value == "<<" and not event.style:
                yield _path(way), None
        elif isinstance(event, NodeEvent):
            if isinstance(event, ScalarEvent) and not event.style:
                yield _path(way), event
            here.pass_on()


def _path(way: list[_Open]) -> Path:
    return tuple(each.step for each in way[1:] if each.step is not None)
