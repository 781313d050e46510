"""`wizflow runs`: the history of runs, the newest first."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from wizflowd.cli.looks import duration, passed_over, sign, state_of, word
from wizflowd.cli.naming import known_workflows, unknown_workflow
from wizflowd.cli.reach import ask_daemon
from wizflowd.cli.terminal import Cell, Column, Terminal
from wizflowd.cli.times import ago, between, now_s

_WORKFLOW = Column("WORKFLOW", flexible=True)
_COLUMNS = (
    Column("", sign=True),
    Column("RUN"),
    _WORKFLOW,
    Column("STATUS"),
    Column("TRIGGER", spare=True),
    Column("STARTED", right=True),
    Column("TOOK", right=True, spare=True),
    Column("", flexible=True, spare=True),
)


def runs(options: argparse.Namespace) -> int:
    """Print the runs of one workflow or of all."""
    terminal = Terminal()
    rows: list[dict[str, Any]] = ask_daemon(options, "runs", workflow=options.workflow, limit=options.limit)
    if not rows and options.workflow is not None and options.workflow not in (known := known_workflows(options)):
        raise unknown_workflow(f"cannot list the runs of {options.workflow}", options.workflow, known)
    if options.json:
        terminal.json(rows)
    elif rows:
        print_runs(terminal, rows, of_all=options.workflow is None)
    elif terminal.is_one:
        terminal.say("nothing has run yet")
    return 0


def print_runs(terminal: Terminal, rows: Sequence[Mapping[str, Any]], *, of_all: bool) -> None:
    """Print runs as a table; `of_all`: with their workflows."""
    present_s = now_s()
    with_workflow = of_all or not terminal.is_one
    lines = [_line(row, present_s) for row in rows]
    places = [place for place, column in enumerate(_COLUMNS) if with_workflow or column is not _WORKFLOW]
    terminal.table([_COLUMNS[place] for place in places], [[line[place] for place in places] for line in lines])


def _line(row: Mapping[str, Any], present_s: float) -> list[str | Cell]:
    state = state_of(row)
    began = row["started"] or row["queued"]
    return [
        sign(state),
        row["run"],
        row["workflow"],
        word(row["status"], state),
        row["trigger"],
        Cell(ago(began, present_s), plain=row["started"] or ""),
        duration(between(row["started"], row["ended"], present_s)),
        "; ".join(filter(None, [row["reason"] or "", passed_over(row)])),
    ]
