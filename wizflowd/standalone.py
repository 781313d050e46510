"""`wizflow run`: one file, here and now, without a daemon; the same engine with one observation.

In: a compiled file, values of its parameters, a progress display. Out: an exit status (SPEC section 7). What is known
of the file is kept in its `*.runs/.state/`.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wizflowd.assembly import Where, assembled
from wizflowd.config import Config
from wizflowd.core.attempt import Facts, RunId
from wizflowd.core.compile import Compiled
from wizflowd.core.events import (
    Event,
    Record,
    RunArchived,
    RunStarted,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskPaused,
    TaskRetrying,
    TaskReused,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
)
from wizflowd.core.observations import WorkflowId
from wizflowd.core.params import fit_params
from wizflowd.core.reconcile import Asked, Content, accepted, cancel_run, request_run
from wizflowd.core.state import State
from wizflowd.engine.loop import Engine
from wizflowd.engine.requests import Requests
from wizflowd.engine.runs import Runs
from wizflowd.errors import RequestError
from wizflowd.files import read_end
from wizflowd.process import keep_memory_private
from wizflowd.results import Places
from wizflowd.views.progress import Failure, PlanRow, Progress, Summary, TaskChange

EXIT_SUCCEEDED, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130
TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Asking:
    """What to run: a definition file (absolute path), its bytes, and the values given on the command line."""

    path: Path
    data: bytes
    compiled: Compiled
    params: Mapping[str, str] = field(default_factory=dict)
    incremental: bool = False


async def run_file(asking: Asking, config: Config, progress: Progress) -> int:
    """Run a file and return the exit status. Raises RequestError, StateLockedError."""
    keep_memory_private()
    fit_params(asking.compiled.definition, {**asking.params}, as_text=True)  # what is wrong is told before any work
    asked = Asked(params={**asking.params}, as_text=True, incremental=asking.incremental)
    with _noted(progress):
        teller, interrupted = await _run(asking, asked, config, progress)
    progress.end(teller.summary())
    if interrupted:
        return EXIT_INTERRUPTED
    return EXIT_SUCCEEDED if teller.status == "succeeded" else EXIT_FAILED


async def _run(asking: Asking, asked: Asked, config: Config, progress: Progress) -> tuple["ProgressSink", bool]:
    """Run a file to its end; return what was told of it, and whether it was interrupted."""
    path = asking.path
    where = Where(path.parent, None, Places.beside(path).state, with_parent=True)
    async with assembled(config, where) as engine:
        run = engine.run_ids.next(time.time())
        content = _content(asking)
        teller = ProgressSink(progress, run, engine)
        engine.sinks.append(teller)
        engine.offer_definition(content.stamp, asking.data)
        engine.draining = True  # nothing of an earlier run begins again before that is cancelled

        def decide(state: State) -> list[Event]:
            engine.draining = False
            return _decide(state, content, run, asked)

        queued = Runs(engine).decide(decide)
        loop = asyncio.create_task(engine.run())
        interrupted = _cancel_on_interrupt(engine, run, progress)
        await _first_of(loop, _until_closed(engine, teller, queued))
        engine.stop()
        await loop
    return teller, interrupted.is_set()


@contextlib.contextmanager
def _noted(progress: Progress) -> Iterator[None]:
    """Show warnings of the engine with the progress: that a run has to wait, that the disk is full."""
    logger, handler = logging.getLogger("wizflowd"), NoteHandler(progress)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _content(asking: Asking) -> Content:
    stamp = hashlib.sha256(asking.data).hexdigest()
    workflow = WorkflowId(asking.path.stem)
    return Content(workflow, asking.path.name, stamp, asking.compiled.digest, "", asking.compiled.definition)


def _decide(state: State, content: Content, run: RunId, asked: Asked) -> list[Event]:
    """Run the file; what an earlier `wizflow run` that was killed left open is cancelled."""
    left = [
        event for other in state.live_runs(content.workflow) for event in cancel_run(other, "wizflow run was ended")
    ]
    return [*left, accepted(content, "added"), *request_run(state, content, run, asked)]


async def _until_closed(engine: Engine, teller: "ProgressSink", queued: Awaitable[object]) -> None:
    await queued
    await teller.archived.wait()
    await engine.closed(teller.run)


async def _first_of(loop: "asyncio.Task[None]", other: Coroutine[Any, Any, None]) -> None:
    """Wait for `other`, but not longer than the engine runs."""
    task = asyncio.ensure_future(other)
    await asyncio.wait([loop, task], return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        loop.result()
    else:
        task.result()


def _cancel_on_interrupt(engine: Engine, run: RunId, progress: Progress) -> asyncio.Event:
    """Cancel the run on the first SIGINT or SIGTERM; the next one ends the process, and its spawner every task."""
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    requests = Requests(engine, Path())

    async def cancel() -> None:
        with contextlib.suppress(RequestError):  # it has just ended
            await requests.cancel({"run": run})

    def end_at_once() -> None:
        progress.close()
        os._exit(EXIT_INTERRUPTED)

    def interrupt() -> None:
        interrupted.set()
        progress.note("interrupted: ending what runs; once more ends it at once")
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end_at_once)
        engine.in_background(cancel())

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    return interrupted


class NoteHandler(logging.Handler):
    """Gives warnings to a progress display."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        error = getattr(record, "error", "")
        self._progress.note(f"{record.getMessage()}: {error}" if error else record.getMessage())


