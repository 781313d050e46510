"""Everything under `*.runs/` (SPEC section 3): what ran, its plan, result, events and picture, status and error.

In: immutable snapshots made by the engine from its state. Out: files, atomic and durable. All functions block, or
return steps that do, and are called in threads; different workflows may be written at the same time. Raises OSError
when the disk refuses.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wizflowd.core.attempt import RunId
from wizflowd.core.events import Record, rfc3339
from wizflowd.core.observations import WorkflowId
from wizflowd.core.state import Ended, Run, TaskRun
from wizflowd.core.values import Json
from wizflowd.errors import printable
from wizflowd.files import (
    TEMPORARY,
    Steps,
    add_folders,
    make_folders,
    replace_files,
    side_by_side,
    sync_files,
    sync_folder,
    sync_folders,
    write_files,
)

_encode = json.JSONEncoder(ensure_ascii=False).encode
EVENTS_BUFFER = 256 * 1024


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files of one workflow are. `folder` is its `*.runs`, `home` the folder of its definition.

    `within` is never made: while it is missing, nothing is written.
    """

    folder: Path
    home: Path
    within: Path | None = None

    @classmethod
    def beside(cls, definition: Path) -> "Places":
        """Return the places of a definition whose results lie beside it."""
        return cls(definition.with_name(f"{definition.stem}.runs"), definition.parent)

    @property
    def state(self) -> Path:
        """What is not for people: the lock of the workflow's runs, and what `wizflow run` knows of it."""
        return self.folder / ".state"

    def run(self, run: RunId) -> Path:
        return self.folder / run

    def log(self, run: RunId, label: str, number: int) -> str:
        """Return the log of an attempt: `RUN/logs/TASK.N.log`, of an instance `RUN/logs/TASK.INDEX.N.log`."""
        return f"{self.folder}/{run}/logs/{label}.{number}.log"

    def workspace(self, run: RunId, *, own: bool) -> Path:
        """Return where tasks work: one folder for all runs of the workflow, or (policy `allow`) one of the run."""
        return self.run(run) / "workspace" if own else self.folder / "workspace"


class Results:
    """Writes below the watched folder, or below `results_dir` in the same shape; `source` names the host in events."""

    def __init__(self, workflows_dir: Path, results_dir: Path | None, source: str) -> None:
        self._home = workflows_dir
        self._base = results_dir or workflows_dir
        self._within = None if results_dir else workflows_dir  # an unmounted folder is not made anew
        self._source = source

    def places(self, workflow: WorkflowId) -> Places:
        """Return where the files of a workflow are."""
        relative = PurePosixPath(workflow)
        return Places(self._base / f"{relative}.runs", self._home / relative.parent, self._within)

    def begin(
        self,
        folder: Path,
        workspace: Path,
        definition: tuple[str, bytes],
        plan: Mapping[str, Json],
        changed: Iterable[Path] = (),
    ) -> Steps[None]:
        """Make the folder of a run with its definition (file name and bytes), plan, logs and workspace.

        `changed` are folders that are to be durable with it.
        """
        name, data = definition
        every = {*changed, *add_folders(folder / "logs", within=self._within), *add_folders(workspace)} - {folder}
        contents = {f"definition{PurePosixPath(name).suffix.lower()}": [data], "plan.json": _json(plan)}
        try:
            yield from write_files(folder, contents)
        except OSError:
            sync_folders(every)  # the next try will find them made
            raise
        sync_folders(every)

    def end(self, places: Places, run: RunId, result: Mapping[str, Any], pages: Mapping[str, str]) -> Steps[None]:
        """Write `result.json` of a run and the pages for people (text by file name); let `latest` point to it."""
        folder = places.run(run)
        make_folders(folder, within=self._within)
        contents = {name: [page.encode("utf-8", "backslashreplace")] for name, page in pages.items()}
        yield from side_by_side(
            _keep_logs(folder / "logs"), write_files(folder, {"result.json": _json(result), **contents})
        )
        yield from write_files(places.folder, {}, links={"latest": run})

    def events_file(self, places: Places, run: RunId) -> "EventsFile":
        """Return the run's part of the event stream, for records to be added."""
        make_folders(places.run(run), within=self._within)
        remove_temporaries(places.run(run))
        return EventsFile(places.run(run), self._source)

    def status(self, places: Places, status: Mapping[str, Json]) -> Steps[None]:
        """Let the status stand in `status.json`."""
        yield from self._keep(places, "status.json", b"".join(_json(status)))

    def error(self, places: Places, problems: Sequence[str]) -> Steps[None]:
        """Let the problems stand in `error.txt`, or take it away when there are none."""
        if problems:
            text = "".join(f"{printable(problem)}\n" for problem in problems)
            yield from self._keep(places, "error.txt", text.encode("utf-8", "backslashreplace"))
        else:
            _take_away(places.folder, "error.txt")

    def _keep(self, places: Places, name: str, data: bytes) -> Steps[None]:
        """Write a file unless it says so already: after a start all of them are looked at, and few have changed.

        For that reason it need not outlast a power cut: it is the old one then or the new one.
        """
        path = places.folder / name
        if not path.is_file() or path.read_bytes() != data:
            make_folders(places.folder, within=self._within)
            yield from replace_files(places.folder, {name: [data]})
        else:
            (places.folder / f"{TEMPORARY}{name}").unlink(missing_ok=True)

    def forget(self, places: Places) -> Steps[None]:
        """Take away what was said of a workflow that is no more; its results stay."""
        _take_away(places.folder, "status.json", "error.txt")
        yield from ()


