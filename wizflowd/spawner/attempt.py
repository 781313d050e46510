"""One attempt as the spawner sees it, from its start to the message of its exit.

Started by the supervisor, moved on by the lifecycle.
"""

import codecs
import enum
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from wizflowd.spawner.cgroups import Cgroups, remove
from wizflowd.spawner.family import Family
from wizflowd.spawner.identity import names_of
from wizflowd.spawner.launch import Program, RefusedError, launch
from wizflowd.spawner.log import CappedLog
from wizflowd.spawner.output import Output, StdoutCopy, Stream
from wizflowd.spawner.protocol import Message, boot_id

_UTF8 = codecs.getincrementaldecoder("utf-8")
_NULL = 0  # the spawner's own stdin is /dev/null


class Phase(enum.IntEnum):
    """How far an attempt is. It is over when its first process has ended and nothing is left, whatever the phase."""

    RUNNING = 0
    SETTLING = 1  # its first process has ended; what that left may end by itself
    TERMINATING = 2  # all were told to end; the grace runs
    KILLING = 3  # killed again and again until nothing is left


@dataclass(slots=True)
class Attempt:
    """A started attempt. `due` is when its phase is over, by the monotonic clock; `status` is a wait status."""

    id: str
    pid: int
    mark: int
    names: dict[str, str]  # what names the attempt in the environment
    output: Output
    started_s: float
    grace_s: float
    due: float | None
    cgroup: str = ""
    context: str = ""  # of the daemon, handed back
    good_without: str = ""  # exit code 0 is a good end if this file is not there; empty: the daemon judges
    phase: Phase = Phase.RUNNING
    status: int | None = None
    timed_out: bool = False
    killed: bool = False
    lost: bool = False
    leftovers: int = 0
    notes: list[str] = field(default_factory=list)
    decoder: codecs.IncrementalDecoder | None = None

    def started(self) -> Message:
        """Return the message that it runs."""
        return {
            "op": "started",
            "attempt": self.id,
            "pid": self.pid,
            "mark": self.mark,
            "started_s": self.started_s,
            "context": self.context,
        }

    def decode(self, data: bytes) -> str:
        """Return the next output as text, for those who watch; a character that is cut comes with its rest."""
        if self.decoder is None:
            self.decoder = _UTF8("replace")
        return self.decoder.decode(data)

    def conclude(self) -> bytes:
        """Take the last output and let go of everything; return that output."""
        last = self.output.finish()
        if self.cgroup:
            remove(self.cgroup)
        return last

    @property
    def well(self) -> bool:
        """Whether it has ended in a way of which the daemon can make nothing but a success."""
        if self.status != 0 or self.timed_out or self.killed or self.lost or not self.good_without:
            return False
        return not os.path.lexists(self.good_without)

    def exited(self) -> Message:
        """Return the message that it is over. Call after `conclude`."""
        if self.status is None:
            raise ValueError(f"attempt {self.id} has not ended")
        code = os.waitstatus_to_exitcode(self.status)
        log, stdout = self.output.log, self.output.stdout
        notes = [*self.notes, log.state.note, stdout.note if stdout else ""]
        return {
            "op": "exited",
            "attempt": self.id,
            "pid": self.pid,
            "exit_code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "timed_out": self.timed_out,
            "killed": self.killed,
            "lost": self.lost,
            "well": self.well,
            "started_s": self.started_s,
            "ended_s": time.time(),
            "boot": boot_id(),
            "log": log.state.size > 0,
            "log_bytes": log.state.size,
            "truncated": log.truncated,
            "leftovers": self.leftovers,
            "stdout_bytes": stdout.size if stdout else None,
            "context": self.context,
            "notes": [note for note in notes if note],
        }


def start(request: Message, family: Family, cgroups: Cgroups | None) -> Attempt:
    """Start what a `spawn` message asks for. Raises RefusedError."""
    opened: list[int] = []
    try:
        return _start(request, family, cgroups, opened)
    except (OSError, UnicodeError) as error:  # half a surrogate pair has no form in bytes
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RefusedError("other", f"cannot start {request['argv'][0]}: {why}") from error
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _start(request: Message, family: Family, cgroups: Cgroups | None, opened: list[int]) -> Attempt:
    """Start it; what `opened` names at the end is to be closed, whether it started or not."""
    stdin = _NULL if request.get("stdin") is None else _text_file(request["stdin"], opened)
    limits: Mapping[str, float] = request.get("limits") or {}
    output, stdout, stderr = _open_output(request, opened)
    cgroup = ""
    try:
        if cgroups:
            cgroup, limits = cgroups.make(limits)
        mark = family.put_on_mark()
        program = Program(request["argv"], request["env"], request["cwd"], limits, cgroup)
        pid = launch(program, (stdin, stdout, stderr))
    except (RefusedError, OSError, UnicodeError):
        output.finish()
        if cgroup:
            remove(cgroup)
        raise
    names = names_of(request["env"])
    family.add(request["attempt"], pid, mark, names)
    timeout_s = request.get("timeout_s")
    return Attempt(
        id=request["attempt"],
        pid=pid,
        mark=mark,
        names=names,
        output=output,
        started_s=time.time(),
        grace_s=request["grace_s"],
        due=None if timeout_s is None else time.monotonic() + timeout_s,
        cgroup=cgroup,
        context=request.get("context") or "",
        good_without=request.get("good_without") or "",
    )


def _open_output(request: Message, opened: list[int]) -> tuple[Output, int, int]:
    """Return the output and the descriptors for the program's stdout and stderr: one pipe, or two."""
    secrets = request.get("secrets") or ()
    log = CappedLog(request["log"], request["log_max"])
    if request.get("stdout") is None:
        reader, writer = _pipe()
        return Output(log, [Stream(reader, secrets, writer=writer)]), writer, writer
    copy = StdoutCopy(request["stdout"], request["stdout_max"])
    reader, stdout = _pipe()
    opened.append(stdout)
    try:
        error_reader, stderr = _pipe()
    except OSError:  # too many open files
        os.close(reader)
        raise
    opened.append(stderr)
    return Output(log, [Stream(reader, secrets, copy), Stream(error_reader, secrets)], copy), stdout, stderr


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    return reader, writer


def _text_file(text: str, opened: list[int]) -> int:
    """Return a descriptor to read `text` from, whatever its length: nobody has to feed it."""
    descriptor = os.memfd_create("stdin")
    opened.append(descriptor)
    data = memoryview(os.fsencode(text))
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