class ProgressSink:
    """Turns the records of one run into its progress; `archived` is set at its public end."""

    def __init__(self, progress: Progress, run: RunId, engine: Engine) -> None:
        self.run = run
        self.status = ""
        self.archived = asyncio.Event()
        self._progress = progress
        self._engine = engine
        self._states: dict[str, str] = {}
        self._failures: list[Failure] = []
        self._tolerated: list[str] = []
        self._folder = Path()
        self._duration_s = 0.0

    def told(self, records: Sequence[Record]) -> None:
        for record in records:
            self._show(record.event)

    def _show(self, event: Event) -> None:
        if getattr(event, "run", None) != self.run:
            return
        match event:
            case RunStarted():
                self._start(event)
            case TaskStarted():
                self._change(event, "running", event.attempt)
            case TaskSucceeded():
                self._change(event, "succeeded", event.attempt, "; ".join(event.facts.notes), event.facts)
            case TaskReused():
                self._change(event, "reused", 0, event.reason)
            case TaskRetrying():
                note = f"{event.message}; again in {event.delay_s:.3g} s"
                self._change(event, "retrying", event.attempt, note, event.facts)
            case TaskPaused():
                self._change(event, "paused", 0, "waits for approval, which only a daemon can be told: Ctrl-C ends it")
            case TaskFailed():
                self._fail(event)
            case TaskSkipped():
                self._change(event, "skipped", 0, event.reason)
            case TaskCancelled():
                self._change(event, "cancelled", event.attempt, event.reason, event.facts)
            case RunArchived():
                self.status, self._duration_s = event.status, event.duration_s
                self.archived.set()
            case _:
                pass

    def _start(self, event: RunStarted) -> None:
        context = self._engine.contexts[self.run]
        self._folder = context.places.run(self.run)
        rows = [PlanRow(line.task, line.action, line.reason) for line in event.plan]
        name = context.compiled.definition.workflow_name
        self._progress.plan(name, self.run, rows, width=context.compiled.graph.width)

    def _change(self, event: TaskEvent, state: str, attempt: int, note: str = "", facts: Facts | None = None) -> None:
        self._states[event.task] = state
        duration_s = facts.ended_s - facts.started_s if facts is not None else None
        self._progress.task(TaskChange(event.task, state, attempt, time.monotonic(), note, duration_s))

    def _fail(self, event: TaskFailed) -> None:
        self._change(event, "tolerated" if event.tolerated else "failed", event.attempt, event.message, event.facts)
        log = self._folder / "logs" / event.facts.log if event.facts.log else None
        if event.tolerated:
            self._tolerated.append(event.task)
        else:
            tail = read_end(log, TAIL_BYTES) if log is not None else ""
            self._failures.append(Failure(event.task, event.message, str(log or ""), tail))

    def summary(self) -> Summary:
        """Return how the run ended."""
        skipped = [task for task, state in self._states.items() if state == "skipped"]
        results = str(self._folder) if self._folder != Path() else ""
        counts = Counter(self._states.values())
        return Summary(self.status, self._duration_s, counts, self._failures, skipped, self._tolerated, results)
