"""The engine's inbox: everything at once, in order, and a wake-up without anything."""

import asyncio
import time

from wizflowd.core.attempt import RunId
from wizflowd.engine.inbox import Inbox, Observation, RunClosed, RunStored


async def test_everything_that_waits_is_taken_at_once_and_in_order() -> None:
    inbox = Inbox()
    told: list[Observation] = [RunStored(RunId("r1")), RunClosed(RunId("r1")), RunStored(RunId("r2"))]
    for observation in told:
        inbox.put(observation)

    assert await inbox.take(None) == told
    assert await inbox.take(0) == []


async def test_whoever_waits_is_woken_by_the_next_observation() -> None:
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.take(None))
    await asyncio.sleep(0)

    inbox.put(RunStored(RunId("r1")))

    assert await asyncio.wait_for(waiting, 5) == [RunStored(RunId("r1"))]


async def test_a_wake_up_brings_nothing_and_is_used_up() -> None:
    inbox = Inbox()
    inbox.wake()

    assert await inbox.take(None) == []
    began_s = time.monotonic()
    assert await inbox.take(0.05) == []
    assert time.monotonic() - began_s > 0.04
