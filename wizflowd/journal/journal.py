"""The journal: one SQLite file with everything that was recorded, written by one thread on one connection.

In: commits (events with what else becomes true in the same transaction). Out: records with their sequence, and at
start the facts from which the state is rebuilt. Called by the engine alone. On a full disk a commit waits for room. Any
other failed write is final: the process ends and the next start recovers, since what a second fsync says after a failed
one is worth nothing.
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from wizflowd.core.attempt import RunId, TaskId
from wizflowd.core.events import Record, to_json
from wizflowd.core.events import Sequence as EventSequence
from wizflowd.core.observations import WorkflowId
from wizflowd.errors import StateError, StateLockedError
from wizflowd.files import sync_file, sync_folder
from wizflowd.journal import queries
from wizflowd.journal.ballast import Ballast, is_over_quota
from wizflowd.journal.rows import Commit, Due, Past, Recovered, RunRow
from wizflowd.journal.tables import begin_epoch, close_run, insert_rows, meta, open_tables, project, set_meta
from wizflowd.threads import start_pool

T = TypeVar("T")
log = logging.getLogger(__name__)
ROOM_RETRY_S = 0.5
_TRIMMED_AT_ONCE = 2_000
"""Records per transaction of a trim: commits wait behind it for some milliseconds."""


class Journal:
    """The state on disk. All methods but `open` and `close` are coroutines that end when the disk has the answer."""

    def __init__(self, directory: Path, *, ballast_bytes: int = 0) -> None:
        self.directory = directory
        self._writer = start_pool(1, "journal")
        self._db: sqlite3.Connection
        self._lock = -1
        self._ballast = Ballast(directory / "ballast", ballast_bytes)
        self._closing = threading.Event()
        self._next_id = 1
        self._next_sequence = 1
        self.epoch = ""

    def open(self) -> None:
        """Take the lock and open the file. Raises StateLockedError, StateError."""
        self._take_lock()
        try:
            self._writer.submit(self._open).result()
        except (sqlite3.Error, StateError, OSError) as exc:
            self.close()
            if isinstance(exc, sqlite3.Error):
                raise _refusal(self._path, exc) from exc
            if isinstance(exc, OSError):
                raise StateError(f"cannot open {self._path}: {exc.strerror}") from exc
            raise

    def close(self) -> None:
        """Close the file and give the lock back. A commit that waits for room is given up."""
        self._closing.set()
        self._writer.submit(self._close).result()
        self._writer.shutdown()
        os.close(self._lock)

    @property
    def _path(self) -> Path:
        return self.directory / "state.db"

    def _take_lock(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.directory / "state.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(self._lock)
            raise StateLockedError(f"cannot use {self.directory}: another wizflowd holds it") from exc
        except OSError as exc:
            raise StateError(f"cannot use {self.directory}: {exc.strerror}") from exc

    async def commit(self, commit: Commit) -> list[Record]:
        """Write one transaction and return its records when they are durable. Raises StateError: then end."""
        return await self._call(self._insist, self._commit, commit)

    async def trim(self, keep: int) -> None:
        """Delete the oldest records beyond `keep`, but none from the first of an open run on; old runs go with them."""
        trimmed = False
        while await self._call(self._insist, self._trim, keep):
            trimmed = True
        if trimmed:
            await self._call(self._insist, self._trim_runs)

    async def recover(self) -> Recovered:
        """Return what is needed to rebuild the state."""
        return await self._ask(queries.recover)

    async def definition(self, stamp: str) -> bytes:
        """Return the bytes of a definition in force or of a run that is not closed."""
        return await self._ask(queries.definition, stamp)

    async def past(self, workflow: WorkflowId) -> Past:
        """Return what a plan for a workflow goes by."""
        return await self._ask(queries.past, workflow)

    async def due(self, run: RunId, workflow: WorkflowId, stamp: str) -> Due:
        """Return what a run that is to start begins with. Asked while its commit is under way, it waits for that.

        Raises StateError, also for a run that is not recorded.
        """
        return await self._ask(queries.due, run, workflow, stamp)

    async def mails(self, workflow: WorkflowId) -> dict[TaskId, str]:
        """Return the digest of the message last sent by each task of a workflow."""
        return await self._ask(queries.mails, workflow)

    async def records(self, run: RunId) -> list[Record]:
        """Return every record of a run, in order."""
        return await self._ask(queries.records_of, run)

    async def since(self, sequence: int, limit: int) -> list[Record]:
        """Return the public records that follow a sequence, at most so many."""
        return await self._ask(queries.since, sequence, limit)

    async def bounds(self) -> tuple[int, int]:
        """Return the oldest sequence that is kept and the newest; with none kept, the oldest is the next."""
        oldest = await self._ask(queries.oldest_sequence)
        return oldest or self._next_sequence, self._next_sequence - 1

    async def run(self, run: RunId) -> RunRow | None:
        """Return a run of the history."""
        return await self._ask(queries.run, run)

    async def child(self, parent: str) -> RunRow | None:
        """Return the run that an attempt of type WORKFLOW started."""
        return await self._ask(queries.child, parent)

    async def backup(self, path: Path) -> int:
        """Write a consistent copy of the state to a new file and return its size in bytes.

        Raises OSError where the file cannot be made (it exists), StateError where it cannot be written.
        """
        return await self._call(self._backup, path)

    async def runs(self, workflow: WorkflowId | None = None, limit: int = 50) -> list[RunRow]:
        """Return the newest runs first."""
        return await self._ask(queries.runs, workflow, limit)

    async def _ask(self, query: Callable[..., T], *args: object) -> T:
        return await self._call(lambda: query(self._db, *args))

    async def _call(self, function: Callable[..., T], *args: object) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer, function, *args)
        except sqlite3.Error as exc:
            raise StateError(f"cannot use {self._path}: {exc}") from exc

    def _insist(self, function: Callable[..., T], *args: object) -> T:
        """Do what writes, as soon as the disk has room for it."""
        waited = False
        while True:
            try:
                done = function(*args)
            except sqlite3.OperationalError as exc:
                if not self._is_full(exc) or self._closing.is_set():
                    raise
            else:
                break
            if not waited:
                log.error("the disk is full: nothing is recorded before there is room", extra={"path": str(self._path)})
                waited = True
            if not self._ballast.release():
                self._closing.wait(ROOM_RETRY_S)
        if waited:
            log.warning("the disk has room again", extra={"path": str(self._path)})
        self._ballast.hold()
        return done

    def _is_full(self, exc: sqlite3.OperationalError) -> bool:
        if exc.sqlite_errorcode == sqlite3.SQLITE_IOERR_WRITE:
            return is_over_quota(self.directory)
        return exc.sqlite_errorcode == sqlite3.SQLITE_FULL

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite may have rolled back by itself, as on a full disk
                self._db.execute("ROLLBACK")
            raise

    def _open(self) -> None:
        self._db = open_tables(self._path)
        sync_folder(self.directory)
        self.epoch = meta(self._db, "epoch")
        last_id, last_sequence = queries.last_numbers(self._db)
        self._next_id, self._next_sequence = last_id + 1, last_sequence + 1
        self._ballast.hold()

    def _close(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()

    def _commit(self, commit: Commit) -> list[Record]:
        db = self._db
        records, rows = [], []
        next_id, next_sequence = self._next_id, self._next_sequence
        for event, at_s in commit.timed_events:
            sequence = None
            if event.public:
                sequence, next_sequence = EventSequence(next_sequence), next_sequence + 1
            rows.append((next_id, sequence, at_s, getattr(event, "run", ""), *to_json(event)))
            records.append(Record(next_id, sequence, at_s, event))
            next_id += 1
        with self._transaction():
            insert_rows(db, "INSERT INTO records", rows)
            db.executemany("INSERT OR IGNORE INTO definitions VALUES (?, ?)", commit.definitions.items())
            project(db, records)
            for run in commit.closed:
                close_run(db, run)
        self._next_id, self._next_sequence = next_id, next_sequence
        return records

    def _trim(self, keep: int) -> bool:
        """Delete some of the oldest records; return whether there were any to delete."""
        oldest = self._db.execute("SELECT min(id) FROM records").fetchone()[0] or self._next_id
        in_use = self._db.execute(
            "SELECT min(r.id) FROM runs JOIN records r ON r.run = runs.run AND r.run <> '' WHERE runs.closed = 0"
        ).fetchone()[0]
        last = min(self._next_id - keep, in_use or self._next_id, oldest + _TRIMMED_AT_ONCE) - 1
        if last < oldest:
            return False
        with self._transaction():
            set_meta(self._db, "last_id", str(self._next_id - 1))
            set_meta(self._db, "last_sequence", str(self._next_sequence - 1))
            self._db.execute("DELETE FROM records WHERE id <= ?", (last,))
        return True

    def _trim_runs(self) -> None:
        """Delete from the history what ended before the oldest record, but not the last run of a workflow."""
        with self._transaction():
            self._db.execute(
                "DELETE FROM runs WHERE closed = 1 AND ended < (SELECT at FROM records ORDER BY id LIMIT 1)"
                " AND run NOT IN (SELECT run FROM last_runs WHERE run IS NOT NULL)"
            )

    def _backup(self, path: Path) -> int:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(path)) as copy:
            self._db.backup(copy)
            begin_epoch(copy)  # restored, it gives numbers again that were given after the backup
        sync_file(path)
        sync_folder(path.parent)
        return path.stat().st_size


def _refusal(path: Path, exc: sqlite3.Error) -> StateError:
    hint = ""
    match getattr(exc, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            hint = "put a backup in its place, or move it away to begin anew"
        case sqlite3.SQLITE_FULL:
            hint = "make room on the disk"
    return StateError(f"cannot open {path}: {exc}", hint=hint)
