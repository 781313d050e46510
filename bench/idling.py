"""B9: what a daemon costs that has much to look after and nothing to do."""

import json
import time

from bench.daemon import Daemon, running
from bench.figures import Figure, Findings
from bench.measure import usage, wait_until, wakeups
from bench.place import Place
from bench.wizflow import definition
from bench.workloads import independent


def measure(place: Place, findings: Findings) -> None:
    """Let many files run once, start the daemon anew, and watch it do nothing."""
    files, seconds = (300, 10) if place.quick else (10_000, 60)
    note = f"{files:,} files, {files:,} past runs"
    folder = place.fresh("idle")
    with running(place, folder=folder) as daemon:
        _run_all(daemon, files)
    began_s = time.monotonic()
    with running(place, folder=folder, WATCH__SETTLE="50ms") as daemon:
        ready_s = time.monotonic() - began_s
        _wait_for_silence(daemon)
        before = daemon.usage(spawner=False)
        time.sleep(seconds)
        after = daemon.usage(spawner=False)
        woken = wakeups(daemon.process.pid, seconds / 3)  # apart: to be watched costs processor time
    figures = {
        "ready after start": (ready_s, "s", 2.0),
        "CPU": (100 * (after.cpu_s - before.cpu_s) / seconds, "%", 0.05),
        "wake-ups": (woken / (seconds / 3), "1/s", 2.0),
        "RSS": (after.rss_mib, "MiB", 80.0),
    }
    for what, (value, unit, goal) in figures.items():
        findings.add(Figure("B9", "idle daemon", what, unit, (value,), note))
        findings.at_most("B9", f"{what}, {note}", value, goal, unit)


def _run_all(daemon: Daemon, files: int) -> None:
    text = json.dumps(definition(independent(1), 1))
    with daemon.listening("wizflow.run.succeeded") as events:
        for number in range(files):
            temporary = daemon.workflows / ".next"
            temporary.write_text(text)
            temporary.rename(daemon.workflows / f"w{number}.json")
        for _ in range(files):
            next(events)


def _wait_for_silence(daemon: Daemon) -> None:
    """Wait until a second passes without work: what follows a start is done."""

    def is_silent() -> bool:
        before = usage([daemon.process.pid]).cpu_s
        time.sleep(1)
        return usage([daemon.process.pid]).cpu_s - before < 0.02

    wait_until(is_silent, 120, "the daemon does not come to rest")
