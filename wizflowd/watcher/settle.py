"""Whether a file is settled, and its bytes: nobody holds it open for writing, and it is still what the scan saw.

In: an `Entry`. Out: the bytes, or why they cannot be had yet. Called by `watcher.ledger` in a thread. Nothing here
blocks on a FIFO or waits for a writer.
"""

import contextlib
import errno
import fcntl
import os
import signal
import stat
from enum import Enum

from wizflowd.watcher.scan import Entry
from wizflowd.watcher.stamps import signature

MIN_QUIET_S = 0.05
"""How long a file has to be quiet where the kernel does not tell whether somebody is writing."""

_NO_LONGER_A_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE}


class Unsettled(Enum):
    """Why the bytes cannot be had yet."""

    BUSY = "somebody has it open for writing"
    CHANGED = "it is no longer what the scan saw"
    EARLY = "only quiet time can tell, and it was too short"


class _Lease(Enum):
    FREE = "nobody writes"
    BUSY = "somebody has it open for writing"
    UNKNOWN = "not ours to ask, or not on this file system"


def read_settled(entry: Entry, *, quiet_s: float, max_bytes: int) -> bytes | Unsettled:
    """Return the content, at most `max_bytes` and one more; OSError where the file may not be read.

    `quiet_s` is for how long the file has been seen unchanged.
    """
    try:
        fd = os.open(entry.real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno in _NO_LONGER_A_FILE:
            return Unsettled.CHANGED
        raise
    with open(fd, "rb", buffering=0):
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode) or signature(seen) != entry.signature:
            return Unsettled.CHANGED
        lease = _ask_lease(fd)
        if lease is _Lease.BUSY:
            return Unsettled.BUSY
        if lease is _Lease.UNKNOWN and quiet_s < MIN_QUIET_S:
            return Unsettled.EARLY
        data = _read(fd, min(seen.st_size, max_bytes) + 1)
        if lease is _Lease.FREE and _ask_lease(fd) is _Lease.BUSY:
            return Unsettled.BUSY
        whole = signature(os.fstat(fd)) == signature(seen) and len(data) == min(seen.st_size, max_bytes + 1)
        return data if whole else Unsettled.CHANGED


def _read(fd: int, limit: int) -> bytes:
    """Return what there is, at most `limit` bytes: as a rule in one read, which needs no memory beside its result."""
    data = b""
    while len(data) < limit and (more := os.read(fd, limit - len(data))):
        data = data + more if data else more
    return data


def _ask_lease(fd: int) -> _Lease:
    """Ask the kernel by way of a read lease, which it refuses while there is a writer (a shared mapping counts).

    It is given back at once, as it holds writers up. Should one come in between, the signal is SIGURG, which does
    nothing by default; the kernel's own choice, SIGIO, would end the process.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return _Lease.BUSY
    except OSError:
        return _Lease.UNKNOWN
    with contextlib.suppress(OSError):  # taken back by the kernel already
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return _Lease.FREE
