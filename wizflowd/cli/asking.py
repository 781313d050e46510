"""The commands that ask a running daemon, and those about this host: their parsers, and where each is carried out.

Called by `cli.main`, which imports what `call` names (`module:function`) when the command is given.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

Commands = Any
"""What `ArgumentParser.add_subparsers` returns, a private type of argparse."""


def add_asking_commands(commands: Commands) -> None:
    """Add the parsers."""
    reaching = _reaching()
    asking = argparse.ArgumentParser(add_help=False, parents=[reaching])
    asking.add_argument("--json", action="store_true", help="for programs")
    add = partial(_add, commands, asking)
    _add_looks(add)
    _add_steering(add)
    top = _add(commands, reaching, "top", "top:top", "show workflows, runs and logs on a live screen")
    top.add_argument("--events-socket", metavar="PATH", help="where the daemon streams its events")
    add("doctor", "doctor:doctor", "check this host and say how to mend what is found")
    completion = commands.add_parser("completion", help="print the completion of commands for a shell")
    completion.set_defaults(call="wizflowd.cli.completion:completion")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))


def _add(
    commands: Commands, asking: argparse.ArgumentParser, name: str, call: str, text: str
) -> argparse.ArgumentParser:
    described = f"{text[0].upper()}{text[1:]}."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=described, parents=[asking])
    parser.set_defaults(call=f"wizflowd.cli.{call}")
    return parser


def _reaching() -> argparse.ArgumentParser:
    """Return the options that say where the daemon is; not given behind the command, they stay as before it."""
    reaching = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    reaching.add_argument("--config", type=Path, metavar="FILE", help="the configuration of the daemon")
    reaching.add_argument("--control-socket", metavar="PATH", help="where the daemon takes commands")
    return reaching


Add = Callable[[str, str, str], argparse.ArgumentParser]


def _add_looks(add: Add) -> None:
    status = add("status", "status:status", "say how the daemon and its workflows are")
    _workflow(status, nargs="?")

    runs = add("runs", "runs:runs", "list runs, the newest first")
    _workflow(runs, nargs="?")
    runs.add_argument("-n", "--limit", type=_count, default=50, metavar="N", help="at most so many (default: 50)")

    show = add("show", "show:show", "show one run with every task")
    _run(show)

    logs = add("logs", "logs:logs", "show the logs of a run")
    _run(logs)
    _task(logs, "task", nargs="?", help="only this task")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended")

    events = add("events", "events:events", "follow the stream of events")
    events.add_argument("--events-socket", metavar="PATH", help="where the daemon streams its events")
    events.add_argument("--since", type=_number, metavar="N", help="begin after the event N; 0: with the oldest kept")
    events.add_argument(
        "--type", action="append", default=[], metavar="T", help="only such types, as task.failed or run.*; repeatable"
    )
    _complete(events.add_argument("--workflow", metavar="W", help="only such workflows, as team/*"), "workflows")


def _add_steering(add: Add) -> None:
    trigger = add("trigger", "steer:trigger", "run a workflow now")
    _workflow(trigger)
    add_params(trigger)
    trigger.add_argument("--incremental", action="store_true", help="run only what changed since the last success")

    for name, text in (
        ("cancel", "end a run and all that it started"),
        ("pause", "start nothing more of a run; what runs goes on"),
        ("resume", "let a paused run go on"),
    ):
        _run(add(name, f"steer:{name}", text))

    retry = add("retry", "steer:retry", "run again what did not succeed in a run")
    _run(retry)
    _task(retry, "--from", dest="from_task", help="run this task and what follows it, reuse the rest")

    approve = add("approve", "steer:approve", "let a task go on that waits at its breakpoint")
    _run(approve)
    _task(approve, "task", help="the task that waits")

    backup = add("backup", "steer:backup", "have the daemon write a consistent copy of its state")
    backup.add_argument("file", metavar="FILE", help="a new file, which the daemon must be able to write")


def _workflow(parser: argparse.ArgumentParser, **more: Any) -> None:
    _complete(parser.add_argument("workflow", metavar="WORKFLOW", help="as etl or team/etl", **more), "workflows")


def _run(parser: argparse.ArgumentParser) -> None:
    action = parser.add_argument("run", metavar="RUN|WORKFLOW", help="a run, or a workflow for its latest")
    _complete(action, "runs")


def _task(parser: argparse.ArgumentParser, name: str, **more: Any) -> None:
    _complete(parser.add_argument(name, metavar="TASK", **more), "tasks")


def _complete(action: argparse.Action, what: str) -> None:
    """Let the shell offer what the daemon knows when it completes this argument."""

    def completer(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        from wizflowd.cli.completion import known

        return known(what, parsed_args)

    action.completer = completer  # type: ignore[attr-defined]  # the convention of argcomplete


def add_params(parser: argparse.ArgumentParser) -> None:
    """Add `-p NAME=VALUE` as `param`, a list of pairs."""
    text = "a value of a parameter; repeatable"
    parser.add_argument("-p", "--param", type=_pair, action="append", default=[], metavar="NAME=VALUE", help=text)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"write NAME=VALUE, not {text!r}")
    return name, value


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return int(text)


def _count(text: str) -> int:
    if (count := _number(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count
