"""What `wizflow doctor` looks at on the host: folders, limits, room, groups, clock, programs, kinds of tasks."""

import ctypes
import grp
import importlib.util
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from wizflowd.cli.finding import Finding, good, warning, wrong
from wizflowd.config import Config
from wizflowd.core.task import TASK_TYPES
from wizflowd.plugins import load_plugins
from wizflowd.watcher.modes import Modes

_INOTIFY = Path("/proc/sys/fs/inotify")
_FEWEST_INSTANCES = 128
_FEWEST_INODES = 10_000
_UNSYNCHRONIZED = 5  # TIME_ERROR of adjtimex(2)
_OLDEST_CLOCK_S = 1_767_225_600.0  # 2026-01-01: older than this program
_NETWORKED = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs"})


def folder(path: Path, config: Config) -> Iterator[Finding]:
    """Look whether the watched folder is there, can be read, and is trusted."""
    if not path.is_dir():
        yield wrong("folder", f"{path} is not there", f"mkdir -p {path}; or set workflows_dir")
        return
    if not os.access(path, os.R_OK | os.X_OK):
        yield wrong("folder", f"{path} cannot be read by you", "ask as the daemon's user")
        return
    problems: tuple[str, ...] = ()
    if config.strict_modes:
        modes = Modes(str(path), config.owners, folder_owner_trusted=not config.owners)
        modes.refresh()
        problems = modes.folder_problems()
    for problem in problems:
        what, _, mend = problem.rpartition("; ")
        yield wrong("folder", what, mend)
    if not problems:
        yield good("folder", f"{path} can be changed by none but its owners")


def watching(path: Path, backend: str) -> Iterator[Finding]:
    """Look whether the kernel can tell of all changes below a folder."""
    if not path.is_dir():
        return
    kind = _file_system(path)
    if kind in _NETWORKED and backend != "polling":
        mend = "set watch.backend to polling; without, only `watch.rescan` finds them"
        yield warning("watching", f"{path} is on {kind}, which does not tell of changes made elsewhere", mend)
    try:
        watches = int((_INOTIFY / "max_user_watches").read_text())
        instances = int((_INOTIFY / "max_user_instances").read_text())
    except OSError:
        yield warning("watching", "this kernel has no inotify", "changes are found by polling")
        return
    needed = sum(1 for _ in _folders(path))
    if needed * 2 > watches:
        what = f"{needed:,} folders are to be watched, of {watches:,} watches that a user may have"
        yield wrong("watching", what, _sysctl("max_user_watches", max(524_288, needed * 4)))
    elif instances < _FEWEST_INSTANCES:
        what = f"a user may have only {instances} inotify instances"
        yield warning("watching", what, _sysctl("max_user_instances", 1024))
    else:
        yield good("watching", f"{needed:,} folders, of {watches:,} that a user may watch")


def _sysctl(name: str, value: int) -> str:
    line = f"fs.inotify.{name}={value}"
    return f"sysctl {line}; to keep it: echo {line} > /etc/sysctl.d/60-wizflowd.conf"


def _folders(path: Path) -> Iterator[str]:
    for here, below, _ in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".") and not name.endswith(".runs")]
        yield here


def room(places: Iterable[Path], low_water: int) -> Iterator[Finding]:
    """Look for room on the disks on which we write, and at their kind."""
    for place in places:
        here = _nearest(place)
        try:
            disk = os.statvfs(here)
        except OSError as error:
            yield warning("disk", f"cannot look at {place}: {error.strerror}", "ask as root")
            continue
        free = disk.f_bavail * disk.f_frsize
        if free < low_water:
            what = f"{_mib(free)} MiB are left for {place}, no run starts below {_mib(low_water)}"
            yield wrong("disk", what, "make room, lower `retention`, or set limits.disk_low_water")
        elif disk.f_files and disk.f_favail < _FEWEST_INODES:
            yield wrong(
                "disk", f"{disk.f_favail:,} files can still be made in {place}", "remove files, or lower `retention`"
            )
        elif free < 4 * low_water:
            yield warning("disk", f"{_mib(free)} MiB are left for {place}", "make room soon")
        elif _file_system(here) in _NETWORKED:
            what = f"{place} is on a network ({_file_system(here)}), on which locks and syncs may not hold"
            yield warning("disk", what, "keep state_dir on a local disk")
        else:
            yield good("disk", f"{_mib(free)} MiB are free for {place}")


def _mib(size: int) -> str:
    return f"{size // (1024 * 1024):,}"


def _nearest(path: Path) -> Path:
    """Return a folder, or the nearest above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _file_system(path: Path) -> str:
    """Return the kind of file system on which a path lies, as mount calls it; empty where that cannot be known."""
    best, kind = "", ""
    real = os.path.realpath(path)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, found, *_ = line.split(" ")
        if (real == place or real.startswith(place.rstrip("/") + "/")) and len(place) >= len(best):
            best, kind = place, found
    return kind


def groups(config: Config) -> Iterator[Finding]:
    """Look whether the groups of the sockets are there."""
    for key in ("events_group", "control_group"):
        name = getattr(config, key)
        if name is None or name.isdecimal():
            continue
        try:
            grp.getgrnam(name)
        except KeyError:
            yield wrong("groups", f"{key} is {name}, and there is no such group", f"groupadd --system {name}")
        else:
            yield good("groups", f"{key} {name} is there")


def clock(state: Path) -> Iterator[Finding]:
    """Look whether the clock is right, as far as one can tell from here."""
    present_s = time.time()
    try:
        written_s = (state / "state.db").stat().st_mtime
    except OSError:
        written_s = 0.0
    if present_s < max(_OLDEST_CLOCK_S, written_s - 60):
        yield wrong("clock", f"it says {time.strftime('%F %T')}, which is past", "set it: timedatectl set-ntp true")
    elif not _is_synchronized():
        yield warning("clock", "nothing keeps it right: schedules fire by it", "timedatectl set-ntp true")
    else:
        yield good("clock", "is kept right")


def _is_synchronized() -> bool:
    buffer = ctypes.create_string_buffer(512)  # struct timex, all zero: asks and changes nothing
    state: int = ctypes.CDLL(None).adjtimex(buffer)
    return state != _UNSYNCHRONIZED


def programs() -> Iterator[Finding]:
    """Look at Python, SQLite and the extras."""
    yield good("programs", f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")
    if importlib.util.find_spec("resvg_py") is not None:
        yield good("programs", "the extra graph is installed: pictures as PNG")
    else:
        yield warning(
            "programs", "without the extra graph there are no pictures as PNG", "pip install 'wizflowd[graph]'"
        )


def kinds() -> Iterator[Finding]:
    """Look at the packages that add kinds of tasks."""
    for kind, why in load_plugins().items():
        yield wrong("kinds of tasks", f"{kind} cannot be used: {why}", "mend the package that adds it, or remove it")
    yield good("kinds of tasks", ", ".join(TASK_TYPES))
