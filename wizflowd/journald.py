"""Log records with their fields to the journal: `journalctl RUN=20261123-030512-7f3a9c` finds what is about a run.

In: records of `logging`. Out: one entry each to journald's socket (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): the
message as formatted, PRIORITY, and a field for each value that came with the record. Called by the program `wizflowd`.
"""

import errno
import fcntl
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping

_SOCKET = "/run/systemd/journal/socket"
_SEND_WITHIN_S = 1.0
_TOLD_MAX = 2000
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "about"}
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def is_journal(descriptor: int, env: Mapping[str, str]) -> bool:
    """Return whether a descriptor leads to the journal. Source: `$JOURNAL_STREAM` in systemd.exec(5)."""
    found = os.fstat(descriptor)
    return env.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JournalHandler(logging.Handler):
    """Sends records to journald. The fields are the record's `about` if it has that, else all that came with it."""

    def __init__(self, address: str = _SOCKET) -> None:
        super().__init__()
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_SEND_WITHIN_S)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one entry; what the journal does not take goes to stderr."""
        message = self.format(record)
        entry = _entry({**_values(record), "MESSAGE": message, "PRIORITY": _priority(record.levelno)})
        try:
            self._send(entry)
        except OSError as error:
            print(f"{message[:_TOLD_MAX]} (cannot reach the journal: {error})", file=sys.stderr)

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self._address)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            self._send_as_file(entry)

    def _send_as_file(self, entry: bytes) -> None:
        """Send an entry that is larger than a datagram as a sealed file, as the protocol asks."""
        descriptor = os.memfd_create("wizflowd-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(entry)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            # not socket.send_fds: it forgets the address (Python 3.11)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, sys.byteorder))
            self._socket.sendmsg([b""], [rights], 0, self._address)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _values(record: logging.LogRecord) -> dict[str, str]:
    given = getattr(record, "about", None)
    values = given() if given is not None else {k: v for k, v in vars(record).items() if k not in _STANDARD}
    fields = {name.upper().rstrip("_"): str(value) for name, value in values.items()}
    return {
        **{name: value for name, value in fields.items() if _NAME.fullmatch(name)},
        "SYSLOG_IDENTIFIER": "wizflowd",
        "LOGGER": record.name,
    }


def _priority(level: int) -> str:
    return str(next((priority for at_least, priority in _PRIORITIES if level >= at_least), 7))


def _entry(fields: Mapping[str, str]) -> bytes:
    return b"".join(_field(name.encode(), value.encode("utf-8", "backslashreplace")) for name, value in fields.items())


def _field(name: bytes, value: bytes) -> bytes:
    if b"\n" in value:
        return name + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name + b"=" + value + b"\n"
