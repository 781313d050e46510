"""What a picture of a workflow shows: tasks as nodes, dependencies as edges. Made by the results and the commands,
drawn by `views.graph`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """One task. `state` is a key of `views.palette.LOOKS`; `note` is a few words (`0.4 s`, `exit code 7`); `level` is
    the least rank it is drawn at, for tasks such as `finally` that come late without an edge."""

    id: str
    label: str
    kind: str
    state: str
    note: str = ""
    level: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """A graph to draw. An edge is (task, what depends on it), by ids; edges to unknown ids are not drawn."""

    title: str
    subtitle: str
    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]
