"""The tables of the journal's file, and how they follow from the events. Called by the journal, within a transaction.

`records` (every event), `definitions` (bytes by hash), `runs` (one line of history each), `workflows` (what was last
acted upon), `successes` and `mails` (for reuse), `schedules` (and what has passed of
them), `meta`.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wizflowd.core.attempt import RunId
from wizflowd.core.events import (
    DefinitionAccepted,
    DefinitionRejected,
    Event,
    FirstScanEnded,
    Record,
    RunArchived,
    RunQueued,
    RunStarted,
    SchedulePassed,
    SpawnerJoined,
    TaskReused,
    TaskStarted,
    TaskSucceeded,
    WorkflowRemoved,
)
from wizflowd.core.values import encode_json
from wizflowd.errors import StateError

_FORMAT = 1
_ROWS_AT_ONCE = 100
_KEEP_SUCCESSES = "INSERT OR REPLACE INTO successes"
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE records (
    id INTEGER PRIMARY KEY, sequence INTEGER, at REAL NOT NULL, run TEXT NOT NULL, kind TEXT NOT NULL,
    data TEXT NOT NULL
);
CREATE INDEX records_by_run ON records (run) WHERE run <> '';
CREATE UNIQUE INDEX records_by_sequence ON records (sequence) WHERE sequence IS NOT NULL;
CREATE TABLE definitions (stamp TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
    run TEXT NOT NULL UNIQUE, workflow TEXT NOT NULL, path TEXT NOT NULL, stamp TEXT NOT NULL, digest TEXT NOT NULL,
    trigger TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', queued REAL NOT NULL,
    started REAL, ended REAL, closed INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0,
    tolerated INTEGER NOT NULL DEFAULT 0, parent TEXT NOT NULL DEFAULT '',
    number INTEGER PRIMARY KEY -- their order: the clock may have been set back between two
);
CREATE INDEX runs_by_parent ON runs (parent) WHERE parent <> '';
CREATE TABLE schedules (workflow TEXT PRIMARY KEY, schedule TEXT NOT NULL, passed REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX runs_by_workflow ON runs (workflow, number);
CREATE INDEX runs_open ON runs (stamp) WHERE closed = 0;
CREATE TABLE workflows (
    workflow TEXT PRIMARY KEY, path TEXT NOT NULL, stamp TEXT NOT NULL, digest TEXT NOT NULL, companions TEXT NOT NULL,
    good_stamp TEXT NOT NULL, problems TEXT NOT NULL, note TEXT NOT NULL, sources TEXT NOT NULL, dotenv TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX workflows_by_stamp ON workflows (good_stamp);
CREATE TABLE successes (
    workflow TEXT NOT NULL, task TEXT NOT NULL, run TEXT NOT NULL, key TEXT NOT NULL, parts TEXT NOT NULL,
    outputs TEXT NOT NULL, files TEXT NOT NULL, PRIMARY KEY (workflow, task)
) WITHOUT ROWID;
CREATE TABLE mails (
    workflow TEXT NOT NULL, task TEXT NOT NULL, mail TEXT NOT NULL, PRIMARY KEY (workflow, task)
) WITHOUT ROWID;
CREATE VIEW last_runs AS SELECT workflow, (
    SELECT run FROM runs x WHERE x.workflow = w.workflow AND x.ended IS NOT NULL AND x.started IS NOT NULL
    ORDER BY x.number DESC LIMIT 1
) AS run FROM workflows w;
INSERT INTO meta VALUES ('epoch', lower(hex(randomblob(8))));
PRAGMA user_version=1;
COMMIT;
"""


def open_tables(path: Path) -> sqlite3.Connection:
    """Open the file, or make it. Raises StateError for one of another format, sqlite3.Error."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, _FORMAT):
            raise StateError(
                f"cannot use {path}: it has format {found}, this wizflowd knows {_FORMAT}",
                hint="start the wizflowd that wrote it, or use another state folder",
            )
        if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":  # it tells no reason
            raise StateError(f"cannot use {path}: its write-ahead log cannot be made", hint="look at the disk")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA journal_size_limit=16777216")
        db.execute("PRAGMA cache_size=-1024")  # in KiB; what is written is seldom read again
        db.execute("PRAGMA temp_store=MEMORY")  # else a large statement leaves a file open in /var/tmp
        if found == 0:
            db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def meta(db: sqlite3.Connection, name: str) -> str:
    """Return a value that is kept by name; empty when there is none."""
    row = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row else ""


def begin_epoch(db: sqlite3.Connection) -> None:
    """Tell readers of the event stream that the numbers of events begin anew."""
    with db:
        db.execute("UPDATE meta SET value = lower(hex(randomblob(8))) WHERE name = 'epoch'")


def set_meta(db: sqlite3.Connection, name: str, value: str) -> None:
    """Keep a value by name."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def insert_rows(db: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Write rows with few statements: after each one the interpreter's lock has to be had again, and others want it."""
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[first : first + _ROWS_AT_ONCE]
        row = f"({', '.join('?' * len(some[0]))})"
        db.execute(f"{into} VALUES {', '.join([row] * len(some))}", [value for each in some for value in each])


