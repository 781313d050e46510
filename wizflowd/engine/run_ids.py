"""The ids of runs: `20261123-030512-7f3a9c`, the second (UTC) and a number in hex; they sort by time.

Numbers that are drawn for each run anew would do for a few files. Of thousands that are dropped at once two may draw
the same within a second, and nothing can be recorded of the second one. So one is drawn at the start, and counted on:
two lives of the daemon have the same id only where both queued runs in one second and began that near to each other.
"""

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime

from wizflowd.core.attempt import RunId

_NUMBERS = 1 << 24


@dataclass(slots=True)
class RunIds:
    """Gives ids, no two of them equal in one life of the daemon."""

    _number: int = field(default_factory=lambda: secrets.randbelow(_NUMBERS))

    def next(self, at_s: float) -> RunId:
        """Return the id of a run that is queued at this wall time."""
        self._number = (self._number + 1) % _NUMBERS
        return RunId(f"{datetime.fromtimestamp(at_s, UTC):%Y%m%d-%H%M%S}-{self._number:06x}")
