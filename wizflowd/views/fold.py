"""A picture made small enough to read: tasks gathered into cells. Called by `views.svg`; pure.

Tasks that depend on the same and are needed by the same stand in one cell as a list, so a fan of 40 is one box and
two edges. What is still too much is gathered by rank into a few cells; each shows failures first, and how many more.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nsmallest

from wizflowd.errors import WizflowError, printable
from wizflowd.views.palette import attention
from wizflowd.views.picture import Node, Picture

_TWINS = 4
"""From how many tasks alike a list is easier to read than as many boxes."""
_MAX_NODES = 400
_MAX_RANKS = 60
_MAX_SPANS = 4_000
"""Ranks crossed by all edges together: what the layout's time depends on."""
_MAX_CELLS = 60
_MAX_TWINS_LOOKED_AT = 5_000
_BANDS = 12
_SHOWN = 240
"""Tasks that a folded picture names in all."""

Edges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One box of the drawing: a task, or a list of tasks with `hidden` ones told by (state, count)."""

    rank: int
    nodes: tuple[Node, ...]
    hidden: tuple[tuple[str, int], ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True)
class Folded:
    """Cells and the edges between them by index; `implied` dependencies follow from others and are left out."""

    cells: tuple[Cell, ...]
    edges: Edges
    implied: int = 0


def fold(picture: Picture) -> Folded:
    """Gather the tasks of `picture` into cells. Raises `WizflowError` where tasks wait for each other in a circle."""
    nodes = picture.nodes
    index = {node.id: i for i, node in enumerate(nodes)} if picture.edges else {}
    known = ((index[a], index[b]) for a, b in picture.edges if a != b and a in index and b in index)
    edges = tuple(dict.fromkeys(known))
    ranks = _ranks(picture, edges)
    large = len(nodes) > _MAX_NODES
    implied = 0
    if not large:
        kept = _without_implied(len(nodes), edges, ranks)
        edges, implied = kept, len(edges) - len(kept)
    if len(nodes) <= _MAX_TWINS_LOOKED_AT:
        of_node = _twins(ranks, edges)
        between = _between(edges, of_node)
        cell_rank = dict(zip(of_node, ranks, strict=True))
        spans = sum(cell_rank[b] - cell_rank[a] for a, b in between)
        few = len(cell_rank) <= (_MAX_CELLS if large else _MAX_NODES)
        if few and spans <= _MAX_SPANS and max(ranks, default=0) < _MAX_RANKS:
            return Folded(_cells(nodes, of_node, ranks, {}), between, implied)
    of_node, titles = _bands(ranks)
    return Folded(_cells(nodes, of_node, of_node, titles), _between(edges, of_node), implied)


def _ranks(picture: Picture, edges: Edges) -> list[int]:
    """Return the longest way to each node, at least its level; without empty ranks."""
    after: defaultdict[int, list[int]] = defaultdict(list)
    waits = [0] * len(picture.nodes)
    for source, target in edges:
        after[source].append(target)
        waits[target] += 1
    ranks = [node.level for node in picture.nodes]
    ready = [i for i, count in enumerate(waits) if not count]
    for node in ready:
        least = ranks[node] + 1
        for target in after.get(node, ()):
            ranks[target] = max(ranks[target], least)
            waits[target] -= 1
            if not waits[target]:
                ready.append(target)
    if len(ready) < len(picture.nodes):
        circle = ", ".join(printable(n.id) for n, left in zip(picture.nodes, waits, strict=True) if left)
        raise WizflowError(f"cannot draw {printable(picture.title)}: tasks wait for each other: {circle[:200]}")
    place = {rank: i for i, rank in enumerate(sorted(set(ranks)))}
    return [place[rank] for rank in ranks]


def _without_implied(count: int, edges: Edges, ranks: Sequence[int]) -> Edges:
    """Leave out each edge beside a longer way between its ends. Reach is a bit set per node, in one integer."""
    after: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        after[source].append(target)
    reach = [0] * count
    for node in sorted(range(count), key=ranks.__getitem__, reverse=True):
        for target in after[node]:
            reach[node] |= reach[target] | 1 << target
    return tuple(
        (source, target) for source, target in edges if not any(reach[other] >> target & 1 for other in after[source])
    )


def _twins(ranks: Sequence[int], edges: Edges) -> list[int]:
    """Return the cell of each node: its own, or one shared by those with the same rank and the same neighbours."""
    before: list[list[int]] = [[] for _ in ranks]
    after: list[list[int]] = [[] for _ in ranks]
    for source, target in sorted(edges):
        before[target].append(source)
        after[source].append(target)
    alike: defaultdict[object, list[int]] = defaultdict(list)
    for node, rank in enumerate(ranks):
        alike[rank, tuple(before[node]), tuple(after[node])].append(node)
    groups = [group for group in alike.values() if len(group) >= _TWINS]
    shared = {node: group[0] for group in groups for node in group}
    return _numbered(shared.get(node, node) for node in range(len(ranks)))


def _bands(ranks: Sequence[int]) -> tuple[list[int], dict[int, str]]:
    """Return the cell of each node, one per stretch of neighbouring ranks, and the title of each cell."""
    depth = max(ranks, default=0) + 1
    bands = min(depth, _BANDS)
    of_node = [rank * bands // depth for rank in ranks]
    titles = {}
    for band in range(bands):
        first, last = -(-band * depth // bands) + 1, -(-(band + 1) * depth // bands)
        titles[band] = f"level {first}" if first == last else f"levels {first}–{last}"
    return of_node, titles


def _numbered(keys: Iterable[int]) -> list[int]:
    numbers: dict[int, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _between(edges: Edges, of_node: Sequence[int]) -> Edges:
    """Return the edges between cells, each once."""
    pairs = {(of_node[source], of_node[target]): None for source, target in edges}
    return tuple((source, target) for source, target in pairs if source != target)


def _cells(
    nodes: Sequence[Node], of_node: Sequence[int], ranks: Sequence[int], titles: dict[int, str]
) -> tuple[Cell, ...]:
    members: defaultdict[int, list[Node]] = defaultdict(list)
    cell_rank = dict(zip(of_node, ranks, strict=True))
    for node, cell in zip(nodes, of_node, strict=True):
        members[cell].append(node)
    shown = _SHOWN // max(len(members), 1) if len(nodes) > _MAX_NODES else len(nodes)
    return tuple(_cell(cell_rank[i], members[i], max(shown, 4), titles.get(i, "")) for i in range(len(members)))


def _cell(rank: int, members: Sequence[Node], shown: int, title: str) -> Cell:
    if len(members) <= shown:
        return Cell(rank, tuple(members), title=title if len(members) > 1 else "")
    first = nsmallest(shown, range(len(members)), key=lambda i: attention(members[i].state))
    named = set(first)
    hidden = Counter(node.state for i, node in enumerate(members) if i not in named)
    return Cell(
        rank,
        tuple(members[i] for i in first),
        tuple(sorted(hidden.items(), key=lambda item: attention(item[0]))),
        title,
    )
