"""What `wizflow doctor` looks at in the daemon: its sockets, its state, its spawner, its systemd units."""

import argparse
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wizflowd.cli.finding import Finding, good, warning, wrong
from wizflowd.cli.reach import NoDaemonError, ask_daemon, listening
from wizflowd.errors import WizflowError

_UNITS = ("wizflowd.service", "wizflowd-spawner.service", "wizflowd-control.socket", "wizflowd-events.socket")
_START_SPAWNER = "systemctl start wizflowd-spawner; without systemd restart the daemon"
_MAY_BE_OFF = ("wizflowd-control.socket", "wizflowd-events.socket")


def control(options: argparse.Namespace) -> tuple[Mapping[str, Any] | None, list[Finding]]:
    """Return how the daemon says it is, None where it does not answer, and what was found."""
    try:
        status: dict[str, Any] = ask_daemon(options, "status")
    except NoDaemonError as error:
        return None, [wrong("daemon", error.message, error.hint)]
    except WizflowError as error:
        return None, [wrong("daemon", str(error), "ask as root or as the daemon's user")]
    found = [good("daemon", f"wizflowd {status['version']} answers, watching {status['workflows_dir']}")]
    if not status["ready"]:
        found.append(warning("daemon", "it is still starting", "wait; its log says what it does"))
    if status["unavailable"]:
        found.append(wrong("daemon", f"the folder is unavailable: {status['unavailable']}", "bring the folder back"))
    if status["spawner_unavailable"]:
        found.append(wrong("daemon", f"SHELL tasks wait: {status['spawner_unavailable']}", _START_SPAWNER))
    return status, found


def events(options: argparse.Namespace) -> Iterator[Finding]:
    """Look for the event stream."""
    try:
        yield good("event stream", f"{listening(options, 'events')} takes readers")
    except NoDaemonError as error:
        yield wrong("event stream", error.message, error.hint)


def refused(options: argparse.Namespace, status: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Look for workflows that do not run because of what is in them."""
    if status is None:
        return
    for workflow in ask_daemon(options, "workflows"):
        if workflow["error"]:
            yield warning("workflow", workflow["error"].splitlines()[0], f"wizflow status {workflow['workflow']}")


def state(directory: Path, *, answers: bool) -> Iterator[Finding]:
    """Look who holds the state, and whether its spawner lives."""
    lock = directory / "state.lock"
    try:
        holder = _holder(lock)
    except FileNotFoundError:
        yield good("state", f"{directory} is not in use yet")
        return
    except PermissionError:
        yield warning("state", f"cannot look into {directory}: permission denied", "ask as root or the daemon's user")
        return
    if holder and not answers:
        yield wrong("state", f"process {holder} holds {directory} and does not answer", f"look at it: ps -fp {holder}")
    else:
        yield good("state", f"{directory} is held by process {holder}" if holder else f"{directory} is free")
    if answers:
        yield _spawner(directory)


def _holder(lock: Path) -> int:
    """Return the process that holds a lock, 0 for none. To try the lock could keep a daemon from starting.

    On btrfs and overlayfs the kernel lists another device than stat tells: there the holder has to be ours by its name.
    """
    seen = lock.stat()
    device = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}"
    for line in Path("/proc/locks").read_text().splitlines():
        *kind, process, place, _first, _last = line.split()
        listed, _, inode = place.rpartition(":")
        if "FLOCK" in kind and inode == str(seen.st_ino) and (listed == device or _is_ours(process)):
            return int(process)
    return 0


def _is_ours(process: str) -> bool:
    try:
        return b"wizflow" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def _spawner(directory: Path) -> Finding:
    """Return whether the process that owns the tasks takes connections."""
    try:
        pid = json.loads((directory / "spawner" / "lock").read_text() or "{}").get("pid", 0)
        alive = _holder(directory / "spawner" / "lock") != 0
    except (OSError, ValueError):
        pid, alive = 0, False
    if alive:
        return good("spawner", f"process {pid} owns the tasks")
    return wrong("spawner", "it does not run", _START_SPAWNER)


def units() -> Iterator[Finding]:
    """Look at the systemd units, where systemd runs this host."""
    if not Path("/run/systemd/system").is_dir():
        yield good("systemd", "does not run this host: nothing restarts the daemon")
        return
    for unit in _UNITS:
        yield from _unit(unit, _shown(unit))


def _shown(unit: str) -> dict[str, str]:
    command = ["systemctl", "show", unit, "-p", "LoadState,ActiveState,SubState,UnitFileState,NRestarts"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def _unit(unit: str, shown: Mapping[str, str]) -> Iterator[Finding]:
    active = shown.get("ActiveState", "unknown")
    if shown.get("LoadState") != "loaded":
        if unit == _UNITS[0]:
            yield warning("systemd", f"{unit} is not installed", "install the package, or `make install`")
    elif active == "failed":
        yield wrong("systemd", f"{unit} has failed", f"journalctl -eu {unit}; then systemctl restart {unit}")
    elif active != "active" and unit not in _MAY_BE_OFF:
        yield wrong("systemd", f"{unit} is {active}", f"systemctl start {unit}")
    elif unit == _UNITS[0] and shown.get("UnitFileState") not in {"enabled", "enabled-runtime"}:
        yield warning("systemd", f"{unit} does not start with the host", f"systemctl enable {unit}")
    elif int(shown.get("NRestarts") or 0) > 0:
        times = shown["NRestarts"]
        yield warning("systemd", f"{unit} was restarted {times} times since its start", f"journalctl -eu {unit}")
    else:
        yield good("systemd", f"{unit} is {active} ({shown.get('SubState', '')})")
