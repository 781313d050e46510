"""What the engine, the stream and people ask of the journal's tables. Blocks; called in the journal's thread."""

import sqlite3
import sys
from typing import Any

from wizflowd.core.attempt import RunId, TaskId
from wizflowd.core.events import Record, from_json
from wizflowd.core.observations import WorkflowId
from wizflowd.core.plan import Success
from wizflowd.core.values import decode_json
from wizflowd.errors import StateError
from wizflowd.journal.rows import Due, Past, Recovered, RunRow, ScheduleRow, WorkflowRow
from wizflowd.journal.tables import meta

# run <> '': without it SQLite does not see that the partial index holds the rows, and reads all records
RECORDS_OF_RUN = "SELECT id, sequence, at, kind, data FROM records WHERE run = ? AND run <> '' ORDER BY id"
SINCE = "SELECT id, sequence, at, kind, data FROM records WHERE sequence > ? ORDER BY sequence LIMIT ?"
_WORKFLOWS = (
    "SELECT w.*, r.run, r.status, r.ended, coalesce(r.skipped, 0), coalesce(r.tolerated, 0),"
    " (SELECT max(s.ended) FROM runs s WHERE s.workflow = w.workflow AND s.status = 'succeeded') FROM workflows w"
    " JOIN last_runs l ON l.workflow = w.workflow LEFT JOIN runs r ON r.run = l.run"
)


def recover(db: sqlite3.Connection) -> Recovered:
    """Return what is needed to rebuild the state."""
    workflows = tuple(_workflow_row(row) for row in db.execute(_WORKFLOWS))
    runs = tuple(_run_row(row) for row in db.execute("SELECT * FROM runs WHERE closed = 0 ORDER BY number"))
    records: list[Record] = []
    for row in runs:
        records += records_of(db, row.run)
    records.sort(key=lambda record: record.id)
    schedules = tuple(
        ScheduleRow(workflow, tuple((*row,) for row in decode_json(schedule)), passed_s)
        for workflow, schedule, passed_s in db.execute("SELECT * FROM schedules")
    )
    seen_once = bool(meta(db, "seen_once"))
    return Recovered(workflows, runs, tuple(records), schedules, meta(db, "spawner"), seen_once)


def records_of(db: sqlite3.Connection, run: RunId) -> list[Record]:
    """Return every record of a run, in order."""
    return [_record(row) for row in db.execute(RECORDS_OF_RUN, (run,))]


def since(db: sqlite3.Connection, sequence: int, limit: int) -> list[Record]:
    """Return the public records that follow a sequence, at most so many."""
    return [_record(row) for row in db.execute(SINCE, (sequence, limit))]


def definition(db: sqlite3.Connection, stamp: str) -> bytes:
    """Return the bytes of a definition by its hash. Raises StateError."""
    row = db.execute("SELECT data FROM definitions WHERE stamp = ?", (stamp,)).fetchone()
    if row is None:
        raise StateError(f"cannot find the definition {stamp[:12]}")
    data: bytes = row[0]
    return data


def past(db: sqlite3.Connection, workflow: WorkflowId) -> Past:
    """Return what a plan for a workflow goes by."""
    successes: dict[TaskId, Success] = {}
    unsuccessful: set[TaskId] = set()
    query = "SELECT task, run, key, parts, outputs, files FROM successes WHERE workflow = ?"
    for task, run, key, *rest in db.execute(query, (workflow,)):
        if key:
            successes[TaskId(task)] = Success(RunId(run), key, *(decode_json(text) for text in rest))
        else:
            unsuccessful.add(TaskId(task))
    return Past(successes, unsuccessful, mails(db, workflow))


def due(db: sqlite3.Connection, wanted: RunId, workflow: WorkflowId, stamp: str) -> Due:
    """Return what a run that is to start begins with. Raises StateError, also for a run that is not recorded."""
    records = records_of(db, wanted)
    if not records:
        raise StateError(f"cannot find the run {wanted}")
    return Due(past(db, workflow), definition(db, stamp), records)


def mails(db: sqlite3.Connection, workflow: WorkflowId) -> dict[TaskId, str]:
    """Return the digest of the message last sent by each task of a workflow."""
    return dict(db.execute("SELECT task, mail FROM mails WHERE workflow = ?", (workflow,)).fetchall())


def run(db: sqlite3.Connection, wanted: RunId) -> RunRow | None:
    """Return a run of the history."""
    row = db.execute("SELECT * FROM runs WHERE run = ?", (wanted,)).fetchone()
    return None if row is None else _run_row(row)


def child(db: sqlite3.Connection, parent: str) -> RunRow | None:
    """Return the run that an attempt started."""
    row = db.execute("SELECT * FROM runs WHERE parent = ? AND parent <> '' ORDER BY number DESC", (parent,)).fetchone()
    return None if row is None else _run_row(row)


def runs(db: sqlite3.Connection, workflow: WorkflowId | None, limit: int) -> list[RunRow]:
    """Return the newest runs first, of one workflow or of all."""
    query = "SELECT * FROM runs WHERE ?1 IS NULL OR workflow = ?1 ORDER BY number DESC LIMIT ?2"
    return [_run_row(row) for row in db.execute(query, (workflow, limit))]


def oldest_sequence(db: sqlite3.Connection) -> int | None:
    """Return the first sequence that is kept."""
    found: int | None = db.execute("SELECT min(sequence) FROM records WHERE sequence IS NOT NULL").fetchone()[0]
    return found


def last_numbers(db: sqlite3.Connection) -> tuple[int, int]:
    """Return the last id and the last sequence that were ever given."""
    newest_id = db.execute("SELECT max(id) FROM records").fetchone()[0] or 0
    newest_sequence = db.execute("SELECT max(sequence) FROM records WHERE sequence IS NOT NULL").fetchone()[0] or 0
    return max(int(meta(db, "last_id") or 0), newest_id), max(int(meta(db, "last_sequence") or 0), newest_sequence)


def _record(row: tuple[Any, ...]) -> Record:
    number, sequence, at_s, kind, data = row
    try:
        return Record(number, sequence, at_s, from_json(kind, data))
    except (KeyError, TypeError, ValueError) as exc:
        raise StateError(
            f"cannot read record {number} ({kind}) of the state: {exc!r}",
            hint="it is damaged, or a newer wizflowd wrote it",
        ) from exc


def _workflow_row(row: tuple[Any, ...]) -> WorkflowRow:
    workflow, path, stamp, digest, companions, good_stamp, problems, note, sources, dotenv, run, status, *last = row
    hashes = (stamp, digest, companions, stamp if good_stamp == stamp else good_stamp)  # one object of two
    ended: list[Any] = [run, status and sys.intern(status), *last]  # and one status for all workflows
    return WorkflowRow(workflow, path, *hashes, _tuple(problems), note, _tuple(sources), _tuple(dotenv), *ended)


def _tuple(text: str) -> tuple[str, ...]:
    return tuple(decode_json(text))


def _run_row(row: tuple[Any, ...]) -> RunRow:
    return RunRow(*row)
