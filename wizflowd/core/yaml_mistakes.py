"""What a person did who wrote text that is not YAML, from where the parser stopped. Called by the YAML tree only."""

import re
from typing import NamedTuple

import yaml

from wizflowd.core.places import Place, place_of, shown

_CONFLICT = re.compile(r"^[ \t]*(?:<{7}|>{7})(?: |$)", re.MULTILINE)
_QUOTE_IT = 'put the text in quotes: "..."'
_INDENT = "give the lines of one mapping or list the same indentation, in spaces"
_BY_PROBLEM = (
    ("mapping values are not allowed", 'a second ": " where a text or a new line was expected', _QUOTE_IT),
    ("could not find expected ':'", "a key without a colon", "write `key: value`; the file may be cut"),
    ("did not find expected key", "this line does not fit the lines above", _INDENT),
    ("did not find expected '-' indicator", "this line does not fit the list above", _INDENT),
    ("did not find expected ',' or ']'", "a list in [ ] is not closed or lacks a comma", "write [a, b]"),
    ("did not find expected ',' or '}'", "a mapping in { } is not closed or lacks a comma", "write {a: 1, b: 2}"),
    ("did not find expected node content", "a value is missing", _QUOTE_IT),
    ("block sequence entries are not allowed", "a list item cannot stand here", "begin it on a line of its own"),
    ("did not find expected <document start>", "text after the end of the definition", "take it out, or indent it"),
    ("tag", "a tag that cannot be read", "tags are not allowed: take it out, or quote a text that begins with !"),
    ("unknown escape", "an escape that YAML does not have", r"write \\ for a backslash, or use single quotes"),
    ("Unicode character escape", "an escape that is not a character", "write the character itself"),
    ("directive", "a directive that cannot be read", "quote a text that begins with %"),
    ("YAML document", "another version of YAML", "take the %YAML line out"),
    ("anchor", "an anchor or alias that cannot be read", "quote a text that begins with & or *"),
    ("alias", "an anchor or alias that cannot be read", "quote a text that begins with & or *"),
    ("block scalar", "a block text that cannot be read", "write | or > alone, and the text indented below it"),
)


class Mistake(NamedTuple):
    """Where a person should look, what is wrong there and what would be right."""

    place: Place | None
    what: str
    hint: str


def place_of_error(error: yaml.YAMLError) -> Place | None:
    """Return where the parser stopped."""
    mark = getattr(error, "problem_mark", None)
    return None if mark is None else Place(mark.line + 1, mark.column + 1)


def mistake_of(text: str, error: yaml.YAMLError) -> Mistake:
    """Return what is wrong with `text`, given the error of PyYAML."""
    if conflict := _CONFLICT.search(text):
        return Mistake(
            place_of(text, conflict.start()), "a merge conflict is left in the file", "keep one of the two versions"
        )
    place = place_of_error(error)
    problem = str(getattr(error, "problem", None) or error)
    context = str(getattr(error, "context", None) or "")
    if place is None:
        return Mistake(None, f"not YAML: {shown(problem, 200)}", "")
    offset = error.problem_mark.index  # type: ignore[attr-defined]
    line = text[text.rfind("\n", 0, offset) + 1 : offset + 1]
    if "\t" in line[: len(line) - len(line.lstrip())] or ("cannot start" in problem and line.endswith("\t")):
        return Mistake(place, "a tab where only spaces may stand", "indent with spaces")
    if "could not find expected ':'" in problem and (start := getattr(error, "context_mark", None)):
        place = Place(start.line + 1, start.column + 1)
    if "unexpected end of stream" in problem and (start := getattr(error, "context_mark", None)):
        what = "a text in quotes that is not closed"
        return Mistake(Place(start.line + 1, start.column + 1), what, "put the closing quote; the file may be cut")
    if "cannot start" in problem:
        return Mistake(place, f"a plain text cannot begin with {shown(text[offset : offset + 1])}", _QUOTE_IT)
    for words, what, hint in _BY_PROBLEM:
        if words in problem or words in context:
            return Mistake(place, what, hint)
    return Mistake(place, f"not YAML: {shown(problem, 200)}", _QUOTE_IT)
