"""The live part of the progress on a terminal, drawn by rich: what has ended scrolls up, what runs stays below with its
time, never higher than the terminal. Made by `views.progress`, only for a terminal, since rich costs 60 ms to import.

Changes only update a table; a thread draws what has gathered twelve times a second, so a thousand quick tasks cost
twelve frames, not a thousand.
"""

import time
from collections import Counter
from threading import Event, Lock, Thread
from typing import TextIO

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.text import Text

from wizflowd.errors import printable
from wizflowd.views.palette import attention, look_of
from wizflowd.views.wording import Line, TaskChange, details_of, time_of

_FRAME_S = 1 / 12
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_LIVE = frozenset({"running", "retrying", "paused"})
_QUIET = frozenset({"pending", "planned"})


class LiveScreen:
    """A terminal with a part that lives. The caller's thread tells; an own thread draws."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._lock = Lock()
        self._closing = Event()
        self._active: dict[str, TaskChange] = {}
        self._ended: list[Text] = []
        self._counts: Counter[str] = Counter()
        self._expected = 0
        self._start_s = time.monotonic()
        self._live = Live(self, console=self._console, auto_refresh=False, transient=True)
        self._painter = Thread(target=self._paint_until_closed, name="progress", daemon=True)

    def write(self, line: Line) -> None:
        """Show a line for good, above what lives."""
        self._console.print(_text(line), soft_wrap=True)

    def expect(self, tasks: int) -> None:
        """Start the part that lives."""
        self._expected = tasks
        self._start_s = time.monotonic()
        self._live.start()
        self._painter.start()

    def change(self, change: TaskChange) -> None:
        """Note a change for the next frame."""
        with self._lock:
            if change.state in _LIVE:
                self._active[change.task] = change
            elif change.state not in _QUIET:
                self._active.pop(change.task, None)
                self._counts[change.state] += 1
                self._ended.append(_ended_text(change))

    def close(self) -> None:
        """Draw what is left, take the live part away and give the cursor back."""
        if self._closing.is_set():
            return
        try:
            self._closing.set()
            if self._painter.ident is not None:
                self._painter.join()
                self._paint()
        finally:
            self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give rich the part that lives: the tasks that run, and one line for the whole."""
        now_s = time.monotonic()
        with self._lock:
            active = sorted(self._active.values(), key=lambda change: change.at_s)
            counts = self._counts.copy()
        room = max(console.size.height - 3, 1)
        rows: list[RenderableType] = [_active_text(change, now_s) for change in active[:room]]
        if len(active) > room:
            rows.append(Text(f"  and {len(active) - room:,} more", "bright_black"))
        rows.append(self._whole_text(len(active), counts, now_s))
        yield Group(*rows)

    def _paint_until_closed(self) -> None:
        try:
            while not self._closing.wait(_FRAME_S):
                self._paint()
        except OSError:
            return  # the terminal is gone; the run goes on, and the caller's next line to it says so

    def _paint(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, []
        if ended:
            # one print for all: each one takes the live part away and draws it again
            self._console.print(Text("\n").join(ended), soft_wrap=True)
        else:
            self._live.refresh()

    def _whole_text(self, active: int, counts: Counter[str], now_s: float) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis", end="")
        text.append(f"  {counts.total():,}/{self._expected:,}", "bold")
        for state in sorted(counts, key=attention):
            text.append(f"  {look_of(state).sign} {counts[state]:,} {state}", look_of(state).terminal)
        text.append(f"  {active:,} running  {time_of(now_s - self._start_s)}", "bright_black")
        return text


def _text(line: Line) -> Text:
    return Text.assemble(*line.pieces)


def _ended_text(change: TaskChange) -> Text:
    look = look_of(change.state)
    text = Text.assemble((f"{look.sign} ", look.terminal), printable(change.task))
    if change.state not in {"succeeded", "failed"}:
        text.append(f"  {change.state}", look.terminal)
    text.append(details_of(change), "red" if change.state == "failed" else "bright_black")
    return text


def _active_text(change: TaskChange, now_s: float) -> Text:
    look = look_of(change.state)
    sign = _SPINNER[int(now_s / _FRAME_S) % len(_SPINNER)] if change.state == "running" else look.sign
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{sign} ", look.terminal)
    text.append(printable(change.task))
    text.append(f"  {time_of(max(now_s - change.at_s, 0))}", "bright_black")
    if change.state != "running":
        text.append(f"  {change.state}", look.terminal)
    text.append(details_of(change), "bright_black")
    return text
