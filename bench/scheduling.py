"""B1 to B4 and B12: how quickly tasks that do nothing are done, beside the tools that do nothing else.

In: a place and findings. Out: figures for every tool, and our goals, held against make in the same rounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.figures import Figure, Findings, rates
from bench.measure import interleaved
from bench.peers import PEERS
from bench.place import Place
from bench.wizflow import EngineTime, engine_run, whole_run_s
from bench.workloads import Workload, chain, independent, layers

ORIGINAL_RATE = 491.0
"""Tasks a second of the original Wizflow engine on B1, measured once on this class of machine."""


@dataclass(frozen=True, slots=True)
class Case:
    """One workload at one width. `small` is what slow tools are given; `whole`: `wizflow run` is measured too."""

    experiment: str
    work: Workload
    at_once: int
    peers: Sequence[str]
    small: Workload | None = None
    whole: bool = False

    @property
    def note(self) -> str:
        return f"{self.work.name}, {self.at_once} at a time"


def cases(place: Place) -> list[Case]:
    """Return what is measured; the quick form does less of everything."""
    count, many, depth = (400, 2_000, 40) if place.quick else (1_000, 10_000, 100)
    simple = ("make", "ninja", "xargs", "parallel", "doit", "huey")
    slow = ("luigi", "snakemake", "dagu")
    few = independent(count // 10)
    graph = ("make", "ninja", "doit")
    return [
        Case("B1", independent(count), 2, (*simple, *slow), few, whole=True),
        Case("B1", independent(count), 16, ("make", "ninja", "xargs")),
        Case("B2", chain(count // 5), 1, (*graph, "dagu"), chain(count // 20), whole=True),
        Case("B3", layers(depth, 10), 2, graph, whole=True),
        Case("B3", layers(depth, 10), 16, graph),
        Case("B4", independent(many), 2, ("make", "ninja"), whole=True),
    ]


def measure_case(place: Place, case: Case, findings: Findings) -> None:
    """Let all tools do one workload in turn, and hold wizflow against them."""
    engine: list[EngineTime] = []

    def run_engine() -> float:
        engine.append(engine_run(place, case.work, case.at_once))
        return engine[-1].wall_s

    contestants: dict[str, Callable[[], float]] = {"wizflow engine": run_engine}
    if case.whole:
        contestants["wizflow run"] = partial(whole_run_s, place, case.work, case.at_once)
    works = {
        name: case.small or case.work if PEERS[name].slow else case.work
        for name in case.peers
        if PEERS[name].is_there(place)
    }
    for name, work in works.items():
        contestants[name] = partial(PEERS[name].time_s, place, work, case.at_once)
    found: dict[str, float] = {}
    for name, seconds in interleaved(place.rounds, contestants).items():
        work = works.get(name, case.work)
        samples = rates(len(work), seconds)
        note = f"{work.name}, {case.at_once} at a time"
        found[name] = findings.add(Figure(case.experiment, name, "rate", "tasks/s", samples, note)).value
    _hold_against(case, found, findings)
    _cost(case, engine, findings)


def _hold_against(case: Case, rate: dict[str, float], findings: Findings) -> None:
    goal = findings.at_least
    engine, make, label = rate["wizflow engine"], rate["make"], f"{case.work.name}, {case.at_once} at a time"
    goal(case.experiment, f"engine / make, {label}", engine / make, 0.85, "x")
    if case.experiment == "B1" and case.whole:
        goal("B1", "wizflow run / make", rate["wizflow run"] / make, 0.55, "x")
        for peer, ratio in (("dagu", 40), ("doit", 1.8)):
            if peer in rate:
                goal("B1", f"engine / {peer}", engine / rate[peer], ratio, "x")
        goal("B1", f"engine / the original engine ({ORIGINAL_RATE:.0f}/s)", engine / ORIGINAL_RATE, 3.5, "x")
    if case.experiment == "B4":
        small = next(f.value for f in findings.figures if f.experiment == "B1" and f.who == "wizflow engine")
        goal("B4", "rate / B1's rate", engine / small, 0.97, "x")


def _cost(case: Case, engine: list[EngineTime], findings: Findings) -> None:
    cpu = tuple(1e6 * each.cpu_s / len(case.work) for each in engine)
    cost = Figure("B12", "daemon and spawner", "CPU per task", "us", cpu, case.note)
    findings.add(cost)
    if case.experiment == "B2":
        gap = Figure(
            "B2", "wizflow engine", "end to next start", "ms", tuple(1e3 * each.gap_s for each in engine), case.note
        )
        findings.at_most("B2", "p50 from one end to the next start", findings.add(gap).value, 0.5, "ms")
    if case.experiment == "B4":
        peak = Figure("B4", "daemon and spawner", "peak RSS", "MiB", tuple(each.peak_mib for each in engine), case.note)
        findings.at_most("B4", "peak RSS", findings.add(peak).value, 90, "MiB")
        findings.at_most("B12", "CPU per task of daemon and spawner, B4", cost.value, 120, "us")


def measure_huge(place: Place, findings: Findings) -> None:
    """Run 100,000 independent tasks once."""
    work = independent(100_000)
    found = engine_run(place, work, 2)
    rate = findings.add(Figure("B4", "wizflow engine", "rate", "tasks/s", (len(work) / found.wall_s,), work.name)).value
    small = next(f.value for f in findings.figures if f.experiment == "B1" and f.who == "wizflow engine")
    findings.add(Figure("B4", "daemon and spawner", "peak RSS", "MiB", (found.peak_mib,), work.name))
    findings.at_least("B4", "rate of 100,000 / B1's rate", rate / small, 0.9, "x")
    findings.at_most("B4", "peak RSS of 100,000", found.peak_mib, 600, "MiB")


def measure(place: Place, findings: Findings) -> None:
    """Measure all cases."""
    for case in cases(place):
        measure_case(place, case, findings)
    if not place.quick:
        measure_huge(place, findings)
