"""The event stream over a real socket and a real journal: what etcd promises of a watch, and SPEC section 4 adds."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from wizflowd import stream as stream_module
from wizflowd.client import Place, read_events
from wizflowd.core.attempt import RunId, TaskId
from wizflowd.core.events import Event, TaskStarted
from wizflowd.core.observations import WorkflowId
from wizflowd.errors import RequestError
from wizflowd.journal import Commit, Journal
from wizflowd.stream import Line, Stream, Wish

PATIENCE_S = 20.0


class Feed:
    """A journal and a stream that are told the same records, as the engine does it."""

    def __init__(self, journal: Journal, stream: Stream, path: Path) -> None:
        self.journal = journal
        self.stream = stream
        self.path = path

    async def tell(self, *events: Event) -> None:
        self.stream.told(await self.journal.commit(Commit(events, 1.0)))

    async def tell_tasks(self, count: int, *, workflow: str = "team/etl", size: int = 1) -> None:
        await self.tell(*(started(f"t{number}{'x' * size}", workflow) for number in range(count)))


class Client:
    """One connection to the stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            event: dict[str, Any] = json.loads(await self.reader.readline())
            return event

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        events = [await self.next()]
        while not wanted(events[-1]):
            events.append(await self.next())
        return events

    def wish(self, **wish: object) -> None:
        self.writer.write(json.dumps(wish).encode() + b"\n")


def started(task: str, workflow: str = "team/etl", run: str = "r1") -> TaskStarted:
    return TaskStarted(RunId(run), WorkflowId(workflow), TaskId(task), 1)


@pytest.fixture
async def feed(tmp_path: Path) -> AsyncIterator[Feed]:
    journal = Journal(tmp_path / "state")
    journal.open()
    stream = Stream(journal, "/wizflowd/host1", limit=4)
    path = tmp_path / "events.sock"
    await stream.open(path)
    yield Feed(journal, stream, path)
    await stream.close()
    journal.close()


@asynccontextmanager
async def connected(feed: Feed, **wish: object) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_unix_connection(str(feed.path), limit=1 << 24)
    client = Client(reader, writer)
    if wish:
        client.wish(**wish)
    yield client
    writer.close()


def served(feed: Feed) -> list[stream_module._Client]:
    return list(feed.stream._clients)


def sequences(events: list[dict[str, Any]]) -> list[int]:
    return [int(event["sequence"]) for event in events if "sequence" in event]


async def test_connecting_is_subscribing_and_the_first_line_is_a_hello(feed: Feed) -> None:
    async with connected(feed) as client:
        hello = await client.next()
        await feed.tell(started("a"))
        event = await client.next()

    assert hello["type"] == "wizflow.hello"
    assert hello["data"] == {"epoch": feed.journal.epoch, "oldest": 1, "newest": 0}
    assert event["type"] == "wizflow.task.started"
    assert event["specversion"] == "1.0"
    assert event["subject"] == "team/etl/r1/a"
    assert event["id"] == "1"
    assert event["sequence"] == "00000000000000000001"


async def test_since_replays_what_was_missed_in_order_without_a_gap_and_goes_on_live(feed: Feed) -> None:
    await feed.tell_tasks(1200)

    async with connected(feed, since=100) as client:
        events = await client.until(lambda event: event["id"] == "1200")
        await feed.tell(started("live"))
        events.append(await client.next())

    assert sequences(events) == list(range(101, 1202))
    assert events[0]["type"] == "wizflow.hello"


async def test_a_wish_may_come_at_any_time_and_restarts_the_stream_behind_a_new_hello(feed: Feed) -> None:
    await feed.tell_tasks(3)

    async with connected(feed) as client:
        await client.next()
        await feed.tell(started("a"))
        first = await client.next()
        client.wish(since=2)
        again = await client.until(lambda event: event["id"] == "4")

    assert first["id"] == "4"
    assert [event["type"] for event in again] == ["wizflow.hello", "wizflow.task.started", "wizflow.task.started"]
    assert sequences(again) == [3, 4]


async def test_filters_choose_by_type_workflow_and_run(feed: Feed) -> None:
    await feed.tell(started("a", "team/etl"), started("b", "other"), started("c", "team/x", "r2"))

    async with connected(feed, since=0, types=["wizflow.task.*"], workflow="team/*", run="r2") as client:
        event = (await client.until(lambda event: "sequence" in event))[-1]

    assert event["subject"] == "team/x/r2/c"


