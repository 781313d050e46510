"""What is told of a run to a person who waits for it, and in which words. Used by `views.progress`, `views.live`; pure.

Whatever comes from a definition or a log is shown with control characters escaped.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wizflowd.errors import printable
from wizflowd.views.palette import attention, look_of

_TAIL_LINES = 15
_TAIL_COLUMNS = 400
_NAMED = 10
"""How many skipped or tolerated tasks the summary names."""


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What the plan says of one task."""

    task: str
    action: Literal["run", "reuse"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TaskChange:
    """A task in another state. `at_s` is monotonic; `duration_s` is of the attempt that ended."""

    task: str
    state: str
    attempt: int
    at_s: float
    note: str = ""
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that failed; `tail` is the end of its log as it was written, `log_path` empty where there is none."""

    task: str
    message: str
    log_path: str = ""
    tail: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended. `counts` maps states of tasks to their number; `results` is the run's folder."""

    status: str
    duration_s: float
    counts: Mapping[str, int]
    failures: Sequence[Failure] = ()
    skipped: Sequence[str] = ()
    tolerated: Sequence[str] = ()
    results: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line to show: pieces of (text, style of rich); free of control characters."""

    pieces: tuple[tuple[str, str], ...]

    @property
    def plain(self) -> str:
        """The text alone."""
        return "".join(text for text, _ in self.pieces)


def plan_line(workflow: str, run: str, rows: Sequence[PlanRow], width: int | None) -> Line:
    """Return the line that opens a run."""
    actions = Counter(row.action for row in rows)
    parts = [count_of(len(rows), "task"), f"{actions['run']:,} to run", f"{actions['reuse']:,} reused"]
    if width is not None:
        parts.append(f"{width:,} wide")
    pieces = [(printable(workflow), "bold"), (f"  {', '.join(parts)}", "")]
    if run:
        pieces.append((f"  {printable(run)}", "bright_black"))
    return Line(tuple(pieces))


def details_of(change: TaskChange) -> str:
    """Return the attempt where it is not the first, the duration and the note, each after two blanks."""
    parts = [f"attempt {change.attempt}"] if change.attempt > 1 else []
    if change.duration_s is not None:
        parts.append(time_of(change.duration_s))
    if change.note:
        parts.append(printable(change.note))
    return "".join(f"  {part}" for part in parts)


def time_of(seconds: float) -> str:
    """Return a duration for a person: `0.4 s`, `12.3 s`, `2 min 05 s`, `3 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 0.0995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def count_of(count: int, noun: str) -> str:
    """Return `1 task`, `3 tasks`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def summary_lines(summary: Summary) -> list[Line]:
    """Return the lines that end a run."""
    lines = [line for failure in summary.failures for line in _failure_lines(failure)]
    if summary.failures:
        lines.append(Line(()))
    look = look_of(summary.status)
    states = sorted(summary.counts, key=attention)
    counts = ", ".join(f"{summary.counts[state]:,} {state}" for state in states if summary.counts[state])
    head = f"{printable(summary.status)} in {time_of(summary.duration_s)}"
    lines.append(Line(((head, f"bold {look.terminal}"), (f": {counts}" if counts else "", ""))))
    for title, tasks in (("tolerated", summary.tolerated), ("skipped", summary.skipped)):
        if tasks:
            more = f" and {len(tasks) - _NAMED:,} more" if len(tasks) > _NAMED else ""
            names = ", ".join(printable(task) for task in tasks[:_NAMED])
            lines.append(Line(((f"{title}: ", look_of(title).terminal), (names + more, ""))))
    if summary.results:
        lines.append(Line((("results: ", "bright_black"), (printable(summary.results), ""))))
    return lines


def _failure_lines(failure: Failure) -> list[Line]:
    head = Line(((f"failed {printable(failure.task)}", "bold red"), (f": {printable(failure.message)}", "")))
    lines = [Line(()), head]
    if failure.log_path:
        lines.append(Line(((f"  log: {printable(failure.log_path)}", "bright_black"),)))
    for text in failure.tail.splitlines()[-_TAIL_LINES:]:
        shown = printable(text.expandtabs(8).rstrip())
        if len(shown) > _TAIL_COLUMNS:
            shown = shown[:_TAIL_COLUMNS] + " ..."
        lines.append(Line(((f"    {shown}".rstrip(), ""),)))
    return lines
