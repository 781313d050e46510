"""Pools of threads: all there from the beginning, or a clear error and none left."""

import asyncio
import socket
import threading
from threading import Thread

import pytest

from wizflowd.errors import ThreadError
from wizflowd.threads import Loop, as_guest, start_pool


def names(prefix: str) -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith(prefix))


def test_all_threads_are_there_before_the_first_call() -> None:
    with start_pool(3, "early"):
        assert names("early") == ["early_0", "early_1", "early_2"]

    assert names("early") == []


def test_calls_are_done_where_no_further_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with start_pool(2, "enough") as pool, monkeypatch.context() as limited:
        limited.setattr(Thread, "start", refuse)
        meeting = threading.Barrier(2)  # both at the same time

        assert sorted(pool.map(lambda number: (meeting.wait(9), number)[1], range(2))) == [0, 1]


def test_a_refused_thread_is_told_and_leaves_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Thread] = []
    start = Thread.start

    def start_two(thread: Thread) -> None:
        if len(begun) == 2:
            refuse(thread)
        start(thread)
        begun.append(thread)

    monkeypatch.setattr(Thread, "start", start_two)

    with pytest.raises(ThreadError, match=r"^cannot start a thread: can't start new thread; see TasksMax= of the unit"):
        start_pool(4, "some")

    for thread in begun:
        thread.join(9)
    assert (len(begun), names("some")) == (2, [])


def refuse(_: Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_loop_needs_no_further_thread_to_work_and_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> tuple[str, object]:
        monkeypatch.setattr(Thread, "start", refuse)
        addresses = await asyncio.get_running_loop().getaddrinfo("localhost", 80, family=socket.AF_INET)
        return await asyncio.to_thread(lambda: "done"), addresses[0][4]

    with asyncio.Runner(loop_factory=Loop) as runner:
        ended = runner.run(work())

    assert ended == ("done", ("127.0.0.1", 80))
    assert names("shared") == []


def test_a_name_server_that_does_not_answer_takes_no_thread_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answered.wait(9))

    async def work() -> str:
        asking = [
            asyncio.create_task(asyncio.get_running_loop().getaddrinfo("unanswered.invalid", 80)) for _ in range(64)
        ]
        await asyncio.sleep(0)
        try:
            return await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 5)
        finally:
            answered.set()
            await asyncio.gather(*asking)

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert runner.run(work()) == "done"


def test_a_guest_has_threads_of_its_own_until_it_is_none_any_more() -> None:
    async def work() -> list[str]:
        found = [await thread_name()]
        with as_guest():
            found += [await thread_name(), await asyncio.create_task(thread_name())]
        return [*found, await thread_name()]

    async def thread_name() -> str:
        return (await asyncio.to_thread(threading.current_thread)).name.partition("_")[0]

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert runner.run(work()) == ["shared", "guests", "guests", "shared"]
