"""JSON text -> plain values within the limits, or what is wrong with it and where. Called by the loader only.

The values come from the C parser of the standard library; what it lets pass (duplicate keys, NaN, 1e999, unpaired
surrogates, depth up to its stack) is checked around it. Places are looked for only when there is a problem.
"""

import json
import math
import re
from collections.abc import Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import NoReturn

from wizflowd.core.json_mistakes import mistake_of
from wizflowd.core.load_limits import LONGEST_NUMBER, TASK_LISTS, LoadLimits, beyond
from wizflowd.core.places import Place, Step, Wanted, path_text, place_of, places_of, problem_at, shown, wanted
from wizflowd.core.values import Json
from wizflowd.errors import DefinitionError, LocatedProblem

_MOST_PROBLEMS = 50

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_BLANKS = b" \t\r\n"

_NOT_BLANK = re.compile(r"[^ \t\r\n]")
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u0000)|(u[dD][89a-fA-F]..)|.)", re.DOTALL)
_STRING = r'"(?:[^"\\]++|\\.?)*+"?'  # never fails and never goes back: an unclosed one reaches to the end
_TOKEN = re.compile(rf"({_STRING})([ \t\r\n]*:)?|[{{}}\[\],]", re.DOTALL)
_NUMBER = re.compile(rf"{_STRING}|(-?[0-9][0-9.eE+-]*|NaN|-?Infinity)", re.DOTALL)


class _DuplicateKeyError(ValueError):
    """Two keys of one mapping are equal."""


class _BadNumberError(ValueError):
    """A number that cannot be kept: NaN, infinite, or of very many digits."""


def parse(data: bytes, text: str, limits: LoadLimits) -> Json:
    """Return the value of `text`, which is `data` in UTF-8; raise DefinitionError."""
    if not _NOT_BLANK.search(text):
        _refuse(problem_at(None, "the file is empty", "a definition is a mapping with at least `tasks`"))
    _check_shape(data, text, limits)
    try:
        value: Json = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        offset, what, hint = mistake_of(text, error)
        raise DefinitionError((problem_at(place_of(text, offset), what, hint),)) from error
    except _DuplicateKeyError as error:
        raise DefinitionError(tuple(_duplicates(text))) from error
    except _BadNumberError as error:
        raise DefinitionError((_bad_number(text),)) from error
    except RecursionError as error:
        raise DefinitionError((limits.too_deep(None),)) from error
    if b"\\u0000" in data or b"\\ud" in data or b"\\uD" in data:
        _check_escapes(text)
    _check_tasks(value, text, limits)
    return value


def _refuse(problem: LocatedProblem) -> NoReturn:
    raise DefinitionError((problem,))


