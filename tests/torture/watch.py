"""What etcd promises of a watch, as checks of the lines that a client received; and a client that records them.

Each check is a pure function that returns the faults it finds, one line each. `committed` maps the sequence of each
event that the client asked for to its line. Source: etcd.io/docs/v3.5/learning/api_guarantees, "Watch APIs".
"""

import json
import re
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

from wizflowd.sockets import reachable

ATTRIBUTES = {"specversion", "id", "sequence", "source", "type", "time", "subject", "data"}
MOST_TOLD = 5
"""Faults of one kind that are told in full."""

Committed = Mapping[int, bytes]
_SEQUENCE = re.compile(rb'\{[^{]*"sequence":"(\d+)"')


@dataclass(frozen=True, slots=True)
class Watch:
    """What one connection received, from the hello of its wish on: whole lines in order. It asked for `since`."""

    since: int
    lines: Sequence[bytes]


def sequence_of(line: bytes) -> int:
    """Return the sequence of a stored event, 0 for what carries none."""
    found = _SEQUENCE.match(line)
    return int(found[1]) if found else 0


def sequences(lines: Sequence[bytes]) -> list[int]:
    return [sequence for line in lines if (sequence := sequence_of(line))]


def lines_of(watches: Sequence[Watch]) -> list[bytes]:
    """Return all that a client received, over its connections."""
    return [line for watch in watches for line in watch.lines]


def ordered(lines: Sequence[bytes]) -> list[str]:
    """No event comes before one that was recorded before it."""
    found = sequences(lines)
    return _told(f"{later} follows {earlier}" for earlier, later in pairwise(found) if later < earlier)


def unique(lines: Sequence[bytes]) -> list[str]:
    """No event comes twice."""
    counts = Counter(sequences(lines))
    return _told(f"{sequence} came {count} times" for sequence, count in counts.items() if count > 1)


def reliable(lines: Sequence[bytes], committed: Committed) -> list[str]:
    """Every committed event that was asked for comes, and no other."""
    found = set(sequences(lines))
    missing = [f"{sequence} is missing" for sequence in committed if sequence not in found]
    return _told([*missing, *(f"{sequence} was not asked for" for sequence in found if sequence not in committed)])


def atomic(lines: Sequence[bytes], committed: Committed) -> list[str]:
    """What comes is whole: each line an event with all its attributes, the very bytes that everybody gets."""
    faults = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            faults.append(f"not a whole line: {line[-60:]!r}")
            continue
        sequence = sequence_of(line)
        missing = ATTRIBUTES - event.keys() - (set() if sequence else {"sequence"})
        if missing or not line.endswith(b"}\n"):
            faults.append(f"{event.get('id')} has no {', '.join(sorted(missing)) or 'end'}")
        elif sequence and (event["id"] != str(sequence) or committed.get(sequence, line) != line):
            faults.append(f"{sequence} is not as it was recorded: {line[:200]!r}")
    return _told(faults)


def resumable(watches: Sequence[Watch], committed: Committed) -> list[str]:
    """A watch that begins after an event goes on with the very next one, behind a hello of the same state."""
    faults: list[str] = []
    epochs: set[str] = set()
    for number, watch in enumerate(watches):
        hello: dict[str, Any] = json.loads(watch.lines[0]) if watch.lines else {"type": "nothing"}
        if hello["type"] != "wizflow.hello":
            faults.append(f"watch {number} begins with {hello['type']}")
            continue
        epochs.add(hello["data"]["epoch"])
        if found := sequences(watch.lines):
            wanted = next((sequence for sequence in sorted(committed) if sequence > watch.since), 0)
            if found[0] != wanted:
                faults.append(f"watch {number} asked for what follows {watch.since}, and got {found[0]}, not {wanted}")
    return _told(faults + ([f"there are {len(epochs)} epochs"] if len(epochs) > 1 else []))


def bookmarkable(lines: Sequence[bytes], committed: Committed) -> list[str]:
    """A bookmark says that everything up to there has come, and nothing up to there comes after it."""
    faults, wanted = [], sorted(committed)
    came = place = marked = 0
    for line in lines:
        if sequence := sequence_of(line):
            came, place = came + 1, sequence
            if sequence <= marked:
                faults.append(f"{sequence} comes after the bookmark {marked}")
        elif b'"wizflow.bookmark"' in line:
            marked = json.loads(line)["data"]["sequence"]
            due = sum(1 for sequence in wanted if sequence <= marked)
            if place > marked or came < due:
                faults.append(f"the bookmark {marked} stands where {came} of {due} events have come, up to {place}")
    return _told(faults)


def faults_of(watches: Sequence[Watch], committed: Committed) -> dict[str, list[str]]:
    """Return the faults in all that a client received, by the property that they break."""
    lines = lines_of(watches)
    found = {
        "ordered": ordered(lines),
        "unique": unique(lines),
        "reliable": reliable(lines, committed),
        "atomic": atomic(lines, committed),
        "resumable": resumable(watches, committed),
        "bookmarkable": bookmarkable(lines, committed),
    }
    return {name: faults for name, faults in found.items() if faults}


def _told(faults: Iterable[str]) -> list[str]:
    found = list(faults)
    more = [f"and {len(found) - MOST_TOLD} more"] if len(found) > MOST_TOLD else []
    return found[:MOST_TOLD] + more


@dataclass
class Watcher(Thread):
    """A client that resumes for ever after what it saw last, and records what each of its connections received.

    It breaks its connection whenever `broken` is set, and comes back at once. `wish` is what it asks for but `since`;
    `place` is up to where it was told, `marked` its last bookmark.
    """

    path: Path
    wish: Mapping[str, Any] = field(default_factory=dict)
    watches: list[Watch] = field(default_factory=list)
    place: int = 0
    marked: int = 0
    broken: Event = field(default_factory=Event)
    ended: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = Thread.__hash__

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                self._watch()
            except (OSError, EOFError):
                self.ended.wait(0.02)  # the daemon has gone, and comes back

    def _watch(self) -> None:
        with socket.socket(socket.AF_UNIX) as peer, reachable(self.path) as name:
            peer.settimeout(0.2)
            peer.connect(name)
            lines = _Lines(peer, self)
            lines.next()  # the hello of the connection: what comes before the next one does not know of the wish
            received: list[bytes] = []
            since = self.place
            peer.sendall(json.dumps({**self.wish, "since": since}).encode() + b"\n")
            while b'"wizflow.hello"' not in (line := lines.next()):
                pass
            self.watches.append(Watch(since, received))
            received.append(line)
            while True:
                line = lines.next()
                received.append(line)
                self.place = sequence_of(line) or self.place
                if b'"wizflow.bookmark"' in line:
                    self.place = self.marked = json.loads(line)["data"]["sequence"]


class _Lines:
    """The whole lines of a connection. `next` raises EOFError at its end, or when the watcher wants it broken."""

    def __init__(self, peer: socket.socket, watcher: Watcher) -> None:
        self._peer = peer
        self._watcher = watcher
        self._whole: list[bytes] = []
        self._rest = b""

    def next(self) -> bytes:
        while not self._whole:
            if self._watcher.ended.is_set() or self._watcher.broken.is_set():
                self._watcher.broken.clear()
                raise EOFError
            try:
                data = self._peer.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise EOFError
            *whole, self._rest = (self._rest + data).split(b"\n")
            self._whole = [line + b"\n" for line in reversed(whole)]
        return self._whole.pop()
