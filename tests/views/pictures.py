"""Pictures to draw in the tests."""

from collections.abc import Iterable
from itertools import pairwise

from wizflowd.views.picture import Node, Picture


def node(name: str, state: str = "succeeded", **more: str) -> Node:
    return Node(id=name, label=more.get("label", name), kind="SHELL", state=state, note=more.get("note", ""))


def picture(names: Iterable[str], edges: Iterable[tuple[str, str]] = (), **states: str) -> Picture:
    nodes = tuple(node(name, states.get(name, "succeeded")) for name in names)
    return Picture("etl", "20261123-030512-7f3a9c", nodes, tuple(edges))


def chain(count: int) -> Picture:
    names = [f"t{i}" for i in range(count)]
    return picture(names, pairwise(names))


def layered(ranks: int, width: int) -> Picture:
    """Return ranks of tasks of which no two have the same neighbours."""
    names = [[f"t{r}_{i}" for i in range(width)] for r in range(ranks)]
    edges = [
        (names[r - 1][i], names[r][j]) for r in range(1, ranks) for j in range(width) for i in {j, (j * 7 + r) % width}
    ]
    return picture([name for rank in names for name in rank], edges)
