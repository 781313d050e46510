"""How runs, tasks and workflows look in the commands' tables. In: what the daemon answers. Out: cells.

What was skipped or tolerated is never plain green. Called by `status`, `runs`, `show`, `logs`; pure.
"""

from collections.abc import Mapping
from typing import Any

from wizflowd.cli.terminal import Cell
from wizflowd.cli.times import time_of
from wizflowd.views.palette import look_of

_LIKE = {"queued": "pending", "invalid": "failed", "unavailable": "failed", "waiting": "paused", "idle": "pending"}


def state_of(run: Mapping[str, Any]) -> str:
    """Return the state by which a run looks: one that passed something over looks tolerated."""
    passed_over = count(run.get("skipped")) or count(run.get("tolerated"))
    return "tolerated" if run["status"] == "succeeded" and passed_over else str(run["status"])


def sign(state: str) -> Cell:
    """Return the sign of a state."""
    look = look_of(_LIKE.get(state, state))
    return Cell(look.sign, look.terminal)


def word(text: str, state: str) -> Cell:
    """Return a word in the colour of a state."""
    return Cell(text, look_of(_LIKE.get(state, state)).terminal)


def count(value: object) -> int:
    """Return how many there are, told as a list or as a number."""
    return len(value) if isinstance(value, list) else value if isinstance(value, int) else 0


def passed_over(run: Mapping[str, Any]) -> str:
    """Return what a run skipped and tolerated: `2 skipped, 1 tolerated`."""
    counts = ((count(run.get(name)), name) for name in ("skipped", "tolerated"))
    return ", ".join(f"{number:,} {name}" for number, name in counts if number)


def duration(seconds: float | None) -> Cell:
    """Return a duration for people; in plain lines it is a number of seconds."""
    return Cell("") if seconds is None else Cell(time_of(seconds), plain=f"{seconds:.3f}")
