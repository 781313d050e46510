"""Starts the first process of an attempt: session of its own, exact environment, limits in force before the program.

Called by the spawner's loop. Two ways: `posix_spawn` (vfork, cheap) and, where there are limits or a cgroup, a fork
that takes them on itself. A fork is safe here because the spawner has no threads.
"""

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_CATCHABLE = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}

_LIMITS = {
    "memory": resource.RLIMIT_AS,
    "cpu_time": resource.RLIMIT_CPU,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
    "file_size": resource.RLIMIT_FSIZE,
}

_LIBC = ctypes.CDLL(None)
_CLONE3 = 435  # the number on every architecture that Debian has
_CLONE_INTO_CGROUP = 0x200000000
_CLONE_ARGUMENTS = struct.Struct("11Q")  # struct clone_args, see clone3(2)

Descriptors = tuple[int, int, int]
"""What becomes the program's stdin, stdout and stderr."""


class RefusedError(Exception):
    """A program cannot be started. `kind`: `not_found`, `cwd`, `limits` or `other`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class Program:
    """What to start. `limits` as in the protocol; `cgroup` is the folder of the attempt's own cgroup, or empty."""

    argv: list[str]
    env: Mapping[str, str]
    cwd: str
    limits: Mapping[str, float]
    cgroup: str = ""


def launch(program: Program, descriptors: Descriptors) -> int:
    """Start `program`; return its pid. Raises RefusedError."""
    try:
        os.chdir(program.cwd)  # the spawner's own: it has no threads, and works with absolute paths
    except (OSError, ValueError) as error:
        raise RefusedError("cwd", f"cannot work in {program.cwd}: {_reason(error)}") from error
    try:
        if program.limits or program.cgroup:
            return _fork(program, descriptors)
        return _spawn(program, descriptors)
    finally:
        os.chdir("/")


def _spawn(program: Program, descriptors: Descriptors) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, old, new) for new, old in enumerate(descriptors) if old != new]
    # All signals are named, though exec resets those that are caught: of each other one glibc asks first how it stands.
    refusal: OSError | ValueError = FileNotFoundError(2, "no such file")
    for path in _candidates(program):
        try:
            pid = os.posix_spawn(
                path, program.argv, program.env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_CATCHABLE
            )
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            refusal = error
            continue
        return pid
    raise _refused(program, refusal)


def _fork(program: Program, descriptors: Descriptors) -> int:
    """Start it by a fork that takes the limits on itself and reports by a pipe what it could not do."""
    report, answer = os.pipe()
    pid = _fork_into(program.cgroup) if program.cgroup else os.fork()
    if pid == 0:
        _become(program, descriptors, answer)
    os.close(answer)
    with open(report, "rb") as file:
        said = file.read()
    if not said:
        return pid
    os.waitpid(pid, 0)
    kind, text = json.loads(said)
    if kind == "limits":
        raise RefusedError(kind, f"cannot start {program.argv[0]}: {text}")
    raise _refused(program, FileNotFoundError(2, text) if kind == "not_found" else ValueError(text))


def _become(program: Program, descriptors: Descriptors, answer: int) -> None:
    """In the fork: turn into the program. Does not return."""
    kind, text = "not_found", "no such file"
    try:
        signal.set_wakeup_fd(-1)
        for caught in _CATCHABLE:
            signal.signal(caught, signal.SIG_DFL)
        os.setsid()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        kind = "limits"
        text = set_limits(program.limits)
        if not text:
            kind = "not_found"
            for path in _candidates(program):
                try:
                    os.execve(path, program.argv, program.env)  # noqa: S606
                except (FileNotFoundError, NotADirectoryError):
                    text = "no such file"
                except (OSError, ValueError) as error:
                    kind, text = "other", _reason(error)
    except OSError as error:
        kind, text = "other", _reason(error)
    finally:
        os.write(answer, json.dumps([kind, text]).encode())
        os._exit(127)


def set_limits(limits: Mapping[str, float]) -> str:
    """Set `limits` on this process, hard; return what could not be set, or nothing."""
    for name, value in limits.items():
        number = math.ceil(value)
        # SIGXCPU at the limit can be caught, the SIGKILL a second later cannot
        hard = number + 1 if name == "cpu_time" else number
        try:
            resource.setrlimit(_LIMITS[name], (number, hard))
        except (OSError, ValueError) as error:
            return f"the limit {name} = {number} cannot be set ({_reason(error)}); the spawner's own may be lower"
    return ""


def _fork_into(cgroup: str) -> int:
    """Fork with the child in `cgroup` from its first instruction: to move it later takes milliseconds and is a race."""
    descriptor = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        arguments = _CLONE_ARGUMENTS.pack(_CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, descriptor)
        pid = int(_LIBC.syscall(_CLONE3, arguments, len(arguments)))
    finally:
        os.close(descriptor)
    if pid >= 0:
        return pid
    pid = os.fork()  # before Linux 5.7, or forbidden: then the child moves itself before it becomes the program
    if pid == 0:
        procs = os.path.join(cgroup, "cgroup.procs")
        with contextlib.suppress(OSError), open(procs, "w", encoding="ascii") as file:
            file.write("0")
    return pid


def _candidates(program: Program) -> Iterator[str]:
    """Yield the paths that the program's name may mean, found by its own PATH and not by the spawner's.

    Where there is nothing, nothing is tried: a start that fails costs the spawner no less than one that does not.
    """
    name = program.argv[0]
    if "/" in name:
        yield name
        return
    for folder in program.env.get("PATH", os.defpath).split(":"):
        path = os.path.join(folder or ".", name)
        if _may_be_there(path):
            yield path


def _may_be_there(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        pass  # the start says why it cannot be
    return True


def _refused(program: Program, error: OSError | ValueError) -> RefusedError:
    name = program.argv[0]
    if isinstance(error, FileNotFoundError):
        where = "" if "/" in name else f" in PATH {program.env.get('PATH', os.defpath)}"
        return RefusedError("not_found", f"cannot start {name}: no such file{where}, or its interpreter is missing")
    return RefusedError("other", f"cannot start {name}: {_reason(error)}")


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
