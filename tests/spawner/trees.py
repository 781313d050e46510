"""Programs that do what they can to outlive their end: for the tests of the spawner and the campaign of cancels.

All processes of a tree hold its token in their command lines. Each tree ends by itself within a minute or so, should
nobody be left to end it; one that goes on forking does so as soon as there is `stop` in its folder.
"""

import sys
from pathlib import Path

from wizflowd.spawner.identity import all_pids

_TREES = {
    "setsid": "setsid {sleep} & exec {sleep}",
    "double-fork": "(setsid sh -c '{sleep} & exec {sleep}' &); (sh -c '{sleep} &' &); exec {sleep}",
    "deaf": "trap '' TERM HUP INT; (trap '' TERM; {sleep}; {sleep}) & {sleep}; {sleep}",
    "stopped": "sh -c '{sleep} & ({sleep}; kill -KILL $$) & kill -STOP $$' & exec {sleep}",
    "fork-loop": (
        "trap '' TERM; read now _ </proc/uptime; end=$((${now%.*} + 30)); "
        "while read now _ </proc/uptime; [ ${now%.*} -lt $end ] && [ ! -e stop ]; do setsid {sleep} & sleep 0.02; done"
    ),
    "nohup": "env -i nohup setsid {sleep} </dev/null >/dev/null 2>&1 & exec {sleep}",
    "holds-stdout": "(trap '' TERM; {sleep}; {sleep}) & {sleep} & exec {sleep}",
    "fork-chain": (
        f"exec {sys.executable} -I -S -c 'import os, signal, time\n"
        'token = "{sleep}"; end = time.monotonic() + 60; signal.signal(15, signal.SIG_IGN)\n'
        "if os.fork(): time.sleep(60)\n"
        'while time.monotonic() < end and not os.path.exists("stop"):\n'
        "  if os.fork(): os._exit(0)\n  os.setsid(); time.sleep(0.001)'"
    ),
}
"""The last goes on as its own child, again and again."""

NAMES = tuple(_TREES)
"""They can be ids of tasks."""


def tree(name: str, token: str) -> str:
    """Return the shell script of a tree; `token` is made of digits."""
    return _TREES[name].replace("{sleep}", f"sleep 30 0.{token}")


def living(token: str) -> list[int]:
    """Return the processes with `token` in their command line."""
    found = []
    for pid in all_pids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if token.encode() in command:
            found.append(pid)
    return found


def is_up(name: str, token: str) -> bool:
    """Return whether a tree is what its name says, not only begun."""
    pids = living(token)
    try:
        match name:
            case "stopped":
                return any(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T" for pid in pids)
            case "fork-chain":  # which lives too briefly to be seen: its first process has a child, dead or alive
                return any(Path(f"/proc/{pid}/task/{pid}/children").read_text() for pid in pids)
            case _:
                return len(pids) > 1
    except (FileNotFoundError, ProcessLookupError):  # one has ended between two looks
        return False
