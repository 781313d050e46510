"""Starts the spawner: takes the lock of its directory, binds its socket, says that it is ready, serves.

Called by `__main__`, as the daemon's own helper or as a systemd unit.
"""

import contextlib
import fcntl
import getopt
import json
import os
import resource
import signal
import socket
import sys

from wizflowd.spawner.cgroups import delegated_folder
from wizflowd.spawner.family import become_subreaper
from wizflowd.spawner.handover import BLOCKED, read_state
from wizflowd.spawner.identity import Marks, end_survivors
from wizflowd.spawner.protocol import SOCKET_NAME, boot_id, socket_address
from wizflowd.spawner.supervisor import Lifetime, Settings, Supervisor

LOCK_NAME = "lock"
EXIT_USAGE = 2
EXIT_TAKEN = 3
"""The directory has a living spawner."""
DELEGATED = "delegated"
"""For `--cgroup`: the cgroup that this process is in, which systemd handed to it (Delegate=)."""

_OPTIONS = ("directory=", "own", "with-parent", "cgroup=", "detach", "resume=", "check")
_USAGE = (
    "usage: python -I -S .../wizflowd/spawner --directory PATH [--own | --with-parent] [--cgroup PATH | delegated]"
    " [--detach]"
)


def main(arguments: list[str]) -> int:
    """Run the spawner; return its exit status.

    `--detach`: return to the caller when the socket is there. `--check` and `--resume FD` are for the spawner itself.
    """
    try:
        options = dict(getopt.getopt(arguments, "", _OPTIONS)[0])
        if "--check" in options:
            return 0
        if "--resume" in options:
            return _resume(int(options["--resume"]))
        return _start(options)
    except (getopt.GetoptError, KeyError):
        print(_USAGE, file=sys.stderr)
        return EXIT_USAGE


def _start(options: dict[str, str]) -> int:
    directory = os.path.abspath(options["--directory"])
    lifetime = Lifetime.UNIT
    if "--own" in options:
        lifetime = Lifetime.OWN
    if "--with-parent" in options:
        lifetime = Lifetime.WITH_PARENT
    os.makedirs(directory, mode=0o700, exist_ok=True)
    lock = _take_lock(directory)
    if lock < 0:
        return EXIT_TAKEN
    marks = Marks()
    _succeed(lock)
    listener = _bind(directory)
    if "--detach" in options and os.fork() > 0:
        os._exit(0)  # not sys.exit: the files belong to the child
    _sign(lock, marks)
    _prepare()
    _notify("READY=1")
    cgroup = options.get("--cgroup", "")
    settings = Settings(directory, lifetime, lock, delegated_folder() if cgroup == DELEGATED else cgroup)
    return _serve(Supervisor(settings, listener, marks), directory)


def _resume(passed: int) -> int:
    """Go on as a new program in the process of the one before."""
    state = read_state(passed)
    _prepare()
    os.set_inheritable(state["lock"], False)
    listener = socket.socket(fileno=state["listener"])
    listener.set_inheritable(False)
    settings = Settings(state["directory"], Lifetime(state["lifetime"]), state["lock"], state["cgroup"])
    supervisor = Supervisor(settings, listener, Marks(following=state["top"]))
    supervisor.resume(state)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    return _serve(supervisor, state["directory"])


def _serve(supervisor: Supervisor, directory: str) -> int:
    supervisor.run()
    os.unlink(os.path.join(directory, SOCKET_NAME))
    return 0


def _take_lock(directory: str) -> int:
    """Hold the lock of `directory` for as long as this process lives; return its file, -1 if another holds it."""
    descriptor = os.open(os.path.join(directory, LOCK_NAME), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return -1
    return descriptor


def _succeed(lock: int) -> None:
    """End what the spawner before left behind if it was killed: its attempts are lost, and may be tried again."""
    with contextlib.suppress(ValueError):
        before = json.loads(os.read(lock, 4096) or b"{}")
        if before.get("boot_id") == boot_id():
            end_survivors(before["top"])
    os.ftruncate(lock, 0)


def _sign(lock: int, marks: Marks) -> None:
    """Leave in the lock what the next spawner needs if this one is killed; called by the process that serves."""
    os.pwrite(lock, json.dumps({"boot_id": boot_id(), "top": marks.top, "pid": os.getpid()}).encode(), 0)


def _bind(directory: str) -> socket.socket:
    """Return the listening socket; under the lock one that stands there has no owner."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, SOCKET_NAME))
    old = os.umask(0o177)
    with socket_address(directory) as address:
        listener.bind(address)
    os.umask(old)
    listener.listen(16)
    return listener


def _prepare() -> None:
    """Make this process what its children are to inherit."""
    become_subreaper()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _notify(state: str) -> None:
    """Tell systemd, where it asks to be told. Source: sd_notify(3)."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
            notifier.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
