"""B10: one stream of events to many readers, told in batches as commits tell them."""

import asyncio
import multiprocessing
import resource
import selectors
import socket
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from bench.figures import Figure, Findings, rates
from bench.measure import BenchError
from bench.place import Place
from wizflowd.core.attempt import Facts, RunId, TaskId
from wizflowd.core.events import Record, TaskSucceeded
from wizflowd.core.events import Sequence as EventSequence
from wizflowd.core.observations import WorkflowId
from wizflowd.stream import Stream

_BATCH = 100
_AHEAD = 1_000
"""By how many events those told may be ahead of those handed over: readers do not fall out of the newest in memory."""
_SOURCE = "/wizflowd/bench"
_GOALS = {1: 150_000, 100: 80_000, 1_000: 10_000}


class _NoHistory:
    """A history in which there is nothing: everything is told live."""

    epoch = "bench"

    async def bounds(self) -> tuple[int, int]:
        return 1, 0

    async def since(self, sequence: int, limit: int) -> list[Record]:
        raise BenchError(f"a reader fell behind ({sequence}, {limit})")


def measure(place: Place, findings: Findings) -> None:
    """Stream to 1, 100 and 1,000 readers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    for readers, goal in _GOALS.items():
        count = {1: 100_000, 100: 20_000, 1_000: 3_000}[readers] // (10 if place.quick else 1)
        seconds = [asyncio.run(_stream_s(place, readers, count)) for _ in range(place.rounds)]
        note = f"{readers:,} readers, {count:,} events in batches of {_BATCH}"
        figure = findings.add(Figure("B10", "stream", "rate", "events/s", rates(count, seconds), note))
        findings.at_least("B10", note, figure.value, goal, "events/s")


async def _stream_s(place: Place, readers: int, count: int) -> float:
    """Return the seconds from the first event told until every reader, in a process of its own, has the last."""
    folder = place.fresh("stream")
    path = folder / "events.sock"
    stream = Stream(_NoHistory(), _SOURCE, limit=readers)
    await stream.open(path)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_read_all, args=(path, readers, theirs))
    process.start()
    await _until(ours.poll)
    ours.recv()
    records = [_record(number + 1) for number in range(count)]
    size = sum(len(record.line(_SOURCE)) for record in records)  # encoded once, before: `events.ndjson` has it too
    began_s = time.monotonic()
    for first in range(0, count, _BATCH):
        stream.told(records[first : first + _BATCH])
        await _until(partial(_have_all, stream, first + _BATCH - _AHEAD))
    ours.send(size)
    await _until(ours.poll)
    took_s = float(ours.recv()) - began_s
    await stream.close()
    process.join()
    return took_s


def _have_all(stream: Stream, sequence: int) -> bool:
    """Return whether everything up to a sequence was handed to the sockets of all readers."""
    return all(client.cursor >= sequence for client in stream._clients)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the loop is to be as busy as it can
        await asyncio.sleep(0)


def _record(number: int) -> Record:
    facts = Facts(1.0, 1.25, pid=1234, exit_code=0)
    event = TaskSucceeded(RunId("20261123-030512-7f3a9c"), WorkflowId("team/etl"), TaskId(f"t{number}"), 1, facts)
    return Record(number, EventSequence(number), 1e9, event)


def _read_all(path: Path, readers: int, answer: "Connection[float, int]") -> None:
    """Connect readers, say so, and read until each has so many bytes as are asked for then; answer when."""
    selector = selectors.DefaultSelector()
    counts = {}
    buffer = bytearray(1 << 18)
    for _ in range(readers):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        hello = client.makefile("rb", buffering=0).readline()
        assert hello  # noqa: S101 - the stream greets
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)
        counts[client.fileno()] = 0
    answer.send(0.0)
    asked: int | None = None
    moment_s = time.monotonic()
    while asked is None or min(counts.values()) < asked:
        for key, _ in selector.select(0.01):
            counts[key.fd] += key.fileobj.recv_into(buffer)  # type: ignore[union-attr]
            moment_s = time.monotonic()
        if asked is None and answer.poll():
            asked = answer.recv()
    answer.send(moment_s)
