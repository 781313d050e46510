"""The parts of an engine, put together from a configuration: the same for the daemon and for `wizflow run`.

Called by `daemon` and `standalone`, which differ in where observations come from and when to stop.
"""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from wizflowd.config import Config
from wizflowd.core.schedule import Capacity
from wizflowd.engine.archive import Archivist
from wizflowd.engine.children import Children
from wizflowd.engine.inbox import Inbox
from wizflowd.engine.launch import Launcher, LaunchSettings
from wizflowd.engine.loop import Engine
from wizflowd.engine.prepare import Preparer
from wizflowd.engine.recover import recover
from wizflowd.engine.runs import Runs
from wizflowd.executors.email import SmtpSettings
from wizflowd.journal import Journal
from wizflowd.results import Results
from wizflowd.retention import Retention, Shelf

BALLAST_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Where:
    """The folders of one engine. `with_parent`: its spawner ends with this process, and all tasks with it."""

    home: Path
    results: Path | None
    state: Path
    with_parent: bool = False


@asynccontextmanager
async def assembled(config: Config, where: Where) -> AsyncIterator[Engine]:
    """Give an engine that has recovered and is about to run; at the end stop its parts in order.

    Raises StateLockedError, StateError, SpawnerError, ThreadError.
    """
    journal = Journal(where.state, ballast_bytes=0 if where.with_parent else BALLAST_BYTES)
    journal.open()
    try:
        async with asyncio.TaskGroup() as background:
            engine = _engine(config, where, journal, background)
            try:
                await recover(engine, await engine.launcher.connect())
                yield engine
            finally:
                await engine.close(kill=where.with_parent or config.shutdown.tasks == "kill")
    finally:
        journal.close()


def _engine(config: Config, where: Where, journal: Journal, background: asyncio.TaskGroup) -> Engine:
    inbox = Inbox()
    results = Results(where.home, where.results, event_source())
    preparer = Preparer(journal, results, where.home, config.limits.definition.load_limits())
    settings = LaunchSettings(
        where.state,
        config.limits.log_max,
        config.shutdown.grace,
        smtp_settings(config),
        with_parent=where.with_parent,
        key_file=config.secrets.key_file,
        own_spawner=config.spawner != "unit" or where.with_parent,
    )
    engine = Engine(
        journal,
        preparer,
        Launcher(inbox, settings, background),
        Archivist(inbox, journal, results, retention_of(config), Shelf(where.results or where.home)),
        inbox,
        Capacity(config.limits.max_tasks, config.limits.max_runs, dict(config.pools)),
        background,
        run_first=config.watch.first_scan == "run",
        low_water=config.limits.disk_low_water,
        free_bytes=lambda: _free_bytes(where.state, where.results or where.home),
    )
    runs = Runs(engine)
    engine.run_due = runs.run_due
    engine.launcher.children = Children(runs, engine.launcher.ended, alone=where.with_parent)
    return engine


def _free_bytes(*folders: Path) -> int:
    """Return the room of the fullest of their disks; a folder that is gone has none to be short of."""
    free = []
    for folder in folders:
        with contextlib.suppress(OSError):
            free.append(shutil.disk_usage(folder).free)
    return min(free, default=0)


def retention_of(config: Config) -> Retention:
    """Return what a configuration keeps of finished runs."""
    return Retention(config.retention.runs, config.retention.days, config.retention.bytes)


def event_source() -> str:
    """Return how events name this host."""
    return f"/wizflowd/{socket.gethostname()}"


def smtp_settings(config: Config) -> SmtpSettings | None:
    """Return the mail server of a configuration."""
    smtp = config.smtp
    if smtp is None:
        return None
    password = smtp.password.get_secret_value() if smtp.password is not None else ""
    return SmtpSettings(smtp.host, smtp.port, smtp.tls, smtp.username or "", password, smtp.sender or "")


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error in a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
