"""One connection of a daemon to the spawner. Reads messages, and holds what the daemon has not taken yet."""

import base64
import contextlib
import math
import socket
import time
from collections.abc import Callable

from wizflowd.spawner.backlog import Backlog
from wizflowd.spawner.protocol import LineReader, Message

_READ_BYTES = 1 << 18
_OUTPUT_WAITING_MAX = 1 << 20
_COMPANY_S = 0.01  # for which a line that nobody waits for may wait for others


class Client:
    """A connected daemon. `listening`: it wants live output. `gone`: the connection has ended.

    `backlog` is what it has handed over to be started later; `unwell` counts what it was told that has emptied it.
    `hurry_due` is when its lines have waited long enough for
    company, by the monotonic clock; infinite: none waits.

    `watched_for_room` is the supervisor's note of whether its epoll tells when more can be sent.
    """

    def __init__(self, connection: socket.socket, dumped: Message | None = None) -> None:
        dumped = dumped or {}
        self.connection = connection
        self.listening: bool = dumped.get("listening", False)
        self.gone = False
        self.watched_for_room = False
        self.backlog = Backlog()
        self.unwell: int = dumped.get("unwell") or time.monotonic_ns()  # from where no other connection has counted
        self.hurry_due = math.inf
        self._patient: dict[str, bytes | Callable[[], bytes]] = {}
        self._reader = LineReader(base64.b64decode(dumped.get("unread", "")))
        self._unsent = bytearray(base64.b64decode(dumped.get("unsent", "")))
        connection.setblocking(False)

    @property
    def waiting(self) -> bool:
        """Whether there is something to send."""
        return bool(self._unsent)

    def receive(self) -> list[Message]:
        """Return the messages that have come."""
        try:
            data = self.connection.recv(_READ_BYTES)
            if data:
                return self._reader.feed(data)
        except BlockingIOError:
            return []
        except (OSError, ValueError):
            pass  # a broken connection, or one that does not speak the protocol: its end either way
        self.gone = True
        return []

    @property
    def is_slow(self) -> bool:
        """Whether so much waits that live output is better dropped."""
        return len(self._unsent) > _OUTPUT_WAITING_MAX

    def send(self, line: bytes) -> None:
        """Take a line for the daemon; what waited goes before it."""
        self.hurry()
        self._unsent += line

    def drop_backlog(self) -> None:
        """Let go of what was to be started later: the daemon is to hear of an end, or to be told, that has done it."""
        self.backlog.clear()
        self.unwell += 1

    def send_soon(self, attempt: str, line: bytes | Callable[[], bytes]) -> None:
        """Take the last line of an attempt, or what makes it, for which the daemon need not be woken at once.

        Of what ends soon it need not know that it has started.
        """
        if not self._patient:
            self.hurry_due = time.monotonic() + _COMPANY_S
        self._patient.pop(attempt, None)
        self._patient[attempt] = line

    def hurry(self) -> None:
        """Let no line wait any longer."""
        self._unsent += b"".join(line if isinstance(line, bytes) else line() for line in self._patient.values())
        self._patient.clear()
        self.hurry_due = math.inf

    def hurry_if_due(self) -> None:
        """Let no line wait longer than a moment."""
        if self.hurry_due < math.inf and time.monotonic() >= self.hurry_due:
            self.hurry()

    def flush(self) -> None:
        """Send as much as the connection takes."""
        try:
            while self._unsent:
                del self._unsent[: self.connection.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self.gone = True

    def close(self, *, patience_s: float) -> None:
        """Send what is left, if the daemon takes it in time, and close."""
        self.hurry()
        with contextlib.suppress(OSError):
            self.connection.settimeout(patience_s)
            self.connection.sendall(self._unsent)
        self.connection.close()

    def dump(self) -> Message:
        """Return all that another program needs to go on with this connection."""
        return {
            "descriptor": self.connection.fileno(),
            "listening": self.listening,
            "unwell": self.unwell,
            "unread": base64.b64encode(self._reader.rest).decode(),
            "unsent": base64.b64encode(self._unsent).decode(),
        }
