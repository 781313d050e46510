"""`wizflow trigger`, `cancel`, `pause`, `resume`, `retry`, `approve`, `backup`: ask the daemon to do something."""

import argparse
import os
from typing import Any

from wizflowd.cli.naming import ended_run, live_run
from wizflowd.cli.reach import ask_daemon
from wizflowd.cli.terminal import Terminal


def trigger(options: argparse.Namespace) -> int:
    """Queue a run of a workflow."""
    answer = ask_daemon(
        options,
        "trigger",
        workflow=options.workflow,
        params=dict(options.param),
        as_text=True,
        incremental=options.incremental,
    )
    return _tell(options, answer, f"queued {answer['run']}; follow it: wizflow logs -f {answer['run']}")


def retry(options: argparse.Namespace) -> int:
    """Queue a run that does what a run left undone."""
    run = ended_run(options)
    answer = ask_daemon(options, "retry", run=run, from_task=options.from_task)
    return _tell(options, answer, f"queued {answer['run']}; follow it: wizflow logs -f {answer['run']}")


def cancel(options: argparse.Namespace) -> int:
    """End a run."""
    run = live_run(options)
    return _tell(options, ask_daemon(options, "cancel", run=run), f"{run} is being cancelled")


def pause(options: argparse.Namespace) -> int:
    """Start nothing more of a run."""
    run = live_run(options)
    return _tell(options, ask_daemon(options, "pause", run=run), f"{run} is paused; go on with: wizflow resume {run}")


def resume(options: argparse.Namespace) -> int:
    """Let a run go on."""
    run = live_run(options)
    return _tell(options, ask_daemon(options, "resume", run=run), f"{run} goes on")


def approve(options: argparse.Namespace) -> int:
    """Let a task go on that waits."""
    run = live_run(options)
    answer = ask_daemon(options, "approve", run=run, task=options.task)
    return _tell(options, answer, f"{options.task} of {run} is approved")


def backup(options: argparse.Namespace) -> int:
    """Have the state copied to a file."""
    answer = ask_daemon(options, "backup", path=os.path.abspath(options.file))
    return _tell(options, answer, f"{answer['path']}: {answer['bytes']:,} bytes")


def _tell(options: argparse.Namespace, answer: Any, text: str) -> int:
    terminal = Terminal()
    if options.json:
        terminal.json(answer)
    else:
        terminal.say(text)
    return 0
