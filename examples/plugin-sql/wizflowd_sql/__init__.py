"""Tasks of type SQL: one statement for an SQLite database; its rows are the result."""

import asyncio
import sqlite3
from pathlib import Path
from threading import Event

from pydantic.dataclasses import dataclass

from wizflowd.plugins import MODEL, AnyJson, FilledLine, Flag, Json, KindCall, KindError, PluginTask, Text

MAX_ROWS = 10_000
STEPS_BETWEEN_LOOKS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class SqlTask(PluginTask):
    """A statement for an SQLite database."""

    database: FilledLine
    """The file; relative to the workspace, or absolute."""
    query: Text
    """One statement, with a ? where a value of `parameters` belongs."""
    parameters: tuple[AnyJson, ...] = ()
    """Values of the statement: numbers and texts, in order."""
    write: Flag = False
    """Let the statement change the database, and make it if there is none."""

    @property
    def reusable(self) -> bool:
        return self.write  # what was written is written; what was read may have changed since

    @property
    def repeatable(self) -> bool:
        return not self.write


class Sql:
    """The kind of tasks that stands behind the entry point."""

    task = SqlTask

    async def perform(self, call: KindCall[SqlTask]) -> Json:
        """Return the rows as a list of objects."""
        cancelled = Event()
        work = asyncio.ensure_future(asyncio.to_thread(_rows, call.task, call.workspace, cancelled))
        try:
            rows = await asyncio.shield(work)
        finally:  # when this is cancelled, the statement ends before it
            cancelled.set()
            await asyncio.gather(work, return_exceptions=True)
        call.log(f"{len(rows)} rows")
        return rows


def _rows(task: SqlTask, workspace: Path, cancelled: Event) -> list[Json]:
    file = workspace / task.database
    try:
        connection = sqlite3.connect(f"{file.as_uri()}?mode={'rwc' if task.write else 'ro'}", uri=True)
        connection.set_progress_handler(cancelled.is_set, STEPS_BETWEEN_LOOKS)
        try:
            with connection:
                cursor = connection.execute(task.query, task.parameters)
                rows = cursor.fetchmany(MAX_ROWS + 1)
        finally:
            connection.close()
    except (sqlite3.Error, OverflowError) as error:
        locked = getattr(error, "sqlite_errorname", "") == "SQLITE_BUSY"
        raise KindError(f"cannot query {file}: {error}", retryable=locked) from error
    if len(rows) > MAX_ROWS:
        raise KindError(f"more than {MAX_ROWS:,} rows", hint="end the query with LIMIT", retryable=False)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, map(_plain, row), strict=True)) for row in rows]


def _plain(value: Json | bytes) -> Json:
    return value.hex() if isinstance(value, bytes) else value
