"""One task -> many instances: a matrix over named axes, or one for each item of a list (SPEC section 1).

In: what a task says and the values it refers to. Out: instances, each with its id, its number and its values, in the
order in which a dependent sees their outputs. Pure.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from wizflowd.core.values import Json, canonical, text_of
from wizflowd.errors import FillError

MAX_INSTANCES = 10_000
MAX_COMPARED = 10_000_000
_ID_VALUE = 40
_SPECIAL = str.maketrans({"/": "%2F", "%": "%25", "]": "%5D", "[": "%5B", ",": "%2C", "=": "%3D"})


class Instance(Struct, frozen=True):
    """One instance. `values` are what `matrix.X` stands for, or `item` under that name."""

    id: str
    index: int
    values: Mapping[str, Json]


def matrix_instances(task: str, axes: Mapping[str, Sequence[Json]]) -> list[Instance]:
    """Return one instance per combination: the product of the axes, less `exclude`, with `include`.

    `exclude` drops each combination that has all of its values. `include` adds its values to the combinations of axes
    that agree with it in every axis that it names, and is a combination of its own where none does. Raises FillError
    where there are too many. Source: GitHub Actions, "Running variations of jobs in a workflow".
    """
    plain = {name: values for name, values in axes.items() if name not in ("include", "exclude")}
    included = [entry for entry in axes.get("include", ()) if isinstance(entry, dict)]
    excluded = [entry for entry in axes.get("exclude", ()) if isinstance(entry, dict)]
    count = math.prod(map(len, plain.values())) if plain else 0
    if count > MAX_INSTANCES or count * (len(included) + len(excluded)) > MAX_COMPARED:
        raise FillError(f"cannot run {task} in {count} instances: at most {MAX_INSTANCES} can be had")
    choices = itertools.product(*plain.values()) if plain else ()
    products: list[dict[str, Json]] = [dict(zip(plain, choice, strict=True)) for choice in choices]
    products = [each for each in products if not any(_agrees(each, entry) for entry in excluded)]
    own: list[dict[str, Json]] = []
    for entry in included:
        fixed = {name: value for name, value in entry.items() if name in plain}
        matching = [each for each in products if _agrees(each, fixed)]
        for each in matching:
            each.update(entry)
        if not matching:
            own.append({**entry})
    return _numbered(task, products + own)


def _agrees(combination: Mapping[str, Json], entry: Mapping[str, Json]) -> bool:
    return all(name in combination and combination[name] == value for name, value in entry.items())


def item_instances(task: str, items: Json) -> list[Instance]:
    """Return one instance per item of a list. Raises FillError where it is no list, or too long."""
    if not isinstance(items, list):
        raise FillError(f"cannot run {task} for each item: its for_each is no list but {text_of(items)[:60]!r}")
    if len(items) > MAX_INSTANCES:
        raise FillError(f"cannot run {task} for each of {len(items)} items: at most {MAX_INSTANCES} can be had")
    return _numbered(task, [{"item": item} for item in items])


def _numbered(task: str, combinations: Sequence[Mapping[str, Json]]) -> list[Instance]:
    if len(combinations) > MAX_INSTANCES:
        raise FillError(f"cannot run {task} in {len(combinations)} instances: at most {MAX_INSTANCES} can be had")
    return [Instance(name, index, values) for index, (name, values) in enumerate(_named(task, combinations))]


def _named(task: str, combinations: Sequence[Mapping[str, Json]]) -> Iterator[tuple[str, Mapping[str, Json]]]:
    """Yield each combination with its id, `build[os=linux,py=3.12]`; what would be equal gets its number."""
    taken: set[str] = set()
    for index, values in enumerate(combinations):
        if set(values) == {"item"} and isinstance(values["item"], dict | list):
            inside = str(index)
        else:
            inside = ",".join(
                _id_value(value) if name == "item" else f"{name}={_id_value(value)}" for name, value in values.items()
            )
        name = f"{task}[{inside}]"
        if name in taken:
            name = f"{task}[{inside},#{index}]"
        taken.add(name)
        yield name, values


def _id_value(value: Json) -> str:
    text = canonical(value).decode("utf-8", "replace") if isinstance(value, dict | list) else text_of(value)
    text = "".join(c if c.isprintable() else f"%{ord(c):02X}" for c in text.translate(_SPECIAL))
    return text if len(text) <= _ID_VALUE else f"{text[: _ID_VALUE - 1]}…"
