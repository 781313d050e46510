"""What `wizflow run` shows while it runs: lines on a terminal that live, plain lines elsewhere. Called by the commands
with what the engine tells; decides nothing.

Both ways show what ends, what failed with the end of its log, and where the results are. The terminal part, and with it
rich, is imported only for a terminal.
"""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, TextIO

from wizflowd.errors import printable
from wizflowd.views.wording import (
    Failure,
    Line,
    PlanRow,
    Summary,
    TaskChange,
    details_of,
    plan_line,
    summary_lines,
)

__all__ = ["Failure", "PlanRow", "Progress", "Summary", "TaskChange"]


class Screen(Protocol):
    """Where the progress is shown."""

    def write(self, line: Line) -> None:
        """Show a line for good."""

    def expect(self, tasks: int) -> None:
        """Be told how many tasks the run has."""

    def change(self, change: TaskChange) -> None:
        """Show a change of a task."""

    def close(self) -> None:
        """Leave the terminal as it was; nothing live is left. May be called again."""


class Progress:
    """Shows one run on `out`; use as a context manager, so that the cursor comes back whatever happens.

    `terminal` None: live where `out` is a terminal that can move its cursor and speaks UTF-8.
    """

    def __init__(self, out: TextIO, *, terminal: bool | None = None) -> None:
        self._screen: Screen
        if _is_live(out) if terminal is None else terminal:
            from wizflowd.views.live import LiveScreen

            self._screen = LiveScreen(out)
        else:
            self._screen = _PlainScreen(out)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._screen.close()

    def plan(self, workflow: str, run: str, rows: Sequence[PlanRow], *, width: int | None = None) -> None:
        """Show what the plan says; `width` is how many tasks can run at once."""
        self._screen.write(plan_line(workflow, run, rows, width))
        self._screen.expect(len(rows))

    def task(self, change: TaskChange) -> None:
        """Show a change of a task."""
        self._screen.change(change)

    def note(self, text: str) -> None:
        """Show what is to be known beside the tasks: that the run has to wait, and why."""
        self._screen.write(Line(((printable(text), "yellow"),)))

    def end(self, summary: Summary) -> None:
        """Show how the run ended: what failed and the end of its log, what was passed over, where the results are."""
        self._screen.close()
        for line in summary_lines(summary):
            self._screen.write(line)


class _PlainScreen:
    """One line per change: seconds since the first change, state, task, details. For files, pipes and CI."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._encoding = getattr(out, "encoding", None) or "utf-8"
        self._start_s: float | None = None
        self._unread = False

    def write(self, line: Line) -> None:
        if self._unread:
            return
        text = line.plain.encode(self._encoding, "backslashreplace").decode(self._encoding)
        try:
            self._out.write(text + "\n")
            self._out.flush()
        except BrokenPipeError:
            self._unread = True  # as in `wizflow run x.yaml | head`: the run goes on all the same

    def expect(self, tasks: int) -> None:
        pass

    def change(self, change: TaskChange) -> None:
        if self._start_s is None:
            self._start_s = change.at_s
        elapsed = f"{change.at_s - self._start_s:9.3f}  {change.state:<9}  "
        self.write(Line(((f"{elapsed}{printable(change.task)}{details_of(change)}", ""),)))

    def close(self) -> None:
        pass


def _is_live(out: TextIO) -> bool:
    if os.environ.get("TERM", "") in {"", "dumb", "unknown"}:
        return False
    return out.isatty() and (out.encoding or "").lower().replace("-", "") == "utf8"
