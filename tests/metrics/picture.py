"""Draws the Grafana dashboard's queries as a real Prometheus answers them: python -m tests.metrics.picture OUT.png

For the README, and to be looked at after a change of the dashboard: no Grafana is needed. A daemon runs a mixed load
for a minute and a half, every query of every panel is asked, and matplotlib draws the answers in the panels' places.
"""

import json
import math
import re
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from tests.metrics.load import mixed_runs
from tests.metrics.prometheus import DASHBOARD, PanelQuery, Prometheus, free_port, panel_queries, prometheus
from tests.system.running import Daemon

ROUNDS, PAUSE_S = 14, 4.0
INTERVAL, WHOLE = "10s", "5m"
NOTE = (
    "wizflowd: the queries of config/grafana/wizflowd.json as a real Prometheus answers them,"
    " drawn with matplotlib; not a screenshot of Grafana"
)
BACK, PANEL, TEXT, FAINT = "#111217", "#181b1f", "#ccccdc", "#8e8e9e"
FIXED = {
    "green": "#73bf69",
    "red": "#f2495c",
    "orange": "#ff9830",
    "yellow": "#fade2a",
    "blue": "#5794f2",
    "purple": "#b877d9",
    "dark-red": "#c4162a",
    "light-blue": "#8ab8ff",
}
CLASSIC = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d"]
CELL = (0.86, 0.36)
"""Inches of one column and one row of Grafana's grid."""
Series = tuple[str, list[float], list[float]]


def shown(value: float, unit: str) -> str:
    """Return a value with its unit, short, as Grafana does."""
    if math.isnan(value):
        return "-"
    if unit == "bytes":
        power = min(4, int(math.log(max(value, 1), 1024)))
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
    if unit in ("s", "dtdurations") and value:
        return f"{value * 1e6:.3g} us" if value < 1e-3 else f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value:.1%}" if unit == "percentunit" else f"{value:.4g}" + (" c/s" if unit == "cps" else "")


def ask(server: Prometheus, query: PanelQuery, start_s: float, end_s: float) -> list[Series]:
    """Return the named series of a query over the time of the load."""
    found = server.ask("query_range", query=query.expr, start=str(start_s), end=str(end_s), step="1")["result"]
    named = []
    for series in found:
        name = query.legend
        for label, value in series["metric"].items():
            name = name.replace(
                f"{{{{{label}}}}}",
                re.sub(r"127\.0\.0\.1:\d+", "host1:9464", re.sub(r"^/tmp/[^/]+", "/var/lib/wizflowd", value)),
            )
        named.append(
            (name, [at - start_s for at, _ in series["values"]], [float(value) for _, value in series["values"]])
        )
    return sorted(named)


def draw_lines(axes: Axes, panel: dict[str, Any], series: list[Series]) -> None:
    """Draw lines, or areas one on the other."""
    custom, unit = panel["fieldConfig"]["defaults"]["custom"], panel["fieldConfig"]["defaults"]["unit"]
    fixed = {
        override["matcher"]["options"]: FIXED[override["properties"][0]["value"]["fixedColor"]]
        for override in panel["fieldConfig"]["overrides"]
    }
    below: dict[float, float] = {}
    for number, (name, times, values) in enumerate(series[:8]):
        tint = fixed.get(name, CLASSIC[number])
        if custom["stacking"]["mode"] == "normal":
            base = [below.get(at, 0.0) for at in times]
            top = [low + value for low, value in zip(base, values, strict=True)]
            below.update(zip(times, top, strict=True))
            axes.fill_between(times, base, top, color=tint, alpha=0.7, linewidth=0.6, label=name)
        else:
            axes.plot(times, values, color=tint, linewidth=1.3, label=name)
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.35)
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
    axes.tick_params(colors=FAINT, labelsize=7, length=0)
    axes.grid(color="#2c2f36", linewidth=0.6)
    axes.legend(loc="upper left", fontsize=6.5, frameon=False, labelcolor=TEXT, ncols=4, handlelength=1)


def draw_stat(axes: Axes, panel: dict[str, Any], series: list[Series]) -> None:
    """Write the last value of each series, in the colour of its threshold."""
    defaults = panel["fieldConfig"]["defaults"]
    for number, (name, _, values) in enumerate(series):
        steps = [
            step for step in defaults["thresholds"]["steps"] if step["value"] is None or values[-1] >= step["value"]
        ]
        middle = (number + 0.5) / len(series)
        text = shown(values[-1], defaults["unit"])
        axes.text(middle, 0.42, text, color=FIXED[steps[-1]["color"]], fontsize=20, ha="center", va="center")
        if len(series) > 1:
            axes.text(middle, 0.1, name, color=FAINT, fontsize=8, ha="center", va="center")


