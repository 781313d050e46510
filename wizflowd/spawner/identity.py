"""By what a process can be told to belong to an attempt: a mark that it inherits, or its environment.

Used by the spawner: for orphans of its attempts, and at its start for what a dead spawner left behind.

The mark is a resource limit: each attempt is started under its own hard RLIMIT_RTTIME, far above any use. It passes to
every descendant through fork, exec, setsid and `env -i`, and nobody without privileges can raise it.
"""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterable, Mapping

NO_MARK = 0

_NAMES = ("WIZFLOW_RUN", "WIZFLOW_TASK", "WIZFLOW_ATTEMPT")
_HIGHEST = 1 << 62
_LOWEST = 1 << 48  # microseconds of real-time scheduling without a pause: nine years
_COUNT = 1 << 28  # marks of one spawner
_ROUNDS = 200
_ROUND_S = 0.01


class Marks:
    """Gives out marks, each one below the last: a process may lower its own limit but not raise it."""

    def __init__(self, following: int = NO_MARK) -> None:
        inherited = read_mark(os.getpid())
        highest = _HIGHEST if inherited == NO_MARK else min(inherited, _HIGHEST)
        # by chance, so that no other spawner of this host has the same ones, also not one within a task of this
        self.top = following or highest - _COUNT - int.from_bytes(os.urandom(8)) % (highest // 2 + 1)
        self._next = min(self.top, highest)

    def put_on(self) -> int:
        """Put the next mark on this process, for the child that it starts next, and return it."""
        self._next -= 1
        if self._next < max(_LOWEST, self.top - _COUNT):
            return NO_MARK
        try:
            resource.setrlimit(resource.RLIMIT_RTTIME, (self._next, self._next))
        except (OSError, ValueError):
            self._next = 0
            return NO_MARK
        return self._next


def read_mark(pid: int) -> int:
    """Return the mark of a process, NO_MARK if it has none or may not be asked. Raises ProcessLookupError."""
    try:
        _soft, hard = resource.prlimit(pid, resource.RLIMIT_RTTIME)
    except PermissionError:
        return NO_MARK
    return NO_MARK if hard == resource.RLIM_INFINITY else hard


def end_survivors(top: int) -> int:
    """Kill what wears a mark of the spawner whose first mark was below `top`, until nothing does; return how many.

    Gives up after a while on what cannot be killed.
    """
    killed: set[int] = set()
    if _is_below(top, _mark_of_living(os.getpid())):
        return 0  # this process descends from an attempt of that spawner: to kill those would end its own daemon
    for _round in range(_ROUNDS):
        survivors = [pid for pid in all_pids() if _is_below(top, _mark_of_living(pid))]
        if not survivors:
            break
        for pid in survivors:
            _kill_marked(pid, top)
        killed.update(survivors)
        time.sleep(_ROUND_S)
    return len(killed)


def _is_below(top: int, mark: int) -> bool:
    return top - _COUNT <= mark < top


def _kill_marked(pid: int, top: int) -> None:
    """Kill a process if it (and not another that came to have its pid) wears a mark below `top`."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        descriptor = os.pidfd_open(pid)
        try:
            if _is_below(top, read_mark(pid)):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _mark_of_living(pid: int) -> int:
    """Return the mark of a process, NO_MARK if it is dead or only waits for its parent to notice."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return NO_MARK if file.read().rpartition(b")")[2].split()[0] == b"Z" else read_mark(pid)
    except (FileNotFoundError, ProcessLookupError):
        return NO_MARK


def names_of(env: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that names the attempt; empty if it names none."""
    return {name: env[name] for name in _NAMES if name in env}


def read_names(pid: int) -> dict[str, str]:
    """Return what the environment of a process names, as it was at its last exec; empty if it may not be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = (os.fsdecode(each).partition("=") for each in file.read().split(b"\0"))
    except OSError:
        return {}
    return names_of({name: value for name, _, value in variables})


def all_pids() -> Iterable[int]:
    """Return the pid of every process that this one can see."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