async def test_of_what_is_told_to_all_at_once_each_reader_gets_what_its_filter_wants(feed: Feed) -> None:
    async with connected(feed, workflow="team/*") as team, connected(feed, run="r2") as second:
        async with asyncio.timeout(PATIENCE_S):
            while not (feed.stream.clients == 2 and all(each.idle and each.wish != Wish() for each in served(feed))):
                await asyncio.sleep(0.01)
        await feed.tell(started("a", "other"), started("b", "team/etl"), started("c", "other", "r2"))
        wanted = [(await client.until(lambda event: "sequence" in event))[-1] for client in (team, second)]

    assert [event["subject"] for event in wanted] == ["team/etl/r1/b", "other/r2/c"]


def test_a_name_is_matched_with_a_filter_once_however_often_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    matched: list[str] = []

    def match(name: str, pattern: str) -> bool:
        matched.append(name)
        return True

    monkeypatch.setattr("fnmatch.fnmatchcase", match)
    wish = Wish(types=("only.here.*",), workflow="only/here/*")

    wanted = [wish.wants(Line(number, b"", "only.here.a", "only/here/b", "r1")) for number in range(100)]

    assert all(wanted)
    assert matched == ["only.here.a", "only/here/b"]


async def test_older_than_what_is_kept_is_one_gap_and_on_from_there(feed: Feed) -> None:
    await feed.tell_tasks(50)
    await feed.journal.trim(10)

    async with connected(feed, since=5) as client:
        events = await client.until(lambda event: event["id"] == "50")

    own = [event for event in events if "sequence" not in event]
    assert [event["type"] for event in own][-2:] == ["wizflow.hello", "wizflow.gap"]
    assert own[-1]["data"] == {"oldest": sequences(events)[0]}
    assert sequences(events) == list(range(sequences(events)[0], 51))


async def test_while_nothing_happens_a_bookmark_says_up_to_where(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "BOOKMARK_S", 0.05)
    await feed.tell_tasks(7)

    async with connected(feed, workflow="no/such") as client:
        events = await client.until(lambda event: event["type"] == "wizflow.bookmark")

    assert events[-1]["data"] == {"sequence": 7}
    assert "sequence" not in events[-1]


async def test_a_bookmark_comes_also_while_much_happens_that_does_not_fit_the_wish(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "BOOKMARK_S", 0.2)
    ended = asyncio.Event()

    async def tell_often() -> None:
        while not ended.is_set():
            await feed.tell(started("a"))
            await asyncio.sleep(0.01)

    async with connected(feed, workflow="no/such") as client, asyncio.TaskGroup() as group:
        group.create_task(tell_often())
        events = await client.until(lambda event: event["type"] == "wizflow.bookmark")
        ended.set()

    assert 0 < events[-1]["data"]["sequence"] <= feed.stream._newest


async def test_a_whole_piece_does_not_wait_for_the_pause_after_the_last_one(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "SWEEP_S", 3600.0)
    monkeypatch.setattr(stream_module, "SWEEP_SHARE", 1e-12)
    monkeypatch.setattr(stream_module, "BOOKMARK_S", 3600.0)

    async with connected(feed) as client:
        await client.next()
        await feed.tell(started("a"))
        await client.next()
        await feed.tell(started("b"))
        await feed.tell_tasks(400, size=1000)
        events = await client.until(lambda event: event["id"] == "402")

    assert sequences(events) == list(range(2, 403))


async def test_at_the_end_readers_that_keep_up_have_everything_also_more_than_a_piece(feed: Feed) -> None:
    async with connected(feed) as client:
        await client.next()
        await feed.tell_tasks(120, size=1000)
        await feed.stream.close()
        text = await client.reader.read()

    assert len(text) > stream_module.CHUNK_BYTES
    assert sequences([json.loads(line) for line in text.splitlines()]) == list(range(1, 121))


async def test_a_reader_that_is_too_slow_is_told_closed_and_counted_and_harms_nobody(feed: Feed) -> None:
    async with connected(feed) as healthy, connected(feed) as slow:
        await healthy.next()
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        received: list[dict[str, Any]] = []
        for _ in range(60):
            await feed.tell_tasks(100, size=1000)
            received += await healthy.until(lambda event: event["id"] == str(feed.stream._newest))
        async with asyncio.timeout(PATIENCE_S):
            while feed.stream.clients > 1:
                await asyncio.sleep(0.02)

    assert feed.stream.lagged == 1
    assert sequences(received) == list(range(1, 6001))


async def test_a_reader_that_lagged_resumes_by_since_without_losing_anything(feed: Feed) -> None:
    async with connected(feed) as slow:
        first = await slow.next()
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(60):
            await feed.tell_tasks(100, size=1000)
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            while feed.stream.clients:
                await asyncio.sleep(0.02)
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
        text = await slow.reader.read()
    whole = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
    seen = sequences(whole)

    async with connected(feed, since=seen[-1] if seen else 0) as client:
        events = await client.until(lambda event: event["id"] == "6000")

    assert first["type"] == "wizflow.hello"
    assert seen + sequences(events) == list(range(1, 6001))


