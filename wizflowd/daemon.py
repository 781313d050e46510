"""The daemon: an engine, the watcher of its folder and its sockets, from start to clean stop.

In: a configuration. Out: an exit status (SPEC section 7). Called by the program `wizflowd`.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import fields, is_dataclass

from wizflowd import __version__
from wizflowd.assembly import Where, assembled, event_source, first_error, retention_of, smtp_settings
from wizflowd.config import Config
from wizflowd.control import ControlServer
from wizflowd.core.attempt import RunId, TaskId
from wizflowd.core.events import DaemonStarted, DaemonStopping
from wizflowd.core.observations import FolderObservation, ScanDone, WorkflowId
from wizflowd.core.schedule import Capacity
from wizflowd.engine.archive import state_of_workflow
from wizflowd.engine.inbox import Facts
from wizflowd.engine.loop import Engine
from wizflowd.engine.requests import Requests
from wizflowd.errors import ConfigError, StateLockedError, WizflowError
from wizflowd.files import make_folders
from wizflowd.logs import LogSink
from wizflowd.metrics import Monitor, Subject
from wizflowd.plugins import load_plugins
from wizflowd.process import keep_loop_quick, keep_memory_private, keep_memory_small
from wizflowd.service import Service, status_text, take_sockets
from wizflowd.stream import Stream
from wizflowd.threads import Loop
from wizflowd.watcher import Known, Watcher, WatchSettings

log = logging.getLogger(__name__)
EXIT_CLEAN, EXIT_FAILED, EXIT_LOCKED = 0, 1, 3
_TAKEN_OVER = (  # by _apply_config and Monitor.change_settings
    *("pools", "limits.max_tasks", "limits.max_runs", "limits.disk_low_water"),
    *("retention.", "smtp", "metrics.web_config"),
)


def serve(config: Config, reload: Callable[[], Config]) -> int:
    """Run until SIGTERM or SIGINT and return the exit status; `reload` reads the configuration again on SIGHUP."""
    keep_memory_private()
    keep_memory_small()
    keep_loop_quick()
    where = Where(config.workflows_dir, config.results_dir, config.state_dir)
    status = EXIT_CLEAN
    for kind, why in load_plugins().items():
        log.warning("cannot use a kind of tasks", extra={"kind": kind, "error": why})
    try:
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(_live(config, where, reload))
    except* StateLockedError as group:
        log.error("%s", first_error(group))
        status = EXIT_LOCKED
    except* WizflowError as group:
        log.error("%s", first_error(group))
        status = EXIT_FAILED
    return status


async def _live(config: Config, where: Where, reload: Callable[[], Config]) -> None:
    async with assembled(config, where) as engine:
        await _run(engine, config, reload)


async def _run(engine: Engine, config: Config, reload: Callable[[], Config]) -> None:
    service, handed_down = Service(os.environ), take_sockets(os.environ)
    if not engine.state.seen_once and not config.workflows_dir.exists():
        await asyncio.to_thread(make_folders, config.workflows_dir)
    stream = Stream(engine.journal, event_source(), config.limits.stream_clients, config.events_group)
    stream.on_listeners = lambda wanted: engine.launcher.shell.listen(stream.told_output if wanted else None)
    stream.workflow_of = lambda run: engine.state.runs[RunId(run)].workflow if run in engine.state.runs else ""
    engine.sinks += [LogSink(), stream]
    monitor = _monitor(engine, config, stream)
    engine.inbox.put(Facts((DaemonStarted(__version__),)))
    watcher = Watcher(config.workflows_dir, _watch_settings(config), _teller(engine, monitor), _known(engine))
    engine.watch(watcher)

    def apply_config() -> None:
        changed = reload()
        if monitor is not None:
            monitor.change_settings(changed.metrics)
        _apply_config(engine, changed)
        waiting = _needing_restart(config, changed)
        if waiting:
            log.warning("some changed settings take a restart", extra={"settings": ", ".join(waiting)})

    operations = Requests(engine, config.workflows_dir, apply_config).operations()
    control = ControlServer(config.control_socket, operations, config.control_group)
    try:
        await stream.open(config.events_socket, handed_down.get("events"))
        await control.open(handed_down.get("control"))
        _on_signals(engine, apply_config, service)
        engine.turned.append(lambda: _tell(service, engine))
        engine.in_background(service.keep_turning(engine.inbox.wake))
        engine.in_background(watcher.run())
        if monitor is not None:
            engine.in_background(monitor.run())
        engine.in_background(engine.archivist.keep_statuses(engine.state))
        await engine.run()
        service.stopping()
        engine.inbox.put(Facts((DaemonStopping("asked to stop"),)))
        await engine.close(kill=config.shutdown.tasks == "kill")
    finally:
        await control.close()
        await stream.close()


def _watch_settings(config: Config) -> WatchSettings:
    return WatchSettings(
        config.watch.backend,
        config.watch.settle,
        config.watch.rescan,
        config.limits.definition.bytes,
        config.strict_modes,
        config.owners,
    )


def _known(engine: Engine) -> dict[WorkflowId, Known]:
    """Return what was told of each file in an earlier life; what was refused is looked at again."""
    return {
        workflow.id: Known(workflow.path, -1, 0, 0, "" if workflow.problems else workflow.stamp)
        for workflow in engine.state.workflows.values()
        if workflow.path
    }


def _monitor(engine: Engine, config: Config, stream: Stream) -> Monitor | None:
    """Return what serves the metrics and has begun to count, or None where nobody wants any."""
    if config.metrics.listen is None:
        return None

    def type_of(run: RunId, task: TaskId) -> str:
        context = engine.contexts.get(run)
        whole = TaskId(task.partition("[")[0])  # what an instance is of
        spec = context.tasks.get(whole) if context is not None else None
        return spec.type if spec is not None else "unknown"

    places = (config.workflows_dir, config.state_dir, config.results_dir)
    folders = tuple(place for place in places if place is not None)
    monitor = Monitor(
        config.metrics,
        Subject(engine.state, type_of, state_of_workflow, stream, lambda: engine.unready, folders),
    )
    monitor.open()
    engine.sinks.append(monitor.tally)
    engine.committed = monitor.tally.committed
    return monitor


def _teller(engine: Engine, monitor: Monitor | None) -> Callable[[FolderObservation], Awaitable[None]]:
    async def tell(observation: FolderObservation) -> None:
        if monitor is not None and isinstance(observation, ScanDone):
            monitor.tally.scanned(observation, time.time())
        engine.inbox.put(observation)
        await engine.room_to_read()

    return tell


def _tell(service: Service, engine: Engine) -> None:
    service.turned(status_text(engine.state), ready=engine.ready or bool(engine.state.unavailable))


def _on_signals(engine: Engine, apply_config: Callable[[], None], service: Service) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, engine.stop)
    loop.add_signal_handler(signal.SIGHUP, _reload, apply_config, service)


def _reload(apply_config: Callable[[], None], service: Service) -> None:
    service.reloading()
    try:
        apply_config()
    except ConfigError as error:
        log.error("the configuration stays as it was: %s", error)
    finally:
        service.reloaded()


def _apply_config(engine: Engine, config: Config) -> None:
    """Take over what may change while running."""
    engine.capacity = Capacity(config.limits.max_tasks, config.limits.max_runs, dict(config.pools))
    engine.low_water = config.limits.disk_low_water
    engine.archivist.retention = retention_of(config)
    engine.launcher.email.settings = smtp_settings(config)
    engine.inbox.wake()
    log.info("configuration reloaded")


def _needing_restart(running: Config, changed: Config) -> list[str]:
    """Return the names of changed settings that are not taken over while running."""
    before, after = _by_name(running), _by_name(changed)
    return [name for name in before if before[name] != after.get(name) and not name.startswith(_TAKEN_OVER)]


def _by_name(config: Config) -> dict[str, object]:
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    for section, value in list(values.items()):
        if is_dataclass(value):
            values |= {f"{section}.{field.name}": getattr(value, field.name) for field in fields(value)}
            del values[section]
    return values
