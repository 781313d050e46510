"""Bytes of a definition -> plain values, within limits and without surprises; and places for the problems found later.

`load` is called by whoever reads a definition; `Document.locate` when its meaning turns out to be wrong.
"""

import gc
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath

from wizflowd.core import json_tree, yaml_tree
from wizflowd.core.load_limits import LoadLimits
from wizflowd.core.places import place_of, placed, problem_at, wanted
from wizflowd.core.values import Json
from wizflowd.errors import DefinitionError, LocatedProblem, Problem

__all__ = ["Document", "LoadLimits", "Syntax", "load", "syntax_of"]

_MARK = b"\xef\xbb\xbf"  # a byte order mark says nothing in UTF-8, and some editors write it
_SUFFIXES = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_NOT_IN_YAML = re.compile(
    "[\u2028\u2029\ufeff\ufffe\uffff]"
)  # libyaml takes the first two for line ends, YAML 1.2 does not
_CONTROL_BYTES = bytes({*range(0x20), 0x7F} - set(b"\t\n\r"))
_FORMATS = (
    (b"\x1f\x8b", "compressed (gzip)", "unpack it first"),
    (b"PK\x03\x04", "an archive (zip)", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", "unpack it first"),
    (b"BZh91AY", "compressed (bzip2)", "unpack it first"),
    (b"\xfd7zXZ", "compressed (xz)", "unpack it first"),
    (b"\x7fELF", "a program", "a definition is text"),
    (b"\x89PNG", "a picture", "a definition is text"),
    (b"\xff\xfe", "UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16", "save it as UTF-8"),
)


class Syntax(StrEnum):
    """The language that a definition is written in."""

    JSON = "json"
    YAML = "yaml"


def syntax_of(path: str) -> Syntax:
    """Return the syntax that the suffix of `path` stands for, in any letter case; ValueError for any other suffix."""
    return Syntax(_SUFFIXES.get(PurePosixPath(path).suffix.lower(), path))


@dataclass(frozen=True, slots=True)
class Document:
    """A loaded definition: `value` as plain values (to be read only: aliases share objects), `data` as it was read."""

    value: Json
    data: bytes = field(repr=False)
    syntax: Syntax

    def locate(self, problems: Iterable[Problem]) -> tuple[LocatedProblem, ...]:
        """Return the problems with line and column, in the order of the file.

        A path that leads nowhere (a missing field) gets the place of its deepest part that exists.
        """
        problems = tuple(problems)
        root = wanted(problem.path for problem in problems)
        data = self.data.removeprefix(_MARK)
        if self.syntax is Syntax.JSON:
            json_tree.mark_places(data.decode(), root)
        else:
            yaml_tree.mark_places(data, data.decode(), root)
        return placed(problems, root)


def load(data: bytes, syntax: Syntax, limits: LoadLimits = LoadLimits()) -> Document:  # noqa: B008 (frozen)
    """Return the values of a definition; raise DefinitionError with all that makes it unreadable or too large."""
    if len(data) > limits.bytes:
        raise DefinitionError((limits.too_large(len(data)),))
    bare = data.removeprefix(_MARK)
    text = _decode(bare)
    _check_characters(bare, text, syntax)
    tree = json_tree if syntax is Syntax.JSON else yaml_tree
    with _no_garbage_collection():
        value = tree.parse(bare, text, limits)
    return Document(value, data, syntax)


def _decode(data: bytes) -> str:
    for magic, what, hint in _FORMATS:
        if data.startswith(magic):
            raise DefinitionError((problem_at(None, f"the file is {what}, not text in UTF-8", hint),))
    if b"\0" in data[:2] or (b"\0" in data[:4] and data.count(b"\0") > len(data) // 4):
        raise DefinitionError((problem_at(None, "the file is UTF-16 or UTF-32, not UTF-8", "save it as UTF-8"),))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        place = place_of(before, len(before))
        what = f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8 ({error.reason})"
        raise DefinitionError((problem_at(place, what, "save the file as UTF-8"),)) from error


def _check_characters(data: bytes, text: str, syntax: Syntax) -> None:
    """Refuse raw control characters anywhere, and what parsers of YAML do not agree about."""
    found = None
    if b"\xc2" in data or len(data.translate(None, _CONTROL_BYTES)) != len(data):
        found = _CONTROL.search(text)
    if not found and syntax is Syntax.YAML and not data.isascii():
        found = _NOT_IN_YAML.search(text)
    if found:
        code = ord(found[0])
        hint = f'take it out, or write "\\u{code:04x}" in double quotes' if code else "take it out"
        raise DefinitionError((problem_at(place_of(text, found.start()), f"the control character U+{code:04X}", hint),))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Spare the collector the walk over a growing tree, which takes longer than the loading."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
