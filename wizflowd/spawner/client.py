"""One connection of a daemon to the spawner. Reads messages, and holds what the daemon has not taken yet."""

import base64
import contextlib
import socket

from wizflowd.spawner.protocol import LineReader, Message

_READ_BYTES = 1 << 18
_OUTPUT_WAITING_MAX = 1 << 20


class Client:
    """A connected daemon. `listening`: it wants live output. `gone`: the connection has ended.

    `patient` are lines by attempt that may wait for company, as the daemon said: each wakes it, and of what ends soon
    it need not know that it has started.

    `watched_for_room` is the supervisor's note of whether its epoll tells when more can be sent.
    """

    def __init__(self, connection: socket.socket, dumped: Message | None = None) -> None:
        dumped = dumped or {}
        self.connection = connection
        self.listening: bool = dumped.get("listening", False)
        self.gone = False
        self.watched_for_room = False
        self.patient: dict[str, bytes] = {}
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

    def hurry(self) -> None:
        """Let no line wait any longer."""
        self._unsent += b"".join(self.patient.values())
        self.patient.clear()

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
        with contextlib.suppress(OSError):
            self.connection.settimeout(patience_s)
            self.connection.sendall(self._unsent)
        self.connection.close()

    def dump(self) -> Message:
        """Return all that another program needs to go on with this connection."""
        return {
            "descriptor": self.connection.fileno(),
            "listening": self.listening,
            "unread": base64.b64encode(self._reader.rest).decode(),
            "unsent": base64.b64encode(self._unsent).decode(),
        }
