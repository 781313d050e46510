"""YAML text -> plain values within the limits, or what is wrong with it and where. Called by the loader only.

The events of the C parser are walked without recursion and the tree is built here, by the core schema of YAML 1.2:
the parser's own composer dies of deep nesting, and its constructor resolves YAML 1.1 (`on`, 0644, dates, `<<`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
)

from wizflowd.core.load_limits import TASK_LISTS, LoadLimits
from wizflowd.core.places import Block, Path, Place, Step, Wanted, path_text, place_of, problem_at, shown
from wizflowd.core.values import Json
from wizflowd.core.yaml_bounds import least_tasks, least_values
from wizflowd.core.yaml_mistakes import mistake_of, place_of_error
from wizflowd.core.yaml_scalars import BadScalarError, resolve
from wizflowd.errors import DefinitionError, LocatedProblem

_MOST_PROBLEMS = 50
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the slow one where PyYAML was built without libyaml


def parse(data: bytes, text: str, limits: LoadLimits) -> Json:
    """Return the value of the one document in `text`, which is `data` in UTF-8; raise DefinitionError.

    Aliases are not copied: the value that an alias stands for appears in the tree as the same object.
    """
    builder = _Builder(text, limits)
    try:
        _check_bounds(data, text, limits)
        value = builder.build(_events(data))
    except yaml.YAMLError as error:
        if "maximum nesting depth" in str(error):  # the parser's own bound, since PyYAML 6.0.4; it reads ahead
            builder.refuse(limits.too_deep(place_of_error(error)))
        place, what, hint = mistake_of(text, error)
        builder.refuse(problem_at(place, what, hint))
    if builder.problems:
        raise DefinitionError(tuple(builder.problems))
    if value is None:
        builder.refuse(problem_at(None, "the file is empty", "a definition is a mapping with at least `tasks`"))
    return value


def _check_bounds(data: bytes, text: str, limits: LoadLimits) -> None:
    """Refuse at once what is too large beyond doubt."""
    tasks, offset = least_tasks(data) if len(data) > limits.tasks else (0, 0)
    if tasks > limits.tasks:
        key = data[offset : data.index(b":", offset)].decode()
        raise DefinitionError((limits.too_many_tasks(place_of(text, len(data[:offset].decode())), key),))
    if len(data) > 2 * limits.nodes and least_values(data, limits) > limits.nodes:
        raise DefinitionError((limits.too_many_nodes(None),))


def _events(data: bytes) -> Iterator[Event]:
    return iter(_Parser(data).get_event, None)


def _place(event: Event) -> Place:
    mark = event.start_mark
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)


class _Size(NamedTuple):
    """How much an alias stands for: values, characters of texts and keys, containers in each other."""

    nodes: int
    characters: int
    height: int


class _Builder:
    """The tree as far as it is built; `problems` are those that do not end the walk."""

    def __init__(self, text: str, limits: LoadLimits) -> None:
        self.problems: list[LocatedProblem] = []
        self._text = text
        self._limits = limits
        self._documents: list[Json] = []
        self._container: list[Json] | dict[str, Json] = self._documents  # what is filled at this point
        self._key: str | None = ""  # its current key; None while a mapping waits for one
        self._parents: list[tuple[list[Json] | dict[str, Json], str | None]] = []
        self._anchors: dict[str, Json] = {}
        self._sizes: dict[int, _Size] = {}  # of containers that an alias stands for, by id; the tree keeps them alive
        self._nodes = self._aliases = self._copied = 0

    def build(self, events: Iterator[Event]) -> Json:
        """Return the value of the only document, None without one."""
        for event in events:
            if isinstance(event, ScalarEvent):
                if event.tag is not None or "\0" in event.value:
                    self._report_scalar(event)
                if self._key is None:
                    self._begin(event)
                else:
                    self._add(event.value if event.style else self._resolved(event), event)
            elif isinstance(event, CollectionStartEvent):
                self._open(event)
            elif isinstance(event, CollectionEndEvent):
                self._close(event)
            elif isinstance(event, AliasEvent):
                self._add_alias(event)
            elif isinstance(event, DocumentStartEvent):
                self._begin_document(event)
        return self._documents[0] if self._documents else None

    def refuse(self, problem: LocatedProblem) -> NoReturn:
        """Raise what was found so far and `problem`, which ends the walk."""
        raise DefinitionError((*self.problems, problem))

    def _report(self, event: Event, what: str, hint: str, path: Path) -> None:
        self.problems.append(problem_at(_place(event), what, hint, where=path_text(path)))
        if len(self.problems) >= _MOST_PROBLEMS:
            raise DefinitionError(tuple(self.problems))

    def _path(self) -> Path:
        """Return the path of the value that comes next."""
        steps: list[Step] = [
            len(container) - 1 if isinstance(container, list) else str(key) for container, key in self._parents
        ]
        if isinstance(self._container, list):
            steps.append(len(self._container))
        elif self._key is not None:
            steps.append(self._key)
        return tuple(steps[1:])

    def _begin_document(self, event: DocumentStartEvent) -> None:
        if self._documents:
            what, hint = (
                "a second document begins here",
                "one file holds one workflow: take out the --- or split the file",
            )
            self.refuse(problem_at(_place(event), what, hint))
        if event.tags:
            self._report(event, "%TAG is not allowed", "take the directive and its tags out", ())

    def _report_scalar(self, event: ScalarEvent) -> None:
        if event.tag is not None:
            self._report_tag(event, event.tag)
        if "\0" in event.value:
            what, hint = "a NUL character in a text", r"take \0 out: no command, header or file can hold it"
            self._report(event, what, hint, self._path())

    def _report_tag(self, event: Event, tag: str) -> None:
        short = tag.replace("tag:yaml.org,2002:", "!!")
        self._report(
            event, f"the tag {shown(short)} is not allowed", 'take it out; quote what is text: "1"', self._path()
        )

    def _begin(self, event: ScalarEvent) -> None:
        """Take a key, as it is written; a plain one stands for text, whatever it looks like."""
        self._key = event.value
        if self._key in self._container:
            self._report(event, "duplicate key", "the same key stands further up, keep one of them", self._path())
        if event.anchor is not None:
            self._anchors[event.anchor] = self._key

    def _resolved(self, event: ScalarEvent) -> Json:
        try:
            return resolve(event.value)
        except BadScalarError as error:
            self._report(event, str(error), "put it in quotes if it is text", self._path())
            return None

    def _add(self, value: Json, event: NodeEvent) -> None:
        self._nodes += 1
        if self._nodes > self._limits.nodes:
            self.refuse(self._limits.too_many_nodes(_place(event)))
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        if isinstance(self._container, list):
            self._container.append(value)
        else:
            self._container[self._key] = value  # type: ignore[index]
            self._key = None

    def _open(self, event: CollectionStartEvent) -> None:
        if self._key is None:
            self._refuse_key(event)
        if event.tag is not None:
            self._report_tag(event, event.tag)
        parent = (self._container, self._key)
        if len(self._parents) >= self._limits.depth:
            self.refuse(self._limits.too_deep(_place(event)))
        if len(self._container) >= self._limits.tasks:
            self._check_tasks(len(self._container) + 1, event)
        value: list[Json] | dict[str, Json] = {} if isinstance(event, MappingStartEvent) else []
        self._add(value, event)
        self._parents.append(parent)
        self._container = value
        self._key = None if isinstance(value, dict) else ""

    def _close(self, event: CollectionEndEvent) -> None:
        if len(self._container) > self._limits.tasks:
            self._check_tasks(len(self._container), event)
        self._container, key = self._parents.pop()
        self._key = None if isinstance(self._container, dict) else key

    def _check_tasks(self, count: int, event: Event) -> None:
        """Refuse too many tasks while they are read, at depth 2 under the root, before the rest is built."""
        if count > self._limits.tasks and len(self._parents) == 2 and self._parents[1][1] in TASK_LISTS:
            self.refuse(self._limits.too_many_tasks(_place(event), str(self._parents[1][1])))

    def _add_alias(self, event: AliasEvent) -> None:
        name, place = str(event.anchor), _place(event)
        if self._key is None:
            self._refuse_key(event)
        self._aliases += 1
        if self._aliases > self._limits.aliases:
            self.refuse(self._limits.too_many_aliases(place))
        if name not in self._anchors:
            hint = f"write &{shown(name)} before the value that it stands for, or quote a text that begins with *"
            self.refuse(problem_at(place, f"the alias *{shown(name)} stands for nothing", hint))
        value = self._anchors[name]
        if value is self._container or any(value is parent for parent, _ in self._parents):
            what = f"the alias *{shown(name)} stands inside of what it stands for"
            self.refuse(problem_at(place, what, "write the value out"))
        self._count_copy(value, place)
        self._add(value, event)

    def _count_copy(self, value: Json, place: Place) -> None:
        """Count all that an alias stands for against the limits."""
        size = self._size(value)
        self._copied += size.characters
        if len(self._parents) + size.height > self._limits.depth:
            self.refuse(self._limits.too_deep(place))
        if self._nodes + size.nodes > self._limits.nodes or self._copied > self._limits.bytes:
            self.refuse(self._limits.too_much_by_alias(place))
        self._nodes += size.nodes - 1  # the value itself is counted when it is added

    def _size(self, value: Json) -> _Size:
        """Return the size of a value; what stands in it by alias was measured before and is not walked again."""
        nodes = characters = height = 0
        pending = [(value, 0)]
        while pending:
            node, level = pending.pop()
            known = self._sizes.get(id(node), _Size(1, len(node) if isinstance(node, str) else 0, 0))
            nodes, characters = nodes + known.nodes, characters + known.characters
            height = max(height, level + known.height)
            if isinstance(node, list | dict) and id(node) not in self._sizes:
                height = max(height, level + 1)
                characters += sum(map(len, node)) if isinstance(node, dict) else 0
                pending.extend((child, level + 1) for child in (node.values() if isinstance(node, dict) else node))
        size = _Size(nodes, characters, height)
        if isinstance(value, list | dict):
            self._sizes[id(value)] = size
        return size

    def _refuse_key(self, event: NodeEvent) -> NoReturn:
        mark = event.start_mark
        if mark and self._text.startswith("{{", mark.index - 1):
            what, hint = "a plain text cannot begin with {{", 'put it in quotes: "{{name}}"'
            self.refuse(problem_at(Place(mark.line + 1, mark.column), what, hint))
        self.refuse(problem_at(_place(event), "a key must be a text", "write `key: value`"))


@dataclass(slots=True)
class _Open:
    """A container on the way to wanted places, with the key or index of the child that comes next."""

    node: Wanted
    is_mapping: bool
    count: int = 0
    key: str | None = None
    key_place: Place | None = None

    def next_child(self) -> Wanted | None:
        """Return the wanted node of the child that begins here, if any, and step past it."""
        step: Step = self.key if self.key is not None else self.count
        self.count, self.key = self.count + 1, None
        return self.node.steps.get(step)


def mark_places(data: bytes, text: str, root: Wanted) -> None:
    """Fill in the places of the wanted paths in `text`, which `parse` has accepted and which is `data` in UTF-8."""
    way = [_Open(Wanted({0: root}), is_mapping=False)]
    skipped = 0  # containers open inside a value that nobody wants
    for event in _events(data):
        if skipped:
            skipped += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        elif isinstance(event, CollectionEndEvent):
            way.pop()
        elif isinstance(event, NodeEvent):
            here = way[-1]
            if here.is_mapping and here.key is None and isinstance(event, ScalarEvent):
                here.key, here.key_place = event.value, _place(event)
                continue
            key_place, child = here.key_place, here.next_child()
            if child is not None:
                child.key, child.value, child.block = key_place, _place(event), _block(event, text)
            if isinstance(event, CollectionStartEvent):
                if child is None:
                    skipped = 1
                else:
                    way.append(_Open(child, isinstance(event, MappingStartEvent)))


def _block(event: NodeEvent, text: str) -> Block | None:
    """Return the source lines of a text in block style."""
    start, end = event.start_mark, event.end_mark
    if not isinstance(event, ScalarEvent) or event.style not in ("|", ">") or start is None or end is None:
        return None
    body = text[start.index : end.index].partition("\n")[2].lstrip("\n")
    indent = len(body) - len(body.lstrip(" "))
    return Block(start.line + 2, max(start.line + 2, end.line), indent + 1)
