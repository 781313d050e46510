"""`wizflow doctor`: looks at this host and its daemon, and says how to mend what it finds. Changes nothing."""

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from wizflowd.cli import daemon_checks, host_checks
from wizflowd.cli.finding import Finding, good, wrong
from wizflowd.cli.looks import word
from wizflowd.cli.terminal import Cell, Terminal
from wizflowd.config import Config, load_config
from wizflowd.errors import ConfigError

_LOOKS = {"good": ("✓", "succeeded"), "warning": ("!", "tolerated"), "wrong": ("✗", "failed")}


def doctor(options: argparse.Namespace) -> int:
    """Print what was found; return 1 where something is wrong."""
    terminal = Terminal()
    findings = list(_findings(options))
    if options.json:
        names = ("level", "about", "what", "mend")
        terminal.json([{name: getattr(finding, name) for name in names} for finding in findings])
    else:
        _print(terminal, findings)
    return int(any(finding.level == "wrong" for finding in findings))


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    config, first = _configuration(options.config)
    yield from first
    if first[0].level == "wrong":
        options = argparse.Namespace(**{**vars(options), "config": None})
    status, found = daemon_checks.control(options)
    yield from found
    folder = Path(status["workflows_dir"]) if status else config.workflows_dir
    state = Path(status["state_dir"]) if status else config.state_dir
    yield from daemon_checks.events(options)
    yield from daemon_checks.refused(options, status)
    yield from daemon_checks.state(state, answers=status is not None)
    yield from daemon_checks.units()
    yield from host_checks.folder(folder, config)
    yield from host_checks.watching(folder, config.watch.backend)
    yield from host_checks.room(dict.fromkeys([state, config.results_dir or folder]), config.limits.disk_low_water)
    yield from host_checks.groups(config)
    yield from host_checks.clock(state)
    yield from host_checks.programs()
    yield from host_checks.kinds()


def _configuration(path: Path | None) -> tuple[Config, list[Finding]]:
    """Return the configuration, the defaults where it cannot be used, and what is to be said of it."""
    try:
        return load_config(path, os.environ), [good("configuration", "can be used")]
    except ConfigError as error:
        mend = error.hint or "mend it, and see that `wizflowd --check` takes it"
        found = [wrong("configuration", line, mend) for line in error.message.splitlines()]
        plain = {name: value for name, value in os.environ.items() if not name.startswith("WIZFLOWD_")}
        return load_config(Path(os.devnull), plain), found


def _print(terminal: Terminal, findings: Iterable[Finding]) -> None:
    findings = list(findings)
    width = max(len(finding.about) for finding in findings)
    for finding in findings:
        sign, state = _LOOKS[finding.level]
        terminal.say(word(sign, state), f" {finding.about:<{width}}  ", finding.what)
        if finding.mend:
            terminal.say(" " * (width + 4), Cell("mend: ", "bold"), finding.mend)
    wrong_ones = sum(finding.level == "wrong" for finding in findings)
    doubtful = sum(finding.level == "warning" for finding in findings)
    if wrong_ones or doubtful:
        terminal.say(f"{wrong_ones} wrong, {doubtful} doubtful, {len(findings) - wrong_ones - doubtful} good")
    else:
        terminal.say("all is good")
