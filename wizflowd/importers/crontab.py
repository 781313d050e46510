"""A crontab -> one workflow for each job.

In: the text of a user's crontab, or of one with a column for the user. Out: an `Imported`. What cron does around a
command is kept: it starts in the home folder, with the variables set above it and what follows `%` on stdin.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from wizflowd.core.calendar import CalendarError, check_cron, zone_of
from wizflowd.importers.writing import Imported, identifier, literal, make_valid, write_definition

_SETTING = re.compile(r"\s*([A-Za-z_]\w*|\"[A-Za-z_]\w*\"|'[A-Za-z_]\w*')\s*=\s*(.*?)\s*$")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_OWN = {"SHELL", "MAILTO", "MAILFROM", "CRON_TZ", "TZ", "RANDOM_DELAY", "START_HOURS_RANGE", "CRON_LOG"}
_WORDS = frozenset({"cd", "test", "if", "nice", "sudo", "env", "exec", "command", "["})


@dataclass(slots=True)
class _Reading:
    """What has been seen of a crontab so far."""

    system: bool
    zone: str
    env: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def import_crontab(text: str, *, system: bool = False, zone: str = "") -> Imported:
    """Return a workflow for each job.

    `system`: there is a column for the user, as in /etc/crontab. `zone` is that of times which name none; empty: UTC.
    """
    reading = _Reading(system, zone)
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        setting = _SETTING.fullmatch(line)
        if setting:
            _set(reading, number, setting[1].strip("\"'"), _unquoted(setting[2]))
        else:
            _add_job(reading, number, stripped)
    return Imported(reading.files, tuple(reading.left_out))


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'" else value


def _set(reading: _Reading, number: int, name: str, value: str) -> None:
    if name not in _OWN and _ENV_NAME.fullmatch(name):
        reading.env[name] = literal(value)
        return
    reading.settings[name] = value
    if name in ("MAILTO", "MAILFROM") and value:
        reading.left_out.append(f"line {number}: {name}={value}; add an EMAIL task to finally")
    elif name not in ("SHELL", "CRON_TZ", "TZ", "MAILTO", "MAILFROM"):
        reading.left_out.append(f"line {number}: {name} has no counterpart")


def _add_job(reading: _Reading, number: int, line: str) -> None:
    fields = line.split(None, 1 if line.startswith("@") else 5)
    when, rest = " ".join(fields[:-1]), fields[-1]
    if len(fields) < (2 if line.startswith("@") else 6):
        reading.left_out.append(f"line {number}: it is neither a setting nor a job")
        return
    if when.lower() == "@reboot":
        reading.left_out.append(f"line {number}: @reboot; a systemd unit does this")
        return
    try:
        check_cron(when)
    except CalendarError as error:
        reading.left_out.append(f"line {number}: {error.message}")
        return
    if reading.system:
        user, _, rest = rest.partition(" ")
        reading.left_out.append(f"line {number}: the user {user}; a workflow runs as the user of wizflowd")
    command, stdin = _split_percent(rest.strip())
    if not command:
        reading.left_out.append(f"line {number}: the job has no command")
        return
    name = identifier(_name_of(command), {file.removesuffix(".yaml") for file in reading.files}, "job")
    reading.files[f"{name}.yaml"] = write_definition(
        make_valid(_definition(reading, name, when, (command, stdin)), reading.left_out), ()
    )


def _definition(reading: _Reading, name: str, when: str, job: tuple[str, str | None]) -> dict[str, Any]:
    schedule = {"cron": when}
    zone = reading.settings.get("CRON_TZ") or reading.settings.get("TZ") or reading.zone
    if zone:
        try:
            zone_of(zone)
            schedule["timezone"] = zone
        except CalendarError as error:
            reading.left_out.append(f"{name}: {error.message}")
    command, stdin = job
    task: dict[str, Any] = {"id": name, "type": "SHELL", "command": f"cd\n{literal(command)}\n"}
    if "SHELL" in reading.settings:
        task["shell"] = reading.settings["SHELL"]
    if stdin is not None:
        task["stdin"] = literal(stdin)
    return {
        "description": f"crontab: {when} {command}"[:200],
        "env": dict(reading.env),
        "schedule": [schedule],
        "tasks": [task],
    }


def _split_percent(text: str) -> tuple[str, str | None]:
    r"""Return the command and what cron gives it on stdin: after the first `%`, each further one a line end."""
    parts = [part.replace("\\%", "%") for part in re.split(r"(?<!\\)%", text)]
    return parts[0].strip(), "\n".join(parts[1:]) + "\n" if len(parts) > 1 else None


def _name_of(command: str) -> str:
    return next(_names(command), "job")


def _names(command: str) -> Iterator[str]:
    for word in re.split(r"[\s;&|()<>]+", command):
        if word and "=" not in word and word not in _WORDS and not word.startswith("-"):
            name = PurePosixPath(word.strip("\"'`$")).stem
            if re.search(r"[A-Za-z0-9]", name):
                yield name
