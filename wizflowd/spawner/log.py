"""One attempt's log file: masked bytes go in, and come to stand in a file that never ends above its cap.

Called by an attempt in the spawner. Never raises and never blocks the task: what cannot be written is dropped, with a
marker where it would have stood.
"""

import os
from dataclasses import dataclass

_CHUNK = 1 << 20
_LINE_START_WITHIN = 4096
_FLAGS = os.O_CREAT | os.O_APPEND | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY


@dataclass(slots=True)
class LogState:
    """Where a log stands; all that another process needs to go on. Descriptors are -1 where there is none."""

    file: int = -1
    size: int = 0  # bytes in the file
    lost: int = 0  # bytes that could not be written since the last that could
    ring: int = -1
    ringed: int = 0  # bytes that ever went into the ring
    note: str = ""  # why something could not be written


class CappedLog:
    """A log that keeps a head and a tail of half the cap each: a live file up to the cap, from then on a ring.

    The ring is a file without a name: memory stays small and disk bounded (one and a half times the cap) while the
    attempt runs, and nothing of it stays if the spawner is killed. `close` puts the two together.
    """

    def __init__(self, path: str, maximum: int, state: LogState | None = None) -> None:
        self.path = path
        self.maximum = max(2, maximum)
        self._head = self.maximum // 2
        self._tail = self.maximum - self._head
        self.state = state or LogState()

    @property
    def truncated(self) -> bool:
        """Whether the middle is cut."""
        return self.state.ringed > self._tail

    def write(self, data: bytes) -> None:
        """Take the next bytes; the file comes into being with the first."""
        if self.state.ringed == 0:
            room = max(0, self.maximum - self.state.size)
            self._append(data[:room])
            data = data[room:]
        if data:
            self._put_in_ring(data)

    def close(self) -> None:
        """Bring the file into its final form."""
        state = self.state
        if state.ringed and state.file >= 0:
            state.size = min(state.size, self._head)
            os.ftruncate(state.file, state.size)
            self._append_ring()
        self._append(b"")
        for descriptor in (state.ring, state.file):
            if descriptor >= 0:
                os.close(descriptor)
        state.ring = state.file = -1

    def _append(self, data: bytes) -> None:
        """Append to the file; what does not go in is counted, and marked as soon as something goes in again."""
        state = self.state
        try:
            if state.lost:
                marker = f"\n… {state.lost} bytes lost: {state.note} …\n".encode()
                self._write_all(marker)
                state.lost = 0
        except OSError:
            state.lost += len(data)
            return
        before = state.size
        try:
            self._write_all(data)
        except OSError as error:
            state.lost += len(data) - (state.size - before)
            state.note = error.strerror or str(error)

    def _write_all(self, data: bytes) -> None:
        if not data:
            return
        state = self.state
        if state.file < 0:
            state.file = os.open(self.path, _FLAGS, 0o640)
            state.size = os.fstat(state.file).st_size
        view = memoryview(data)
        while view:
            written = os.write(state.file, view)
            state.size += written
            view = view[written:]

    def _put_in_ring(self, data: bytes) -> None:
        state = self.state
        try:
            if state.ringed == 0:
                state.ring = _nameless_file(self.path)
                for start in range(self._head, state.size, _CHUNK):
                    self._ring_write(os.pread(state.file, min(_CHUNK, state.size - start), start))
            self._ring_write(data)
        except OSError as error:
            state.note = f"the end is missing: {error.strerror}"
            state.ringed += len(data)
            if state.ring >= 0:
                os.close(state.ring)
                state.ring = -1

    def _ring_write(self, data: bytes) -> None:
        if self.state.ring < 0:
            self.state.ringed += len(data)
            return
        view = memoryview(data)
        while view:
            position = self.state.ringed % self._tail
            written = os.pwrite(self.state.ring, view[: self._tail - position], position)
            self.state.ringed += written
            view = view[written:]

    def _append_ring(self) -> None:
        """Append the marker and what the ring holds, oldest first, from the beginning of a line if one is near."""
        state = self.state
        kept = min(state.ringed, self._tail) if state.ring >= 0 else 0
        oldest = state.ringed - kept
        first = self._ring_read(oldest, min(kept, _LINE_START_WITHIN))
        if self.truncated:
            skipped = first.find(b"\n") + 1
            self._append(f"\n… {oldest + skipped} bytes cut …\n".encode())
            oldest += skipped
        while oldest < state.ringed and kept:
            data = self._ring_read(oldest, min(_CHUNK, state.ringed - oldest))
            self._append(data)
            oldest += len(data)

    def _ring_read(self, start: int, length: int) -> bytes:
        if length == 0:
            return b""
        position = start % self._tail
        return os.pread(self.state.ring, min(length, self._tail - position), position)


def _nameless_file(beside: str) -> int:
    """Return a descriptor of a file on the file system of `beside` that goes away with it."""
    try:
        return os.open(os.path.dirname(beside), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # not every file system has that
        path = f"{beside}.tail"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        return descriptor
