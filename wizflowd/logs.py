"""What the daemon tells of itself on stderr: one line per record and per message of its own, as text or as JSON.

Called by the programs at start; the sink is told every record by the engine. No secrets reach it: records hold none.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cache, partial
from typing import Literal, TextIO

from wizflowd.core.events import Record, rfc3339, subject_of
from wizflowd.core.values import Json
from wizflowd.errors import printable

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "about"}
_UNTOLD = frozenset({"outputs", "params", "files", "digest", "change", "status", "problems"})
"""What a line leaves out: it is long, or said by the name of the event, or has lines of its own."""
_BAD_ENDS = (".failed", ".invalid", ".degraded", ".unavailable")
log = logging.getLogger("wizflowd.events")
_PLAIN = re.compile(r'[^\s"=]+')
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


class Style(logging.Formatter):
    """How a line looks: of a log record (`format`), or of what needs none (`line`)."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        error = self.formatException(record.exc_info) if record.exc_info else ""
        return self.line(record.created, record.levelname, record.getMessage(), fields, error)

    def line(self, at_s: float, level: str, message: str, fields: Mapping[str, object], error: str = "") -> str:
        """Return a line, followed by those of a traceback; `fields` are told by their names."""
        raise NotImplementedError


class _Plain(Style):
    """A line for the journal, which knows time and level."""

    def line(self, at_s: float, level: str, message: str, fields: Mapping[str, object], error: str = "") -> str:
        shown = "".join([f" {name}={_shown(value)}" for name, value in fields.items()])
        line = f"{self.head(at_s, level)}{message}{shown}"
        return f"{line}\n{error}" if error else printable(line)

    def head(self, _at_s: float, _level: str) -> str:
        return ""


class _Text(_Plain):
    def head(self, at_s: float, level: str) -> str:
        return f"{rfc3339(at_s)[:-4]}Z {level.lower():7} "


class _Json(Style):
    def line(self, at_s: float, level: str, message: str, fields: Mapping[str, object], error: str = "") -> str:
        line = {"time": rfc3339(at_s), "level": level.lower(), "message": message}
        return _encode({**line, **({"error": error} if error else {}), **fields})


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream, in one of the styles."""

    def __init__(self, out: TextIO, style: Style) -> None:
        super().__init__(out)
        self.style = style
        self.setFormatter(style)

    def write(self, lines: Sequence[str]) -> None:
        """Write many lines at once; those that the stream does not take are lost."""
        if not lines:
            return
        with self.lock or nullcontext(), suppress(OSError, ValueError):  # ValueError: it is closed
            self.stream.write("".join([f"{line}\n" for line in lines]))
            self.flush()


def set_up_logging(
    level: str,
    style: Literal["auto", "text", "json"],
    out: TextIO = sys.stderr,
    journal: logging.Handler | None = None,
) -> None:
    """Send log lines to `out`, or to `journal`."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells them
    if journal is not None:
        journal.setFormatter(_Json() if style == "json" else _Plain())
    root = logging.getLogger("wizflowd")
    root.handlers[:] = [journal or LineHandler(out, _Json() if style == "json" else _Text())]
    root.setLevel(level.upper())
    root.propagate = False


class LogSink:
    """Tells every public record in one line."""

    def told(self, records: Sequence[Record]) -> None:
        """Tell the records of a commit: to a stream all at once, to the journal as an entry each."""
        for handler in logging.getLogger("wizflowd").handlers:
            if isinstance(handler, LineHandler):
                handler.write([*_lines(records, handler.style)])
                return
        for record in records:
            for level, message, fields in _messages(record):
                extra: dict[str, object] = {**fields, "about": partial(_about, record)}
                # not `log.log`: it looks for the line of code that calls, which takes longer than all the rest
                log.handle(log.makeRecord(log.name, level, "", 0, message, (), None, extra=extra))


def _lines(records: Iterable[Record], style: Style) -> Iterator[str]:
    now_s = time.time()
    for record in records:
        for level, message, fields in _messages(record):
            yield style.line(now_s, logging.getLevelName(level), message, fields)


def _messages(record: Record) -> Iterator[tuple[int, str, Mapping[str, Json]]]:
    """Yield level, text and fields of each line about a record: what has happened, and each problem of a definition."""
    event = record.event
    if not event.public:
        return
    level = _level_of(event.public)
    if not log.isEnabledFor(level):
        return
    yield level, f"{event.public} {subject_of(event)}".rstrip(), _fields(record)
    problems = record.shown.get("problems")
    for problem in problems if isinstance(problems, list) else ():
        yield logging.WARNING, str(problem), {}


@cache
def _level_of(kind: str) -> int:
    return logging.WARNING if kind.endswith(_BAD_ENDS) else logging.INFO


def _fields(record: Record) -> dict[str, Json]:
    """Return what a line says of a record, by names that can stand in a log record: those that logging keeps for itself
    get an underscore."""
    return {
        f"{name}_" if name in _STANDARD else name: value
        for name, value in record.shown.items()
        if name not in _UNTOLD and value is not False
    }


def _about(record: Record) -> dict[str, str]:
    """Return the fields by which the journal finds an event: RUN, TASK, WORKFLOW, EVENT and what it says."""
    event = record.event
    names = [name for name in ("workflow", "run", "task") if getattr(event, name, "")]
    shown = {name: value for name, value in record.shown.items() if name not in _UNTOLD}
    said = {name: value if isinstance(value, str) else _encode(value) for name, value in shown.items()}
    return {**said, **{name: getattr(event, name) for name in names}, "event": f"wizflow.{event.public}"}


def _shown(value: object) -> str:
    """Return a value as it stands in a line of text: in quotes where it could be taken for more than one."""
    if type(value) is int:
        return str(value)
    if value is None or isinstance(value, bool | list | tuple | dict):
        return _encode(value)
    text = str(value)
    return text if _PLAIN.fullmatch(text) else _encode(text)
