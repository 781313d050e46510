"""Where the boxes of a layered graph stand and which way its edges take. Pure geometry; called by `views.svg`.

Sugiyama's steps: ranks are given; an edge over several ranks gets a lane through each of them, shared by all edges of
its source; ranks are ordered by barycentres for few crossings; positions across are pulled towards the median of the
neighbours by least squares, with the order and the gaps as constraints. "Along" is the direction of the flow.

Own code, because on 300 tasks igraph leaves more crossings, costs 93 ms to import, knows boxes of one size only, and is
under the GPL; grandalf is unmaintained; Graphviz is a system package.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_ORDER_SWEEPS = 8
_PLACE_SWEEPS = 6
_PULL = (1.0, 3.0, 10.0)
"""How hard an edge pulls straight, by how many of its ends are lanes."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box to place, in pixels; `rank` counts from 0 and is greater than that of every box it depends on."""

    rank: int
    along: float
    across: float


@dataclass(frozen=True, slots=True)
class Gaps:
    """The least distances in pixels: between ranks, between boxes of a rank, between a lane and its neighbours."""

    rank: float
    box: float
    lane: float


@dataclass(frozen=True, slots=True)
class Layout:
    """`centres` is (along, across) per box; `bands` is (start, end) along per rank; `lanes` is, per edge, its position
    across at each rank from its source to its target. All from 0 up to `along`, `across`."""

    centres: tuple[tuple[float, float], ...]
    bands: tuple[tuple[float, float], ...]
    lanes: tuple[tuple[float, ...], ...]
    along: float
    across: float


def lay_out(boxes: Sequence[Box], edges: Sequence[tuple[int, int]], gaps: Gaps) -> Layout:
    """Place `boxes`, joined by `edges` as indexes (from, to)."""
    graph = _Lanes(boxes, edges)
    graph.order()
    across = graph.place(gaps)
    bands = _bands(boxes, edges, across, gaps.rank)
    centres = tuple((sum(bands[box.rank]) / 2, across[i]) for i, box in enumerate(boxes))
    lanes = tuple(tuple(across[v] for v in graph.way(source, target)) for source, target in edges)
    far = max((across[i] + box.across / 2 for i, box in enumerate(boxes)), default=0.0)
    return Layout(centres, bands, lanes, bands[-1][1] if bands else 0.0, max(far, *across) if across else 0.0)


def _bands(
    boxes: Sequence[Box], edges: Sequence[tuple[int, int]], across: Sequence[float], gap: float
) -> tuple[tuple[float, float], ...]:
    """Return (start, end) of each rank; the steeper the edges between two ranks, the wider the gap."""
    ranks = max((box.rank for box in boxes), default=-1) + 1
    depth = [0.0] * ranks
    for box in boxes:
        depth[box.rank] = max(depth[box.rank], box.along)
    steep = [0.0] * ranks
    for source, target in edges:
        rank = boxes[target].rank
        steep[rank] = max(steep[rank], abs(across[source] - across[target]))
    bands = []
    end = 0.0
    for rank in range(ranks):
        start = end + (gap + min(steep[rank] * 0.08, gap) if rank else 0.0)
        end = start + depth[rank]
        bands.append((start, end))
    return tuple(bands)


