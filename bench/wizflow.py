"""wizflow as a contestant: the whole `wizflow run`, and the engine of a running daemon."""

import json
import statistics
from dataclasses import dataclass
from itertools import pairwise

from bench.daemon import Json, running
from bench.measure import Command, run
from bench.place import PROGRAMS, Place
from bench.workloads import Workload


@dataclass(frozen=True, slots=True)
class EngineTime:
    """What a daemon took for one run: first start to last end, CPU of it and its spawner, peak memory of both."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    gap_s: float


def definition(work: Workload, at_once: int) -> Json:
    """Return a workload in our own format."""
    tasks = [
        {"id": task, "type": "SHELL", "command": "true", **({"depends_on": needs} if needs else {})}
        for task, needs in work.needs.items()
    ]
    return {"concurrency": {"max_tasks": at_once}, "tasks": tasks}


def whole_run_s(place: Place, work: Workload, at_once: int) -> float:
    """Return the seconds of `wizflow run` from start to exit, with a new state."""
    folder = place.fresh("run")
    path = folder / "work.json"
    path.write_text(json.dumps(definition(work, at_once)))
    env = place.env(WIZFLOWD_LIMITS__MAX_TASKS=str(max(at_once, 4)))
    return run(Command([PROGRAMS / "wizflow", "run", path], folder, env)).wall_s


def engine_run(place: Place, work: Workload, at_once: int) -> EngineTime:
    """Return what a daemon takes for a workload that is dropped."""
    with running(place) as daemon:
        before = daemon.usage()
        record = daemon.run("work", definition(work, at_once))
        after = daemon.usage()
    return EngineTime(record.engine_s(), after.cpu_s - before.cpu_s, after.peak_mib, _gap_s(record.attempts()))


def _gap_s(spans: dict[str, tuple[float, float]]) -> float:
    """Return the usual time from the end of one process to the start of the next; of use for a chain."""
    times = list(spans.values())
    gaps = [after[0] - before[1] for before, after in pairwise(times)]
    return statistics.median(gaps) if gaps else 0.0
