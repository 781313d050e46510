"""Places in a definition's text: offsets become lines and columns, problems get the place that their path leads to.

The trees mark the places of the wanted paths in a second pass over the file, so that a good file never pays for them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from wizflowd.errors import LocatedProblem, Problem, printable

Step = str | int
Path = tuple[Step, ...]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LONGEST_WHERE = 80


class Place(NamedTuple):
    """A line and a column, counted from 1; columns count characters."""

    line: int
    column: int


class Block(NamedTuple):
    """The source lines of a text in block style (`|`, `>`), counted from 1, and the column that all begin at."""

    first_line: int
    last_line: int
    column: int


@dataclass(slots=True)
class Wanted:
    """One step of the paths whose places are wanted; a walk over the file fills in what it finds."""

    steps: dict[Step, "Wanted"] = field(default_factory=dict)
    key: Place | None = None
    value: Place | None = None
    block: Block | None = None


def wanted(paths: Iterable[Path]) -> Wanted:
    """Return the tree of all steps of `paths`."""
    root = Wanted()
    for path in paths:
        node = root
        for step in path:
            node = node.steps.setdefault(step, Wanted())
    return root


def placed(problems: Iterable[Problem], root: Wanted) -> tuple[LocatedProblem, ...]:
    """Return the problems with their places from a marked tree, in the order of the file."""
    located = [
        problem_at(_place(problem, root), problem.what, problem.hint, where=path_text(problem.path))
        for problem in problems
    ]
    return tuple(sorted(located, key=lambda problem: (problem.line, problem.column)))


def _place(problem: Problem, node: Wanted) -> Place:
    """Return where the path leads, or its deepest part that stands in the file."""
    place = node.value or Place(1, 1)
    for depth, step in enumerate(problem.path, 1):
        child = node.steps.get(step)
        if child is None or child.value is None:
            return place
        at_key = problem.at_key and depth == len(problem.path)
        node, place = child, (child.key or child.value) if at_key else child.value
    if problem.text_line > 0 and node.block:
        return Place(min(node.block.first_line + problem.text_line, node.block.last_line), node.block.column)
    return place


def path_text(path: Path) -> str:
    """Return a path as people write it, `tasks[2].command` or `env["x y"]`, printable and not endless."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _NAME.fullmatch(step):
            text += f".{step}" if text else step
        else:
            quoted = shown(step, _LONGEST_WHERE).replace("\\", "\\\\").replace('"', '\\"')
            text += f'["{quoted}"]'
        if len(text) > _LONGEST_WHERE:
            return f"{text[:_LONGEST_WHERE]}…"
    return text


def shown(text: str, longest: int = 40) -> str:
    """Return `text` fit to stand in a message: printable, and cut."""
    return printable(text[:longest]) + ("…" if len(text) > longest else "")


def problem_at(place: Place | None, what: str, hint: str = "", *, where: str = "") -> LocatedProblem:
    """Return a problem at `place`; without a place its line and column are 0."""
    line, column = place or (0, 0)
    return LocatedProblem(line, column, where, what, hint)


def places_of(text: str, offsets: Iterable[int]) -> dict[int, Place]:
    """Return the place of each offset into `text`, in one pass over it."""
    found: dict[int, Place] = {}
    line, line_end, counted = 1, -1, 0
    for offset in sorted(offsets):
        line += text.count("\n", counted, offset)
        line_end = max(line_end, text.rfind("\n", counted, offset))
        counted = offset
        found[offset] = Place(line, offset - line_end)
    return found


def place_of(text: str, offset: int) -> Place:
    """Return the place of one offset into `text`."""
    return places_of(text, (offset,))[offset]
