"""The order of a workflow's tasks: who waits for whom, how deep and how wide.

In: what each task needs, in the order of the file. Out: a `Graph`, or a `CycleError`. Called by `core.compile`; read
by planning, the scheduler and the views.
"""

import graphlib
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from wizflowd.core.attempt import TaskId
from wizflowd.errors import WizflowError

if TYPE_CHECKING:
    import networkx

_SHOWN = 8
_CYCLES = 20


class CycleError(WizflowError):
    """Tasks wait for each other; each of `cycles` begins and ends with the same task."""

    def __init__(self, cycles: tuple[tuple[TaskId, ...], ...]) -> None:
        super().__init__(f"tasks wait for each other: {'; '.join(map(arrows, cycles))}")
        self.cycles = cycles


def arrows(cycle: tuple[TaskId, ...]) -> str:
    """Return `left -> right -> left`; of a long one its beginning and its end."""
    if len(cycle) <= _SHOWN:
        return " -> ".join(cycle)
    left_out = f"({len(cycle) - _SHOWN} more)"
    return " -> ".join((*cycle[: _SHOWN - 2], left_out, *cycle[-2:]))


class Graph(Struct, frozen=True):
    """`order`: level by level, within a level as in the file. `level`: from 0, one more than the deepest need.

    `rank`: the tasks on the longest path from a task down, itself included. `width`: the most tasks in one level.
    """

    order: tuple[TaskId, ...]
    needs: Mapping[TaskId, tuple[TaskId, ...]]
    dependents: Mapping[TaskId, tuple[TaskId, ...]]
    level: Mapping[TaskId, int]
    rank: Mapping[TaskId, int]
    width: int
    levels: int
    critical_path: tuple[TaskId, ...]


def build_graph(needs: Mapping[TaskId, tuple[TaskId, ...]], final: Collection[TaskId] = frozenset()) -> Graph:
    """Return the graph of tasks whose every need is itself a key; raises `CycleError`.

    `final` tasks, which need only each other, come after all the others.
    """
    place = {task: index for index, task in enumerate(needs)}
    try:
        generations = [sorted(tasks, key=place.__getitem__) for tasks in _generations(needs)]
    except graphlib.CycleError:
        raise CycleError(_cycles(needs, place)) from None
    if final:
        halves = (
            [[task for task in each if (task in final) is last] for each in generations] for last in (False, True)
        )
        generations = [each for half in halves for each in half if each]
    order = tuple(task for generation in generations for task in generation)
    dependents = _dependents(needs)
    rank: dict[TaskId, int] = {}
    for task in reversed(order):
        rank[task] = 1 + max((rank[dependent] for dependent in dependents[task]), default=0)
    return Graph(
        order=order,
        needs=needs,
        dependents=dependents,
        level={task: level for level, generation in enumerate(generations) for task in generation},
        rank=rank,
        width=max(map(len, generations), default=0),
        levels=len(generations),
        critical_path=_critical_path(order, dependents, rank),
    )


def _generations(needs: Mapping[TaskId, tuple[TaskId, ...]]) -> Iterator[tuple[TaskId, ...]]:
    """Yield the tasks of each level. Raises graphlib.CycleError."""
    sorter = graphlib.TopologicalSorter(needs)
    sorter.prepare()
    while sorter.is_active():
        tasks = sorter.get_ready()
        yield tasks
        sorter.done(*tasks)


def _dependents(needs: Mapping[TaskId, tuple[TaskId, ...]]) -> dict[TaskId, tuple[TaskId, ...]]:
    dependents: dict[TaskId, list[TaskId]] = {task: [] for task in needs}
    for task, upstreams in needs.items():
        for upstream in dict.fromkeys(upstreams):
            dependents[upstream].append(task)
    return {task: tuple(downstream) for task, downstream in dependents.items()}


def _critical_path(
    order: tuple[TaskId, ...], dependents: Mapping[TaskId, tuple[TaskId, ...]], rank: Mapping[TaskId, int]
) -> tuple[TaskId, ...]:
    path: list[TaskId] = []
    following = order
    while following:
        path.append(max(following, key=rank.__getitem__))  # of several the first in the file
        following = dependents[path[-1]]
    return tuple(path)


def _cycles(needs: Mapping[TaskId, tuple[TaskId, ...]], place: Mapping[TaskId, int]) -> tuple[tuple[TaskId, ...], ...]:
    """Return one cycle for each knot of tasks, a shortest one through the first of its tasks in the file.

    In a cycle each task needs the next.
    """
    import networkx as nx  # 131 ms and 24 MiB, for those only whose tasks wait for each other

    graph: networkx.DiGraph[TaskId] = nx.DiGraph(
        (upstream, task) for task, upstreams in needs.items() for upstream in upstreams
    )
    cycles: list[tuple[TaskId, ...]] = []
    for knot in nx.strongly_connected_components(graph):
        first = min(knot, key=place.__getitem__)
        if graph.has_edge(first, first):
            cycles.append((first, first))
        elif len(knot) > 1:
            cycles.append(_cycle_through(first, graph))
        if len(cycles) == _CYCLES:
            break
    return tuple(sorted(cycles, key=lambda cycle: place[cycle[0]]))


def _cycle_through(first: TaskId, graph: "networkx.DiGraph[TaskId]") -> tuple[TaskId, ...]:
    import networkx as nx

    needed_by = {first: first}
    for upstream, task in nx.bfs_edges(graph, first):
        needed_by[task] = upstream
        if graph.has_edge(task, first):
            cycle = [first, task]
            while cycle[-1] != first:
                cycle.append(needed_by[cycle[-1]])
            return tuple(cycle)
    raise AssertionError(f"no way leads back to {first} in its strongly connected component")
