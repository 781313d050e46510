"""`wizflow logs -f`: the logs of a run as they grow, until it has ended.

The files are the truth and are looked at often; the daemon is asked only for runs that have not begun, and may restart
meanwhile.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wizflowd.cli.logview import LogView, Style
from wizflowd.cli.looks import state_of, word
from wizflowd.cli.reach import NoDaemonError, ask_daemon
from wizflowd.cli.terminal import Cell, Terminal
from wizflowd.cli.times import between, now_s, time_of
from wizflowd.errors import RequestError

LOOK_EVERY_S = 0.1
ASK_EVERY_S = 2.0
_CHUNK = 1024 * 1024
_REMEMBERED = 256
_COLOURS = ("cyan", "green", "yellow", "blue", "magenta")
_CUT = re.compile("\n… (\\d+) bytes cut …\n".encode())


class GrowingLog:
    """A log that is read as it grows; its middle may be cut away when its task ends (`spawner.log`)."""

    def __init__(self, path: Path, view: LogView) -> None:
        self.view = view
        self._file = path.open("rb")
        self._read = 0
        self._last = b""

    def look(self) -> None:
        """Show what has come since the last look."""
        if self._last and os.pread(self._file.fileno(), len(self._last), self._read - len(self._last)) != self._last:
            self._skip_cut()
        while data := os.pread(self._file.fileno(), _CHUNK, self._read):
            self.view.feed(data)
            self._read += len(data)
            self._last = (self._last + data)[-_REMEMBERED:]

    def close(self) -> None:
        """Show the end of it."""
        self.look()
        self.view.end()
        self._file.close()

    def _skip_cut(self) -> None:
        """Go on behind the cut, where what has been shown ends there, else at the cut."""
        self._file.seek(0)
        found = _CUT.search(self._file.read())
        self._last = b""
        if found is not None:
            shown_behind = self._read - found.start() - int(found[1])
            self._read = found.end() + shown_behind if shown_behind >= 0 else found.start()


class _Follower:
    """The logs of one run; `task` None: of all its tasks, mixed."""

    def __init__(self, terminal: Terminal, run: Mapping[str, Any], style: Style, task: str | None) -> None:
        self._terminal = terminal
        self._folder = Path(run["folder"], "logs")
        self._style = style
        self._task = task
        self._width = max((len(known["id"]) for known in run.get("tasks", [])), default=0)
        self._order = {known["id"]: place for place, known in enumerate(run.get("tasks", []))}
        self._open: dict[str, GrowingLog] = {}
        self._changed_ns = -1

    def look(self) -> None:
        """Show what is new in all logs, and find new ones."""
        for log in self._open.values():
            log.look()
        try:
            changed_ns = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed_ns != self._changed_ns:
            self._changed_ns = changed_ns
            for name in sorted(os.listdir(self._folder), key=self._place):
                self._begin(name)
        sys.stdout.flush()

    def close(self) -> None:
        for log in self._open.values():
            log.close()

    def _place(self, name: str) -> tuple[int, str]:
        return self._order.get(name.rsplit(".", 2)[0], len(self._order)), name

    def _begin(self, name: str) -> None:
        task, number, suffix = (["", *name.rsplit(".", 2)])[-3:]
        if name in self._open or suffix != "log" or not number.isdecimal() or (self._task or task) != task:
            return
        colour = _COLOURS[self._order.get(task, 0) % len(_COLOURS)]
        prefix = self._terminal.painted(Cell(f"{task:<{self._width}} | ", colour))
        view = LogView(self._style, task, int(number), named=self._task is None, prefix=prefix)
        self._open[name] = GrowingLog(self._folder / name, view)
        self._open[name].look()


def follow(options: argparse.Namespace, terminal: Terminal, run: Mapping[str, Any], style: Style) -> None:
    """Show the logs of a run that has not ended, until it has."""
    follower = _Follower(terminal, run, style, options.task)
    result = Path(run["folder"], "result.json")
    asked_s = time.monotonic()
    over = False
    while not over:
        over = result.exists()
        if not over and time.monotonic() - asked_s > ASK_EVERY_S:
            over = _has_ended(options, run["run"])
            asked_s = time.monotonic()
        follower.look()
        if not over:
            time.sleep(LOOK_EVERY_S)
    follower.close()
    if terminal.is_one and not style.json:
        _say_end(options, terminal, run["run"])


def _has_ended(options: argparse.Namespace, run: str) -> bool:
    """Return whether the daemon says so; one that is away says nothing."""
    try:
        return ask_daemon(options, "run", run=run)["ended"] is not None
    except NoDaemonError:
        return False


def _say_end(options: argparse.Namespace, terminal: Terminal, run_id: str) -> None:
    try:
        run = ask_daemon(options, "run", run=run_id)
    except (NoDaemonError, RequestError):
        return
    took_s = between(run["started"], run["ended"], now_s())
    took = f" in {time_of(took_s)}" if took_s is not None else ""
    why = f": {run['reason']}" if run.get("reason") else ""
    terminal.say(Cell(f"{run['workflow']} {run_id} ", "bold"), word(f"{run['status']}{took}{why}", state_of(run)))
