"""Bare calls with httpx, one client: the seconds from the first to the last. `with_httpx.py URL COUNT AT_ONCE`."""

import asyncio
import sys
import time

import httpx


async def call(url: str, count: int, at_once: int) -> float:
    """Make the calls and return how long they took."""
    async with httpx.AsyncClient() as client:
        numbers = iter(range(count))

        async def work() -> None:
            for _ in numbers:
                (await client.get(url)).raise_for_status()

        began_s = time.monotonic()
        await asyncio.gather(*(work() for _ in range(at_once)))
        return time.monotonic() - began_s


print(asyncio.run(call(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
