"""Moves attempts from start to end: deadlines, kills, the dead and what they leave.

Driven by the supervisor's loop: `reap` after SIGCHLD, `tick` when `next_due` has come, `take_over` once a turn.
Deadlines are by CLOCK_MONOTONIC: the time a host is suspended does not count.
"""

import math
import signal
import time
from collections.abc import Callable, Iterable

from wizflowd.spawner.attempt import Attempt, Phase
from wizflowd.spawner.cgroups import kill_all, pids_in
from wizflowd.spawner.family import Family, send_signal

_SETTLE_S = 0.1  # enough for `exec > >(tee file)` to see the end of its input
_LEFTOVER_GRACE_S = 1.0
_KILL_AGAIN_S = 0.02
_FREEZE_ROUNDS = 40
_CHASE_ROUNDS = 20


class Lifecycle:
    """The attempts that are not over. `next_due` is when the first of their phases may be over, infinite if none."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._over: list[Attempt] = []
        self._ending: dict[str, Attempt] = {}  # those whose first process has ended
        self.attempts: dict[str, Attempt] = {}
        self.next_due = math.inf

    def add(self, attempt: Attempt) -> None:
        """Take charge of an attempt, just started or of the program before."""
        self.attempts[attempt.id] = attempt
        if attempt.status is not None:
            self._ending[attempt.id] = attempt
        self._set_due(attempt, attempt.due)

    def terminate(self, attempts: Iterable[Attempt], *, grace_s: float = math.inf) -> None:
        """Tell all processes of `attempts` to end, and kill what is left after the grace (at most `grace_s`)."""
        told = [attempt for attempt in attempts if attempt.phase < Phase.TERMINATING]
        for attempt, pids in self._living(told):
            attempt.phase = Phase.TERMINATING
            self._set_due(attempt, time.monotonic() + min(attempt.grace_s, grace_s))
            send_signal(pids, signal.SIGTERM)
            send_signal(pids, signal.SIGCONT)  # a stopped process sees the other signal only then

    def reap(self) -> None:
        """Take note of the dead; an attempt whose first process was the last of it is over."""
        for attempt_id, status in self.family.reap():
            attempt = self._ending[attempt_id] = self.attempts[attempt_id]
            attempt.status = status
        if not self._ending:
            return
        self.family.look()
        for attempt in list(self._ending.values()):
            if not self.family.left_of(attempt.id) and not _cgroup_pids(attempt):
                del self._ending[attempt.id], self.attempts[attempt.id]
                self.family.remove(attempt.id)
                self._over.append(attempt)
            elif attempt.phase is Phase.RUNNING:
                attempt.phase = Phase.SETTLING
                self._set_due(attempt, time.monotonic() + _SETTLE_S)

    def tick(self) -> None:
        """Move on every attempt whose phase is over by the clock."""
        now = time.monotonic()
        due = [a for a in self.attempts.values() if a.due is not None and a.due <= now]
        deadline = [attempt for attempt in due if attempt.phase is Phase.RUNNING]
        for attempt in deadline:
            attempt.timed_out = True
        self.terminate(deadline)
        self._end_leftovers([attempt for attempt in due if attempt.phase is Phase.SETTLING])
        for attempt in due:
            if attempt.phase is Phase.TERMINATING and attempt.due is not None and attempt.due <= now:
                attempt.phase = Phase.KILLING
        killing = [attempt for attempt in due if attempt.phase is Phase.KILLING]
        if killing:
            self._kill(killing)
        self.next_due = min((a.due for a in self.attempts.values() if a.due is not None), default=math.inf)

    def take_over(self) -> list[Attempt]:
        """Return the attempts that are over since the last call."""
        over, self._over = self._over, []
        return over

    def _end_leftovers(self, attempts: list[Attempt]) -> None:
        for attempt, pids in self._living(attempts):
            attempt.leftovers = len(pids)
            attempt.notes.append(f"{len(pids)} left-over process{'es' if len(pids) != 1 else ''} ended")
        self.terminate(attempts, grace_s=_LEFTOVER_GRACE_S)

    def _kill(self, attempts: list[Attempt]) -> None:
        """Kill all that is left: freeze until nobody unfrozen is found, kill, then chase what slipped through."""
        frozen: set[int] = set()
        for _round in range(_FREEZE_ROUNDS):  # frozen first: nobody answers the death of another with a fork
            found = self._all(self.family.marked, attempts) - frozen
            found = found or self._all(self.family.living, attempts) - frozen
            if not found:
                break
            send_signal(found, signal.SIGSTOP)
            frozen |= found
        for attempt in attempts:
            if attempt.cgroup:
                kill_all(attempt.cgroup)
            self._set_due(attempt, time.monotonic() + _KILL_AGAIN_S)
        send_signal(frozen, signal.SIGKILL)
        for _round in range(_CHASE_ROUNDS):  # a chain of forks comes here link by link, quicker than by any search
            self.reap()
            send_signal((pid for attempt in attempts for pid in self.family.left_of(attempt.id)), signal.SIGKILL)

    def _living(self, attempts: list[Attempt]) -> list[tuple[Attempt, set[int]]]:
        """Return every process of each of `attempts`."""
        if not attempts:
            return []
        living = self.family.living([attempt.id for attempt in attempts])
        return [(attempt, living[attempt.id].union(_cgroup_pids(attempt))) for attempt in attempts]

    def _all(self, find: Callable[[list[str]], dict[str, set[int]]], attempts: list[Attempt]) -> set[int]:
        found = find([attempt.id for attempt in attempts])
        return set[int]().union(*found.values(), *map(_cgroup_pids, attempts))

    def _set_due(self, attempt: Attempt, due: float | None) -> None:
        attempt.due = due
        if due is not None:
            self.next_due = min(self.next_due, due)


def _cgroup_pids(attempt: Attempt) -> list[int]:
    return pids_in(attempt.cgroup) if attempt.cgroup else []
