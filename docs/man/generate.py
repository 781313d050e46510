"""Writes the man pages wizflow(1) and wizflowd(8) from the parsers of the programs: `make man`.

What parsers do not know (exit status, environment, files) stands here. tests/cli/test_man.py holds the pages to it.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from wizflowd.cli import daemon, main

HERE = Path(__file__).parent
Table = tuple[tuple[str, str], ...]

WIZFLOW = """\
.PP
A run is named by its id, or by its workflow for its latest. Options of all commands may also stand behind the command.
On a terminal there are tables and colour; elsewhere one line for each thing, with tabs between, times in RFC 3339 and
durations in seconds."""
WIZFLOW_EXITS = (
    ("0", "done; of \\fBrun\\fR, the run succeeded; of \\fBdoctor\\fR, nothing is wrong"),
    ("1", "it failed; no daemon could be reached; something is wrong with this host"),
    ("2", "not a valid definition, workflow, run, task or command line"),
    ("3", "\\fBrun\\fR: another process runs this file, or a daemon watches it"),
    ("130", "interrupted"),
)
WIZFLOW_ENVIRONMENT = (
    ("WIZFLOWD_CONTROL_SOCKET, WIZFLOWD_EVENTS_SOCKET", "where the daemon listens, unless an option says so"),
    ("XDG_RUNTIME_DIR", "its folder wizflowd/ is looked into behind the configuration and /run/wizflowd/"),
    ("NO_COLOR", "if it is not empty, no colour"),
)
WIZFLOW_FILES = (
    ("/run/wizflowd/control.sock, /run/wizflowd/events.sock", "where the system's daemon listens"),
    ("NAME.runs/", "beside NAME.yaml: the results, logs and state of its runs"),
)
WIZFLOWD = """\
.PP
SIGTERM and SIGINT stop it cleanly; running tasks go on and are adopted by the next start. SIGHUP reads the
configuration again."""
WIZFLOWD_EXITS = (
    ("0", "a clean stop"),
    ("1", "it failed"),
    ("2", "a bad configuration or command line"),
    ("3", "another instance holds the state"),
)
WIZFLOWD_ENVIRONMENT = (
    ("WIZFLOWD_*", "each key of the configuration: WIZFLOWD_LIMITS__MAX_TASKS=32 is max_tasks in limits"),
)
WIZFLOWD_FILES = (
    ("/etc/wizflowd/wizflowd.yaml", "the configuration; the sample that comes with the package explains each key"),
    ("/var/lib/wizflowd/workflows, /var/lib/wizflowd/state", "the folder and the state of the system service"),
    ("/run/wizflowd/control.sock, /run/wizflowd/events.sock", "its sockets"),
)


def pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    command, program = main._parser(), daemon._parser()
    return {
        "wizflow.1": _page(
            command,
            "1",
            [WIZFLOW, *_commands(command)],
            (WIZFLOW_EXITS, WIZFLOW_ENVIRONMENT, WIZFLOW_FILES),
            "wizflowd(8)",
        ),
        "wizflowd.8": _page(
            program, "8", [WIZFLOWD], (WIZFLOWD_EXITS, WIZFLOWD_ENVIRONMENT, WIZFLOWD_FILES), "wizflow(1)"
        ),
    }


def _page(
    parser: argparse.ArgumentParser, section: str, body: list[str], tables: tuple[Table, Table, Table], see: str
) -> str:
    described = (parser.description or "").rstrip(".")
    lines = [
        f'.TH {parser.prog.upper()} {section} "" wizflowd',
        ".SH NAME",
        f"{parser.prog} \\- {_escaped(described[0].lower() + described[1:])}",
        ".SH SYNOPSIS",
        _synopsis(parser),
        ".SH DESCRIPTION",
        f"{_escaped(described)}.",
        body[0],
        ".SH OPTIONS",
        *_options(parser),
        *body[1:],
    ]
    for title, table in zip(("EXIT STATUS", "ENVIRONMENT", "FILES"), tables, strict=True):
        lines.append(f".SH {title}")
        for name, text in table:
            lines += [".TP", f".B {_escaped(name)}", text]
    return "\n".join([*lines, ".SH SEE ALSO", see, ""])


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a subsection for each command."""
    chosen = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    texts = {action.dest: action.help for action in chosen._choices_actions}
    yield ".SH COMMANDS"
    for name, command in chosen.choices.items():
        text = texts[name] or ""
        yield from (f".SS {_escaped(name)}", _synopsis(command), ".PP", f"{_escaped(text[:1].upper() + text[1:])}.")
        yield from _options(command)


def _synopsis(parser: argparse.ArgumentParser) -> str:
    shown = [action for action in parser._actions if not _is_common(parser, action)]
    return " ".join([f"\\fB{_escaped(parser.prog)}\\fR", *map(_usage, shown)])


def _is_common(parser: argparse.ArgumentParser, action: argparse.Action) -> bool:
    """Return whether an option goes without saying: it is that of every command, and told once for all of them."""
    return action.dest == "help" or (" " in parser.prog and action.dest in {"config", "control_socket"})


def _usage(action: argparse.Action) -> str:
    value = f"\\fI{_escaped(_value(action))}\\fR"
    if action.option_strings:
        named = f"\\fB{_escaped(action.option_strings[0])}\\fR"
        return f"[{named}]" if action.nargs == 0 else f"[{named} {value}]"
    return {"?": f"[{value}]", "+": f"{value}..."}.get(str(action.nargs), value)


def _value(action: argparse.Action) -> str:
    """Return the name of an action's value."""
    if isinstance(action.metavar, str):
        return action.metavar
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or _is_common(parser, action) or not action.help:
            continue
        if action.option_strings:
            names = ", ".join(f"\\fB{_escaped(name)}\\fR" for name in action.option_strings)
            yield from (".TP", names if action.nargs == 0 else f"{names} \\fI{_escaped(_value(action))}\\fR")
        else:
            yield from (".TP", f"\\fI{_escaped(_value(action))}\\fR")
        yield _escaped(action.help)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text)
