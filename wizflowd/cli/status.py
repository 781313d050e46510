"""`wizflow status`: how the daemon and its workflows are."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from wizflowd.cli.looks import passed_over, sign, state_of, word
from wizflowd.cli.naming import unknown_workflow
from wizflowd.cli.reach import ask_daemon
from wizflowd.cli.runs import print_runs
from wizflowd.cli.terminal import Cell, Column, Terminal
from wizflowd.cli.times import ago, now_s

_COLUMNS = (
    Column("", sign=True),
    Column("WORKFLOW", flexible=True),
    Column("STATE"),
    Column("LAST RUN"),
    Column("ENDED", right=True),
    Column("NEXT", right=True, spare=True),
    Column("", flexible=True, spare=True),
)
_RECENT = 10


def status(options: argparse.Namespace) -> int:
    """Print the daemon's state with all workflows, or one workflow."""
    terminal = Terminal()
    workflows: list[dict[str, Any]] = ask_daemon(options, "workflows")
    if options.workflow is not None:
        return _print_one(options, terminal, workflows)
    daemon: dict[str, Any] = ask_daemon(options, "status")
    if options.json:
        terminal.json({"daemon": daemon, "workflows": workflows})
        return 0
    if terminal.is_one:
        _say_daemon(terminal, daemon, workflows)
    if workflows:
        _print_workflows(terminal, workflows)
    return 0


def _say_daemon(terminal: Terminal, daemon: Mapping[str, Any], workflows: Sequence[Mapping[str, Any]]) -> None:
    ready = word("ready", "succeeded") if daemon["ready"] else word("starting", "running")
    terminal.say(Cell(f"wizflowd {daemon['version']}", "bold"), " ", ready, f", watching {daemon['workflows_dir']}")
    if daemon["unavailable"]:
        terminal.say(word(f"the folder is unavailable: {daemon['unavailable']}", "failed"))
    if daemon["spawner_unavailable"]:
        terminal.say(word(f"SHELL tasks wait: {daemon['spawner_unavailable']}", "failed"))
    if daemon["draining"]:
        terminal.say(word("draining: nothing more is started", "paused"))
    counts = Counter(_look_of(workflow) for workflow in workflows)
    parts = [f"{counts[state]:,} {state}" for state in ("failed", "invalid", "tolerated", "cancelled") if counts[state]]
    runs = daemon["runs"]
    parts += [f"{runs['active']:,} running", f"{runs['queued']:,} queued"]
    parts.append(f"{daemon['running_tasks']:,} tasks in progress")
    terminal.say(f"{len(workflows):,} workflows: {', '.join(parts)}")
    terminal.say()


def _print_workflows(terminal: Terminal, workflows: Sequence[Mapping[str, Any]]) -> None:
    present_s = now_s()
    rows = []
    for workflow in workflows:
        last = workflow["last"]
        status_cell = word(last["status"], state_of(last)) if last else Cell("never", "bright_black", plain="")
        rows.append(
            [
                sign(_look_of(workflow)),
                workflow["workflow"],
                _state_cell(workflow["state"]),
                status_cell,
                _when(last["ended"] if last else None, present_s),
                _when(workflow["next"], present_s),
                _remark(workflow),
            ]
        )
    has_next = any(workflow["next"] for workflow in workflows) or not terminal.is_one
    places = [place for place, column in enumerate(_COLUMNS) if has_next or column.title != "NEXT"]
    terminal.table([_COLUMNS[place] for place in places], [[row[place] for place in places] for row in rows])


def _look_of(workflow: Mapping[str, Any]) -> str:
    """Return the state by which a workflow looks: what it is busy with, what is wrong with it, or how it last ended."""
    state = workflow["state"]
    if state == "idle" and workflow["last"]:
        return state_of(workflow["last"])
    return str(state)


def _state_cell(state: str) -> Cell:
    return Cell(state, "bright_black") if state == "idle" else word(state, state)


def _when(time: str | None, present_s: float) -> Cell:
    return Cell(ago(time, present_s), plain=time or "")


def _remark(workflow: Mapping[str, Any]) -> str:
    """Return what else is to be said: what is wrong with the definition, what was passed over, a note."""
    problems = (workflow["error"] or "").splitlines()
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    over = passed_over(workflow["last"] or {})
    return "; ".join(filter(None, [f"{problems[0]}{more}" if problems else "", over, workflow["note"] or ""]))


def _print_one(options: argparse.Namespace, terminal: Terminal, workflows: Sequence[Mapping[str, Any]]) -> int:
    workflow = next((known for known in workflows if known["workflow"] == options.workflow), None)
    if workflow is None:
        known = [entry["workflow"] for entry in workflows]
        raise unknown_workflow(f"cannot show {options.workflow}", options.workflow, known)
    if options.json:
        terminal.json(workflow)
        return 0
    look = _look_of(workflow)
    terminal.say(sign(look), " ", Cell(workflow["workflow"], "bold"), "  ", _state_cell(workflow["state"]))
    present_s = now_s()
    last = workflow["last"]
    facts: list[tuple[str, str | Cell]] = [
        ("run", workflow["run"] or ""),
        ("last run", last["run"] if last else "never"),
        ("ended", _when(last["ended"] if last else None, present_s)),
        ("status", word(last["status"], state_of(last)) if last else ""),
        ("passed over", passed_over(last or {})),
        ("next", _when(workflow["next"], present_s)),
        ("note", workflow["note"] or ""),
        ("digest", workflow["digest"] or ""),
    ]
    for name, value in facts:
        if value and (isinstance(value, str) or value.text):
            terminal.say(Cell(f"  {name:<12}", "bright_black"), value)
    for line in (workflow["error"] or "").splitlines():
        terminal.say("  ", word(line, "failed"))
    rows = ask_daemon(options, "runs", workflow=options.workflow, limit=_RECENT)
    if rows and terminal.is_one:
        terminal.say()
        print_runs(terminal, rows, of_all=False)
    return 0
