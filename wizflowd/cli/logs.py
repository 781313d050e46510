"""`wizflow logs`: the logs of a run, task after task, or as they grow.

Which run and where its files are is asked of the daemon; the logs are read from the disk, so that following goes on
while the daemon restarts.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wizflowd.cli.follow import follow
from wizflowd.cli.logview import LogView, Style
from wizflowd.cli.looks import sign, word
from wizflowd.cli.naming import latest_run
from wizflowd.cli.reach import ask_daemon
from wizflowd.cli.show import shown_state
from wizflowd.cli.terminal import Cell, Terminal
from wizflowd.cli.times import between, now_s, time_of
from wizflowd.errors import RequestError, WizflowError

_CHUNK = 1024 * 1024


def logs(options: argparse.Namespace) -> int:
    """Print the logs of a run, or of a workflow's latest."""
    terminal = Terminal()
    run: dict[str, Any] = ask_daemon(options, "run", run=latest_run(options))
    tasks = _chosen(run, options.task)
    headed = not options.json and (terminal.is_one or sum(_tries(run, task) for task in tasks) > 1)
    style = Style(terminal.is_one, options.json, run["run"], exact=not headed)
    try:
        if options.follow and run["ended"] is None:
            follow(options, terminal, run, style)
        else:
            _print_all(terminal, run, tasks, style)
    except PermissionError as error:
        raise WizflowError(
            f"cannot read {error.filename}: permission denied", hint="ask as root or as the daemon's user"
        ) from error
    return 0


def _chosen(run: Mapping[str, Any], name: str | None) -> list[Mapping[str, Any]]:
    tasks = run.get("tasks", [])
    found = [task for task in tasks if name is None or task["id"] == name]
    if not found and name is not None and tasks:
        from wizflowd.core.suggest import did_you_mean

        hint = did_you_mean(name, [task["id"] for task in tasks])
        raise RequestError("not_found", f"cannot show the log of {name}: {run['run']} has no such task", hint=hint)
    return found


def _print_all(terminal: Terminal, run: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], style: Style) -> None:
    if not tasks and terminal.is_one:
        terminal.say(f"{run['workflow']} {run['run']} is {run['status']}: it has no tasks yet")
    headed = not (style.exact or style.json)
    for task in tasks:
        tries = _tries(run, task)
        if not tries and headed:
            _say_heading(terminal, run, task, 0)
        for number in range(1, tries + 1):
            if headed:
                _say_heading(terminal, run, task, number)
            view = LogView(style, task["id"], number, named=False)
            _print_file(Path(run["folder"], "logs", f"{task['id']}.{number}.log"), view)


def _tries(run: Mapping[str, Any], task: Mapping[str, Any]) -> int:
    present = run.get("present", {}).get(task["id"])
    return int(present["attempt"]) if present else max((ended["attempt"] for ended in task["attempts"]), default=0)


def _print_file(path: Path, view: LogView) -> None:
    try:
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                view.feed(data)
    except FileNotFoundError:
        return  # no output, no file
    view.end()


def _say_heading(terminal: Terminal, run: Mapping[str, Any], task: Mapping[str, Any], number: int) -> None:
    """Say which attempt follows and what came of it; `number` 0: there was none."""
    ended = next((attempt for attempt in task["attempts"] if attempt["attempt"] == number), None)
    state = shown_state(run, task)
    if ended is not None and (ended["error"] or number < _tries(run, task)):
        state = "tolerated" if state == "tolerated" else "failed" if ended["error"] else state
    took_s = between(ended["started"], ended["ended"], now_s()) if ended else None
    facts = [f"attempt {number}"] if number > 1 or _tries(run, task) > 1 else []
    facts += [time_of(took_s)] if took_s is not None else []
    why = (ended["error"] if ended else task["reason"] if not number else "") or ""
    told = f"{', '.join([state, *facts])}{f': {why}' if why else ''}"
    terminal.say(Cell("==> ", "bright_black"), sign(state), " ", Cell(task["id"], "bold"), "  ", word(told, state))