def _take_away(folder: Path, *names: str) -> None:
    """Remove files, and what a kill left of them half-written."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
        (folder / f"{TEMPORARY}{name}").unlink(missing_ok=True)


def _keep_logs(folder: Path) -> Steps[None]:
    """Make the logs of a run durable."""
    found = [*folder.iterdir()] if folder.is_dir() else []
    if found:
        yield from sync_files(found)
        yield
        sync_folder(folder)


def remove_temporaries(folder: Path) -> None:
    """Remove what a kill left half-written directly in a folder."""
    if folder.is_dir():
        for entry in os.scandir(folder):
            if entry.name.startswith(TEMPORARY):
                Path(entry.path).unlink(missing_ok=True)


def _json(value: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield a JSON object to be read by people too: a line for each member, and for each object of a list.

    Not `indent`, which has the whole text made by the encoder in Python: half a second for 10,000 tasks.
    """
    between = "{\n"
    for name, member in value.items():
        yield f"{between} {_encode(name)}: ".encode("utf-8", "backslashreplace")
        yield from _lines(member)
        between = ",\n"
    yield b"\n}\n" if value else b"{}\n"


def _lines(value: Any) -> Iterator[bytes]:
    if not isinstance(value, TaskLines) and not (isinstance(value, list) and value and isinstance(value[0], Mapping)):
        yield _encode(value).encode("utf-8", "backslashreplace")
        return
    between = "[\n  "
    for each in value:
        yield f"{between}{_encode(each)}".encode("utf-8", "backslashreplace")
        between = ",\n  "
    yield b"\n ]" if len(value) else b"[]"


def _time(at_s: float | None) -> str | None:
    return None if at_s is None else rfc3339(at_s)


class TaskLines:
    """The tasks of a run as `result.json` has them, each made when it is looked at: all at once take 2 KB a task."""

    def __init__(self, tasks: Sequence[TaskRun], types: Mapping[str, str]) -> None:
        self._tasks = tasks
        self._types = types

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[dict[str, Json]]:
        for task in self._tasks:
            yield _describe_task(task, self._types.get(task.group or task.id, ""))


def describe_run(run: Run, types: Mapping[str, str], status: str, reason: str) -> dict[str, Any]:
    """Return `result.json` of a run, with `TaskLines`; `types` maps its tasks to their types."""
    tasks = sorted(run.tasks.values(), key=lambda task: (task.position, task.index if task.group else -1))
    leaves = [task for task in tasks if task.id not in run.dependents and task.group is None]
    duration_s = None if run.ended_s is None else round(run.ended_s - (run.started_s or run.ended_s), 6)
    return {
        "run": run.id,
        "workflow": run.workflow,
        "status": status,
        "reason": reason,
        "trigger": run.trigger,
        "digest": run.digest,
        "retry_of": run.retry_of or None,
        "parent": run.parent or None,
        "scheduled_for": _time(run.scheduled_s or None),
        "params": {**run.params},
        "started": _time(run.started_s),
        "ended": _time(run.ended_s),
        "duration_s": duration_s,
        "skipped": [task.id for task in tasks if task.status == "skipped"],
        "tolerated": [task.id for task in tasks if task.tolerated],
        "outputs": {task.id: {**task.outputs} for task in leaves if task.outputs},
        "tasks": TaskLines(tasks, types),
    }


def _describe_task(task: TaskRun, kind: str) -> dict[str, Json]:
    return {
        "id": task.id,
        "type": kind,
        "status": task.status,
        "reused": task.reused,
        "reason": task.message or task.reason,
        "reused_from": task.reused_from or None,
        "approved_by": task.approved_by or None,
        "outputs": {**task.outputs},
        "instances": None if task.instances is None else [*task.instances],
        "attempts": [_describe_attempt(ended) for ended in task.attempts],
    }


def _describe_attempt(ended: Ended) -> dict[str, Json]:
    facts = ended.facts
    return {
        "attempt": ended.attempt,
        "pid": facts.pid,
        "started": _time(facts.started_s),
        "ended": _time(facts.ended_s),
        "exit_code": facts.exit_code,
        "signal": facts.signal,
        "status_code": facts.status_code,
        "error": ended.error or None,
        "notes": list(facts.notes),
        "log": f"logs/{facts.log}" if facts.log else None,
    }


class EventsFile:
    """A run's part of the event stream while it grows: lines are buffered, and the file is whole only when finished."""

    def __init__(self, folder: Path, source: str) -> None:
        self._folder = folder
        self._source = source
        self._temporary = folder / f"{TEMPORARY}events.ndjson"
        self._lines: list[bytes] = []
        self._buffered = 0
        self._due = EVENTS_BUFFER
        self._whole = 0
        self._visible = False
        self.newest = 0
        """The id of the last record that was added."""

    def add(self, record: Record) -> None:
        """Append a record, if it is public. What the disk does not take now is kept for `finish`."""
        self.newest = record.id
        if record.sequence is None:
            return
        line = record.line(self._source)
        self._lines.append(line)
        self._buffered += len(line)
        if self._buffered > self._due:
            try:
                self._flush()
            except OSError:  # the engine may not end of it; `finish` insists
                self._due = 2 * self._buffered
            else:
                self._due = EVENTS_BUFFER

    def _flush(self) -> None:
        with self._temporary.open("ab") as file:
            file.truncate(self._whole)  # of what a full disk took in part
            file.write(b"".join(self._lines))
        self._whole += self._buffered
        self._lines.clear()
        self._buffered = 0

    def finish(self) -> Steps[None]:
        """Make the file whole, durable and visible. Raises OSError, and may then be tried again."""
        if not self._visible:
            self._flush()
            yield from sync_files([self._temporary])
            self._temporary.replace(self._folder / "events.ndjson")
            self._visible = True
        yield
        sync_folder(self._folder)
