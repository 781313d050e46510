"""How one log is shown: escaped on a terminal, as it is elsewhere, or a JSON object for each line.

In: bytes of a log, in any pieces. Out: text on stdout. Called by `logs` and `follow`.
"""

import codecs
import json
import sys
from dataclasses import dataclass

from wizflowd.errors import printable


@dataclass(frozen=True, slots=True)
class Style:
    """How the logs of a run are shown: for a `terminal`, as `json`; `run` is its id.

    `exact`: nothing is added to the bytes of a log, also no end of line.
    """

    terminal: bool
    json: bool
    run: str
    exact: bool = False


class LogView:
    """Shows the log of one attempt. `named`: each line begins with the task, `prefix` as it is shown."""

    def __init__(self, style: Style, task: str, attempt: int, *, named: bool, prefix: str = "") -> None:
        self._style = style
        self._task = task
        self._attempt = attempt
        self._named = named
        self._prefix = prefix or f"{task} | "
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
        self._rest = ""
        self._line_open = False

    def feed(self, data: bytes) -> None:
        """Show the next bytes: at once, or line by line where lines of several logs are mixed."""
        if self._named or self._style.json:
            self._feed_lines(self._decode(data))
        elif self._style.terminal:
            self._write(_escaped(self._decode(data)))
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            self._line_open = not (data.endswith(b"\n") or self._style.exact)

    def end(self) -> None:
        """Show what is left of a log without an end of line."""
        if self._rest:
            self._show(self._rest)
            self._rest = ""
        elif self._line_open:
            self._write("\n")

    def _feed_lines(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._show(line)

    def _show(self, line: str) -> None:
        if self._style.json:
            entry = {"run": self._style.run, "task": self._task, "attempt": self._attempt, "line": line}
            print(json.dumps(entry, ensure_ascii=False))
        else:
            print(f"{self._prefix}{_escaped(line) if self._style.terminal else line}")

    def _write(self, text: str) -> None:
        if text:
            sys.stdout.write(text)
            self._line_open = not text.endswith("\n")


def _escaped(text: str) -> str:
    return "\n".join(printable(line.expandtabs(8)) for line in text.split("\n"))
