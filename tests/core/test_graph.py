"""Order, levels and cycles of a graph of tasks."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wizflowd.core.attempt import TaskId
from wizflowd.core.graph import CycleError, Graph, arrows, build_graph


def graph(**needs: str) -> Graph:
    """Return the graph of `task="its needs"`, both single letters."""
    return build_graph({TaskId(task): tuple(map(TaskId, upstream)) for task, upstream in needs.items()})


def cycles(**needs: str) -> list[str]:
    with pytest.raises(CycleError) as caught:
        graph(**needs)
    return ["".join(cycle) for cycle in caught.value.cycles]


def test_a_diamond_has_three_levels() -> None:
    diamond = graph(a="", b="a", c="a", d="bc")

    assert diamond.order == ("a", "b", "c", "d")
    assert dict(diamond.level) == {"a": 0, "b": 1, "c": 1, "d": 2}
    assert dict(diamond.rank) == {"a": 3, "b": 2, "c": 2, "d": 1}
    assert diamond.dependents["a"] == ("b", "c")  # type: ignore[index]
    assert (diamond.width, diamond.levels) == (2, 3)
    assert diamond.critical_path == ("a", "b", "d")


def test_the_critical_path_is_the_longest_and_need_not_begin_in_the_first_task() -> None:
    assert graph(a="", b="", c="b", d="c", e="ad").critical_path == ("b", "c", "d", "e")


def test_the_order_in_the_file_means_nothing_to_what_waits_and_stays_within_a_level() -> None:
    assert graph(d="bc", c="a", b="a", a="").order == ("a", "c", "b", "d")


def test_tasks_without_needs_are_one_level() -> None:
    assert (graph(a="", b="").width, graph(a="", b="").levels) == (2, 1)


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ({"a": "a"}, ["aa"]),
        ({"a": "b", "b": "a"}, ["aba"]),
        ({"a": "c", "b": "a", "c": "b"}, ["acba"]),
        ({"a": "bc", "b": "c", "c": "a"}, ["aca"]),
        ({"x": "", "a": "bx", "b": "a", "c": "d", "d": "c", "y": "ac"}, ["aba", "cdc"]),
        ({"a": "", "b": "ab", "c": "b"}, ["bb"]),
    ],
)
def test_a_cycle_is_shown_in_the_direction_of_waiting_and_the_short_way(
    needs: dict[str, str], expected: list[str]
) -> None:
    assert cycles(**needs) == expected


def test_a_long_cycle_is_shown_by_its_ends() -> None:
    names = [TaskId(f"t{n}") for n in range(3_000)]

    with pytest.raises(CycleError) as caught:
        build_graph({task: (names[(n + 1) % 3_000],) for n, task in enumerate(names)})

    assert arrows(caught.value.cycles[0]) == "t0 -> t1 -> t2 -> t3 -> t4 -> t5 -> (2993 more) -> t2999 -> t0"
    assert len(str(caught.value)) < 200


def test_deep_wide_and_dense_graphs_are_quick() -> None:
    def t(*parts: int) -> TaskId:
        return TaskId("_".join(map(str, parts)))

    chain = {t(n): (t(n - 1),) if n else () for n in range(20_000)}
    ladder = {t(n, side): (t(n - 1, 0), t(n - 1, 1)) if n else () for n in range(2_000) for side in (0, 1)}
    dense = {t(n): tuple(map(t, range(n))) for n in range(300)}
    build_graph({})

    began = time.process_time()
    levels = [build_graph(needs).levels for needs in (chain, ladder, dense)]

    assert levels == [20_000, 2_000, 300]
    assert time.process_time() - began < 2


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=40))
def test_a_graph_is_ordered_or_has_a_cycle(edges: list[tuple[int, int]]) -> None:
    needs: dict[TaskId, tuple[TaskId, ...]] = {TaskId(str(n)): () for n in range(13)}
    for below, above in dict.fromkeys(edges):
        needs[TaskId(str(below))] += (TaskId(str(above)),)

    try:
        built = build_graph(needs)
    except CycleError as error:
        for cycle in error.cycles:
            assert cycle[0] == cycle[-1]
            assert all(after in needs[before] for before, after in itertools.pairwise(cycle))
        return

    place = {task: index for index, task in enumerate(built.order)}
    assert set(place) == set(needs)
    for task, upstreams in needs.items():
        assert all(place[upstream] < place[task] for upstream in upstreams)
        assert built.level[task] == 1 + max((built.level[upstream] for upstream in upstreams), default=-1)
        assert built.rank[task] == 1 + max((built.rank[after] for after in built.dependents[task]), default=0)
    assert len(built.critical_path) == built.levels