def draw_table(axes: Axes, answers: list[dict[str, float]]) -> None:
    """Write the three answers for each workflow in a row."""
    rows = sorted({name for answer in answers for name in answer})
    for place, heading in ((0.02, "Workflow"), (0.42, "Last run"), (0.62, "Since success"), (0.85, "Runs")):
        axes.text(place, 0.93, heading, color=FAINT, fontsize=8)
    for number, name in enumerate(rows):
        y = 0.84 - number * 0.085
        failed, since, runs = (answer.get(name, math.nan) for answer in answers)
        axes.text(0.02, y, name, color="#6e9fff", fontsize=8)
        axes.text(0.42, y, "failed" if failed else "good", color=FIXED["red" if failed else "green"], fontsize=8)
        axes.text(0.62, y, shown(since, "s"), color=TEXT, fontsize=8)
        axes.text(0.85, y, shown(round(runs), "short"), color=TEXT, fontsize=8)


class Sheet:
    """The figure, and where Grafana's grid lies on it: the first row is for the note."""

    def __init__(self, panels: list[dict[str, Any]]) -> None:
        self.rows = 1 + max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
        self.figure = plt.figure(figsize=(24 * CELL[0], self.rows * CELL[1]), facecolor=BACK)
        self.figure.text(0.004, 1 - 0.6 / self.rows, NOTE, color=FAINT, fontsize=9, va="center")

    def axes(self, panel: dict[str, Any]) -> Axes | None:
        """Draw the frame of a panel and return where its answers go; a heading has none."""
        place = panel["gridPos"]
        width, height = (place["w"] - 0.12) / 24, (place["h"] - 0.25) / self.rows
        left, bottom = (place["x"] + 0.06) / 24, 1 - (place["y"] + 1 + place["h"] - 0.12) / self.rows
        if panel["type"] == "row":
            title = "▾ " + panel["title"].replace("$workflow", "All")
            self.figure.text(left, bottom + height / 2, title, color=TEXT, fontsize=11, va="center", weight="bold")
            return None
        frame = Rectangle((left, bottom), width, height, transform=self.figure.transFigure, zorder=-1)
        frame.set(facecolor=PANEL, edgecolor="#2c2f36")
        self.figure.patches.append(frame)
        top = bottom + height - 0.55 / self.rows
        self.figure.text(left + 0.004, top, panel["title"], color=TEXT, fontsize=9, va="center")
        inset = 0.03 if panel["type"] == "timeseries" else 0.005
        box = (left + inset, bottom + 0.8 / self.rows, width - inset - 0.006, height - 1.9 / self.rows)
        axes = self.figure.add_axes(box, facecolor=PANEL)
        for side in axes.spines.values():
            side.set_visible(False)
        return axes


def draw(server: Prometheus, start_s: float, end_s: float, out: Path) -> None:
    """Ask every query and draw every panel at its place."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    sheet = Sheet(panels)
    queries: dict[str, list[PanelQuery]] = {}
    for query in panel_queries(INTERVAL, WHOLE):
        queries.setdefault(query.panel, []).append(query)
    for panel in panels:
        axes, asked = sheet.axes(panel), queries.get(panel["title"], [])
        if axes is None:
            continue
        if panel["type"] == "timeseries":
            draw_lines(axes, panel, [series for query in asked for series in ask(server, query, start_s, end_s)])
            continue
        axes.axis("off")
        if panel["type"] == "table":
            answers = [server.query(query.expr) for query in asked]
            draw_table(axes, [{s["metric"]["workflow"]: float(s["value"][1]) for s in answer} for answer in answers])
        else:
            draw_stat(axes, panel, [series for query in asked for series in ask(server, query, end_s - 5, end_s)])
    sheet.figure.savefig(out, dpi=80, facecolor=BACK)


def main() -> None:
    """Run the load, ask, draw."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        daemon = Daemon(home)
        daemon.workflows.mkdir()
        daemon.metrics = f"127.0.0.1:{free_port()}"
        daemon.start()
        try:
            port = int(daemon.metrics.rpartition(":")[2])
            with prometheus(home / "prometheus", port) as server, socket.socket(socket.AF_UNIX) as reader:
                start_s = time.time()
                reader.connect(str(home / "events.sock"))
                mixed_runs(daemon, lambda: time.sleep(PAUSE_S), ROUNDS)
                time.sleep(2)
                draw(server, start_s, time.time(), Path(sys.argv[1]))
        finally:
            daemon.close()


if __name__ == "__main__":
    main()
