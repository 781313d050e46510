"""What executors without a process of their own share: one asyncio task per attempt, its bounds and its one end.

In: calls from the engine. Out: exactly one `Outcome` per attempt, told to `report` in the event loop. `rest` and
`email` perform the attempts; the engine starts, cancels and closes. Nothing here survives the daemon: the next one
finds such attempts started and not ended, which is *lost*.
"""

import asyncio
import logging
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

from msgspec.structs import replace

from wizflowd.core.attempt import (
    AttemptId,
    Cancelled,
    EmailCall,
    Facts,
    Failed,
    Job,
    Lost,
    Outcome,
    PluginCall,
    Reason,
    RestCall,
    Succeeded,
)
from wizflowd.errors import OutputError, WizflowError
from wizflowd.executors.outputs import collect, hash_sources
from wizflowd.spawner.masking import Masker

log = logging.getLogger(__name__)

CallT = TypeVar("CallT", RestCall, EmailCall, PluginCall)
Report = Callable[[AttemptId, Outcome], None]
STOOD_STILL_S = 0.5
"""A timer that is later than this says that the loop did not turn."""
CATCH_UP_S = 1.0


class AttemptError(WizflowError):
    """An attempt that did not do what it should; becomes `Failed` at the edge of the executor, secrets masked."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        hint: str = "",
        retryable: bool = True,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class OutcomeUnknownError(WizflowError):
    """The other side may or may not have done what it was asked to; becomes `Lost`."""


@dataclass(slots=True)
class Trace:
    """What becomes known of an attempt while it goes on; it is there however the attempt ends.

    `unsure` is set while an end by timeout would leave open what came of the attempt, and says where it stood.
    """

    started_s: float
    status_code: int | None = None
    log: str | None = None
    unsure: str = ""
    notes: list[str] = field(default_factory=list)

    def facts(self) -> Facts:
        return Facts(self.started_s, time.time(), status_code=self.status_code, log=self.log, notes=tuple(self.notes))


@dataclass(slots=True)
class _InFlight:
    task: asyncio.Task[Outcome]
    trace: Trace
    ended_by: Literal["", "cancel", "close"] = ""


class InProcessExecutor(ABC, Generic[CallT]):
    """Performs attempts inside the daemon; an async context manager that owns their tasks.

    `start` and `cancel` never block. An attempt known already is not started again.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._group = asyncio.TaskGroup()
        self._in_flight: dict[AttemptId, _InFlight] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close(0)
        finally:
            await self._group.__aexit__(kind, error, trace)

    def start(self, call: CallT) -> None:
        """Begin an attempt; its outcome is reported once."""
        attempt = call.job.attempt
        if self._closed:
            raise RuntimeError(f"{type(self).__name__} is closed and cannot start {attempt}")
        if attempt in self._in_flight:
            return
        trace = Trace(time.time())
        task = self._group.create_task(self._attend(call, trace), name=attempt)
        self._in_flight[attempt] = _InFlight(task, trace)
        # Told from a callback: a task cancelled before its first step runs none of its own code.
        task.add_done_callback(partial(self._ended, call.job))

    def cancel(self, attempt: AttemptId) -> None:
        """End an attempt on request; nothing happens when it has ended already."""
        if in_flight := self._in_flight.get(attempt):
            in_flight.ended_by = "cancel"
            in_flight.task.cancel()

    async def close(self, grace_s: float) -> None:
        """Take no more calls; give what is in flight `grace_s` seconds, then report it as lost."""
        self._closed = True
        tasks = [in_flight.task for in_flight in self._in_flight.values()]
        if tasks and grace_s > 0:
            await asyncio.wait(tasks, timeout=grace_s)
        for in_flight in self._in_flight.values():
            in_flight.ended_by = in_flight.ended_by or "close"
            in_flight.task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._release()

    @abstractmethod
    async def _perform(self, call: CallT, trace: Trace) -> Outcome:
        """Do what the call asks; raise AttemptError, OutcomeUnknownError or OutputError when that fails."""

    def _culprit(self, call: CallT) -> str:  # noqa: ARG002
        """Return whose defect it is when anything else is raised."""
        return "wizflowd"

    async def _release(self) -> None:
        """Let go of what attempts share, when none is left."""

    async def _attend(self, call: CallT, trace: Trace) -> Outcome:
        job = call.job
        try:
            async with _deadline(job.timeout_s) as deadline:
                sources = await _hash_sources(job)
                outcome = await self._perform(call, trace)
                return replace(outcome, sources=sources) if isinstance(outcome, Succeeded) else outcome
        except Exception as error:  # noqa: BLE001 - a defect ends its attempt, not the daemon
            if isinstance(error, TimeoutError) and deadline.expired():
                return _timed_out(job, trace)
            return _unsuccessful(error, job, trace, self._culprit(call))

    def _ended(self, job: Job, task: asyncio.Task[Outcome]) -> None:
        in_flight = self._in_flight.pop(job.attempt)
        if not task.cancelled():
            outcome = task.result()
        elif in_flight.ended_by == "cancel":
            outcome = Cancelled(in_flight.trace.facts())
        else:
            outcome = Lost(in_flight.trace.facts(), "wizflowd stopped while it was in flight")
        masker = Masker(job.secrets)
        notes = tuple(masker.mask(note) for note in outcome.facts.notes)
        self._report(job.attempt, replace(outcome, facts=replace(outcome.facts, notes=notes)))