class _Lanes:
    """The graph with a vertex per box and per lane; every link joins neighbouring ranks."""

    def __init__(self, boxes: Sequence[Box], edges: Sequence[tuple[int, int]]) -> None:
        self.boxes = boxes
        self.rank = [box.rank for box in boxes]
        self.above: list[list[int]] = [[] for _ in boxes]
        self.below: list[list[int]] = [[] for _ in boxes]
        self._lane: dict[tuple[int, int], int] = {}
        for source, target in edges:
            way = self.way(source, target)
            self._link(way[-2], target)
        self.layers = self._first_order()

    def way(self, source: int, target: int) -> list[int]:
        """Return the vertices from `source` to `target`, making the lanes that are not there."""
        way = [source]
        for rank in range(self.rank[source] + 1, self.rank[target]):
            lane = self._lane.get((source, rank))
            if lane is None:
                lane = self._lane[source, rank] = len(self.rank)
                self.rank.append(rank)
                self.above.append([])
                self.below.append([])
                self._link(way[-1], lane)
            way.append(lane)
        return [*way, target]

    def order(self) -> None:
        """Reorder the layers for fewer crossings; the best order seen is kept."""
        best, fewest = self.layers, self._crossings(self.layers)
        layers = [list(layer) for layer in best]
        for sweep in range(_ORDER_SWEEPS):
            if not fewest:
                break
            downward = sweep % 2 == 0
            self._sweep(layers if downward else layers[::-1], self.above if downward else self.below)
            crossings = self._crossings(layers)
            if crossings < fewest:
                best, fewest = [list(layer) for layer in layers], crossings
        self.layers = best

    def place(self, gaps: Gaps) -> list[float]:
        """Return the position across of every vertex."""
        position = [0.0] * len(self.rank)
        offsets = [self._offsets(layer, gaps) for layer in self.layers]
        for layer, offset in zip(self.layers, offsets, strict=True):
            for vertex, at in zip(layer, offset, strict=True):
                position[vertex] = at - offset[-1] / 2
        rows = list(zip(self.layers, offsets, strict=True))
        for _ in range(_PLACE_SWEEPS):
            for layer, offset in rows[1:]:
                self._pull(layer, offset, position, (self.above,))
            for layer, offset in rows[-2::-1]:
                self._pull(layer, offset, position, (self.below,))
        for layer, offset in rows + rows[::-1]:
            self._pull(layer, offset, position, (self.above, self.below))
        low = min(
            (at - (self.boxes[v].across / 2 if v < len(self.boxes) else 0.0) for v, at in enumerate(position)),
            default=0,
        )
        return [at - low for at in position]

    def _link(self, upper: int, lower: int) -> None:
        self.below[upper].append(lower)
        self.above[lower].append(upper)

    def _first_order(self) -> list[list[int]]:
        """Depth first in the order of the definition: what belongs together starts together."""
        layers: list[list[int]] = [[] for _ in range(max(self.rank, default=-1) + 1)]
        seen = [False] * len(self.rank)
        for root in sorted(range(len(self.boxes)), key=lambda v: self.rank[v]):
            stack = [root]
            while stack:
                vertex = stack.pop()
                if not seen[vertex]:
                    seen[vertex] = True
                    layers[self.rank[vertex]].append(vertex)
                    stack.extend(reversed(self.below[vertex]))
        return layers

    def _sweep(self, layers: list[list[int]], towards: list[list[int]]) -> None:
        place = {vertex: float(i) for layer in layers for i, vertex in enumerate(layer)}
        for layer in layers[1:]:
            wish = {v: sum(place[n] for n in towards[v]) / len(towards[v]) if towards[v] else place[v] for v in layer}
            layer.sort(key=wish.__getitem__)
            place.update((vertex, float(i)) for i, vertex in enumerate(layer))

    def _crossings(self, layers: list[list[int]]) -> int:
        """Count pairs of links that cross, as inversions."""
        total = 0
        for upper, lower in pairwise(layers):
            place = {vertex: i for i, vertex in enumerate(lower)}
            ends: list[int] = []
            for vertex in upper:
                targets = sorted(place[n] for n in self.below[vertex])
                total += sum(len(ends) - bisect_right(ends, target) for target in targets)
                for target in targets:
                    insort(ends, target)
        return total

    def _offsets(self, layer: Sequence[int], gaps: Gaps) -> list[float]:
        """Return the least position of each vertex of a layer when the first stands at 0."""
        offsets = [0.0]
        for left, right in pairwise(layer):
            both_boxes = left < len(self.boxes) and right < len(self.boxes)
            half = sum(self.boxes[v].across / 2 for v in (left, right) if v < len(self.boxes))
            offsets.append(offsets[-1] + half + (gaps.box if both_boxes else gaps.lane))
        return offsets

    def _pull(
        self,
        layer: Sequence[int],
        offsets: Sequence[float],
        position: list[float],
        sides: tuple[list[list[int]], ...],
    ) -> None:
        """Move a layer as near to its neighbours as order and gaps allow."""
        boxes = len(self.boxes)
        wishes = []
        for vertex in layer:
            near = [n for side in sides for n in side[vertex]]
            pulls = [_PULL[(vertex >= boxes) + (n >= boxes)] for n in near]
            weight = sum(pulls)
            wish = _middle([position[n] for n in near]) if near else position[vertex]
            wishes.append((wish, weight or 0.1))
        for vertex, at in zip(layer, _least_squares(wishes, offsets), strict=True):
            position[vertex] = at


def _middle(positions: list[float]) -> float:
    """Return the median: unlike the mean it keeps one edge of an odd number straight."""
    positions.sort()
    half = len(positions) // 2
    return positions[half] if len(positions) % 2 else (positions[half - 1] + positions[half]) / 2


def _least_squares(wishes: Sequence[tuple[float, float]], offsets: Sequence[float]) -> list[float]:
    """Return the positions nearest to the wishes (position, weight) that keep the offsets as least distances.

    Without the offsets it is an isotonic regression, done by pooling adjacent violators.
    """
    pools: list[tuple[float, float, int]] = []
    for (wish, weight), offset in zip(wishes, offsets, strict=True):
        pool = (wish - offset, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, heavy, count = pools.pop()
            both = heavy + pool[1]
            pool = ((mean * heavy + pool[0] * pool[1]) / both, both, count + pool[2])
        pools.append(pool)
    means = (mean for mean, _, count in pools for _ in range(count))
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]
