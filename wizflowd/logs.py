"""What the daemon tells of itself on stderr: one line per record and per message of its own, as text or as JSON.

Called by the programs at start; the sink is told every record by the engine. No secrets reach it: records hold none.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from functools import partial
from typing import Literal, TextIO

from wizflowd.core.events import Event, Record, rfc3339, subject_of
from wizflowd.core.values import Json
from wizflowd.errors import printable

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "about"}
_UNTOLD = frozenset({"outputs", "params", "files", "digest", "change", "status"})
"""What a line leaves out: it is long, or said by the name of the event."""
log = logging.getLogger("wizflowd.events")
_PLAIN = re.compile(r'[^\s"=]+')
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


class _PlainFormatter(logging.Formatter):
    """A line for the journal, which knows time and level."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        shown = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        line = f"{self.head(record)}{record.getMessage()} {shown}".rstrip()
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
            return line
        return printable(line)

    def head(self, record: logging.LogRecord) -> str:  # noqa: ARG002
        return ""


class _TextFormatter(_PlainFormatter):
    def head(self, record: logging.LogRecord) -> str:
        return f"{rfc3339(record.created)[:-4]}Z {record.levelname.lower():7} "


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line = {"time": rfc3339(record.created), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _encode({**line, **fields})


def set_up_logging(
    level: str,
    style: Literal["auto", "text", "json"],
    out: TextIO = sys.stderr,
    journal: logging.Handler | None = None,
) -> None:
    """Send log lines to `out`, or to `journal`."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells them
    handler = journal or logging.StreamHandler(out)
    plain = _PlainFormatter() if journal else _TextFormatter()
    handler.setFormatter(_JsonFormatter() if style == "json" else plain)
    root = logging.getLogger("wizflowd")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False


class LogSink:
    """Tells every public record in one line."""

    def told(self, record: Record) -> None:
        event = record.event
        if not event.public:
            return
        failed = event.public.endswith((".failed", ".invalid", ".degraded", ".unavailable"))
        subject = subject_of(event)
        level = logging.WARNING if failed else logging.INFO
        if not log.isEnabledFor(level):
            return
        shown = {name: value for name, value in record.shown.items() if name not in _UNTOLD}
        problems = shown.pop("problems", ())
        fields = {name: value for name, value in shown.items() if value is not False}
        extra: dict[str, object] = {**_named(fields), "about": partial(_about, event, shown)}
        # not `log.log`: it looks for the line of code that calls, which takes longer than all the rest
        log.handle(log.makeRecord(log.name, level, "", 0, f"{event.public} {subject}".rstrip(), (), None, extra=extra))
        for problem in problems if isinstance(problems, list) else ():
            log.warning("%s", problem, extra={"about": extra["about"]})


def _about(event: Event, shown: Mapping[str, Json]) -> dict[str, str]:
    """Return the fields by which the journal finds an event: RUN, TASK, WORKFLOW, EVENT and what it says."""
    names = [name for name in ("workflow", "run", "task") if getattr(event, name, "")]
    said = {name: value if isinstance(value, str) else _encode(value) for name, value in shown.items()}
    return {**said, **{name: getattr(event, name) for name in names}, "event": f"wizflow.{event.public}"}


def _named(fields: Mapping[str, Json]) -> dict[str, Json]:
    """Return fields by names that can stand in a log record: those that logging keeps for itself get an underscore."""
    return {f"{name}_" if name in _STANDARD else name: value for name, value in fields.items()}


def _shown(value: object) -> str:
    """Return a value as it stands in a line of text: in quotes where it could be taken for more than one."""
    if value is None or isinstance(value, bool | list | tuple | dict):
        return _encode(value)
    text = str(value)
    return text if _PLAIN.fullmatch(text) else _encode(text)
