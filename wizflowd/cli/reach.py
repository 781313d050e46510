"""Where a running daemon is, and how to ask it (SPEC section 7). Shared by all commands that need one.

The configuration is loaded only where what it says of sockets is not plain: that costs more than all else in a command.
"""

import argparse
import os
import re
import socket
from pathlib import Path
from typing import Any, Literal

from wizflowd.client import ask
from wizflowd.errors import ConfigError, WizflowError
from wizflowd.sockets import reachable

Kind = Literal["control", "events"]
SYSTEM_FILE = Path("/etc/wizflowd/wizflowd.yaml")
SYSTEM_RUNTIME = Path("/run/wizflowd")
_PLAIN = r"^{key}:[ \t]+(/[\w./-]+)[ \t]*(?:#.*)?$"


class NoDaemonError(WizflowError):
    """No daemon can be reached."""


def ask_daemon(options: argparse.Namespace, op: str, **fields: Any) -> Any:
    """Return a daemon's answer to `op`. Raises NoDaemonError, RequestError as answered."""
    refusals: dict[Path, OSError] = {}
    for path in sockets(options, "control"):
        try:
            return ask(path, {"op": op, **fields})
        except OSError as error:
            refusals[path] = error
    raise unreachable("control", refusals)


def listening(options: argparse.Namespace, kind: Kind) -> Path:
    """Return a socket on which a daemon listens. Raises NoDaemonError."""
    refusals: dict[Path, OSError] = {}
    for path in sockets(options, kind):
        try:
            with socket.socket(socket.AF_UNIX) as peer, reachable(path) as name:
                peer.connect(name)
        except OSError as error:
            refusals[path] = error
        else:
            return path
    raise unreachable(kind, refusals)


def sockets(options: argparse.Namespace, kind: Kind) -> list[Path]:
    """Return where a daemon may listen, in the order in which to look. Raises ConfigError."""
    named = getattr(options, f"{kind}_socket", None) or os.environ.get(f"WIZFLOWD_{kind.upper()}_SOCKET")
    if named:
        return [Path(named)]
    places = [SYSTEM_RUNTIME, *_session_folders()]
    return list(dict.fromkeys([*_configured(options, kind), *(place / f"{kind}.sock" for place in places)]))


def _session_folders() -> list[Path]:
    """Return where a daemon puts its sockets that nobody has configured (`config._runtime_dir`)."""
    env = os.environ
    home = Path(env.get("HOME", "/"))
    folders = [Path(env["XDG_RUNTIME_DIR"]) / "wizflowd"] if env.get("XDG_RUNTIME_DIR") else []
    folders.append(Path(f"/run/user/{os.geteuid()}/wizflowd"))
    return [*folders, Path(env.get("XDG_STATE_HOME") or home / ".local/state") / "wizflowd"]


def _configured(options: argparse.Namespace, kind: Kind) -> list[Path]:
    """Return what the configuration says, by a glance at the file where that is enough.

    Raises ConfigError where one that was named cannot be used; the system's own then says nothing.
    """
    file = options.config or SYSTEM_FILE
    try:
        text = file.read_text("utf-8", "replace")
    except OSError:
        if options.config is None:
            return []
        text = ""
    key = f"{kind}_socket"
    if plain := re.search(_PLAIN.format(key=key), text, re.MULTILINE):
        return [Path(plain[1])]
    if options.config is None and key not in text:
        return []
    from wizflowd.config import load_config

    try:
        return [getattr(load_config(file, os.environ), key)]
    except ConfigError:
        if options.config is None:
            return []
        raise


def unreachable(kind: Kind, refusals: dict[Path, OSError]) -> NoDaemonError:
    """Return why no daemon was reached at any of these places, and what would help."""
    for path, error in refusals.items():
        if isinstance(error, PermissionError):
            return NoDaemonError(
                f"cannot use {path}: permission denied",
                hint=f"ask as root or the daemon's user, or join the group that is `{kind}_group` in its configuration",
            )
        if not isinstance(error, FileNotFoundError | NotADirectoryError | ConnectionRefusedError):
            return NoDaemonError(f"cannot use {path}: {error.strerror or error}", hint="`wizflow doctor` may know why")
    tried = ", ".join(str(path) for path in refusals)
    return NoDaemonError(
        f"cannot reach wizflowd: nobody listens on {tried}",
        hint=f"start it (systemctl start wizflowd, or: wizflowd --workflows DIR), or name its socket: --{kind}-socket",
    )
