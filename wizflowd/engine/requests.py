"""What people can ask of a running engine, by the names of the control socket (SPEC section 5).

In: a request as a mapping. Out: a JSON value, when what it caused is durable. Raises RequestError.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from wizflowd import __version__
from wizflowd.core.attempt import RunId
from wizflowd.core.events import Event, rfc3339
from wizflowd.core.observations import Source, WorkflowId
from wizflowd.core.reconcile import Asked, approve_task, cancel_run, pause_run
from wizflowd.core.state import Run, State, TaskRun
from wizflowd.core.values import Json
from wizflowd.engine.archive import describe_workflow
from wizflowd.engine.loop import Engine
from wizflowd.engine.runs import Runs
from wizflowd.errors import DefinitionError, RequestError, StateError, WizflowError
from wizflowd.journal import RunRow
from wizflowd.results import describe_run

MOST_RUNS = 100_000
Operation = Callable[[Mapping[str, Any]], Awaitable[Json]]


class Requests:
    """The operations of one engine; `home` is the watched folder, `reload` takes over the configuration anew."""

    def __init__(self, engine: Engine, home: Path, reload: Callable[[], None] = lambda: None) -> None:
        self._engine = engine
        self._runs = Runs(engine)
        self._home = home
        self._reload = reload

    def operations(self) -> dict[str, Any]:
        """Return the operations by name."""
        names = "status workflows runs run plan trigger cancel pause resume approve retry backup reload drain"
        return {name: _checked(getattr(self, name)) for name in names.split()}

    async def status(self, _: Mapping[str, Any]) -> Json:
        """Return how the engine is."""
        state = self._engine.state
        return {
            "version": __version__,
            "ready": self._engine.ready,
            "workflows_dir": str(self._home),
            "state_dir": str(self._engine.journal.directory),
            "workflows": len(state.workflows),
            "runs": {"active": len(state.active), "queued": len(state.queued)},
            "running_tasks": state.running_tasks,
            "unavailable": state.unavailable or None,
            "spawner_unavailable": self._engine.launcher.shell.missing or None,
            "draining": self._engine.draining,
        }

    async def workflows(self, _: Mapping[str, Any]) -> Json:
        """Return every workflow as its `status.json` has it."""
        state = self._engine.state
        return [describe_workflow(state, known) for _, known in sorted(state.workflows.items()) if known.path]

    async def runs(self, request: Mapping[str, Any]) -> Json:
        """Return the newest runs first, at most `limit`, of one workflow or of all."""
        workflow = request.get("workflow")
        rows = await self._engine.journal.runs(WorkflowId(workflow) if workflow else None, request.get("limit") or 50)
        return [_describe_row(row) for row in rows]

    async def run(self, request: Mapping[str, Any]) -> Json:
        """Return one run as `result.json` has it, as it is now or as it ended, and the `folder` of its files.

        `present` has the attempt in progress of each task that runs.
        """
        run_id = RunId(str(request.get("run", "")))
        places = self._engine.archivist.results.places
        live = self._engine.state.runs.get(run_id)
        if live is not None:
            context = self._engine.contexts.get(run_id)
            found = describe_run(live, context.types if context else {}, live.shown, live.reason)
            present: dict[str, Json] = {
                task.id: _describe_present(task) for task in live.tasks.values() if task.status == "running"
            }
            shown_at = str(places(live.workflow).run(run_id))
            return {**found, "tasks": list(found["tasks"]), "present": present, "folder": shown_at}
        row = await self._engine.journal.run(run_id)
        if row is None:
            raise RequestError("not_found", f"cannot show {run_id!r}: there is no such run")
        folder = places(row.workflow).run(run_id)
        try:
            found = json.loads(await asyncio.to_thread((folder / "result.json").read_bytes))
        except FileNotFoundError:  # it never started, or retention removed it
            found = _describe_row(row)
        return {**found, "folder": str(folder)}

    async def plan(self, request: Mapping[str, Any]) -> Json:
        """Return what a change of the file at `path` would run, by what this daemon knows."""
        path = Path(str(request.get("path", "")))
        workflow, relative = self._watched(path)
        try:
            data = await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            raise RequestError("not_found", f"cannot read {path}: {error.strerror}") from error
        source = Source(workflow, relative, data, len(data), 0, 0, 0.0)
        plan = await self._engine.preparer.plan_change(source)
        return plan.to_json()

    async def trigger(self, request: Mapping[str, Any]) -> Json:
        """Queue a run of `workflow` with `params`; everything in it, unless `incremental`."""
        asked = Asked(
            params=dict(request.get("params") or {}),
            as_text=bool(request.get("as_text")),
            incremental=bool(request.get("incremental")),
        )
        return await self._queue(str(request.get("workflow", "")), asked)

    async def retry(self, request: Mapping[str, Any]) -> Json:
        """Queue a run that reuses what succeeded in `run`, or everything before `from_task`."""
        row = await self._engine.journal.run(RunId(str(request.get("run", ""))))
        if row is None:
            raise RequestError("not_found", f"cannot retry: there is no run {request.get('run')!r}")
        if row.ended_s is None:
            raise RequestError("busy", f"cannot retry {row.run}: it has not ended")
        return await self._queue(
            row.workflow, Asked("retry", retry_of=row.run, from_task=str(request.get("from_task") or ""))
        )

    async def cancel(self, request: Mapping[str, Any]) -> Json:
        """Cancel `run`."""
        return await self._of_run("cancel", request, lambda run: cancel_run(run, "cancelled by request"))

    async def pause(self, request: Mapping[str, Any]) -> Json:
        """Start nothing more of `run`; what runs goes on."""
        return await self._of_run("pause", request, lambda run: pause_run(run, paused=True))

    async def resume(self, request: Mapping[str, Any]) -> Json:
        """Let `run` go on."""
        return await self._of_run("resume", request, lambda run: pause_run(run, paused=False))

    async def approve(self, request: Mapping[str, Any]) -> Json:
        """Let a `task` of `run` start that waits for approval; `by` says whose."""
        task, by = str(request.get("task", "")), str(request.get("by") or "somebody")
        return await self._of_run("approve", request, lambda run: approve_task(run, task, by))

    async def _of_run(self, verb: str, request: Mapping[str, Any], events: Callable[[Run], list[Event]]) -> Json:
        run_id = RunId(str(request.get("run", "")))

        def decide(state: State) -> list[Event]:
            run = state.runs.get(run_id)
            if run is None:
                raise RequestError("not_found", f"cannot {verb} {run_id!r}: no such run is in progress")
            return events(run)

        await self._runs.decide(decide)
        return {"run": run_id}

    async def backup(self, request: Mapping[str, Any]) -> Json:
        """Write a consistent copy of the state to `path`, a new file."""
        path = Path(str(request.get("path", "")))
        if not path.is_absolute():
            raise RequestError("bad_path", f"cannot back up to {path}: name the file by its whole path")
        try:
            size = await self._engine.journal.backup(path)
        except OSError as error:
            hint = "name a new file where the daemon's user may write"
            raise RequestError("bad_path", f"cannot back up to {path}: {error.strerror}", hint=hint) from error
        except StateError as error:
            raise RequestError("failed", f"cannot back up to {path}: {error}") from error
        return {"path": str(path), "bytes": size}

    async def reload(self, _: Mapping[str, Any]) -> Json:
        """Read the configuration again."""
        try:
            self._reload()
        except WizflowError as error:
            raise RequestError("invalid", f"the configuration stays as it was: {error}") from error
        await self._runs.decide(lambda _state: [])  # from here on the new limits hold
        return {}

    async def drain(self, request: Mapping[str, Any]) -> Json:
        """Start nothing more (`off`: start again), and tell what still runs."""
        self._engine.draining = not request.get("off")
        await self._runs.decide(lambda _state: [])  # from here on nothing starts
        return {"draining": self._engine.draining, "running_tasks": self._engine.state.running_tasks}

    async def _queue(self, workflow: str, asked: Asked) -> Json:
        try:
            return {"run": await self._runs.queue(WorkflowId(workflow), asked)}
        except DefinitionError as error:  # what it names beside it is gone: a dotenv file
            raise RequestError("invalid", "; ".join(error.lines(workflow)[:3])) from error

    def _watched(self, path: Path) -> tuple[WorkflowId, str]:
        home = os.path.realpath(self._home)
        found = os.path.join(os.path.realpath(path.parent), path.name)
        if not path.is_absolute() or not found.startswith(home + os.sep):
            raise RequestError("not_watched", f"cannot plan {path}: it is not in {home}")
        relative = PurePosixPath(os.path.relpath(found, home))
        return WorkflowId(str(relative.with_suffix(""))), str(relative)


def _checked(operation: Operation) -> Operation:
    """Return an operation that is only asked with fields it can read."""

    async def ask(request: Mapping[str, Any]) -> Json:
        for name, (fits, what) in _FIELDS.items():
            if request.get(name) is not None and not fits(request[name]):
                raise RequestError("bad_request", f"cannot {request.get('op')}: {name} is to be {what}")
        return await operation({name: value for name, value in request.items() if value is not None})

    return ask


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value and _encodes(value, "strict")


def _is_path(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value and _encodes(value, "surrogateescape")


def _encodes(text: str, errors: str) -> bool:
    try:
        text.encode("utf-8", errors)
    except UnicodeEncodeError:
        return False
    return True


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("run", "workflow", "task", "from_task", "by"), (_is_text, "a text")),
    **dict.fromkeys(("incremental", "as_text", "off"), (lambda value: isinstance(value, bool), "true or false")),
    "path": (_is_path, "the path of a file"),
    "params": (lambda value: isinstance(value, dict), "an object, value by name"),
    "limit": (lambda value: type(value) is int and 0 < value <= MOST_RUNS, f"a number from 1 to {MOST_RUNS:,}"),
}
"""What a field must be, and how that is said; null is as if it were not there."""


def _describe_present(task: TaskRun) -> Json:
    return {"attempt": task.attempt, "started": rfc3339(task.started_s) if task.started_s is not None else None}


def _describe_row(row: RunRow) -> dict[str, Json]:
    return {
        "run": row.run,
        "workflow": row.workflow,
        "status": row.status,
        "reason": row.reason or None,
        "trigger": row.trigger,
        "queued": rfc3339(row.queued_s),
        "started": rfc3339(row.started_s) if row.started_s is not None else None,
        "ended": rfc3339(row.ended_s) if row.ended_s is not None else None,
        "skipped": row.skipped,
        "tolerated": row.tolerated,
    }
