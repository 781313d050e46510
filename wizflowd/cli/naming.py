"""Which run is meant by a name on a command line: its own id, or that of its workflow. Called by the commands."""

import argparse
import re
from typing import Any

from wizflowd.cli.reach import ask_daemon
from wizflowd.errors import RequestError

_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}", re.ASCII)
_DOES = {"logs": "show the logs of"}


def latest_run(options: argparse.Namespace) -> str:
    """Return the run that `options.run` names; of a workflow, the newest. Raises RequestError."""
    if _RUN_ID.fullmatch(options.run):
        return str(options.run)
    rows = ask_daemon(options, "runs", workflow=options.run, limit=1)
    if not rows:
        raise _no_run(options, "it has not run yet")
    return str(rows[0]["run"])


def ended_run(options: argparse.Namespace) -> str:
    """Return the run that `options.run` names; of a workflow, the last that has ended. Raises RequestError."""
    if _RUN_ID.fullmatch(options.run):
        return str(options.run)
    found = [row["run"] for row in ask_daemon(options, "runs", workflow=options.run) if row["ended"]]
    if not found:
        raise _no_run(options, "no run of it has ended")
    return str(found[0])


def live_run(options: argparse.Namespace) -> str:
    """Return the run that `options.run` names; of a workflow, the one in progress. Raises RequestError."""
    if _RUN_ID.fullmatch(options.run):
        return str(options.run)
    found = [row for row in ask_daemon(options, "runs", workflow=options.run) if not row["ended"]]
    started = [row for row in found if row["started"]] or found
    if not started:
        raise _no_run(options, "none of its runs is in progress")
    if len(started) > 1:
        names = ", ".join(row["run"] for row in started)
        what = f"cannot {_DOES.get(options.command, options.command)} {options.run}"
        raise RequestError("ambiguous", f"{what}: it has the runs {names}", hint="name one")
    return str(started[0]["run"])


def _no_run(options: argparse.Namespace, why: str) -> RequestError:
    """Return why a name means no run: the workflow has none, or is not known."""
    what = f"cannot {_DOES.get(options.command, options.command)} {options.run}"
    known = known_workflows(options)
    if options.run in known:
        return RequestError("not_found", f"{what}: {why}")
    return unknown_workflow(what, options.run, known)


def unknown_workflow(what: str, name: str, known: list[str]) -> RequestError:
    """Return the refusal of a name that is no workflow; `what` could not be done."""
    from wizflowd.core.suggest import did_you_mean

    hint = did_you_mean(name, known) or "`wizflow status` lists all"
    return RequestError("not_found", f"{what}: there is no such workflow or run", hint=hint)


def known_workflows(options: argparse.Namespace) -> list[str]:
    """Return the identities of the daemon's workflows."""
    found: list[dict[str, Any]] = ask_daemon(options, "workflows")
    return [entry["workflow"] for entry in found]
