"""`when`: a CEL expression over the names that placeholders have, checked at plan time, evaluated in bounded time.

In: the text of a condition. Out: a `Condition` with the references it makes, and, given their values, true or false.
The expression is parsed and evaluated by the `cel` library (Rust); what could exhaust its stack or its time is refused
here first. Pure.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from wizflowd.core.placeholders import Reference
from wizflowd.core.values import Json, text_of
from wizflowd.errors import FillError, WizflowError

MAX_LENGTH = 4096
"""A longer chain of operators could exhaust the stack of the parser (measured: 20,000 additions do, 2,000 do not)."""
MAX_STEPS = 3_000_000
"""How many times the innermost part of nested macros may be evaluated: about a second."""
MAX_COPIES = 30_000_000
"""How many values may be looked at or copied inside macros: about two seconds."""
_SHOWN = 200
_PLAINER = "make it plainer"
_MACROS = "all|exists|exists_one|map|filter"
_STRING = re.compile(r"""[rRbB]{0,2}(?:'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")""", re.DOTALL)
_BOUND = re.compile(rf"\.\s*(?:{_MACROS})\s*\(\s*([A-Za-z_]\w*)\s*,")
_PATH = re.compile(r"(?<![\w.\])])([A-Za-z_]\w*)((?:\s*\.\s*[A-Za-z_]\w*+(?!\s*\()|\s*\[\s*(?:\d+|\x00\d+\x00)\s*\])*)")
_STEP = re.compile(r"\.\s*([A-Za-z_]\w*)|\[\s*(?:(\d+)|\x00(\d+)\x00)\s*\]")
_CALL = re.compile(r"\s*\(")
_WORDS = frozenset(
    {"true", "false", "null", "in", "int", "uint", "double", "bool", "string", "bytes", "list", "map", "type"}
)


class ConditionError(WizflowError):
    """A condition cannot be read, or has no answer."""


class Condition(Struct, frozen=True):
    """A checked expression and the references that it makes, each once."""

    text: str
    references: tuple[Reference, ...]


def read_condition(text: str) -> Condition:
    """Return a condition. Raises ConditionError that says what is wrong with it."""
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"the condition has {len(text)} characters", hint=f"at most {MAX_LENGTH} are read")
    _compile(text)
    return Condition(text, tuple(dict.fromkeys(_references(text))))


@functools.lru_cache(maxsize=256)
def _compile(text: str) -> Any:
    import cel  # 40 ms: paid by definitions with conditions

    try:
        return cel.compile(text)
    except ValueError as exc:
        if "Recursion limit" in str(exc):
            raise ConditionError("not a CEL expression that can be read: it is nested too deep", hint=_PLAINER) from exc
        found = re.search(r"ERROR: <input>:\d+:(\d+): (?:Syntax error: )?([^\n]*)", str(exc))
        what = f"at character {found[1]}: {found[2]}" if found else "it is no expression"
        raise ConditionError(
            f"not a CEL expression: {what[:_SHOWN]}", hint="as in tasks.fetch.outputs.items.size() > 0"
        ) from exc


def _references(text: str) -> Iterator[Reference]:
    for _, reference in _placed_references(*_hide(text)):
        yield reference


def _hide(text: str) -> tuple[str, list[str]]:
    """Return an expression with the number of each string in its place, and the strings."""
    strings: list[str] = []

    def hide(found: re.Match[str]) -> str:
        strings.append(found[0].lstrip("rRbB").strip("'\""))
        return f"\x00{len(strings) - 1}\x00"

    return _STRING.sub(hide, text), strings


def _placed_references(hidden: str, strings: list[str]) -> Iterator[tuple[int, Reference]]:
    bound = set(_BOUND.findall(hidden))
    for found in _PATH.finditer(hidden):
        name = found[1]
        if name in bound or name in _WORDS or _CALL.match(hidden, found.end(1)):
            continue
        steps: list[str | int] = [name]
        for member, index, string in _STEP.findall(found[2]):
            steps.append(member or (int(index) if index else strings[int(string)]))
        yield found.start(), Reference(_written(steps), tuple(steps))


def _written(steps: list[str | int]) -> str:
    first, *rest = steps
    return str(first) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest)