def _mapping(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise _DuplicateKeyError
    return mapping


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise _BadNumberError
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if len(digits) > LONGEST_NUMBER or math.isinf(number):
        raise _BadNumberError
    return number


def _constant(name: str) -> NoReturn:
    raise _BadNumberError(name)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_mapping, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
_SKIP = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def _check_shape(data: bytes, text: str, limits: LoadLimits) -> None:
    """Refuse too much depth and too many values before anything is built, by deleting and counting bytes in C."""
    brackets = _without_strings(data, _ALL_BUT_BRACKETS)
    opened = brackets.count(b"[")
    if beyond(brackets, limits.depth) and (deeper := _first_deeper(text, limits.depth)):
        _refuse(limits.too_deep(deeper))
    if 1 + opened + data.count(b",") > limits.nodes and _count_values(data) > limits.nodes:
        _refuse(limits.too_many_nodes(None))


def _without_strings(data: bytes, delete: bytes) -> bytes:
    """Return `data` without its strings and the bytes of `delete` (which spares the quotes); `{}` become `[]`."""
    bare = _without_escapes(data).translate(_BRACKETS, delete).replace(b'""', b"")
    return b"".join(bare.split(b'"')[::2])


def _without_escapes(data: bytes) -> bytes:
    """Return `data` without what keeps a quote from being the end of a string."""
    return data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data


def _count_values(data: bytes) -> int:
    """Return the number of values: one, and one for each comma and each container that is not empty."""
    flat = re.sub(rb'"[^"]*"', b"0", _without_escapes(data).translate(_BRACKETS, _BLANKS))
    return 1 + flat.count(b",") + flat.count(b"[") - flat.count(b"[]")


def _first_deeper(text: str, depth: int) -> Place | None:
    """Return where the first container deeper than `depth` opens."""
    level = 0
    for token in _TOKEN.finditer(text):
        level += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if level > depth:
            return place_of(text, token.start())
    return None


def _check_escapes(text: str) -> None:
    """Refuse NUL and unpaired surrogates, which JSON can escape and no program, file or socket can take."""
    for escape in _ESCAPE.finditer(text):
        if escape[1]:
            what, hint = "a NUL character in a text", "take \\u0000 out: no command, header or file can hold it"
            _refuse(problem_at(place_of(text, escape.start()), what, hint))
        if escape[2]:
            what = f"\\{escape[2]} is half a character (an unpaired surrogate)"
            hint = "write the character itself, or both halves"
            _refuse(problem_at(place_of(text, escape.start()), what, hint))


def _check_tasks(value: Json, text: str, limits: LoadLimits) -> None:
    for name in TASK_LISTS:
        tasks = value.get(name) if isinstance(value, dict) else None
        if isinstance(tasks, list) and len(tasks) > limits.tasks:
            root = wanted([(name,)])
            mark_places(text, root)
            _refuse(limits.too_many_tasks(root.steps[name].key, name))


def _bad_number(text: str) -> LocatedProblem:
    """Return the problem of the first number that is not one of JSON or cannot be kept."""
    for token in _NUMBER.finditer(text):
        digits = token[1]
        if digits is None:
            continue
        place = place_of(text, token.start())
        if digits[-1] in "Ny":
            return problem_at(place, f"{digits} is not a JSON value", "write a number, null, or a text in quotes")
        if len(digits) > LONGEST_NUMBER:
            what = f"a number of {len(digits)} characters, allowed are {LONGEST_NUMBER}"
            return problem_at(place, what, "put a text in quotes")
        if math.isinf(float(digits)):
            return problem_at(place, f"the number {shown(digits)} is too large", "at most about 1.8e308")
    return problem_at(None, "a number that cannot be kept", "at most about 1.8e308")


def _duplicates(text: str) -> Iterator[LocatedProblem]:
    """Yield the first duplicate keys, in the order of the file, each with where it stands the first time."""
    found: list[tuple[int, int, str]] = []
    seen: list[dict[str, int]] = []
    steps: list[Step] = []
    for token in _TOKEN.finditer(text):
        if token[0] in "{[":
            seen.append({})
            steps.append(0)
        elif not seen:
            break  # behind the first duplicate it may not be JSON
        elif token[0] in "}]":
            seen.pop()
            steps.pop()
        elif token[0] == ",":
            steps[-1] = steps[-1] + 1 if isinstance(steps[-1], int) else steps[-1]
        elif token[2]:
            steps[-1] = key = _unescaped(token[1])
            first = seen[-1].setdefault(key, token.start())
            if first != token.start():
                found.append((token.start(), first, path_text(tuple(steps))))
        if len(found) == _MOST_PROBLEMS:
            break
    places = places_of(text, {offset for at, first, _ in found for offset in (at, first)})
    for at, first, where in found:
        hint = f"the same key stands at line {places[first].line}, keep one of them"
        yield problem_at(places[at], "duplicate key", hint, where=where)


def _unescaped(string: str) -> str:
    try:
        return str(scanstring(string, 1)[0])
    except json.JSONDecodeError:
        return string


def mark_places(text: str, root: Wanted) -> None:
    """Fill in the places of the wanted paths in `text`, which `parse` has accepted."""
    marks: list[tuple[int, int, Wanted]] = []
    start = _next(text, 0)
    pending = [(start, start, root)]
    while pending:
        key_at, value_at, node = pending.pop()
        marks.append((key_at, value_at, node))
        missing = len(node.steps)
        for step, child_key_at, child_at in _children(text, value_at) if missing else ():
            child = node.steps.get(step)
            if child is not None:
                pending.append((child_key_at, child_at, child))
                missing -= 1
                if not missing:
                    break
    places = places_of(text, {offset for key_at, value_at, _ in marks for offset in (key_at, value_at)})
    for key_at, value_at, node in marks:
        node.key, node.value = places[key_at], places[value_at]


def _children(text: str, offset: int) -> Iterator[tuple[Step, int, int]]:
    """Yield step, offset of the key (in a list: of the value) and offset of the value of each child."""
    is_mapping = text[offset] == "{"
    if not is_mapping and text[offset] != "[":
        return
    count = 0
    offset = _next(text, offset + 1)
    while text[offset] not in "]}":
        step: Step = count
        key_at = value_at = offset
        if is_mapping:
            step, key_end = scanstring(text, offset + 1)
            value_at = _next(text, _next(text, key_end) + 1)
        yield step, key_at, value_at
        offset = _next(text, _SKIP(text, value_at)[1])
        if text[offset] == ",":
            offset = _next(text, offset + 1)
        count += 1


def _next(text: str, offset: int) -> int:
    """Return the offset of the next character that is not blank."""
    found = _NOT_BLANK.search(text, offset)
    return found.start() if found else len(text)
