"""`wizflow show`: one run with every task, as it is now or as it ended."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from wizflowd.cli.looks import count, duration, passed_over, sign, state_of, word
from wizflowd.cli.naming import latest_run
from wizflowd.cli.reach import ask_daemon
from wizflowd.cli.terminal import Cell, Column, Terminal
from wizflowd.cli.times import ago, between, now_s

_COLUMNS = (
    Column("", sign=True),
    Column("TASK", flexible=True),
    Column("TYPE"),
    Column("STATUS"),
    Column("TRIES", right=True),
    Column("TOOK", right=True),
    Column("", flexible=True),
)
_WHY_PLANNED = frozenset({"pending", "running", "succeeded"})
"""States in which the reason of a task is only why it was planned to run, which `plan.json` tells."""


def show(options: argparse.Namespace) -> int:
    """Print a run, or the latest run of a workflow."""
    terminal = Terminal()
    run: dict[str, Any] = ask_daemon(options, "run", run=latest_run(options))
    if options.json:
        terminal.json(run)
        return 0
    present_s = now_s()
    _say_head(terminal, run, present_s)
    tasks = run.get("tasks", [])
    if tasks:
        terminal.say()
        terminal.table(_COLUMNS, [_line(run, task, present_s) for task in tasks])
    _say_outputs(terminal, run.get("outputs", {}))
    if any(shown_state(run, task) == "failed" for task in tasks):
        terminal.say()
        terminal.say(f"its logs: wizflow logs {run['run']}; once mended: wizflow retry {run['run']}")
    return 0


def shown_state(run: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    """Return the state by which a task looks: with the marks `reused` and `tolerated` in its place."""
    if task["status"] == "failed" and task["id"] in run["tolerated"]:
        return "tolerated"
    return "reused" if task.get("reused") else str(task["status"])


def _say_head(terminal: Terminal, run: Mapping[str, Any], present_s: float) -> None:
    state = state_of(run)
    head = [sign(state), " ", Cell(run["workflow"], "bold"), " ", run["run"], "  ", word(run["status"], state)]
    took = duration(between(run["started"], run["ended"], present_s))
    over = passed_over(run)
    during = "in" if run["ended"] else "for"
    terminal.say(*head, f" {during} {took.text}" if took.text else "", word(f", {over}" if over else "", state))
    started = run["started"]
    facts = {
        "reason": run.get("reason"),
        "trigger": " of ".join(filter(None, [run["trigger"], run.get("retry_of")])),
        "started": f"{started} ({ago(started, present_s)})" if started else "not yet",
        "params": _compact(run.get("params")),
        "folder": run.get("folder"),
    }
    for name in ("skipped", "tolerated"):
        if count(run.get(name)) and isinstance(run[name], list):
            facts[name] = _some(run[name])
    for name, value in facts.items():
        if value:
            terminal.say(Cell(f"  {name:<10}", "bright_black"), value)


def _some(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if value else ""


def _line(run: Mapping[str, Any], task: Mapping[str, Any], present_s: float) -> list[str | Cell]:
    state = shown_state(run, task)
    attempts, present = task["attempts"], run.get("present", {}).get(task["id"])
    tries = present["attempt"] if present else len(attempts)
    took = None
    if present:
        took = between(present["started"], None, present_s)
    elif attempts:
        took = between(attempts[-1]["started"], attempts[-1]["ended"], present_s)
    status = f"failed, {state}" if state == "tolerated" else state
    return [
        sign(state),
        task["id"],
        task["type"],
        word(status, state),
        str(tries or ""),
        duration(took),
        _remark(run, task, attempts),
    ]


def _remark(run: Mapping[str, Any], task: Mapping[str, Any], attempts: list[Mapping[str, Any]]) -> str:
    """Return why a task is as it is, and what its last attempt left to note."""
    if task["status"] == "paused":
        return f"waits for: wizflow approve {run['run']} {task['id']}"
    notes = attempts[-1]["notes"] if attempts else []
    reason = "" if task["status"] in _WHY_PLANNED else task["reason"] or ""
    if task.get("reused_from"):
        reason = f"from {task['reused_from']}"
    return "; ".join(filter(None, [reason, *notes]))


def _say_outputs(terminal: Terminal, outputs: Mapping[str, Mapping[str, Any]]) -> None:
    lines = [(f"{task}.{name}", _compact(value)) for task, values in outputs.items() for name, value in values.items()]
    if lines:
        terminal.say()
        columns = (Column("OUTPUT"), Column("VALUE", flexible=True))
        terminal.table(columns, [(Cell(name, "cyan"), value) for name, value in lines])
