"""The program `wizflow`: the commands people type (SPEC section 7).

Each command is a module that is imported when it is called, so that none pays for what it does not use. Errors go to
stderr, one line each.
"""

import argparse
import gc
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path

from wizflowd import __version__
from wizflowd.cli.asking import add_asking_commands
from wizflowd.errors import ConfigError, DefinitionError, RequestError, StateLockedError, WizflowError, printable

_QUICK = frozenset({"plan", "validate", "graph", "schema"})
_READ_DEFINITIONS = _QUICK | {"run"}
EXIT_FAILED, EXIT_INVALID, EXIT_ELSEWHERE, EXIT_INTERRUPTED = 1, 2, 3, 130
_EXITS = {"watched": EXIT_ELSEWHERE, "forbidden": EXIT_FAILED, "busy": EXIT_FAILED, "failed": EXIT_FAILED}
"""The exit status by the code of a refused request; of all else 2: what was asked for does not fit."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("wizflow", description="Plan, run and watch workflow files.")
    parser.add_argument("--version", action="version", version=f"wizflow {__version__}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the configuration of the daemon")
    parser.add_argument("--control-socket", type=Path, metavar="PATH", help="where a daemon takes commands")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, prog="wizflow")

    run = commands.add_parser("run", help="plan and run one file here and now, without a daemon")
    run.add_argument("file", metavar="FILE")
    run.add_argument("-p", "--param", action="append", default=[], metavar="NAME=VALUE", help="a value of a parameter")
    run.add_argument("--incremental", action="store_true", help="run only what changed since the last time")

    plan = commands.add_parser("plan", help="say what would run, what is reused, and why; runs nothing")
    plan.add_argument("file", metavar="FILE")
    plan.add_argument("--json", action="store_true", help="for programs")

    validate = commands.add_parser("validate", help="say what is wrong with files, with line and column")
    validate.add_argument("files", nargs="+", metavar="FILE")

    graph = commands.add_parser("graph", help="draw a workflow")
    graph.add_argument("file", metavar="FILE")
    graph.add_argument("-o", "--output", type=Path, metavar="x.svg|png|dot|mmd", help="default: SVG on stdout")

    commands.add_parser("schema", help="print the JSON Schema of a definition, for editors")
    importing = commands.add_parser("import", help="turn Dagu files and crontabs into workflow files")
    importing.set_defaults(call="wizflowd.cli.importing:convert")
    importing.add_argument("file", metavar="FILE", help="x.yaml is a Dagu file, all else a crontab")
    importing.add_argument("-o", "--output", type=Path, metavar="DIR", help="write files there (default: to stdout)")
    importing.add_argument("--system", action="store_true", help="the crontab has a column for the user")

    secrets = commands.add_parser("secrets", help="make keys, and values for {encrypted: ...}")
    secrets.set_defaults(call="wizflowd.cli.secrets:secrets")
    secrets.add_argument(
        "action",
        choices=("keygen", "encrypt", "decrypt"),
        help="print a key; or turn a value on stdin into a token, or back, on stdout",
    )
    secrets.add_argument("--key-file", type=Path, metavar="FILE", help="the keys (default: those of the daemon)")
    add_asking_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could follow
        from argcomplete import autocomplete

        autocomplete(parser)
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _without_collection() if options.command in _QUICK else nullcontext():
            status = _call(options)
        _flush()
    except DefinitionError as error:
        for line in error.lines(options.file):
            print(line, file=sys.stderr)
        return EXIT_INVALID
    except ConfigError as error:
        return _complain(error, EXIT_INVALID)
    except StateLockedError as error:
        return _complain(error, EXIT_ELSEWHERE)
    except RequestError as error:
        return _complain(error, _EXITS.get(error.code, EXIT_INVALID))
    except WizflowError as error:
        return _complain(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough
        _flush()
        return EXIT_FAILED
    return status


def _flush() -> None:
    """Write what is left for stdout; if nobody reads it, let the interpreter's own attempt at its end go nowhere."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _without_collection() -> Iterator[None]:
    """Look for no cycles of garbage in a process that reads a file and ends: a fifth of the time of a large plan."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _complain(error: WizflowError, status: int) -> int:
    for line in str(error).splitlines():
        print(printable(line), file=sys.stderr)
    return status


def _call(options: argparse.Namespace) -> int:
    if call := getattr(options, "call", ""):
        module, _, function = call.partition(":")
        carry_out: Callable[[argparse.Namespace], int] = getattr(import_module(module), function)
        return carry_out(options)
    if options.command in _READ_DEFINITIONS:
        from wizflowd.plugins import load_plugins

        load_plugins()
    match options.command:
        case "run":
            from wizflowd.cli.run import run

            return run(options)
        case "plan":
            from wizflowd.cli.plan import plan

            return plan(options)
        case "validate":
            from wizflowd.cli.validate import validate

            return validate(options)
        case "graph":
            from wizflowd.cli.graph import graph

            return graph(options)
        case _:
            from wizflowd.cli.schema import schema

            return schema()


if __name__ == "__main__":
    sys.exit(main())
