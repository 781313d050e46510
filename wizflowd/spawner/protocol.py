"""What daemon and spawner say to each other, as JSON lines over a Unix stream socket; who the other one is.

Used by both sides. A message is a mapping with `op`. To the spawner: `hello`, `spawn`, `queue`, `withdraw`, `kill`,
`ack`, `listen`, `stop`, `reexec`. From it: `hello`, `started`, `exited`, `refused`, `dropped`, `withdrawn`, `output`.
Fields are added, never changed; a field that is not known is ignored, so that an old spawner serves a newer daemon.
"""

import contextlib
import functools
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

PROTOCOL = 1
VERSION = "0.1.0"
"""Of the spawner: a daemon with another one asks it to re-execute itself. Changes with every release."""
SOCKET_NAME = "socket"

_PATH_MAX = 107  # sun_path is 108 bytes with its NUL

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """Return the line for `message`; unpaired surrogates (file names that are not UTF-8) survive as escapes."""
    return json.dumps(message).encode() + b"\n"


class LineReader:
    """Makes messages of a stream of bytes that comes in any pieces; `decode` makes one of a line."""

    def __init__(self, rest: bytes = b"", decode: Callable[[bytes], Any] = json.loads) -> None:
        self.rest = rest
        self._decode = decode

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that `data` completes. Raises ValueError for a line that is no JSON mapping."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        messages = [self._decode(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("a line of the spawner's protocol is not a JSON mapping")
        return messages


def peer_uid(connection: socket.socket) -> int:
    """Return the user id of the process at the other end, as the kernel noted it when it connected."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", credentials)
    return int(uid)


@contextlib.contextmanager
def socket_address(directory: str) -> Iterator[str]:
    """Give an address for the socket in `directory`, also where its path is longer than an address may be."""
    path = os.path.join(directory, SOCKET_NAME)
    if len(os.fsencode(path)) <= _PATH_MAX:
        yield path
        return
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET_NAME}"
    finally:
        os.close(folder)


@functools.cache
def boot_id() -> str:
    """Return what tells this boot of the host from every other."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_time(pid: int) -> int | None:
    """Return when process `pid` started, in clock ticks since the boot: with the pid an identity. None: not there."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None
