"""One cgroup (version 2) per attempt below a folder that was delegated to the spawner.

Called by the spawner's loop where it was started with `--cgroup`. It serves bounds on memory and processes, and a
kill that nothing escapes; the family still does all that it does without.
"""

import contextlib
import os
from collections.abc import Mapping

_CONTROLS = {"memory": "memory.max", "processes": "pids.max"}


class Cgroups:
    """The folder handed to the spawner. Files are those of the kernel's cgroup-v2.rst."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._made = 0

    def make(self, limits: Mapping[str, float]) -> tuple[str, dict[str, float]]:
        """Make a cgroup with what `limits` it can keep; return its folder and the limits that it cannot.

        Raises OSError.
        """
        self._made += 1
        folder = os.path.join(self._root, f"attempt-{os.getpid()}-{self._made}")
        os.mkdir(folder)
        rest = dict(limits)
        for name, control in _CONTROLS.items():
            if name in rest and os.path.exists(os.path.join(folder, control)):
                _write(folder, control, str(int(rest.pop(name))))
        return folder, rest


def delegated_folder() -> str:
    """Return the folder of this process's own cgroup, made ready for others below it; empty where there is none.

    A cgroup that hands controllers down may hold no process itself, so this one goes into a leaf.
    """
    folder = _own_folder()
    try:
        leaf = os.path.join(folder, "spawner")
        os.makedirs(leaf, exist_ok=True)
        _write(leaf, "cgroup.procs", str(os.getpid()))
    except OSError:
        return ""  # not delegated: the attempts are ended by their family alone
    with open(os.path.join(folder, "cgroup.controllers"), encoding="ascii") as file:
        wanted = [f"+{name}" for name in file.read().split() if name in ("memory", "pids")]
    with contextlib.suppress(OSError):  # then `make` finds no file for a limit, and says so
        _write(folder, "cgroup.subtree_control", " ".join(wanted))
    return folder


def _own_folder() -> str:
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        path = next((line.rstrip()[3:] for line in file if line.startswith("0::")), "/")
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = (line.split() for line in file)
        root = next((mount[4] for mount in mounts if mount[mount.index("-") + 1] == "cgroup2"), "/sys/fs/cgroup")
    return root + path


def pids_in(folder: str) -> list[int]:
    """Return the processes in a cgroup and below it."""
    pids: list[int] = []
    for parent, _folders, _files in os.walk(folder):
        with contextlib.suppress(FileNotFoundError), open(os.path.join(parent, "cgroup.procs"), "rb") as file:
            pids.extend(map(int, file.read().split()))
    return pids


def kill_all(folder: str) -> None:
    """Kill every process in a cgroup and below it, at once."""
    with contextlib.suppress(OSError):  # before Linux 5.14 there is no such file
        _write(folder, "cgroup.kill", "1")


def remove(folder: str) -> None:
    """Remove a cgroup and those that a task made in it."""
    for parent, _folders, _files in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # somebody moved a process in: the next spawner's folder is another
            os.rmdir(parent)


def _write(folder: str, name: str, value: str) -> None:
    with open(os.path.join(folder, name), "w", encoding="ascii") as file:
        file.write(value)
