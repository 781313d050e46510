"""B5 and B11: what a command takes from start to exit: planning a large file, showing help, asking the daemon."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import yaml

from bench.daemon import running
from bench.figures import Figure, Findings
from bench.measure import Command, interleaved, run
from bench.place import PROGRAMS, ROOT, Place
from bench.wizflow import definition
from bench.workloads import independent

_PLAN_GOALS_S = {("json", 10_000): 0.5, ("json", 100_000): 3.2, ("yaml", 10_000): 0.8, ("yaml", 100_000): 8.0}
_PLAN_PEAK_MIB = 400
_HELP_MS, _STATUS_MS = 60, 80


def measure_planning(place: Place, findings: Findings) -> None:
    """Plan files of both formats with `wizflow plan`, a new process each time."""
    folder = place.fresh("plan")
    sizes = (1_000,) if place.quick else (10_000, 100_000)
    files = {(suffix, size): _written(folder, suffix, size) for size in sizes for suffix in ("json", "yaml")}
    commands = {
        f"{size:,} tasks, {suffix.upper()}": Command([PROGRAMS / "wizflow", "plan", path], folder, place.env())
        for (suffix, size), path in files.items()
    }
    found = interleaved(place.rounds, {name: partial(run, command) for name, command in commands.items()})
    for (name, spent), key in zip(found.items(), files, strict=True):
        time = findings.add(Figure("B5", "wizflow plan", "whole process", "s", tuple(s.wall_s for s in spent), name))
        peak = findings.add(Figure("B5", "wizflow plan", "peak RSS", "MiB", tuple(s.rss_mib for s in spent), name))
        if key in _PLAN_GOALS_S:
            findings.at_most("B5", f"plan of {name}", time.value, _PLAN_GOALS_S[key], "s")
            findings.at_most("B5", f"peak RSS of the plan of {name}", peak.value, _PLAN_PEAK_MIB, "MiB")


def _written(folder: Path, suffix: str, size: int) -> Path:
    """Write a definition in another process: the peak of this one is counted for every child that it starts later."""
    path = folder / f"tasks-{size}.{suffix}"
    subprocess.run([sys.executable, "-m", "bench.commands", path, str(size)], cwd=ROOT, check=True)
    return path


def _write(path: Path, size: int) -> None:
    """Write a definition with many independent tasks."""
    content = definition(independent(size), 2)
    is_json = path.suffix == ".json"
    path.write_text(json.dumps(content) if is_json else yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False))


def measure_starting(place: Place, findings: Findings) -> None:
    """Start commands that should answer at once."""
    rounds = 5 * place.rounds
    with running(place) as daemon:
        asked: dict[str, Sequence[str]] = {
            "--help": ["--help"],
            "status": ["status", "--control-socket", str(daemon.folder / "control.sock")],
        }
        commands = {
            name: Command([PROGRAMS / "wizflow", *words], daemon.folder, place.env()) for name, words in asked.items()
        }
        found = interleaved(rounds, {name: partial(run, command) for name, command in commands.items()})
    for name, goal_ms in (("--help", _HELP_MS), ("status", _STATUS_MS)):
        samples = tuple(1e3 * spent.wall_s for spent in found[name])
        figure = findings.add(Figure("B11", f"wizflow {name}", "whole process", "ms", samples))
        findings.at_most("B11", f"wizflow {name}", figure.value, goal_ms, "ms")


if __name__ == "__main__":
    _write(Path(sys.argv[1]), int(sys.argv[2]))