def evaluate(condition: Condition, lookup: Callable[[Reference], Json]) -> tuple[bool, dict[str, str]]:
    """Return whether a condition holds, and the values that made it so, as text.

    A reference whose value cannot be had (`lookup` raises FillError) is absent: `has(...)` can ask for it. Raises
    ConditionError where there is no answer, or none that is true or false.
    """
    values: dict[Reference, Json] = {}
    absent = []
    for reference in condition.references:
        try:
            values[reference] = lookup(reference)
        except FillError:
            absent.append(reference.text)
    _bound_time(condition.text, values)
    seen = {reference.text: _shorten(text_of(value)) for reference, value in values.items()}
    try:
        answer = _compile(condition.text).execute(_tree(condition, values))
    except KeyError as exc:
        missing = ", ".join(absent) or str(exc)
        raise ConditionError(f"the condition has no answer: there is no {missing}", hint="ask has() first") from exc
    except (RuntimeError, ValueError, TypeError, ZeroDivisionError, OverflowError) as exc:
        raise ConditionError(f"the condition has no answer: {str(exc)[:_SHOWN]} ({_list(seen)})") from exc
    if not isinstance(answer, bool):
        raise ConditionError(f"the condition is neither true nor false but {_shorten(str(answer))}")
    return answer, seen


def _tree(condition: Condition, values: Mapping[Reference, Json]) -> dict[str, Any]:
    """Return nested mappings in which each reference leads to its value; a task always has outputs to be asked for."""
    tree: dict[str, Any] = {}
    for reference, value in sorted(values.items(), key=lambda item: len(item[0].steps)):
        at: Any = tree
        for step in reference.steps[:-1]:
            at = at.setdefault(step, {}) if isinstance(at, dict) else at
        if isinstance(at, dict):
            at.setdefault(reference.steps[-1], value)
    for reference in condition.references:
        match reference.steps:
            case ("tasks", task, "outputs", *_):
                tree.setdefault("tasks", {}).setdefault(task, {}).setdefault("outputs", {})
    for root in ("tasks", "params", "env", "run", "workflow", "matrix"):
        tree.setdefault(root, {})
    return tree


def _bound_time(text: str, values: Mapping[Reference, Json]) -> None:
    """Refuse macros over so much that the evaluation would not end soon.

    Measured: one step of the innermost macro takes 0.4 µs. `map` and `filter` copy all that they have so far at each
    step, and a comparison or `in` looks at all of a value: some 0.06 µs for each of its parts.
    """
    hidden, strings = _hide(text)
    bodies = _macro_bodies(hidden)
    if not bodies:
        return
    nesting = max(sum(start < other <= end for start, end, _ in bodies) for _, other, _ in bodies)
    longest, item = 1 + hidden.count(","), 1
    for value in values.values():
        length, largest = _extent(value)
        longest, item = max(longest, length), max(item, largest)
    longest *= 1 + hidden.count("+")  # lists can be put together
    steps = longest**nesting
    work = steps * item
    for place, reference in _placed_references(hidden, strings):
        depth = sum(start < place < end for start, end, _ in bodies)
        if depth and reference in values:
            work += longest**depth * _size(values[reference])
    copies = sum(name in ("map", "filter") for _, _, name in bodies)
    if copies:
        literal = 2 + hidden.count(",") - len(bodies)  # of what a map makes, the next one makes more
        work *= longest * literal**copies // 2
    if (nesting > 1 and steps > MAX_STEPS) or work > MAX_COPIES:
        times = f", {nesting} times nested" if nesting > 1 else ""
        hint = "exists() and all() can do more than map() and filter()" if copies else _PLAINER
        raise ConditionError(f"the condition would look too often at lists of {longest} items{times}", hint=hint)


def _macro_bodies(hidden: str) -> list[tuple[int, int, str]]:
    """Return where the parentheses of each macro open and close, and its name."""
    starts = {found.end() - 1: found[1] for found in re.finditer(rf"\.\s*({_MACROS})\s*\(", hidden)}
    found, opened = [], []
    for place, character in enumerate(hidden):
        if character == "(":
            opened.append(place)
        elif character == ")" and opened and (start := opened.pop()) in starts:
            found.append((start, place, starts[start]))
    return found


def _extent(value: Json) -> tuple[int, int]:
    """Return the length of the longest list or mapping within a value, and the size of the largest of their items."""
    longest, largest = 0, 1
    waiting = [value]
    while waiting:
        at = waiting.pop()
        if isinstance(at, list | dict):
            items = at if isinstance(at, list) else [*at.values()]
            longest = max(longest, len(items))
            largest = max(largest, max(map(_size, items), default=1))
            waiting += [item for item in items if isinstance(item, list | dict)]
    return longest, largest


def _size(value: Json) -> int:
    """Return how much there is to a value: its parts at any depth, and long texts for more than one."""
    size, waiting = 0, [value]
    while waiting:
        at = waiting.pop()
        size += 1 + (len(at) // 64 if isinstance(at, str) else 0)
        if isinstance(at, list | dict):
            waiting += at if isinstance(at, list) else at.values()
    return size


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _list(seen: Mapping[str, str]) -> str:
    return ", ".join(f"{name} is {value!r}" for name, value in seen.items()) or "no values"
