"""The spawner turns into another version of itself: its state as JSON through a file without a name, all else by
`execve`, which keeps the pid, the children, the subreaper and every descriptor that is told to stay.

Called by the supervisor on `reexec`, and by `main` in the new program.
"""

import base64
import json
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import asdict, fields

from wizflowd.spawner.attempt import Attempt, Phase
from wizflowd.spawner.log import CappedLog, LogState
from wizflowd.spawner.output import Output, StdoutCopy, Stream
from wizflowd.spawner.protocol import Message

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
BLOCKED = (signal.SIGTERM, signal.SIGCHLD)
"""Signals that wait from before the exec until the new program has its handlers."""

_PLAIN = [field.name for field in fields(Attempt) if field.name not in ("output", "phase", "decoder")]


def replace_program(state: Message, descriptors: Iterable[int]) -> None:
    """Go on as the program that is installed now. Returns only if that cannot work; then nothing has changed."""
    if not _is_sound():
        print("cannot re-execute: the program that is installed does not start", file=sys.stderr)
        return
    passed = os.memfd_create("spawner-state")
    with open(passed, "wb", closefd=False) as file:
        file.write(json.dumps(state).encode())
    for descriptor in (passed, *descriptors):
        os.set_inheritable(descriptor, True)
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    shown = ("--directory", state["directory"])  # for whoever looks at the list of processes
    os.execv(sys.executable, [sys.executable, "-I", "-S", PROGRAM, "--resume", str(passed), *shown])  # noqa: S606


def read_state(passed: int) -> Message:
    """Return what the program before left."""
    with open(passed, "rb") as file:
        file.seek(0)
        state: Message = json.load(file)
    return state


def dump_attempt(attempt: Attempt) -> Message:
    """Return an attempt as JSON."""
    output = attempt.output
    copy = output.stdout
    return {
        "plain": {name: getattr(attempt, name) for name in _PLAIN},
        "phase": int(attempt.phase),
        "log": {"path": output.log.path, "maximum": output.log.maximum, "state": asdict(output.log.state)},
        "copy": None if copy is None else [copy.path, copy.maximum, copy.size, copy.note],
        "streams": [_dump_stream(stream) for stream in output.streams.values()],
    }


def load_attempt(message: Message) -> Attempt:
    """Return the attempt that was dumped. Its descriptors are no more inherited by children."""
    copy = None if message["copy"] is None else StdoutCopy(*message["copy"])
    log = CappedLog(message["log"]["path"], message["log"]["maximum"], LogState(**message["log"]["state"]))
    output = Output(log, [_load_stream(each, copy) for each in message["streams"]], copy)
    attempt = Attempt(**message["plain"], output=output, phase=Phase(message["phase"]))
    for descriptor in descriptors_of(attempt):
        os.set_inheritable(descriptor, False)
    return attempt


def descriptors_of(attempt: Attempt) -> list[int]:
    """Return what an attempt has open."""
    log = attempt.output.log.state
    return [number for number in (*attempt.output.streams, log.file, log.ring) if number >= 0]


def _dump_stream(stream: Stream) -> Message:
    held, covered = stream.masker.held() if stream.masker else (b"", 0)
    return {
        "descriptor": stream.descriptor,
        "secrets": list(stream.secrets),
        "copied": stream.copy is not None,
        "held": base64.b64encode(held).decode(),
        "covered": covered,
    }


def _load_stream(message: Message, copy: StdoutCopy | None) -> Stream:
    stream = Stream(message["descriptor"], message["secrets"], copy if message["copied"] else None)
    if stream.masker:
        stream.masker.resume(base64.b64decode(message["held"]), message["covered"])
    return stream


def _is_sound() -> bool:
    """Say whether the installed program comes as far as its options: an upgrade may be half done."""
    command = [sys.executable, "-I", "-S", PROGRAM, "--check"]
    try:
        pid = os.posix_spawn(sys.executable, command, os.environ)
    except OSError:
        return False
    _pid, status = os.waitpid(pid, 0)
    return status == 0
