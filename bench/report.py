"""Findings -> one table for people, `results.json` for programs, one picture."""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bench.figures import Figure, Findings, Goal

_QUIET_LOAD = 0.5


def table(findings: Findings) -> str:
    """Return the figures and then the goals, as lines of text."""
    rows: list[tuple[str, ...]] = [("", "who", "what", "median", "least", "most", "of")]
    rows += [_figure_row(figure) for figure in findings.figures]
    goals: list[tuple[str, ...]] = [("", "goal", "measured", "asked for", "")]
    goals += [_goal_row(goal) for goal in findings.goals]
    busy = f"the machine was busy before (load {findings.load:.1f}): these figures are too low\n"
    return f"{_aligned(rows)}\n\n{_aligned(goals)}\n{busy if findings.load > _QUIET_LOAD else ''}"


def _figure_row(figure: Figure) -> tuple[str, ...]:
    span = (_number(value) for value in (figure.value, min(figure.samples), max(figure.samples)))
    return (figure.experiment, figure.who, f"{figure.what}, {figure.unit}", *span, figure.note)


def _goal_row(goal: Goal) -> tuple[str, ...]:
    sign = "<=" if goal.at_most else ">="
    asked = f"{sign} {_number(goal.goal)} {goal.unit}"
    return (goal.experiment, goal.what, f"{_number(goal.value)} {goal.unit}", asked, "met" if goal.met else "MISSED")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _aligned(rows: Iterable[tuple[str, ...]]) -> str:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def machine() -> dict[str, str | int]:
    """Return what the figures were measured on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processors": len(os.sched_getaffinity(0)),
        "model": models[0].partition(":")[2].strip() if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def write_json(findings: Findings, path: Path, *, quick: bool) -> None:
    """Write everything that was measured, every sample of it."""
    content = {
        "machine": {**machine(), "load": round(findings.load, 2)},
        "quick": quick,
        "figures": [{**asdict(figure), "median": figure.value} for figure in findings.figures],
        "goals": [{**asdict(goal), "met": goal.met} for goal in findings.goals],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def draw(findings: Findings, path: Path) -> None:
    """Draw the rates of every tool on B1 to B4, one part for each workload."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    rates = [figure for figure in findings.figures if figure.unit == "tasks/s"]
    groups: dict[tuple[str, str], list[Figure]] = {}
    for figure in rates:
        width = figure.note.rpartition(", ")[2]
        groups.setdefault((figure.experiment, width), []).append(figure)
    if not groups:
        return
    chart, axes = pyplot.subplots(len(groups), 1, figsize=(10, 2.6 * len(groups)), squeeze=False)
    for axis, ((experiment, width), figures) in zip(axes[:, 0], groups.items(), strict=True):
        figures.sort(key=lambda figure: figure.value)
        colours = ["tab:orange" if figure.who.startswith("wizflow") else "tab:gray" for figure in figures]
        bars = axis.barh([figure.who for figure in figures], [figure.value for figure in figures], color=colours)
        axis.bar_label(bars, labels=[f" {_number(figure.value)}" for figure in figures])
        axis.set_title(f"{experiment}: {figures[-1].note or width}", loc="left", fontsize=10)
        axis.set_xlabel("tasks a second, median")
        axis.margins(x=0.12)
    facts = machine()
    chart.suptitle(
        f"`sh -c true` a second, {facts['processors']} processors, load {findings.load:.1f}, {facts['date']}"
    )
    chart.tight_layout(rect=(0, 0, 1, 0.98))
    chart.savefig(path, dpi=100)