def project(db: sqlite3.Connection, records: Iterable[Record]) -> None:
    """Keep the tables that are read by name in step with the records."""
    successes: dict[tuple[str, str], tuple[object, ...]] = {}  # only the last of a task counts
    for record in records:
        event = record.event
        match event:
            case TaskStarted():  # withdrawn, until it succeeds again
                successes[event.workflow, event.task] = (*_place(event), "", "", "", "")
            case TaskReused() if event.parts:
                successes[event.workflow, event.task] = _success(event, {})
            case TaskSucceeded():
                successes[event.workflow, event.task] = _success(event, event.files)
                if event.mail:
                    mail = (event.workflow, event.task, event.mail)
                    db.execute("INSERT OR REPLACE INTO mails VALUES (?, ?, ?)", mail)
            case _:
                insert_rows(db, _KEEP_SUCCESSES, [*successes.values()])
                successes.clear()
                _project_one(db, event, record.at_s)
    insert_rows(db, _KEEP_SUCCESSES, [*successes.values()])


def _project_one(db: sqlite3.Connection, event: Event, at_s: float) -> None:
    execute = db.execute
    match event:
        case RunQueued():
            execute(
                "INSERT INTO runs (run, workflow, path, stamp, digest, trigger, status, queued, parent)"
                " VALUES (?, ?, ?, ?, ?, ?, 'queued', ?, ?)",
                (event.run, event.workflow, event.path, event.stamp, event.digest, event.trigger, at_s, event.parent),
            )
        case RunStarted():
            execute("UPDATE runs SET status = 'running', started = ? WHERE run = ?", (at_s, event.run))
        case RunArchived():
            execute(
                "UPDATE runs SET status = ?, reason = ?, ended = ?, skipped = ?, tolerated = ? WHERE run = ?",
                (event.status, event.reason, at_s, len(event.skipped), len(event.tolerated), event.run),
            )
        case DefinitionAccepted():
            before = execute("SELECT good_stamp FROM workflows WHERE workflow = ?", (event.workflow,)).fetchone()
            hashes = (event.stamp, event.digest, event.companions, event.stamp)
            lists = (json.dumps(event.sources), json.dumps(event.dotenv))
            execute(
                "INSERT OR REPLACE INTO workflows VALUES (?, ?, ?, ?, ?, ?, '[]', ?, ?, ?)",
                (event.workflow, event.path, *hashes, event.note, *lists),
            )
            _keep_schedule(db, event, at_s)
            if before is not None and before[0] != event.stamp:
                _drop_definition(db, before[0])
        case SchedulePassed():
            execute("UPDATE schedules SET passed = ? WHERE workflow = ?", (event.until_s, event.workflow))
        case DefinitionRejected():
            problems = json.dumps(event.problems)
            execute(
                "INSERT INTO workflows VALUES (?, ?, ?, '', '', '', ?, '', '[]', '[]') ON CONFLICT (workflow)"
                " DO UPDATE SET path = CASE good_stamp WHEN '' THEN excluded.path ELSE path END,"
                " stamp = excluded.stamp, problems = excluded.problems",
                (event.workflow, event.path, event.stamp, problems),
            )
        case WorkflowRemoved():
            before = execute("SELECT good_stamp FROM workflows WHERE workflow = ?", (event.workflow,)).fetchone()
            execute("DELETE FROM workflows WHERE workflow = ?", (event.workflow,))
            if before is not None:
                _drop_definition(db, before[0])
            execute("DELETE FROM successes WHERE workflow = ?", (event.workflow,))
            execute("DELETE FROM mails WHERE workflow = ?", (event.workflow,))
            execute("DELETE FROM schedules WHERE workflow = ?", (event.workflow,))
        case SpawnerJoined():
            if event.spawner != meta(db, "spawner"):
                _withdraw_doubtful(db)
            set_meta(db, "spawner", event.spawner)
        case FirstScanEnded():
            set_meta(db, "seen_once", "1")
        case _:
            pass


def _withdraw_doubtful(db: sqlite3.Connection) -> None:
    """Forget earlier successes of what runs: another attempt of it may have begun and left no record (a power cut)."""
    db.execute(
        "DELETE FROM successes WHERE workflow IN (SELECT workflow FROM runs WHERE closed = 0 AND started IS NOT NULL)"
        " AND run NOT IN (SELECT run FROM runs WHERE closed = 0)"
    )


def _keep_schedule(db: sqlite3.Connection, event: DefinitionAccepted, at_s: float) -> None:
    """Keep a schedule, from now on; one that stays as it was keeps what has passed of it."""
    schedule = json.dumps(event.schedule)
    db.execute("DELETE FROM schedules WHERE workflow = ? AND schedule <> ?", (event.workflow, schedule))
    if event.schedule:
        db.execute("INSERT OR IGNORE INTO schedules VALUES (?, ?, ?)", (event.workflow, schedule, at_s))


def _place(event: TaskStarted | TaskSucceeded | TaskReused) -> tuple[str, str, str]:
    return event.workflow, event.task, event.run


def _success(event: TaskSucceeded | TaskReused, files: Mapping[str, str]) -> tuple[object, ...]:
    return (*_place(event), event.key, *(encode_json(value).decode() for value in (event.parts, event.outputs, files)))


def close_run(db: sqlite3.Connection, run: RunId) -> None:
    """Note that everything of a run is on the disk; its definition goes when nothing else needs it."""
    db.execute("UPDATE runs SET closed = 1 WHERE run = ?", (run,))
    for (stamp,) in db.execute("SELECT stamp FROM runs WHERE run = ?", (run,)).fetchall():
        _drop_definition(db, stamp)


def _drop_definition(db: sqlite3.Connection, stamp: str) -> None:
    """Drop a definition that neither a workflow nor an open run needs."""
    db.execute(
        "DELETE FROM definitions WHERE stamp = ?1"
        " AND NOT EXISTS (SELECT 1 FROM workflows WHERE good_stamp = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM runs WHERE closed = 0 AND stamp = ?1)",
        (stamp,),
    )
