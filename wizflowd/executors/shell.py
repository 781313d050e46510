"""SHELL attempts: a `ShellCall` goes to the spawner, what it says of the end becomes an `Outcome`.

Called by the engine. The attempts are the spawner's: they outlive this process and are adopted by the next. When the
spawner itself is gone they are lost, and nothing of them is alive before that is reported.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from wizflowd.core.attempt import (
    AttemptId,
    Cancelled,
    Facts,
    Failed,
    Limits,
    Lost,
    Outcome,
    ShellCall,
    Succeeded,
)
from wizflowd.errors import OutputError, SpawnerError
from wizflowd.executors.outputs import Collected, collect, hash_sources
from wizflowd.executors.spawner import SpawnerLine, SpawnerPlace, join_spawner
from wizflowd.spawner.masking import Masker
from wizflowd.spawner.protocol import VERSION, Message

log = logging.getLogger(__name__)

STDOUT_SUFFIX = ".stdout"
"""Of the copy of stdout beside the private file of an attempt."""
STDOUT_MAX = 16 * 1024 * 1024
"""Bytes of stdout kept for outputs; what prints more has no json or text output."""

_REJOIN_S = 1.0
_NO_RETRY = ("not_found", "limits")

_NO_LIMITS = Limits()
_LIMITS = tuple(each.name for each in fields(Limits))
_ANSWER_WITHIN_S = 5.0
_KILL_WITHIN_S = 5.0  # beyond the grace

Report = Callable[[AttemptId, Outcome], None]
Sink = Callable[[AttemptId, str], None]


class Running(Struct, frozen=True):
    """A process that the spawner has. `started_s` is wall time."""

    pid: int
    started_s: float


class Inventory(Struct, frozen=True):
    """What the spawner had when it was joined; `spawner` tells it from every other one, of any boot.

    `well`: those of `exited` of which nothing but a success can come.
    """

    spawner: str
    running: Mapping[AttemptId, Running]
    exited: frozenset[AttemptId]
    well: frozenset[AttemptId] = frozenset()


class Handed(Struct, frozen=True, gc=False):
    """An attempt to be started when there is a place and all of `after` have ended well; the least `order` first."""

    call: ShellCall
    after: Sequence[AttemptId]
    order: tuple[int, int, int]


@dataclass(slots=True)
class _Flight:
    """An attempt that is not reported yet. `started` is what the spawner said of it; `left_files`: for us to read."""

    call: ShellCall
    sources: str = ""
    sent: bool = False
    handed: bool = False
    cancelled: bool = False
    started: Running | None = None
    left_files: bool = True

    @property
    def waits(self) -> bool:
        """Whether it was handed over, and nobody has said that it has begun."""
        return self.handed and self.started is None


class ShellExecutor:
    """Starts, adopts and ends local processes. Each attempt is reported once; no method blocks.

    `started` is called with pid and wall time when a process runs that was asked for or handed over, `dropped` when the
    spawner has let go of what it was handed, with those that are known not to have begun and its count of such moments.
    `own`: start a spawner where
    there is none, else wait for the one of the systemd unit; `with_parent`: all ends when this process does.
    """

    def __init__(
        self,
        directory: Path,
        report: Report,
        started: Callable[[AttemptId, int, float], None],
        dropped: Callable[[Sequence[AttemptId], int], None] = lambda _attempts, _unwell: None,
        *,
        own: bool = True,
        with_parent: bool = False,
    ) -> None:
        self._place = SpawnerPlace(directory, own or with_parent, with_parent)
        self._report = report
        self._started = started
        self._dropped = dropped
        self.missing = ""  # why there is no spawner, where it has been tried long enough
        self._line: SpawnerLine | None = None
        self._flights: dict[AttemptId, _Flight] = {}
        self._unclaimed: dict[AttemptId, Message] = {}  # `started` or `exited` of attempts to be adopted
        self._reported: dict[AttemptId, ShellCall | None] = {}  # with the calls whose files are to be removed
        self._sink: Sink | None = None
        self.unwell = 0  # the count that the spawner had when it dropped its backlog last; 0: it takes none
        self._collecting = 0  # attempts that have ended, whose outputs are being read
        self._withdrawn: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def connect(self) -> Inventory:
        """Join the spawner, or start one; return what it has. Raises SpawnerError."""
        hello = await self._join()
        running = {AttemptId(each["attempt"]): each for each in hello["attempts"]}
        exited = {AttemptId(each["attempt"]): each for each in hello["exits"]}
        self._unclaimed = {**running, **exited}
        return Inventory(
            f"{hello['boot_id']}/{hello['pid']}/{hello['start_time']}",
            {attempt: _running(each) for attempt, each in running.items()},
            frozenset(exited),
            frozenset(name for name, each in exited.items() if each.get("well")),
        )

    def start(self, call: ShellCall) -> None:
        """Run an attempt; if the spawner has it already, it goes on and is not run again."""
        flight = self._flights[call.job.attempt] = _Flight(call)
        if call.job.source_globs:
            self._in_background(self._hash_then_send(flight))
        else:
            self._send_spawn(flight)

    def hand_over(self, handed: Iterable[Handed], limit: int, unwell: int) -> None:
        """Have attempts started by the spawner as soon as fewer than `limit` run, until one does not end well.

        None of them is, if that has happened since what was known of when `unwell` was told.
        """
        requests = []
        for each in handed:
            flight = self._flights[each.call.job.attempt] = _Flight(each.call, sent=True, handed=True)
            requests.append(_spawn_message(flight) | {"after": list(each.after), "order": each.order})
        self._send({"op": "queue", "unwell": unwell, "limit": limit, "requests": requests})

    async def withdraw(self) -> list[AttemptId]:
        """Take back what was handed over; return it when the spawner has told of all that it has started of it.

        Where the spawner is away or does not answer that is nothing, and told when it is joined again.
        """
        line = self._line
        if line is None:
            return []
        self._withdrawn = asyncio.get_running_loop().create_future()
        line.send({"op": "withdraw"})
        either: set[asyncio.Future[None]] = {self._withdrawn, line.broken}
        await asyncio.wait(either, timeout=_ANSWER_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        if not self._withdrawn.done():
            line.close()
            self._line = None
            return []
        back = [attempt for attempt, flight in self._flights.items() if flight.waits]
        for attempt in back:
            del self._flights[attempt]
        return back

    def adopt(self, call: ShellCall) -> None:
        """Take over an attempt of the inventory; its outcome is reported when it has one."""
        attempt = call.job.attempt
        message = self._unclaimed.pop(attempt, None)
        flight = self._flights[attempt] = _Flight(call, sent=True)
        if message is None:
            asyncio.get_running_loop().call_soon(self._lose, flight)
            return
        flight.sources = message.get("context") or ""
        flight.started = _running(message)
        if message["op"] == "exited":
            asyncio.get_running_loop().call_soon(self._on_exited, message)

    def cancel(self, attempt: AttemptId) -> None:
        """End an attempt, first politely; it is reported when nothing of it is alive."""
        flight = self._flights.get(attempt)
        if flight is not None:
            flight.cancelled = True
        self._send({"op": "kill", "attempt": attempt, "reason": "cancel"})

    def acknowledge(self, attempts: Iterable[AttemptId]) -> None:
        """Say that these outcomes are committed: nobody will ask for them again."""
        forgotten = list(attempts)
        for attempt in forgotten:
            self._unclaimed.pop(attempt, None)
            call = self._reported.pop(attempt, None)
            if call is not None:
                Path(call.scratch).unlink(missing_ok=True)
                _stdout_path(call).unlink(missing_ok=True)
        if self._line is not None:
            self._line.send_patiently({"op": "ack", "attempts": forgotten})

    def listen(self, sink: Sink | None) -> None:
        """Have live output (masked text) passed to `sink` from here on, or no more."""
        self._sink = sink
        self._send({"op": "listen", "on": sink is not None})

    async def close(self, *, kill: bool) -> None:
        """Leave the spawner, which ends if it has nothing to do. `kill`: end all attempts first, and report them."""
        self._closing = True
        line = self._line
        if line is not None and (kill or not self._flights):
            line.send({"op": "stop", "kill": kill})
        if line is not None and kill:
            longest_s = max((flight.call.grace_s for flight in self._flights.values()), default=0.0)
            await asyncio.wait({line.broken}, timeout=longest_s + _KILL_WITHIN_S)
        if line is not None:
            line.close()
            await line.broken
        await asyncio.gather(*self._tasks)

    async def _join(self) -> Message:
        self._line, hello = await join_spawner(self._place, self._receive)
        self.missing = ""
        self.unwell = hello.get("unwell", 0)
        if self._sink is not None:
            self.listen(self._sink)
        if hello["version"] != VERSION:
            self._send({"op": "reexec"})  # it keeps all that it has
        self._in_background(self._watch(self._line))
        return hello

    async def _watch(self, line: SpawnerLine) -> None:
        """When the line breaks, join the spawner again, or the next one: what it does not know is lost."""
        await line.broken
        self._line = None
        self._drop()
        level = logging.ERROR
        while not self._closing:
            try:
                hello = await self._join()
            except SpawnerError as error:
                self.missing = str(error)
                log.log(level, "cannot join the spawner, SHELL tasks wait for it", extra={"error": self.missing})
                level = logging.DEBUG  # told once: it may last
                await asyncio.sleep(_REJOIN_S)
            else:
                self._compare(hello)
                self._drop()
                return

    def _compare(self, hello: Message) -> None:
        """Bring the flights into line with what the spawner says after a break. A new one has ended the survivors."""
        running = {each["attempt"]: each for each in hello["attempts"]}
        for message in hello["exits"]:
            if message["attempt"] in self._flights:
                self._on_exited(message)
            elif message["attempt"] not in self._reported:
                self._send({"op": "ack", "attempts": [message["attempt"]]})
        for attempt, flight in list(self._flights.items()):
            if not flight.sent:
                self._send_spawn(flight)
            elif flight.waits:
                self._compare_waiting(attempt, running.get(attempt))
            elif attempt not in running:
                self._lose(flight)
            elif flight.cancelled:
                self.cancel(attempt)

    def _compare_waiting(self, attempt: AttemptId, message: Message | None) -> None:
        """What was handed over has begun, or it never will by itself."""
        if message is None:
            del self._flights[attempt]
            self._drop(attempt)
        else:
            self._on_started(message)

    async def _hash_then_send(self, flight: _Flight) -> None:
        job = flight.call.job
        try:
            flight.sources = await asyncio.to_thread(hash_sources, job.source_folder, job.source_globs)
        except OutputError as error:
            moment = time.time()
            self._conclude(flight, Failed(Facts(moment, moment), "input", str(error)))
        else:
            self._send_spawn(flight)

    def _send_spawn(self, flight: _Flight) -> None:
        if flight.cancelled:
            moment = time.time()
            self._conclude(flight, Cancelled(Facts(moment, moment)))
        elif self._line is not None:
            flight.sent = True
            self._send(_spawn_message(flight))

    def _send(self, message: Message) -> None:
        """Send if there is a line; if not, `_compare` makes up for it."""
        if self._line is not None:
            self._line.send(message)

    def _receive(self, message: Message) -> None:
        match message["op"]:
            case "started":
                self._on_started(message)
            case "exited":
                self._on_exited(message)
                if not message.get("well"):
                    self._on_dropped()
            case "refused":
                self._on_refused(message)
                self._on_dropped()
            case "dropped":
                self.unwell = message["unwell"]
                self._drop()
            case "withdrawn" if self._withdrawn is not None and not self._withdrawn.done():
                self._withdrawn.set_result(None)
            case "output" if self._sink is not None:
                self._sink(message["attempt"], message["text"])

    def _on_dropped(self) -> None:
        """Count as the spawner does, if it does: what is handed over with another count is not taken."""
        self.unwell += self.unwell > 0
        self._drop()

    def _drop(self, *attempts: AttemptId) -> None:
        self._dropped(attempts, 0 if self._collecting else self.unwell)  # 0: an end that is counted is not told yet

    def _on_started(self, message: Message) -> None:
        flight = self._flights.get(message["attempt"])
        if flight is not None:
            flight.started = _running(message)
            self._started(message["attempt"], message["pid"], message["started_s"])

    def _on_exited(self, message: Message) -> None:
        flight = self._flights.get(message["attempt"])
        if flight is None:
            if message["attempt"] in self._unclaimed:
                self._unclaimed[message["attempt"]] = message
            return
        if flight.started is None:  # it was too short to be told of before
            self._on_started(message)
        facts = _facts(flight.call, message)
        unhappy = _unhappy(flight.call, message, facts)
        if self._closing and isinstance(unhappy, Cancelled) and not flight.cancelled:
            unhappy = Lost(facts, "wizflowd was stopped, and what ran with it")
        if unhappy is not None:
            self._conclude(flight, unhappy)
        elif message.get("well"):
            flight.left_files = False
            self._conclude(flight, Succeeded(facts, sources=flight.sources))
        else:
            self._collecting += 1
            self._in_background(self._collect(flight, message, facts))

    def _on_refused(self, message: Message) -> None:
        flight = self._flights.get(message["attempt"])
        if flight is None:
            return
        if flight.waits:  # it was not asked for yet: when it is, the refusal is its end
            del self._flights[message["attempt"]]
            self._drop(message["attempt"])
            return
        if message["kind"] == "stopping":
            self._lose(flight)
            return
        moment = time.time()
        retryable = message["kind"] not in _NO_RETRY
        text = Masker(flight.call.job.secrets).mask(message["message"])
        self._conclude(flight, Failed(Facts(moment, moment), "refused", text, retryable))

    async def _collect(self, flight: _Flight, message: Message, facts: Facts) -> None:
        call = flight.call
        try:
            found = await asyncio.to_thread(_collect, call, message)
        except OutputError as error:
            outcome: Outcome = Failed(facts, "output", str(error))
        else:
            facts = replace(facts, notes=(*facts.notes, *found.notes))
            outcome = Succeeded(facts, found.outputs, found.files, flight.sources)
        self._conclude(flight, outcome)
        self._collecting -= 1
        self._drop()

    def _lose(self, flight: _Flight) -> None:
        moment = time.time()
        started = flight.started or Running(0, moment)
        facts = Facts(started.started_s, moment, started.pid or None)
        self._conclude(flight, Lost(facts, "the spawner that ran it is gone"))

    def _conclude(self, flight: _Flight, outcome: Outcome) -> None:
        """Report an attempt, if nobody did. Its files stay until that is committed: a restart reads them again."""
        attempt = flight.call.job.attempt
        if self._flights.get(attempt) is flight:
            del self._flights[attempt]
            self._reported[attempt] = flight.call if flight.left_files else None
            self._report(attempt, outcome)

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _spawn_message(flight: _Flight) -> Message:
    call, job = flight.call, flight.call.job
    wants_stdout = any(rule.type != "file" for rule in job.outputs.values())
    return {
        "op": "spawn",
        "attempt": job.attempt,
        "argv": call.argv,
        "env": call.env,
        "cwd": str(call.cwd),
        "stdin": call.stdin,
        "log": job.log_path,
        "log_max": job.log_max,
        "stdout": str(_stdout_path(call)) if wants_stdout else None,
        "stdout_max": STDOUT_MAX,
        "secrets": job.secrets,
        "limits": {} if call.limits == _NO_LIMITS else _set_limits(call.limits),
        "timeout_s": job.timeout_s,
        "grace_s": call.grace_s,
        "context": flight.sources,
        "patient": True,
        "good_without": "" if job.outputs else call.scratch,
    }


def _set_limits(limits: Limits) -> dict[str, float]:
    return {name: value for name in _LIMITS if (value := getattr(limits, name)) is not None}


def _running(message: Message) -> Running:
    return Running(message["pid"], message["started_s"])


def _stdout_path(call: ShellCall) -> Path:
    return Path(f"{call.scratch}{STDOUT_SUFFIX}")


def _collect(call: ShellCall, message: Message) -> Collected:
    """Return the outputs of an attempt that has ended well. Blocks; raises OutputError."""
    if call.unmaskable and os.path.exists(call.scratch):
        raise OutputError(f"cannot mask what was written to $WIZFLOW_OUTPUT: {call.unmaskable}")
    return collect(call.job, _read_stdout(call, message), Path(call.scratch))


def _read_stdout(call: ShellCall, message: Message) -> bytes | None:
    """Return what the attempt printed, None if nobody asked. Raises OutputError."""
    printed = message["stdout_bytes"]
    if printed is None:
        return None
    if printed > STDOUT_MAX:
        raise OutputError(
            f"stdout has {printed} bytes, more than {STDOUT_MAX}", hint="write to a file and declare it as an output"
        )
    if printed == 0:
        return b""
    try:
        data = _stdout_path(call).read_bytes()
    except OSError as error:
        raise OutputError(f"cannot read the kept stdout: {error.strerror}") from error
    if len(data) != printed:
        raise OutputError(f"stdout was not kept whole ({len(data)} of {printed} bytes)", hint="is the disk full?")
    return data


def _facts(call: ShellCall, message: Message) -> Facts:
    notes = list(message["notes"])
    if message["truncated"]:
        notes.append(f"the log was cut in the middle to {call.job.log_max} bytes")
    return Facts(
        started_s=message["started_s"],
        ended_s=message["ended_s"],
        pid=message["pid"],
        exit_code=message["exit_code"],
        signal=message["signal"],
        log=os.path.basename(call.job.log_path) if message["log"] else None,
        notes=tuple(notes),
    )


def _unhappy(call: ShellCall, message: Message, facts: Facts) -> Outcome | None:
    """Return the outcome of an attempt that did not end well, None if it did."""
    if message["lost"]:
        return Lost(facts, "the spawner was stopped while it ran")
    if message["killed"]:
        return Cancelled(facts)
    if facts.exit_code == 0 and message.get("cut_off"):
        return Lost(facts, "the host went down, maybe before what it made was on the disk")
    if message["timed_out"]:
        return Failed(facts, "timeout", f"timed out after {call.job.timeout_s:g} s")
    if facts.signal is not None:
        return Failed(facts, "signal", f"killed by {_signal_name(facts.signal)}")
    if facts.exit_code != 0:
        return Failed(facts, "exit", f"exit code {facts.exit_code}")
    return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
