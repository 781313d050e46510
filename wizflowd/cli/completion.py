"""`wizflow completion`, and what a shell is offered: names of workflows, runs and tasks that the daemon knows.

The shell's part is argcomplete's, which asks `wizflow` itself; `cli.main` answers it.
"""

import argparse
import re
from typing import Any

from wizflowd.cli.reach import ask_daemon
from wizflowd.errors import WizflowError

_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}", re.ASCII)


def completion(options: argparse.Namespace) -> int:
    """Print what a shell must read to complete `wizflow`."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["wizflow"], shell=options.shell))
    return 0


def known(what: str, options: argparse.Namespace) -> list[str]:
    """Return the `workflows`, `runs` or `tasks` to offer."""
    match what:
        case "workflows":
            return _workflows(options)
        case "runs":
            return _workflows(options) + [row["run"] for row in _asked(options, "runs") or []]
        case _:
            return _tasks(options)


def _workflows(options: argparse.Namespace) -> list[str]:
    return [entry["workflow"] for entry in _asked(options, "workflows") or []]


def _tasks(options: argparse.Namespace) -> list[str]:
    """Return the tasks of the run that was named before."""
    run = options.run
    if not _RUN_ID.fullmatch(run or ""):
        rows = _asked(options, "runs", workflow=run, limit=1) or []
        run = rows[0]["run"] if rows else ""
    found = _asked(options, "run", run=run) or {}
    return [task["id"] for task in found.get("tasks", [])]


def _asked(options: argparse.Namespace, op: str, **fields: Any) -> Any:
    """Return the daemon's answer, None where there is none: completion never complains."""
    try:
        return ask_daemon(options, op, **fields)
    except WizflowError:
        return None
