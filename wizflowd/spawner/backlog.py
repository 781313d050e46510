"""What a daemon has handed over before there was a place for it: started as soon as there is one, without asking.

Filled and emptied by the spawner's loop, one for each daemon. In: requests with the attempts that they come `after`,
and attempts that ended well. Out: the request that is to be started next. An end that is not plainly good empties it:
what follows from that is the daemon's to say. The daemon counts such ends as the spawner does; what it handed over
before it had decided what follows from the last one is not taken.
"""

import heapq
from collections.abc import Collection
from dataclasses import dataclass

from wizflowd.spawner.protocol import Message

_PLENTY = 16  # while so many wait, the daemon need not be quick to hand over more


@dataclass(slots=True)
class _Waiting:
    request: Message
    unmet: set[str]


class Backlog:
    """Requests that wait. `limit` is how many attempts may run at once for one of them to start."""

    def __init__(self) -> None:
        self.limit = 0
        self._waiting: dict[str, _Waiting] = {}
        self._next: list[tuple[list[int], str]] = []
        self._behind: dict[str, list[str]] = {}

    def __contains__(self, attempt: str) -> bool:
        return attempt in self._waiting

    @property
    def has_plenty(self) -> bool:
        """Whether it will last for a moment."""
        return len(self._waiting) >= _PLENTY

    def add(self, request: Message, unmet: Collection[str]) -> None:
        """Take a request; `unmet` are the attempts that it comes after which have not ended."""
        name = request["attempt"]
        self._waiting[name] = _Waiting(request, set(unmet))
        for attempt in unmet:
            self._behind.setdefault(attempt, []).append(name)
        if not unmet:
            heapq.heappush(self._next, (request["order"], name))

    def ended_well(self, attempt: str) -> None:
        """Take note of a good end."""
        for name in self._behind.pop(attempt, ()):
            waiting = self._waiting[name]
            waiting.unmet.discard(attempt)
            if not waiting.unmet:
                heapq.heappush(self._next, (waiting.request["order"], name))

    def take(self) -> Message | None:
        """Return the request to start next, if one comes after nothing that runs."""
        if not self._next:
            return None
        _order, name = heapq.heappop(self._next)
        return self._waiting.pop(name).request

    def clear(self) -> None:
        """Let go of all."""
        self._waiting.clear()
        self._next.clear()
        self._behind.clear()
