"""What one attempt prints: from its pipes, through the masker, into the log and, where asked for, a copy of stdout.

Owned by an attempt in the spawner; its loop calls `pump` when a pipe has something.
"""

import fcntl
import os
from collections.abc import Sequence

from wizflowd.spawner.log import CappedLog
from wizflowd.spawner.masking import Masker

_READ_BYTES = 1 << 16  # a pipe's usual capacity: one read a turn, so that no attempt starves another


class StdoutCopy:
    """The masked stdout alone, up to `maximum` bytes; the file comes into being with the first byte."""

    def __init__(self, path: str, maximum: int, size: int = 0, note: str = "") -> None:
        self.path = path
        self.maximum = maximum
        self.size = size  # bytes that were to be kept
        self.note = note

    def write(self, data: bytes) -> None:
        """Append what still fits."""
        kept = data[: max(0, self.maximum - self.size)]
        self.size += len(data)
        if not kept or self.note:
            return
        try:
            with open(self.path, "ab" if self.size > len(data) else "wb", buffering=0) as file:
                written = file.write(kept)
            if written < len(kept):
                self.note = f"stdout could not be kept whole in {self.path}"
        except OSError as error:
            self.note = f"stdout could not be kept in {self.path}: {error.strerror}"


class Stream:
    """One pipe of an attempt, with the state of its masking.

    `writer` is its other end, where that is kept: then the end of the pipe does not wake the spawner, which SIGCHLD
    does anyway. Not of two pipes, for descriptors are few, and not after a handover.
    """

    def __init__(
        self, descriptor: int, secrets: Sequence[str], copy: StdoutCopy | None = None, *, writer: int = -1
    ) -> None:
        self.descriptor = descriptor
        self.writer = writer
        self.secrets = secrets
        self.masker = Masker(secrets) if secrets else None
        self.copy = copy


class Output:
    """All that one attempt prints; `stdout` is the copy of that alone."""

    def __init__(self, log: CappedLog, streams: Sequence[Stream], stdout: StdoutCopy | None = None) -> None:
        self.log = log
        self.streams = {stream.descriptor: stream for stream in streams}
        self.stdout = stdout

    def pump(self, descriptor: int) -> bytes:
        """Move what a pipe has, at most one read of it; return it masked. An ended pipe leaves `streams`."""
        stream = self.streams[descriptor]
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return b""
        return self._take(stream, data) if data else self._close(stream)

    def finish(self) -> bytes:
        """Take what is still in the pipes, not waiting for their ends, and close all; return it masked.

        Somebody out of reach may hold a pipe and go on writing: no more is read than a pipe can hold.
        """
        last = []
        for descriptor, stream in list(self.streams.items()):
            room = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
            while room > 0 and (data := _read(descriptor)):
                last.append(self._take(stream, data))
                room -= len(data)
            last.append(self._close(stream))
        self.log.close()
        return b"".join(last)

    def _close(self, stream: Stream) -> bytes:
        del self.streams[stream.descriptor]
        os.close(stream.descriptor)
        if stream.writer >= 0:
            os.close(stream.writer)
        return self._write(stream, stream.masker.flush()) if stream.masker else b""

    def _take(self, stream: Stream, data: bytes) -> bytes:
        return self._write(stream, stream.masker.feed(data) if stream.masker else data)

    def _write(self, stream: Stream, data: bytes) -> bytes:
        if data:
            self.log.write(data)
            if stream.copy:
                stream.copy.write(data)
        return data


def _read(descriptor: int) -> bytes:
    """Return what a pipe has, nothing if it is empty or has ended."""
    try:
        return os.read(descriptor, _READ_BYTES)
    except BlockingIOError:
        return b""
