"""B6 and B7: from a file in the folder to the process of its task, and many files at once."""

import json
import time
from collections.abc import Iterator
from functools import partial

from bench.daemon import Daemon, Json, RunRecord, running
from bench.figures import Figure, Findings
from bench.measure import BenchError, interleaved, percentile, wait_until
from bench.place import Place
from bench.wizflow import definition
from bench.workloads import independent

_BETWEEN_S = 0.02
"""For which the daemon is left in peace before the next file."""


def measure_reaction(place: Place, findings: Findings) -> None:
    """Drop small workflows one by one into an idle daemon."""
    count = 30 if place.quick else 300
    for settle in ("0", "50ms"):
        with running(place, WATCH__SETTLE=settle) as daemon:
            times_ms = tuple(1e3 * each for each in _reactions_s(daemon, count))
        note = f"settle: {settle}, {count} files"
        figure = findings.add(Figure("B6", "daemon", "rename to process started", "ms", times_ms, note))
        if settle == "0":
            findings.at_most("B6", f"p50, {note}", figure.value, 4, "ms")
            findings.at_most("B6", f"p99, {note}", percentile(times_ms, 99), 10, "ms")
        else:
            findings.at_most("B6", f"p50, {note}", figure.value, 60, "ms")


def _reactions_s(daemon: Daemon, count: int) -> Iterator[float]:
    work = definition(independent(1), 1)
    for number in range(count):
        temporary = daemon.workflows / ".next.json"
        temporary.write_text(json.dumps({"description": str(number), **work}))
        dropped_s = time.time()
        temporary.rename(daemon.workflows / f"w{number}.json")
        started, _ = _record(daemon, f"w{number}").attempts()["t0"]
        yield started - dropped_s % 86400
        time.sleep(_BETWEEN_S)


def _record(daemon: Daemon, name: str) -> RunRecord:
    latest = daemon.workflows / f"{name}.runs" / "latest"
    wait_until((latest / "events.ndjson").exists, 60, f"{name} did not run")
    return RunRecord(latest.resolve())


def measure_burst(place: Place, findings: Findings) -> None:
    """Drop many one-task files at once, and the same tasks in one file."""
    count = 100 if place.quick else 1_000
    contestants = {"files": partial(_drop_files_s, place, count), "one file": partial(_drop_one_s, place, count)}
    found = interleaved(place.rounds, contestants)
    many, one = (
        findings.add(Figure("B7", "daemon", "drop to last end", "s", tuple(found[name]), f"{count:,} tasks in {name}"))
        for name in contestants
    )
    findings.at_most("B7", f"{count:,} files / one file", many.value / one.value, 1.8, "x")


def _drop_files_s(place: Place, count: int) -> float:
    content: Json = definition(independent(1), 1)
    with running(place) as daemon:
        for number in range(count):
            (daemon.workflows / f".w{number}").write_text(json.dumps({"description": str(number), **content}))
        with daemon.listening("wizflow.run.succeeded", "wizflow.run.failed") as events:
            began_s = time.monotonic()
            for number in range(count):
                (daemon.workflows / f".w{number}").rename(daemon.workflows / f"w{number}.json")
            for _ in range(count):
                if next(events)["type"] != "wizflow.run.succeeded":
                    raise BenchError("a run failed")
            took_s = time.monotonic() - began_s
    return took_s


def _drop_one_s(place: Place, count: int) -> float:
    with running(place) as daemon, daemon.listening("wizflow.run.succeeded") as events:
        began_s = time.monotonic()
        daemon.drop("all", definition(independent(count), 64))
        next(events)
        return time.monotonic() - began_s
