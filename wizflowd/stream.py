"""The event stream: every public record as a CloudEvents line to whoever connects to `events.sock` (SPEC section 4).

In: records from the engine, as a sink, and live output of tasks. Out: lines to clients. A client is a cursor into the
sequence: it is served from the newest lines in memory, or from the journal when it is further behind, so that a slow
reader costs no memory and never slows the engine. While nobody is connected nothing is encoded.

News go to all who have taken everything before in one sweep, the first at once; the next one waits until sweeps have
taken no more than `SWEEP_SHARE` of the time, but not longer than `SWEEP_S`: a busy engine is hardly slower for its
readers, whose news are some milliseconds older. A sweep sends each a piece of `CHUNK_BYTES` at most; where there is as
much to send, or more is left, the next one comes at once, since to wait would save nothing. Whoever does not keep up,
has just come or wants output is served by a coroutine of its own until it has caught up.
"""

import asyncio
import fnmatch
import functools
import itertools
import json
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wizflowd.core.events import Record, rfc3339
from wizflowd.core.values import Json
from wizflowd.sockets import has_hung_up, listen, may_connect

log = logging.getLogger(__name__)
BACKLOG_BYTES = 1024 * 1024
"""How far behind a reader of live events may be."""
STALL_S = 10.0
BOOKMARK_S = 15.0
LAST_WORD_S = 1.0
REPLAY_ROWS = 500
CHUNK_BYTES = 128 * 1024
SWEEP_SHARE = 0.05
SWEEP_S = 0.01
CHECK_S = 0.25
GONE_CHECK_S = 1.0
MAX_LINE = 64 * 1024


class History(Protocol):
    """Where events are kept: the journal."""

    epoch: str

    async def bounds(self) -> tuple[int, int]: ...
    async def since(self, sequence: int, limit: int) -> list[Record]: ...


@dataclass(frozen=True, slots=True)
class Line:
    """One encoded event with what filters look at."""

    sequence: int
    data: bytes
    type: str
    workflow: str
    run: str


@functools.lru_cache(maxsize=1024)
def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a name matches one of the patterns; remembered, since few names are told again and again."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client wants: patterns of types and workflow, one run, and live output."""

    since: int | None = None
    types: tuple[str, ...] = ()
    workflow: str = ""
    run: str = ""
    output: bool = False

    def wants(self, line: Line) -> bool:
        """Return whether an event is among what the client asked for."""
        return (
            (not self.types or _fits(line.type, self.types))
            and (not self.workflow or _fits(line.workflow, (self.workflow,)))
            and (not self.run or line.run == self.run)
        )

    def wants_output(self, workflow: str, run: str) -> bool:
        """Return whether the client asked for live output, and for that of this run."""
        return (
            self.output
            and (not self.workflow or _fits(workflow, (self.workflow,)))
            and (not self.run or run == self.run)
        )


def read_wish(text: bytes) -> Wish:
    """Return what a line of a client asks for. Raises ValueError that says what would be right."""
    try:
        asked = json.loads(text)
    except ValueError as exc:
        raise ValueError("a request is a JSON object on one line") from exc
    if not isinstance(asked, dict):
        raise ValueError("a request is a JSON object on one line")
    if unknown := set(asked) - {"since", "types", "workflow", "run", "output"}:
        raise ValueError(f"a request has since, types, workflow, run, output, and not {min(unknown)}")
    since, types = asked.get("since"), asked.get("types") or []
    if since is not None and (not isinstance(since, int) or isinstance(since, bool) or since < 0):
        raise ValueError("since is the sequence of the last event seen, a number from 0")
    if not isinstance(types, list) or not all(isinstance(pattern, str) for pattern in types):
        raise ValueError('types is a list of patterns, ["wizflow.task.*"]')
    return Wish(
        since, tuple(types), str(asked.get("workflow") or ""), str(asked.get("run") or ""), bool(asked.get("output"))
    )


