"""`wizflow plan`: what would run, what is reused, why, in what order and how wide. Writes nothing."""

import argparse
import asyncio
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wizflowd.cli.source import absolute, ask_if_running, compile_file, read_source, usable_config, watching_daemon
from wizflowd.config import Config
from wizflowd.core.calendar import next_time
from wizflowd.core.compile import Compiled
from wizflowd.core.events import rfc3339
from wizflowd.core.observations import Source, WorkflowId
from wizflowd.engine.prepare import Preparer
from wizflowd.errors import RequestError, StateError, printable
from wizflowd.journal import Journal
from wizflowd.results import Places, Results

_COPIES = 5
_SHOWN_NEEDS = 5
_SHOWN_TIMES = 3

_Planned = tuple[dict[str, Any], bool, Compiled]


def plan(options: argparse.Namespace) -> int:
    """Print the plan of a file: by a daemon that watches it, else by what `wizflow run` left beside it."""
    config = usable_config(options.config)
    data = read_source(options.file, config.limits.definition.load_limits())
    path = absolute(options.file)
    watched = watching_daemon(options, path)
    if watched is not None:
        compiled = compile_file(path, data, config)  # its problems are told with the name that the user gave
        found = ask_if_running(options, {"op": "plan", "path": str(path)})
        if found is None:
            raise StateError(f"cannot plan {options.file}: the daemon that watches it has just ended", hint="try again")
        whose = f"by the daemon that watches it as {watched}"
    else:
        planned: list[_Planned] = []  # not returned: on its way out `asyncio.run` puts a result in words, twice
        asyncio.run(_plan_alone(path, data, config, planned))
        found, known, compiled = planned[0]
        whose = "by earlier runs beside it" if known else "without knowledge of earlier runs"
    schedule = [(each.cron, each.timezone, each.catch_up) for each in compiled.definition.schedule]
    if schedule:
        times = _next_times(schedule)
        found = {**found, "next": next(iter(times), None), "then": times[1:]}
    if options.json:
        sys.stdout.write(json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(found, whose)))
    return 0


def _next_times(schedule: Sequence[tuple[str, str, str]]) -> list[str]:
    times: list[float] = []
    while len(times) < _SHOWN_TIMES and (next_s := next_time(schedule, times[-1] if times else time.time())):
        times.append(next_s)
    return [rfc3339(moment_s) for moment_s in times]


async def _plan_alone(path: Path, data: bytes, config: Config, planned: list[_Planned]) -> None:
    """Add the plan, whether anything is known of earlier runs (which is read from a copy), and what was planned."""
    with tempfile.TemporaryDirectory(prefix="wizflow-plan-") as name:
        known = _copy_state(Places.beside(path).state, Path(name))
        journal = Journal(Path(name))
        journal.open()
        try:
            results = Results(path.parent, None, "")
            preparer = Preparer(journal, results, path.parent, config.limits.definition.load_limits())
            source = Source(WorkflowId(path.stem), path.name, data, len(data), 0, 0, 0.0)
            try:
                found = await preparer.plan_change(source)
                compiled = await preparer.compiled(path.name, hashlib.sha256(data).hexdigest())
            except RequestError:
                compile_file(path, data, config)  # raises its problems with their places
                raise
            finally:
                preparer.close()
        finally:
            journal.close()
    planned.append((found.to_json(), known, compiled))


def _copy_state(state: Path, to: Path) -> bool:
    """Copy what is known of earlier runs; return whether there is anything.

    A run may be writing it: when a checkpoint comes between the copies of its parts, they do not fit together.
    """
    file = state / "state.db"
    for _ in range(_COPIES):
        if not file.exists():
            return False
        for part in to.iterdir():
            part.unlink()
        before = file.stat().st_mtime_ns
        for part in state.glob("state.db*"):
            shutil.copy(part, to)
        if file.stat().st_mtime_ns == before:
            return True
    raise StateError(f"cannot read {file}: it is being written", hint="try again when the run has ended")


def _lines(found: dict[str, Any], whose: str) -> list[str]:
    tasks = sorted(found["tasks"], key=lambda task: task["level"])
    reused = sum(task["action"] == "reuse" for task in tasks)
    width = max(len(task["id"]) for task in tasks)
    why = max(len(task["reason"]) for task in tasks)
    actions = f"{_count(len(tasks), 'task')}, {len(tasks) - reused:,} to run, {reused:,} reused"
    shape = f"{_count(found['levels'], 'level')}, {found['width']:,} wide"
    lines = [f"{printable(found['workflow'])}: planned {whose}", f"{actions}; {shape}"]
    for task in tasks:
        line = f"  {task['level']:>3}  {task['action']:<5}  {task['id']:<{width}}  {task['reason']:<{why}}"
        lines.append(f"{line}  {_after(task['needs'])}".rstrip())
    lines.append(f"longest path: {' -> '.join(_shortened(found['critical_path']))}")
    if "next" in found:
        lines.append(f"next: {', '.join([found['next'], *found['then']]) if found['next'] else 'never'}")
    return lines


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _after(needs: list[str]) -> str:
    if not needs:
        return ""
    more = f" and {len(needs) - _SHOWN_NEEDS:,} more" if len(needs) > _SHOWN_NEEDS else ""
    return f"after {', '.join(needs[:_SHOWN_NEEDS])}{more}"


def _shortened(path: list[str]) -> list[str]:
    return path if len(path) <= 12 else [*path[:6], f"({len(path) - 11} more)", *path[-5:]]
