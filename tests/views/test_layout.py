from itertools import combinations
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from wizflowd.views.layout import Box, Gaps, Layout, lay_out

GAPS = Gaps(rank=40, box=16, lane=12)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Box], list[tuple[int, int]]]:
    ranks = sorted(draw(st.lists(st.integers(0, 5), min_size=1, max_size=18)))
    place = {rank: i for i, rank in enumerate(dict.fromkeys(ranks))}
    boxes = [Box(place[rank], draw(st.sampled_from([60, 200])), draw(st.sampled_from([46, 300]))) for rank in ranks]
    pairs = [(a, b) for a, b in combinations(range(len(boxes)), 2) if boxes[a].rank < boxes[b].rank]
    return boxes, draw(st.lists(st.sampled_from(pairs), unique=True, max_size=30)) if pairs else []


@given(graphs())
def test_no_box_lies_over_another(graph: tuple[list[Box], list[tuple[int, int]]]) -> None:
    boxes, edges = graph

    layout = lay_out(boxes, edges, GAPS)

    for (a, at_a), (b, at_b) in combinations(zip(boxes, layout.centres, strict=True), 2):
        apart = abs(at_a[0] - at_b[0]) - (a.along + b.along) / 2, abs(at_a[1] - at_b[1]) - (a.across + b.across) / 2
        assert max(apart) >= GAPS.box - 1e-6


@given(graphs())
def test_no_edge_passes_through_a_box(graph: tuple[list[Box], list[tuple[int, int]]]) -> None:
    boxes, edges = graph

    layout = lay_out(boxes, edges, GAPS)

    for (source, _), lanes in zip(edges, layout.lanes, strict=True):
        for rank, lane in enumerate(lanes[1:-1], start=boxes[source].rank + 1):
            for box, (_, across) in zip(boxes, layout.centres, strict=True):
                assert box.rank != rank or abs(across - lane) >= box.across / 2 + GAPS.lane - 1e-6


@given(graphs())
def test_everything_lies_inside_the_extent(graph: tuple[list[Box], list[tuple[int, int]]]) -> None:
    boxes, edges = graph

    layout = lay_out(boxes, edges, GAPS)

    for box, (along, across) in zip(boxes, layout.centres, strict=True):
        assert along - box.along / 2 > -1e-6
        assert along + box.along / 2 < layout.along + 1e-6
        assert across - box.across / 2 > -1e-6
        assert across + box.across / 2 < layout.across + 1e-6
    assert all(-1e-6 < lane < layout.across + 1e-6 for lanes in layout.lanes for lane in lanes)


def test_a_chain_is_a_straight_line() -> None:
    layout = _placed([0, 1, 2, 3], [(0, 1), (1, 2), (2, 3)])

    assert len({across for _, across in layout.centres}) == 1


def test_a_crossing_that_can_be_undone_is_undone() -> None:
    layout = _placed([0, 0, 0, 1, 1], [(0, 3), (1, 4), (2, 3)])

    first, outsider, last = (layout.centres[i][1] for i in (0, 1, 2))
    assert not min(first, last) < outsider < max(first, last)


def test_the_middle_of_three_stands_straight_before_its_source() -> None:
    layout = _placed([0, 1, 1, 1], [(0, 1), (0, 2), (0, 3)])

    assert layout.centres[0][1] == layout.centres[2][1]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=25), st.randoms(use_true_random=False))
def test_a_tree_written_in_any_order_has_no_crossing(parents: list[int], random: Random) -> None:
    names = list(range(len(parents) + 1))
    random.shuffle(names)
    ranks = {names[0]: 0}
    edges = []
    for i, choice in enumerate(parents, start=1):
        parent = names[choice % i]
        ranks[names[i]] = ranks[parent] + 1
        edges.append((parent, names[i]))

    layout = _placed([ranks[i] for i in range(len(names))], edges)

    for (a, b), (c, d) in combinations(edges, 2):
        one_side = layout.centres[a][1] - layout.centres[c][1], layout.centres[b][1] - layout.centres[d][1]
        assert ranks[a] != ranks[c] or one_side[0] * one_side[1] >= 0


def test_nothing_is_laid_out_as_nothing() -> None:
    assert lay_out([], [], GAPS) == Layout((), (), (), 0.0, 0.0)


def _placed(ranks: list[int], edges: list[tuple[int, int]]) -> Layout:
    return lay_out([Box(rank, 100, 46) for rank in ranks], edges, GAPS)
