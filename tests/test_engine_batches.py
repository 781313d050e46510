"""What is asked for while a batch is under way is done together, next."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from wizflowd.engine.batches import Batches
from wizflowd.files import Steps


def work(do: Callable[[], object]) -> Steps[object]:
    result = do()
    yield
    return result


async def test_an_idle_one_begins_at_once_and_the_next_batch_has_all_that_waited() -> None:
    batches, held, threads = Batches(), threading.Event(), list[str]()

    def note() -> None:
        threads.append(threading.current_thread().name)

    first = asyncio.create_task(batches.complete(work(held.wait)))
    others = [asyncio.create_task(batches.complete(together(note, threads))) for _ in range(3)]
    await asyncio.sleep(0)
    held.set()

    assert await first is True
    assert await asyncio.gather(*others) == [3, 3, 3]


def together(note: Callable[[], None], told: list[str]) -> Steps[int]:
    """Return how many had come as far when the first went on."""
    note()
    yield
    return len(told)


async def test_each_has_its_own_result_or_error() -> None:
    def refuse() -> None:
        raise OSError("the disk is full")

    batches, held = Batches(), threading.Event()
    first = asyncio.create_task(batches.complete(work(held.wait)))
    bad = asyncio.create_task(batches.complete(work(refuse)))
    good = asyncio.create_task(batches.complete(work(lambda: "done")))
    await asyncio.sleep(0)
    held.set()

    assert await first is True
    with pytest.raises(OSError, match="the disk is full"):
        await bad
    assert await good == "done"


async def test_a_mistake_in_a_work_is_told_to_all_of_its_batch_and_the_next_goes_on() -> None:
    batches = Batches()

    with pytest.raises(ZeroDivisionError):
        await batches.complete(work(lambda: 1 // 0))

    assert await batches.complete(work(lambda: "done")) == "done"


async def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    batches, held, done = Batches(), threading.Event(), list[str]()
    tasks = [
        asyncio.create_task(batches.complete(each))
        for each in (work(held.wait), work(lambda: done.append("cancelled")), work(lambda: done.append("waited for")))
    ]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[1].cancel()
    held.set()

    await tasks[2]

    assert done == ["waited for"]
