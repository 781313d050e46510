"""Which living processes belong to which attempt, whatever they did to escape: new sessions, double forks, clean
environments, closed descriptors.

Called by the spawner's loop. The spawner is a subreaper: what a dying process leaves becomes a child of the spawner at
that moment. So an attempt whose first process has ended is over when no child of the spawner belongs to it.
"""

import ctypes
import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wizflowd.spawner.identity import (
    NO_MARK,
    Marks,
    all_pids,
    read_mark,
    read_names,
)

_SET_CHILD_SUBREAPER = 36
_SET_DUMPABLE = 4
_NOBODY = ""


def become_subreaper() -> None:
    """Make this process the parent of every orphan below it, and its memory (secrets) unreadable for its peers."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_SET_CHILD_SUBREAPER, 1), (_SET_DUMPABLE, 0)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


@dataclass(slots=True)
class Member:
    """The first process of an attempt and what its descendants can be told by. `pid` 0: it has ended."""

    attempt: str
    session: int
    mark: int
    names: Mapping[str, str]
    pid: int


class Family:
    """The spawner's children: the first processes of attempts, and orphans."""

    def __init__(self, marks: Marks) -> None:
        self._self = os.getpid()
        self._marks = marks
        self._members: dict[str, Member] = {}
        self._by_mark: dict[int, str] = {}
        self._first: dict[int, str] = {}
        self._orphans: dict[int, str] = {}
        self._children = _open_children(self._self)

    @property
    def top(self) -> int:
        """The mark above all that this spawner gives out."""
        return self._marks.top

    def put_on_mark(self) -> int:
        """Mark this process for the child that it starts next; return the mark."""
        return self._marks.put_on()

    def add(self, attempt: str, pid: int, mark: int, names: Mapping[str, str]) -> None:
        """Take note of a first process; `names` is what its environment names."""
        self._members[attempt] = Member(attempt, pid, mark, names, pid)
        self._first[pid] = attempt
        if mark != NO_MARK:
            self._by_mark[mark] = attempt

    def remove(self, attempt: str) -> None:
        """Forget an attempt that is over."""
        self._by_mark.pop(self._members.pop(attempt).mark, None)

    def reap(self) -> list[tuple[str, int]]:
        """Take the dead away; return the attempts whose first process was among them, with its wait status."""
        ended: list[tuple[str, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            attempt = self.bury(pid)
            if attempt is not None:
                ended.append((attempt, status))

    def bury(self, pid: int) -> str | None:
        """Forget a dead process; return the attempt whose first it was."""
        self._orphans.pop(pid, None)
        attempt = self._first.pop(pid, None)
        if attempt is not None:
            self._members[attempt].pid = 0
        return attempt

    def left_of(self, attempt: str) -> list[int]:
        """Return the orphans of an attempt as of the last `look`."""
        return [pid for pid, owner in self._orphans.items() if owner == attempt]

    def look(self) -> None:
        """Find orphans that have come to the spawner. An orphan of nobody is killed."""
        children = self._read_children()
        if len(children) == len(self._first) + len(self._orphans) and _NOBODY not in self._orphans.values():
            return
        for pid in map(int, children):
            if pid not in self._first and not self._orphans.get(pid):
                owner = self._owner(pid)
                if owner == _NOBODY and not self._members:
                    send_signal([pid], signal.SIGKILL)
                self._orphans[pid] = owner

    def living(self, attempts: Iterable[str]) -> dict[str, set[int]]:
        """Return every process of each attempt, also those below it that lost its mark."""
        living = self.marked(attempts)
        for pids in living.values():
            _add_descendants(pids)
        return living

    def marked(self, attempts: Iterable[str]) -> dict[str, set[int]]:
        """Return the processes of each attempt that can be found quickly: first one, orphans, and by the mark."""
        self.look()
        living = {attempt: set(self.left_of(attempt)) for attempt in attempts}
        for attempt, pids in living.items():
            if self._members[attempt].pid:
                pids.add(self._members[attempt].pid)
        for pid in all_pids():
            owner = self._by_mark.get(_mark(pid), _NOBODY)
            if owner in living and pid != self._self:  # the spawner itself wears the mark it gave last
                living[owner].add(pid)
        return living

    def _owner(self, pid: int) -> str:
        """Return the attempt of an orphan; where nothing tells it but only one is there, it is that one."""
        owner = self._by_mark.get(_mark(pid))
        if owner:
            return owner
        try:
            session = os.getsid(pid)
        except ProcessLookupError:
            session = 0
        names = read_names(pid)
        for member in self._members.values():
            if member.session == session or (names and member.names == names):
                return member.attempt
        return next(iter(self._members)) if len(self._members) == 1 else _NOBODY

    def _read_children(self) -> list[bytes]:
        data = b""
        while piece := os.pread(self._children, 65536, len(data)):
            data += piece
        return data.split()


def send_signal(pids: Iterable[int], number: int) -> None:
    """Send a signal to each of `pids` that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue  # ended meanwhile; or it took other rights (sudo), which no signal of ours can end


def _mark(pid: int) -> int:
    try:
        return read_mark(pid)
    except ProcessLookupError:
        return NO_MARK


def _add_descendants(pids: set[int]) -> None:
    """Add to `pids` what was started by them and lost the mark."""
    waiting = list(pids)
    while waiting:
        for child in _children_of(waiting.pop()):
            if child not in pids:
                pids.add(child)
                waiting.append(child)


def _children_of(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children.extend(map(int, file.read().split()))
    except (FileNotFoundError, ProcessLookupError):
        pass  # ended meanwhile: its children are orphans of ours
    return children


def _open_children(pid: int) -> int:
    return os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
