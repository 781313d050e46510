"""The exits that no daemon has committed yet, in a file that has them before anybody is told.

Called by the spawner's loop, once a turn. One JSON line per record in a file that was filled with zeros beforehand,
so that an append needs no room and goes on when the disk is full; a torn last line is no record. What is in the file
outlives the spawner; a power cut it outlives once `sync` was called, which is for exits that nobody commits at once.
What an attempt has written itself may be gone after a power cut: its line tells of which boot it is, until `close` has
put all of the file system on the disk, and in another boot it is `cut_off`. The spawner alone compares: in a container
a process with other mounts may see another id.
"""

import ctypes
import json
import math
import os
import time
from collections.abc import Iterable, Mapping

from wizflowd.spawner.protocol import boot_id, encode

FILE_NAME = "exits"
_FILE_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16
_SYNC_WITHIN_S = 0.1


class ExitFile:
    """Exits by attempt, kept until acknowledged.

    `pending` has their lines, whether or not the disk took them; `trouble` says why the disk did not. `sync_due` is
    when to call `sync`, by the monotonic clock, for the oldest exit that nobody has acknowledged; infinite: for none.
    """

    def __init__(self, directory: str, size: int = _FILE_BYTES) -> None:
        self._path = os.path.join(directory, FILE_NAME)
        self._size = size
        self._descriptor = -1
        self._end = 0
        self._acknowledged: list[str] = []
        self._unsynced: dict[str, float] = {}  # pending exits with the moment of their writing, the oldest first
        self.pending = _read(self._path)
        self.trouble = ""
        self.sync_due = math.inf
        self._put(b"")

    def record(self, exits: Mapping[str, bytes]) -> None:
        """Keep the `exited` lines of attempts; on return the file has them, or the disk cannot take them."""
        lines = list(exits.values())
        if self._acknowledged:
            lines.insert(0, encode({"ack": self._acknowledged}))
            self._acknowledged = []
        self.pending.update(exits)
        self._put(b"".join(lines))
        self._unsynced.update(dict.fromkeys(exits, time.monotonic()))
        self._set_due()

    def _set_due(self) -> None:
        self.sync_due = next(iter(self._unsynced.values()), math.inf) + _SYNC_WITHIN_S

    def sync(self) -> None:
        """Wait until the disk has the exits, unless all of them were acknowledged meanwhile."""
        self._unsynced.clear()
        self.sync_due = math.inf
        if self.pending and self._descriptor >= 0:
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                self.trouble = f"cannot write {self._path}: {error.strerror}"

    def acknowledge(self, attempts: Iterable[str]) -> None:
        """Forget exits that a daemon has committed; the file learns of it with the next exit."""
        for attempt in attempts:
            if self.pending.pop(attempt, None) is not None:
                self._acknowledged.append(attempt)
                self._unsynced.pop(attempt, None)
        self._set_due()

    def close(self) -> None:
        """Write what was forgotten, make what the others have written durable with them, and close the file."""
        if self._acknowledged:
            self.record({})
        self.sync()
        if self.pending and _sync_disk(os.path.dirname(self._path)):
            self.pending = {name: encode(json.loads(line) | {"boot": ""}) for name, line in self.pending.items()}
            self._drop()
            self._put(b"")
        self._drop()

    def _put(self, data: bytes) -> None:
        try:
            if self._descriptor < 0 or self._end + len(data) > self._size:
                self._start_over()
                return
            written = os.pwrite(self._descriptor, data, self._end)
            self._end += written
            if written < len(data):
                self._start_over()
            self.trouble = ""
        except OSError as error:
            self.trouble = f"cannot write {self._path}: {error.strerror}"

    def _drop(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _start_over(self) -> None:
        """Replace the file by one that holds only what is pending."""
        self._drop()
        data = b"".join(self.pending.values())
        self._size = max(self._size, 2 * len(data))
        temporary = f"{self._path}.tmp"
        descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, data)
            _write_zeros(descriptor, self._size - len(data))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, self._path)
        _sync_folder(os.path.dirname(self._path))
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        self._end = len(data)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _write_zeros(descriptor: int, count: int) -> None:
    """Write them in pieces: all at once would be a tenth of the spawner's memory."""
    zeros = bytes(min(count, _PIECE_BYTES))
    for place in range(0, count, _PIECE_BYTES):
        _write_all(descriptor, zeros[: count - place])


def _sync_disk(folder: str) -> bool:
    """Bring all to the disk that was written to the file system of a folder; return whether that went well."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    status = int(ctypes.CDLL(None).syncfs(descriptor))
    os.close(descriptor)
    return status == 0


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: str) -> dict[str, bytes]:
    """Return the lines of exits in the file that were not acknowledged."""
    try:
        with open(path, "rb") as file:
            lines = file.read().partition(b"\0")[0].splitlines()
    except FileNotFoundError:
        return {}
    pending: dict[str, bytes] = {}
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # torn by a power cut or a full disk: nobody was told of it
        for attempt in record.get("ack", ()):
            pending.pop(attempt, None)
        if "attempt" in record:
            is_cut_off = record.get("boot", "") not in ("", boot_id())
            told = encode(record | {"cut_off": True, "well": False}) if is_cut_off else line + b"\n"
            pending[record["attempt"]] = told
    return pending
