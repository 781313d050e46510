"""B13: a daemon that works for long: memory, descriptors and the state on the disk stay as they are."""

import os
import time
from pathlib import Path

from bench.daemon import Daemon, running
from bench.figures import Figure, Findings
from bench.measure import Command, run
from bench.place import PROGRAMS, Place
from bench.wizflow import definition
from bench.workloads import independent

_TASKS = 100
_KEPT_RUNS = 20
_LOOKS = 10
_LOOK_S = 0.02


def measure(place: Place, findings: Findings) -> None:
    """Trigger one workflow again and again, and look at the daemon every 20 runs."""
    runs, warm = (60, 20) if place.quick else (2_000, 200)
    samples: list[tuple[float, int, float]] = []
    with running(place, RETENTION__RUNS=str(_KEPT_RUNS)) as daemon:
        daemon.run("work", definition(independent(_TASKS), 16))
        for number in range(runs):
            _trigger(place, daemon)
            if number % 20 == 19 and number >= warm:
                samples.append(_look(daemon))
        kept = sum(1 for path in (daemon.workflows / "work.runs").iterdir() if path.name.startswith("20"))
    note = f"{runs * _TASKS:,} tasks in {runs:,} runs, after the first {warm * _TASKS:,}"
    memory, descriptors, state = zip(*samples, strict=True)
    findings.add(Figure("B13", "daemon", "RSS", "MiB", memory, note))
    findings.add(Figure("B13", "daemon", "descriptors", "", tuple(map(float, descriptors)), note))
    findings.add(Figure("B13", "daemon", "state file", "MiB", state, note))
    findings.at_most("B13", "RSS, last / first", memory[-1] / memory[0], 1.05, "x")
    findings.at_most("B13", "descriptors, most / least", max(descriptors) / min(descriptors), 1.05, "x")
    findings.at_most("B13", "runs kept", kept, _KEPT_RUNS + 1)


def _trigger(place: Place, daemon: Daemon) -> None:
    with daemon.listening("wizflow.run.succeeded") as events:
        socket = str(daemon.folder / "control.sock")
        run(Command([PROGRAMS / "wizflow", "trigger", "work", "--control-socket", socket], daemon.folder, place.env()))
        next(events)


def _look(daemon: Daemon) -> tuple[float, int, float]:
    """Return resident MiB, open descriptors (at rest: a connection is closed a moment after its end) and MiB of the
    state file."""
    descriptors = min(_descriptors(daemon) for _ in range(_LOOKS))
    size = sum(path.stat().st_size for path in Path(daemon.folder / "state").glob("state.db*"))
    return daemon.usage(spawner=False).rss_mib, descriptors, size / (1 << 20)


def _descriptors(daemon: Daemon) -> int:
    time.sleep(_LOOK_S)
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
