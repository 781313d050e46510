"""The spawner's loop: daemons ask, attempts start, print and end, daemons are told. One thread, one epoll.

Started by `main`. In: messages of `protocol`, bytes of pipes, SIGCHLD, SIGTERM, the clock. Out: logs, exits on disk,
messages. A turn ends with one write of exits to their file and then one send to each daemon.
"""

import enum
import json
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from wizflowd.spawner.attempt import Attempt, start
from wizflowd.spawner.cgroups import Cgroups
from wizflowd.spawner.client import Client
from wizflowd.spawner.exits import ExitFile
from wizflowd.spawner.family import Family
from wizflowd.spawner.handover import descriptors_of, dump_attempt, load_attempt, replace_program
from wizflowd.spawner.identity import Marks
from wizflowd.spawner.launch import RefusedError
from wizflowd.spawner.lifecycle import Lifecycle
from wizflowd.spawner.protocol import PROTOCOL, VERSION, Message, boot_id, encode, peer_uid, start_time

_DAEMON_WITHIN_S = 10.0  # the first one, or the next after one that did not say good-bye
_UNTOLD_WITHIN_S = 60.0
_LAST_WORDS_S = 1.0
_LONGEST_WAIT_S = 86400.0  # epoll refuses to wait for more than 24 days
_ORPHANED_GRACE_S = 1.0  # without a parent nobody waits for the full grace


class Lifetime(enum.Enum):
    """How long the spawner lives: until told (a unit), while there is something to do, or with its daemon."""

    UNIT = "unit"
    OWN = "own"
    WITH_PARENT = "with-parent"


@dataclass(frozen=True, slots=True)
class Settings:
    """`directory` holds the socket, the lock and the exits; `lock` is the descriptor that holds the lock;
    `cgroup` is a delegated folder, or empty."""

    directory: str
    lifetime: Lifetime
    lock: int
    cgroup: str = ""


