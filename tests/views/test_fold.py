import pytest

from tests.views.pictures import chain, layered, picture
from wizflowd.errors import WizflowError
from wizflowd.views.fold import fold
from wizflowd.views.picture import Node, Picture


def test_tasks_with_the_same_neighbours_stand_in_one_cell() -> None:
    shards = [f"s{i}" for i in range(40)]
    fan = picture(["split", *shards, "join"], [(a, b) for s in shards for a, b in (("split", s), (s, "join"))])

    folded = fold(fan)

    assert [len(cell.nodes) for cell in folded.cells] == [1, 40, 1]
    assert folded.edges == ((0, 1), (1, 2))


def test_a_pair_of_tasks_alike_stays_two_boxes() -> None:
    diamond = picture("abcd", [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])

    assert [cell.rank for cell in fold(diamond).cells] == [0, 1, 1, 2]


def test_an_edge_beside_a_longer_way_is_left_out_and_counted() -> None:
    folded = fold(picture("abc", [("a", "b"), ("b", "c"), ("a", "c")]))

    assert folded.edges == ((0, 1), (1, 2))
    assert folded.implied == 1


def test_edges_to_unknown_tasks_to_themselves_and_twice_are_not_drawn() -> None:
    folded = fold(picture("ab", [("a", "b"), ("a", "b"), ("a", "a"), ("gone", "b"), ("a", "gone")]))

    assert folded.edges == ((0, 1),)


def test_a_level_moves_a_task_without_edges_to_the_end() -> None:
    late = Node("alarm", "alarm", "RESTAPI", "succeeded", level=9)
    etl = picture("ab", [("a", "b")])

    folded = fold(Picture("etl", "", (*etl.nodes, late), etl.edges))

    assert [cell.rank for cell in folded.cells] == [0, 1, 2]


def test_a_circle_is_refused_with_the_names_in_it() -> None:
    circle = picture("abc", [("a", "b"), ("b", "c"), ("c", "b")])

    with pytest.raises(WizflowError, match="cannot draw etl: tasks wait for each other: b, c"):
        fold(circle)


def test_ten_thousand_tasks_are_a_few_cells_that_name_every_failure_first() -> None:
    names = [f"t{i}" for i in range(10_000)]

    (cell,) = fold(picture(names, t77="failed", t9000="failed", t5="tolerated")).cells

    assert [n.id for n in cell.nodes[:3]] == ["t77", "t9000", "t5"]
    assert len(cell.nodes) <= 240
    assert cell.hidden == (("succeeded", 10_000 - len(cell.nodes)),)


@pytest.mark.parametrize("large", [chain(3_000), layered(100, 10), layered(2, 1_000), layered(1_000, 10)])
def test_a_folded_picture_loses_no_task_and_flows_one_way(large: Picture) -> None:
    folded = fold(large)

    assert sum(len(c.nodes) + sum(count for _, count in c.hidden) for c in folded.cells) == len(large.nodes)
    assert len(folded.cells) <= 60
    assert sum(len(c.nodes) for c in folded.cells) <= 260
    assert all(folded.cells[a].rank < folded.cells[b].rank for a, b in folded.edges)


def test_a_long_chain_of_few_tasks_is_folded_without_hiding_any() -> None:
    folded = fold(chain(100))

    assert len(folded.cells) == 12
    assert folded.cells[0].title == "levels 1–9"
    assert not any(cell.hidden for cell in folded.cells)
