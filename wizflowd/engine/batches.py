"""Files of many runs written together: what coroutines ask for while a batch is under way is done at once, next.

Called by `prepare` and `archive`. In: steps that wait for the disk (`files.Steps`). Out: what each returns or raises.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from wizflowd.files import Steps, T, complete_all

SMALL_RUN = 100
"""Tasks of a run whose files may wait a moment for those of others, and others for them."""
_MOST = 16
"""Works of a batch: each has some files open."""


class Batches:
    """Works of one kind, a batch at a time. What takes long goes by itself: all others would wait for it."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Steps[Any], asyncio.Future[Any]]] = []
        self._is_busy = False

    async def complete(self, work: Steps[T]) -> T:
        """Do a work and return what it returns. Raises what it raises."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, answer))
        if not self._is_busy:
            self._begin()
        return await answer

    def _begin(self) -> None:
        batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
        self._is_busy = True
        works, answers = [work for work, _ in batch], [answer for _, answer in batch]
        done = asyncio.get_running_loop().run_in_executor(None, complete_all, works)
        done.add_done_callback(partial(self._end, answers))

    def _end(self, answers: Sequence[asyncio.Future[Any]], done: "asyncio.Future[list[Any]]") -> None:
        self._is_busy = False
        failure = done.exception()
        _answer(answers, [failure] * len(answers) if failure is not None else done.result())
        self._waiting = [(work, answer) for work, answer in self._waiting if not answer.done()]
        if self._waiting:
            self._begin()


def _answer(answers: Sequence[asyncio.Future[Any]], ends: Sequence[Any]) -> None:
    for answer, end in zip(answers, ends, strict=True):
        if answer.done():  # nobody waits for it any more
            continue
        if isinstance(end, BaseException):
            answer.set_exception(end)
        else:
            answer.set_result(end)