class Supervisor:
    """The one object that lives as long as the spawner."""

    def __init__(self, settings: Settings, listener: socket.socket, marks: Marks) -> None:
        self._settings = settings
        self._listener = listener
        self._lifecycle = Lifecycle(Family(marks))
        self._exits = ExitFile(settings.directory)
        self._cgroups = Cgroups(settings.cgroup) if settings.cgroup else None
        self._clients: dict[int, Client] = {}
        self._pipes: dict[int, Attempt] = {}
        self._epoll = select.epoll()
        self._signals: set[int] = {signal.SIGCHLD}  # children may have ended before this process came to be
        self._wakeup = _wake_on_signals()
        self._had_daemon = False
        self._stopping = False
        self._replacing = False
        self._idle_since = time.monotonic()
        listener.setblocking(False)
        for descriptor in (listener.fileno(), self._wakeup):
            self._epoll.register(descriptor, select.EPOLLIN)

    def run(self) -> None:
        """Serve until there is nothing more to serve."""
        while not self._done():
            for descriptor, _events in self._epoll.poll(self._patience_s()):
                self._on_event(descriptor)
            if self._signals:  # behind the messages: one that asks for an attempt finds it running or on record
                self._on_signals()
            if self._lifecycle.next_due < math.inf and time.monotonic() >= self._lifecycle.next_due:
                self._lifecycle.tick()
            self._conclude()
            if self._exits.sync_due < math.inf and time.monotonic() >= self._exits.sync_due:
                self._exits.sync()
            for client in self._clients.values():
                client.hurry_if_due()
                self._flush(client)
            self._drop_gone()
            if self._replacing:
                self._replacing = False
                self._hand_over()
        self._exits.close()
        for client in self._clients.values():
            client.close(patience_s=_LAST_WORDS_S)

    def resume(self, state: Message) -> None:
        """Go on where the program before stood, and greet its daemons."""
        self._had_daemon, self._stopping = state["had_daemon"], state["stopping"]
        self._exits.pending.update((name, line.encode()) for name, line in state["pending"].items())
        for message in state["attempts"]:
            attempt = load_attempt(message)
            self._lifecycle.family.add(attempt.id, attempt.pid, attempt.mark, attempt.names)
            if attempt.status is not None:
                self._lifecycle.family.bury(attempt.pid)
            self._watch(attempt)
        for message in state["clients"]:
            connection = socket.socket(fileno=message["descriptor"])
            connection.set_inheritable(False)
            self._clients[connection.fileno()] = client = Client(connection, message)
            self._epoll.register(connection.fileno(), select.EPOLLIN)
            client.send(encode(self._hello(client)))
            self._flush(client)

    def _hand_over(self) -> None:
        for client in self._clients.values():
            self._drop(client)
        self._exits.record({})
        attempts = self._lifecycle.attempts.values()
        state = {
            "directory": self._settings.directory,
            "lifetime": self._settings.lifetime.value,
            "lock": self._settings.lock,
            "cgroup": self._settings.cgroup,
            "listener": self._listener.fileno(),
            "top": self._lifecycle.family.top,
            "had_daemon": self._had_daemon,
            "stopping": self._stopping,
            "pending": {name: line.decode() for name, line in self._exits.pending.items()},
            "attempts": [dump_attempt(attempt) for attempt in attempts],
            "clients": [client.dump() for client in self._clients.values()],
        }
        kept = [self._settings.lock, self._listener.fileno(), *self._clients]
        replace_program(state, [*kept, *(number for each in attempts for number in descriptors_of(each))])
        for client in self._clients.values():  # it did not come to that
            self._flush(client)

    def _on_event(self, descriptor: int) -> None:
        attempt = self._pipes.get(descriptor)
        if attempt is not None:
            self._forward(attempt, attempt.output.pump(descriptor))
            if descriptor not in attempt.output.streams:
                del self._pipes[descriptor]
        elif descriptor == self._wakeup:
            self._signals.update(os.read(self._wakeup, 4096))
        elif descriptor in self._clients:
            self._serve(self._clients[descriptor])
        elif descriptor == self._listener.fileno():
            self._accept()

    def _accept(self) -> None:
        try:
            connection, _address = self._listener.accept()
        except OSError:
            return  # it gave up, or there are too many open files: then it tries again
        if peer_uid(connection) != os.geteuid():
            connection.close()
            return
        self._clients[connection.fileno()] = Client(connection)
        self._epoll.register(connection.fileno(), select.EPOLLIN)
        self._had_daemon = True

    def _serve(self, client: Client) -> None:
        """Do what a daemon asks for."""
        killed: list[Attempt] = []
        for message in client.receive():
            try:
                killed.extend(self._obey(client, message))
            except (KeyError, TypeError, ValueError):
                # not the protocol: this connection ends, the attempts of others must not
                sys.excepthook(*sys.exc_info())
                client.gone = True
        for attempt in killed:
            attempt.killed = attempt.killed or attempt.status is None
        self._lifecycle.terminate(killed)

    def _obey(self, client: Client, message: Message) -> Iterable[Attempt]:
        """Do what one message asks for; return the attempts to be ended."""
        match message.get("op"):
            case "spawn":
                self._spawn(client, message)
            case "queue":
                self._queue(client, message)
            case "withdraw":
                client.backlog.clear()
                client.send(encode({"op": "withdrawn"}))
            case "kill":
                attempt = self._lifecycle.attempts.get(message["attempt"])
                return () if attempt is None else (attempt,)
            case "ack":
                self._exits.acknowledge(message["attempts"])
            case "hello":
                client.send(encode(self._hello(client)))
            case "listen":
                client.listening = bool(message["on"])
            case "stop":
                self._stopping = self._settings.lifetime is not Lifetime.UNIT
                return self._lifecycle.attempts.values() if message["kill"] else ()
            case "reexec":
                self._replacing = True
        return ()

    def _spawn(self, client: Client, request: Message) -> None:
        """Start an attempt, or say how it is if it was ever started: at most once."""
        name = request["attempt"]
        if name in self._lifecycle.attempts:
            client.send(encode(self._lifecycle.attempts[name].started()))
            return
        if name in self._exits.pending:
            line = self._exits.pending[name]
            if not json.loads(line).get("well"):
                client.drop_backlog()
            client.send(line)
            return
        try:
            if self._stopping:
                raise RefusedError("stopping", "the spawner is stopping")
            attempt = start(request, self._lifecycle.family, self._cgroups)
        except RefusedError as refusal:
            message = {"op": "refused", "attempt": name, "message": refusal.message, "kind": refusal.kind}
            client.drop_backlog()
            client.send(encode(message))
            return
        self._watch(attempt)
        client.send_soon(name, lambda: encode(attempt.started()))
        if not request.get("patient"):
            client.hurry()

    def _queue(self, client: Client, message: Message) -> None:
        """Take what is to be started when there is a place; nothing that was sent without knowing of a bad end."""
        backlog = client.backlog
        for request in message["requests"]:
            if message["unwell"] != client.unwell:
                self._drop(client)
                return
            name = request["attempt"]
            if name in self._lifecycle.attempts or name in self._exits.pending:
                self._spawn(client, request)
            else:
                backlog.add(
                    request, [each for each in request["after"] if each in self._lifecycle.attempts or each in backlog]
                )
        backlog.limit = message["limit"]
        self._start_waiting(client)

    def _drop(self, client: Client) -> None:
        """Say that nothing of a backlog will be started."""
        client.drop_backlog()
        client.send(encode({"op": "dropped", "unwell": client.unwell}))

    def _start_waiting(self, client: Client) -> None:
        """Start of a daemon's backlog what there is room for."""
        while not (self._stopping or client.gone) and self._has_place(client) and (request := client.backlog.take()):
            self._spawn(client, request)

    def _has_place(self, client: Client) -> bool:
        """Whether fewer run than a daemon wants; one that it has had killed is none of those that it counts."""
        attempts, limit = self._lifecycle.attempts, client.backlog.limit
        return len(attempts) < limit or sum(not attempt.killed for attempt in attempts.values()) < limit

    def _watch(self, attempt: Attempt) -> None:
        self._lifecycle.add(attempt)
        for descriptor in attempt.output.streams:
            self._pipes[descriptor] = attempt
            self._epoll.register(descriptor, select.EPOLLIN)

    def _hello(self, client: Client) -> Message:
        pid = os.getpid()
        return {
            "op": "hello",
            "protocol": PROTOCOL,
            "version": VERSION,
            "pid": pid,
            "start_time": start_time(pid),
            "boot_id": boot_id(),
            "attempts": [
                attempt.started() | {"start_time": start_time(attempt.pid)}
                for attempt in self._lifecycle.attempts.values()
            ],
            "unwell": client.unwell,
            "exits": [json.loads(line) for line in self._exits.pending.values()],
        }

    def _conclude(self) -> None:
        """Put the exits of this turn on disk, then tell the daemons."""
        exits: dict[str, bytes] = {}
        for attempt in self._lifecycle.take_over():
            for descriptor in attempt.output.streams:
                del self._pipes[descriptor]  # closing it takes it out of the epoll
            self._forward(attempt, attempt.conclude())
            exited = attempt.exited()
            exits[attempt.id] = encode(exited)
            for client in self._clients.values():
                if exited["well"]:
                    client.backlog.ended_well(attempt.id)
                else:
                    client.drop_backlog()
        if not exits:
            return
        self._exits.record(exits)
        for client in list(self._clients.values()):
            for ended, line in exits.items():
                client.send_soon(ended, line)
            self._start_waiting(client)
            if self._has_place(client) or not client.backlog.has_plenty:
                client.hurry()

    def _forward(self, attempt: Attempt, data: bytes) -> None:
        """Send live output to the daemons that listen."""
        if not data:
            return
        listening = [client for client in self._clients.values() if client.listening and not client.is_slow]
        if listening and (text := attempt.decode(data)):
            line = encode({"op": "output", "attempt": attempt.id, "text": text})
            for client in listening:
                client.send(line)

    def _flush(self, client: Client) -> None:
        if client.waiting:
            client.flush()
        if client.waiting != client.watched_for_room:
            client.watched_for_room = client.waiting
            events = select.EPOLLIN | (select.EPOLLOUT if client.waiting else 0)
            self._epoll.modify(client.connection.fileno(), events)

    def _drop_gone(self) -> None:
        for descriptor, client in list(self._clients.items()):
            if client.gone:
                del self._clients[descriptor]
                client.connection.close()
        if self._had_daemon and not self._clients and self._settings.lifetime is Lifetime.WITH_PARENT:
            self._stopping = True
            for attempt in self._lifecycle.attempts.values():
                attempt.lost = attempt.lost or attempt.status is None  # it has not failed: it was ended
            self._lifecycle.terminate(list(self._lifecycle.attempts.values()), grace_s=_ORPHANED_GRACE_S)

    def _on_signals(self) -> None:
        numbers, self._signals = self._signals, set()
        if signal.SIGCHLD in numbers:
            self._lifecycle.reap()
        if signal.SIGTERM in numbers:
            # a shutdown: what runs has not failed, nobody knows what would have come of it
            self._stopping = True
            running = [attempt for attempt in self._lifecycle.attempts.values() if attempt.status is None]
            for attempt in running:
                attempt.lost = True
            self._lifecycle.terminate(running)

    def _done(self) -> bool:
        if self._lifecycle.attempts:
            self._idle_since = time.monotonic()
            return False
        if self._stopping:
            return True
        if self._clients or self._settings.lifetime is Lifetime.UNIT:
            self._idle_since = time.monotonic()
            return False
        return time.monotonic() - self._idle_since > (_UNTOLD_WITHIN_S if self._exits.pending else _DAEMON_WITHIN_S)

    def _patience_s(self) -> float:
        """Return for how long to wait for an event; -1 for ever."""
        due = min(
            self._lifecycle.next_due, self._exits.sync_due, *(client.hurry_due for client in self._clients.values())
        )
        waits = [due - time.monotonic()] if due < math.inf else []
        if not self._clients:
            waits.append(1.0)
        return max(0.0, min(*waits, _LONGEST_WAIT_S)) if waits else -1


def _wake_on_signals() -> int:
    """Return a descriptor from which the numbers of the signals can be read that came."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)  # without a handler nothing would be written
    return reader