async def test_one_client_too_many_is_told_so_and_closed_at_once(feed: Feed) -> None:
    async with connected(feed) as a, connected(feed) as b, connected(feed) as c, connected(feed) as d:
        for client in (a, b, c, d):
            await client.next()
        async with connected(feed) as fifth, asyncio.timeout(PATIENCE_S):
            told = await fifth.next()
            end = await fifth.reader.read()
        with pytest.raises(RequestError, match="there are 4 readers, and no more are taken"):
            await asyncio.to_thread(lambda: next(read_events(feed.path, {}, Place())))
        await feed.tell(started("a"))
        still = await d.next()

    assert (told["type"], end) == ("wizflow.error", b"")
    assert still["id"] == "1"


async def test_a_place_that_a_reader_leaves_is_taken_by_the_next(feed: Feed) -> None:
    async with connected(feed) as a, connected(feed) as b, connected(feed) as c:
        for client in (a, b, c):
            await client.next()
        for _ in range(3):
            async with connected(feed) as fourth:
                assert (await fourth.next())["type"] == "wizflow.hello"
            async with asyncio.timeout(PATIENCE_S):
                while feed.stream.clients > 3:
                    await asyncio.sleep(0.01)


async def test_a_wish_that_is_refused_is_told_to_who_follows_events(feed: Feed) -> None:
    with pytest.raises(RequestError, match="cannot follow events: types is a list"):
        await asyncio.to_thread(lambda: next(read_events(feed.path, {"types": "x"}, Place())))


async def test_a_client_that_shuts_down_its_sending_side_stays_subscribed(feed: Feed) -> None:
    async with connected(feed) as client:
        await client.next()
        client.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.05)
        await feed.tell(started("a"))
        event = await client.next()

    assert event["id"] == "1"


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b'{"since": "x"}\n', b'{"sicne": 1}\n', b'{"types": "x"}\n'])
async def test_a_wish_that_cannot_be_read_is_answered_and_survived(feed: Feed, line: bytes) -> None:
    async with connected(feed) as client:
        await client.next()
        client.writer.write(line)
        answer = await client.next()
        await feed.tell(started("a"))
        event = await client.next()

    assert answer["type"] == "wizflow.error"
    assert answer["data"]["message"]
    assert event["id"] == "1"


async def test_live_output_comes_on_request_only_and_carries_no_sequence(feed: Feed) -> None:
    wanted: list[bool] = []
    feed.stream.on_listeners = wanted.append

    async with connected(feed) as plain, connected(feed, output=True) as listening:
        await plain.next()
        await listening.until(lambda event: event["type"] == "wizflow.hello")
        async with asyncio.timeout(PATIENCE_S):
            while not (wanted and wanted[-1]):
                await asyncio.sleep(0.01)
        feed.stream.told_output("r1/a/1", "hello\n")
        await feed.tell(started("b"))
        heard = await listening.until(lambda event: event["type"] == "wizflow.task.started")
        other = await plain.next()

    output = next(event for event in heard if event["type"] == "wizflow.task.output")
    assert output["data"] == {"attempt": 1, "text": "hello\n"}
    assert "sequence" not in output
    assert other["id"] == "1"


async def test_live_output_is_of_the_runs_that_were_asked_for(feed: Feed) -> None:
    feed.stream.workflow_of = {"r1": "team/etl", "r2": "other"}.__getitem__

    async with connected(feed, output=True, workflow="team/*") as client:
        await client.until(lambda event: event["type"] == "wizflow.hello")
        async with asyncio.timeout(PATIENCE_S):
            while not any(each.wish.output for each in feed.stream._clients):
                await asyncio.sleep(0.01)
        feed.stream.told_output("r2/a/1", "not this\n")
        feed.stream.told_output("r1/a/1", "this\n")
        heard = await client.until(lambda event: event["type"] == "wizflow.task.output")

    assert (heard[-1]["subject"], heard[-1]["data"]["text"]) == ("team/etl/r1/a", "this\n")


async def test_a_sequence_goes_on_over_a_restart_in_the_same_epoch(tmp_path: Path) -> None:
    epochs: list[str] = []
    seen: list[int] = []
    for _ in range(3):
        journal = Journal(tmp_path / "state")
        journal.open()
        stream = Stream(journal, "/wizflowd/host1")
        await stream.open(tmp_path / "events.sock")
        feed = Feed(journal, stream, tmp_path / "events.sock")
        await feed.tell_tasks(10)
        async with connected(feed, since=len(seen)) as client:
            last = str(len(seen) + 10)
            events = await client.until(lambda event, last=last: event["id"] == last)  # type: ignore[misc]
        epochs.append(events[0]["data"]["epoch"])
        seen += sequences(events)
        await stream.close()
        journal.close()

    assert seen == list(range(1, 31))
    assert len(set(epochs)) == 1
