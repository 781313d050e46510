"""What reaches the engine, in order: told from anywhere in the loop, taken all at once.

The engine drains the whole inbox into one commit, so that disk syncs are shared when it is busy and immediate when it
is not.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import Struct

from wizflowd.core.attempt import AttemptId, Outcome, RunId
from wizflowd.core.compile import Compiled
from wizflowd.core.events import Event
from wizflowd.core.observations import (
    CompanionsSeen,
    FolderAvailable,
    FolderUnavailable,
    ScanDone,
    Source,
    SourceGone,
    SourceRefused,
    SourceSeen,
)
from wizflowd.core.plan import Plan
from wizflowd.core.state import State


class ContentRead(Struct, frozen=True):
    """A source was compiled: `compiled`, or the lines that say why not; `dotenv` is what a refused one names.

    `again`: not because the file is new or has changed, but what surrounds it.
    """

    source: Source
    stamp: str
    companions: str
    compiled: Compiled | None
    problems: tuple[str, ...] = ()
    dotenv: tuple[str, ...] = ()
    again: bool = False


class InTurn(Struct, frozen=True):
    """What the folder told, when everything that it told before has been read."""

    observation: SourceRefused | SourceGone | ScanDone


class RunPrepared(Struct, frozen=True):
    """A queued run has its plan, its folder and its lock."""

    run: RunId
    plan: Plan


class RunUnprepared(Struct, frozen=True):
    """A queued run cannot be started: for now (`retry_s`), or at all."""

    run: RunId
    reason: str
    retry_s: float | None = None


class AttemptBegun(Struct, frozen=True, gc=False):
    """The spawner has started what it had been handed before there was a place for it."""

    attempt: AttemptId


class BacklogDropped(Struct, frozen=True):
    """The spawner has let go of all that it had been handed and not started; `unwell` counts these moments.

    It comes behind the end that was the cause: who has taken it knows of that.
    """

    unwell: int


class AttemptEnded(Struct, frozen=True, gc=False):
    attempt: AttemptId
    outcome: Outcome


class RunStored(Struct, frozen=True):
    """The results of an ended run are on the disk."""

    run: RunId


class RunClosed(Struct, frozen=True):
    """Everything of an archived run is on the disk."""

    run: RunId


class Request(Struct, frozen=True):
    """A decision asked for by a person: made on the state, answered with its events once they are durable."""

    decide: Callable[[State], list[Event]]
    answer: "asyncio.Future[list[Event]]"


class Facts(Struct, frozen=True):
    """Events that were decided elsewhere: of the daemon itself."""

    events: tuple[Event, ...]


Observation = (
    SourceSeen
    | SourceRefused
    | SourceGone
    | CompanionsSeen
    | FolderUnavailable
    | FolderAvailable
    | ScanDone
    | ContentRead
    | InTurn
    | RunPrepared
    | RunUnprepared
    | AttemptBegun
    | BacklogDropped
    | AttemptEnded
    | RunStored
    | RunClosed
    | Request
    | Facts
)


@dataclass(slots=True)
class Inbox:
    """Observations that wait for the engine."""

    _waiting: list[Observation] = field(default_factory=list)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, observation: Observation) -> None:
        self._waiting.append(observation)
        self._arrived.set()

    def wake(self) -> None:
        """Let the engine look at the state again though nothing was observed."""
        self._arrived.set()

    async def take(self, timeout_s: float | None) -> list[Observation]:
        """Wait for something, at most so long, and return everything that is there."""
        if not self._arrived.is_set():
            try:
                if timeout_s is None:
                    await self._arrived.wait()
                else:
                    async with asyncio.timeout(timeout_s):
                        await self._arrived.wait()
            except TimeoutError:
                pass
        self._arrived.clear()
        taken, self._waiting = self._waiting, []
        return taken