class Window:
    """The newest encoded events, gapless, bounded by bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: deque[Line] = deque()
        self._size = 0
        self._piece: tuple[tuple[int, int, tuple[str, ...], str, str], bytes] = ((0, 0, (), "", ""), b"")

    @property
    def first(self) -> int:
        """The sequence of the oldest line held; 0: none is."""
        return self._lines[0].sequence if self._lines else 0

    def add(self, line: Line) -> None:
        self._lines.append(line)
        self._size += len(line.data)
        while self._size > self._limit:
            self._size -= len(self._lines.popleft().data)

    def clear(self) -> None:
        self._lines.clear()
        self._size = 0

    def after(self, sequence: int, most_bytes: int) -> list[Line]:
        """Return the lines that follow a sequence of at least `first - 1`, as many as fit, at least one if there is."""
        lines: list[Line] = []
        size = 0
        past = max(0, sequence + 1 - self.first)
        following = list(itertools.islice(reversed(self._lines), max(0, len(self._lines) - past)))
        for line in reversed(following):
            size += len(line.data)
            if lines and size > most_bytes:
                break
            lines.append(line)
        return lines

    def piece(self, lines: list[Line], wish: Wish) -> bytes:
        """Return what a wish wants of lines, as one piece; readers at the same place with the same filter share it."""
        key = (lines[0].sequence, lines[-1].sequence, wish.types, wish.workflow, wish.run)
        if self._piece[0] != key:
            self._piece = (key, b"".join([line.data for line in lines if wish.wants(line)]))
        return self._piece[1]


@dataclass(eq=False, slots=True)
class _Client:
    """One connection. Up to `cursor` everything was sent, or did not fit the wish; `mark` is the bytes told by then.

    `sent_s` is when something was last sent, on the monotonic clock; `idle` while its coroutine waits for news.
    """

    writer: asyncio.StreamWriter
    cursor: int
    wish: Wish = field(default_factory=Wish)
    greet: bool = True
    replaying: bool = False
    idle: bool = False
    mark: int = 0
    sent_s: float = field(default_factory=time.monotonic)
    output: deque[bytes] = field(default_factory=deque)
    output_size: int = 0
    stirred: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_up_to_date(self) -> bool:
        """Whether it is there, has taken all that was sent, and nothing is to be done for it but to tell the news."""
        transport = self.writer.transport
        if not self.idle or self.greet or self.output:
            return False
        return not transport.is_closing() and transport.get_write_buffer_size() == 0


class _LaggedError(Exception):
    """A client read too slowly."""


class Stream:
    """Serves clients on a Unix socket; a sink of the engine. `source` names this host, `limit` bounds the clients.

    `on_listeners` is told whether anybody wants live output; `workflow_of` says of which workflow a run is.
    """

    def __init__(self, history: History, source: str, limit: int = 64, group: str | None = None) -> None:
        self._history = history
        self._source = source
        self._limit = limit
        self._group = group
        self._window = Window(2 * BACKLOG_BYTES)
        self._clients: dict[_Client, asyncio.Task[None]] = {}
        self._newest = 0
        self._told_bytes = 0
        self._swept_bytes = 0
        self._own_ids = itertools.count(1)
        self._sweeping: asyncio.Handle | None = None
        self._sweep_from_s = 0.0
        self._server: asyncio.Server | None = None
        self._path: Path | None = None
        self.lagged = 0
        self.on_listeners: Callable[[bool], None] = lambda _: None
        self.workflow_of: Callable[[str], str] = lambda _: ""

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._clients)

    async def open(self, path: Path, listener: socket.socket | None = None) -> None:
        """Begin to listen, on a socket that was handed down or on one of our own. Raises StateError."""
        _, self._newest = await self._history.bounds()
        self._path = path if listener is None else None
        # not start_unix_server: since Python 3.13 its end removes the path, also of a socket that is systemd's
        self._server = await asyncio.start_server(
            self._connected, sock=listener or listen(path, self._group), limit=MAX_LINE
        )

    async def close(self) -> None:
        """End the stream: clients have everything up to here."""
        if self._server is None:
            return
        self._server.close()
        while self._sweeping is not None:
            self._sweeping.cancel()
            self._sweep()
        tasks = list(self._clients.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    # -- what comes in ----------------------------------------------------------------------------------------

    def told(self, records: Sequence[Record]) -> None:
        """Take records from the engine."""
        public = [record for record in records if record.sequence is not None]
        if not public:
            return
        self._newest = public[-1].sequence or 0
        if not self._clients:
            self._window.clear()
            return
        for record in public:
            line = self._encode(record)
            self._window.add(line)
            self._told_bytes += len(line.data)
        self._sweep_soon()

    def told_output(self, attempt: str, text: str) -> None:
        """Take live output of an attempt from the spawner."""
        run, task, number = attempt.rsplit("/", 2)
        workflow = self.workflow_of(run)
        data = self._own("wizflow.task.output", {"attempt": int(number), "text": text}, f"{workflow}/{run}/{task}")
        for client in self._clients:
            if client.wish.wants_output(workflow, run) and client.output_size <= BACKLOG_BYTES:
                client.output.append(data)
                client.output_size += len(data)
                self._sweep_soon()

    def _encode(self, record: Record) -> Line:
        event = record.event
        return Line(
            record.sequence or 0,
            record.line(self._source),
            f"wizflow.{event.public}",
            str(getattr(event, "workflow", "")),
            str(getattr(event, "run", "")),
        )

    def _own(self, kind: str, data: Mapping[str, Json], subject: str = "") -> bytes:
        """Return a line of the stream itself: not stored, without a sequence, with an id of its own."""
        event: dict[str, Json] = {
            "specversion": "1.0",
            "id": f"{kind.rpartition('.')[2]}-{next(self._own_ids)}",
            "source": self._source,
            "type": kind,
            "time": rfc3339(time.time()),
            "subject": subject,
            "data": {**data},
        }
        return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"

    # -- all clients ------------------------------------------------------------------------------------------

    def _sweep_soon(self) -> None:
        """Let the next sweep come when the pause is over; at once when each reader is due a whole piece."""
        if self._sweep_from_s and self._told_bytes - self._swept_bytes >= CHUNK_BYTES:
            self._sweep_from_s = 0.0
            if self._sweeping is not None:
                self._sweeping.cancel()
                self._sweeping = None
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_at(self._sweep_from_s, self._sweep)

    def _sweep(self) -> None:
        """Send what is new to all who can take it at once, and wake the coroutines of the others."""
        self._sweeping = None
        self._swept_bytes = self._told_bytes
        began_s = time.thread_time()
        following: dict[int, list[Line]] = {}
        is_over = True
        for client in self._clients:
            if not client.is_up_to_date:
                client.stirred.set()
                continue
            if client.cursor == self._newest:
                continue
            if client.cursor not in following:
                following[client.cursor] = self._window.after(client.cursor, CHUNK_BYTES)
            if not self._send_at_once(client, following[client.cursor]):
                client.stirred.set()
            elif client.cursor < self._newest:
                is_over = False
        pause_s = min((time.thread_time() - began_s) / SWEEP_SHARE, SWEEP_S)
        self._sweep_from_s = time.monotonic() + pause_s if is_over else 0.0
        if not is_over:
            self._sweep_soon()

    def _send_at_once(self, client: _Client, lines: list[Line]) -> bool:
        """Send the lines that follow a client's cursor; return whether these were they."""
        if not lines or lines[0].sequence != client.cursor + 1:
            return False
        if data := self._window.piece(lines, client.wish):
            client.writer.write(data)
            client.sent_s = time.monotonic()
        client.cursor, client.mark = lines[-1].sequence, self._told_bytes
        return True

    # -- one client -------------------------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if refusal := self._refusal(writer.get_extra_info("socket")):
            writer.write(self._own("wizflow.error", {"message": refusal}))
            writer.close()
            return
        writer.transport.set_write_buffer_limits(high=CHUNK_BYTES)
        client = _Client(writer, self._newest, mark=self._told_bytes)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in one
        self._clients[client] = task
        listening = asyncio.create_task(self._take_wishes(client, reader))
        try:
            await self._feed(client)
        except _LaggedError:
            await self._say_lagged(client)
        except (ConnectionError, asyncio.CancelledError):
            pass  # `close` cancels; a connection that ends cancelled is a defect to asyncio before 3.12, which logs it
        finally:
            listening.cancel()
            del self._clients[client]
            self._count_listeners()
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    def _refusal(self, peer: socket.socket) -> str:
        """Return why a client is sent away at once; empty: it is not."""
        if not may_connect(peer, self._group):
            return "you may not read the events of this wizflowd"
        return f"there are {self._limit} readers, and no more are taken" if len(self._clients) >= self._limit else ""

    async def _take_wishes(self, client: _Client, reader: asyncio.StreamReader) -> None:
        """Take the lines that a client sends; when it has sent its last it stays subscribed."""
        while True:
            try:
                text = await reader.readuntil(b"\n")
                client.wish = read_wish(text)
            except (asyncio.IncompleteReadError, ConnectionError):
                await self._see_off(client)
                return
            except (ValueError, asyncio.LimitOverrunError) as error:
                message = str(error) if isinstance(error, ValueError) else "a request is at most 64 KiB"
                client.output.append(self._own("wizflow.error", {"message": message}))
                if not isinstance(error, ValueError):
                    return
            else:
                client.greet = True
                self._count_listeners()
            client.stirred.set()

    async def _see_off(self, client: _Client) -> None:
        """Free the place of a client that is gone, though there is nothing to send that would show it."""
        while not has_hung_up(client.writer.get_extra_info("socket")):  # noqa: ASYNC110 - the kernel has no event for it
            await asyncio.sleep(GONE_CHECK_S)
        self._clients[client].cancel()

    def _count_listeners(self) -> None:
        self.on_listeners(any(client.wish.output for client in self._clients))

    async def _feed(self, client: _Client) -> None:
        """Send what there is, for ever: first the hello of a new wish, then what follows the cursor."""
        while True:
            client.stirred.clear()
            if client.greet:
                await self._greet(client)
            if client.cursor < self._newest:
                await self._send_events(client)
            elif client.output:
                client.output_size = 0
                data = b"".join(client.output)
                client.output.clear()
                await self._send(client, data)
            else:
                client.replaying = False
                client.mark = self._told_bytes
                await self._wait(client)
            if time.monotonic() - client.sent_s >= BOOKMARK_S:
                await self._send(client, self._own("wizflow.bookmark", {"sequence": client.cursor}))

    async def _greet(self, client: _Client) -> None:
        client.greet = False
        wish = client.wish  # another may come while we wait; it gets a hello of its own
        oldest, _ = await self._history.bounds()
        hello: dict[str, Json] = {"epoch": self._history.epoch, "oldest": oldest, "newest": self._newest}
        data = self._own("wizflow.hello", hello)
        if wish.since is not None:
            client.cursor = min(wish.since, self._newest)
            client.replaying = True
            if client.cursor + 1 < oldest:
                data += self._own("wizflow.gap", {"oldest": oldest})
                client.cursor = oldest - 1
        await self._send(client, data)

    async def _send_events(self, client: _Client) -> None:
        first = self._window.first
        if not first or client.cursor + 1 < first:
            if not client.replaying:
                raise _LaggedError
            lines = [self._encode(record) for record in await self._history.since(client.cursor, REPLAY_ROWS)]
        else:
            lines = self._window.after(client.cursor, CHUNK_BYTES)
        if not lines:  # told, but not to be had: the journal was trimmed meanwhile
            oldest, _ = await self._history.bounds()
            await self._send(client, self._own("wizflow.gap", {"oldest": oldest}))
            client.cursor = max(client.cursor, oldest - 1)
            return
        data = self._window.piece(lines, client.wish)
        client.cursor = lines[-1].sequence
        await self._send(client, data)

    async def _send(self, client: _Client, data: bytes) -> None:
        """Send bytes and wait until the client has room for more. Raises _LaggedError when it reads too slowly."""
        if not data:
            return
        writer = client.writer
        writer.write(data)
        client.sent_s = time.monotonic()
        if writer.transport.get_write_buffer_size() <= CHUNK_BYTES:
            if writer.transport.is_closing():
                raise ConnectionResetError
            return
        draining = asyncio.ensure_future(writer.drain())
        stalled_s, waiting = 0.0, writer.transport.get_write_buffer_size()
        try:
            while not (await asyncio.wait([draining], timeout=CHECK_S))[0]:
                if client.replaying:
                    continue
                left = writer.transport.get_write_buffer_size()
                stalled_s = stalled_s + CHECK_S if left == waiting else 0.0
                waiting = left
                if stalled_s >= STALL_S or self._told_bytes - client.mark > BACKLOG_BYTES:
                    raise _LaggedError
        finally:
            draining.cancel()
        await asyncio.gather(draining, return_exceptions=False)
        if not client.replaying:
            client.mark = self._told_bytes - self._waiting_bytes(client)

    def _waiting_bytes(self, client: _Client) -> int:
        return sum(len(line.data) for line in self._window.after(client.cursor, 2 * BACKLOG_BYTES))

    async def _wait(self, client: _Client) -> None:
        """Wait for news, or until a bookmark is due: a client whose wish nothing fits is told up to where it is too."""
        client.idle = True
        try:
            async with asyncio.timeout(max(0.0, client.sent_s + BOOKMARK_S - time.monotonic())):
                await client.stirred.wait()
        except TimeoutError:
            pass
        finally:
            client.idle = False

    async def _say_lagged(self, client: _Client) -> None:
        self.lagged += 1
        log.info("a stream client was too slow", extra={"last": client.cursor})
        client.writer.write(self._own("wizflow.lagged", {"last": client.cursor}))
        try:
            async with asyncio.timeout(LAST_WORD_S):
                client.writer.transport.set_write_buffer_limits(high=0)
                await client.writer.drain()
        except (TimeoutError, ConnectionError):
            pass
