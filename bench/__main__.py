"""`python -m bench`: runs the experiments, prints the table, writes `results.json` and the picture."""

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import calls, commands, dropping, idling, scheduling, soak, streaming
from bench.figures import Findings
from bench.measure import BenchError
from bench.place import ROOT, Place
from bench.report import draw, table, write_json

Experiment = Callable[[Place, Findings], None]
EXPERIMENTS: dict[str, Experiment] = {
    "planning": commands.measure_planning,
    "scheduling": scheduling.measure,
    "reaction": dropping.measure_reaction,
    "burst": dropping.measure_burst,
    "calls": calls.measure,
    "idle": idling.measure,
    "stream": streaming.measure,
    "commands": commands.measure_starting,
    "soak": soak.measure,
}
"""In the order in which they run. What the bench itself has in memory counts for the processes that it starts, and
after `scheduling` that is more than a plan takes."""


def main() -> int:
    """Run what was asked for; return 0 when everything could be measured, whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("experiments", nargs="*", metavar="NAME", help=f"of {', '.join(EXPERIMENTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="less work, each contestant once: two minutes")
    parser.add_argument("--rounds", type=int, default=0, help="how often each contestant runs (default 5, quick: 1)")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench", help="where to work, on a real disk")
    parser.add_argument("--results", type=Path, default=ROOT / "bench", help="where results.json and the picture go")
    options = parser.parse_args()
    if unknown := set(options.experiments) - EXPERIMENTS.keys():
        parser.error(f"there is no experiment {min(unknown)!r}")
    place = Place(options.folder.absolute(), options.rounds or (1 if options.quick else 5), options.quick)
    shutil.rmtree(place.folder, ignore_errors=True)
    findings = Findings()
    failed = [name for name in options.experiments or EXPERIMENTS if not _attempt(name, place, findings)]
    print(table(findings))
    options.results.mkdir(parents=True, exist_ok=True)
    write_json(findings, options.results / "results.json", quick=options.quick)
    draw(findings, options.results / "results.png")
    shutil.rmtree(place.folder, ignore_errors=True)
    return 1 if failed else 0


def _attempt(name: str, place: Place, findings: Findings) -> bool:
    """Run an experiment; one that cannot be run does not keep the others from it."""
    began_s = time.monotonic()
    try:
        EXPERIMENTS[name](place, findings)
    except BenchError as error:
        print(f"cannot measure {name}: {error}", file=sys.stderr)
        return False
    print(f"{name}: {time.monotonic() - began_s:.0f} s", file=sys.stderr)
    return True


sys.exit(main())