async def succeed(job: Job, trace: Trace, text: bytes | None) -> Succeeded:
    """Collect the outputs from `text` and return the outcome of an attempt that did what it should."""
    if not job.outputs:
        return Succeeded(trace.facts())
    collected = await asyncio.to_thread(collect, job, text, None)
    trace.notes += collected.notes
    return Succeeded(trace.facts(), collected.outputs, collected.files)


@asynccontextmanager
async def _deadline(timeout_s: float | None) -> AsyncIterator[asyncio.Timeout]:
    """Bound what is done within, as `asyncio.timeout` does; but what came in time while this process stood still
    (stopped, or starved) is read before the time is up."""
    async with asyncio.timeout(None) as timeout:
        if timeout_s is None:
            yield timeout
            return
        loop = asyncio.get_running_loop()
        due_s = loop.time() + timeout_s

        def expire() -> None:
            late_s = loop.time() - due_s
            timeout.reschedule(loop.time() + (CATCH_UP_S if late_s > STOOD_STILL_S else 0.0))

        expiry = loop.call_at(due_s, expire)
        try:
            yield timeout
        finally:
            expiry.cancel()


async def _hash_sources(job: Job) -> str:
    if not job.source_globs:
        return ""
    return await asyncio.to_thread(hash_sources, job.source_folder, job.source_globs)


def _timed_out(job: Job, trace: Trace) -> Failed | Lost:
    message = f"timed out after {job.timeout_s:g} s"
    return (
        Lost(trace.facts(), f"{message}, {trace.unsure}") if trace.unsure else Failed(trace.facts(), "timeout", message)
    )


def _unsuccessful(error: Exception, job: Job, trace: Trace, culprit: str) -> Failed | Lost:
    message = Masker(job.secrets).mask(str(error))
    match error:
        case AttemptError():
            return Failed(trace.facts(), error.reason, message, error.retryable, error.retry_after_s)
        case OutputError():
            return Failed(trace.facts(), "output", message)
        case OutcomeUnknownError():
            return Lost(trace.facts(), message)
        case _:
            # Frames without the exception itself: its text may hold a secret.
            where = "".join(traceback.format_tb(error.__traceback__))
            kind = type(error).__name__
            log.error(
                "attempt met a defect", extra={"attempt": job.attempt, "error": f"{kind}: {message}", "where": where}
            )
            return Failed(
                trace.facts(), "response", f"cannot perform the attempt, a defect in {culprit}: {kind}: {message}"
            )
