"""A real Prometheus on loopback that scrapes one daemon, and the queries of the dashboard."""

import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.running import wait_for

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "config/grafana/wizflowd.json"
RULES = ROOT / "config/prometheus/wizflowd.rules.yml"
HAS_PROMETHEUS = shutil.which("prometheus") is not None and shutil.which("promtool") is not None
WHY_NOT = "needs prometheus and promtool: sudo apt-get install prometheus"
_CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: wizflowd
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def free_port() -> int:
    """Return a port of loopback that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def fetch(url: str, *headers: tuple[str, str]) -> str:
    """Return the text behind a URL on loopback."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers)), timeout=10) as answer:
        text: str = answer.read().decode()
        return text


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def ask(self, path: str, **query: str) -> Any:
        """Return the `data` of its HTTP API."""
        try:
            return json.loads(fetch(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"))["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from error

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the series of an instant query."""
        return list(self.ask("query", query=expr)["result"])


@contextmanager
def prometheus(home: Path, port: int) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes `port` each second, with the alerts of config/."""
    home.mkdir()
    config = home / "prometheus.yml"
    config.write_text(_CONFIG.format(rules=RULES, port=port))
    own_port = free_port()
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={home}/data"]
    command += [f"--web.listen-address=127.0.0.1:{own_port}", "--log.level=warn"]
    with (home / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            found = Prometheus(f"http://127.0.0.1:{own_port}")
            wait_for(lambda: _is_ready(found), "Prometheus is ready")
            yield found
        finally:
            process.terminate()


def _is_ready(server: Prometheus) -> bool:
    try:
        return bool(fetch(f"{server.url}/-/ready"))
    except OSError:
        return False


@dataclass(frozen=True)
class PanelQuery:
    """One query of one panel, with the variables of the dashboard filled in."""

    panel: str
    kind: str
    unit: str
    legend: str
    expr: str


def panel_queries(interval: str, whole: str) -> list[PanelQuery]:
    """Return the queries of all panels; `interval` and `whole` stand for what Grafana makes of the chosen time."""
    filled = {"$__rate_interval": interval, "$__range": whole, "$instance": ".*", "$workflow": ".*"}
    found = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expr = re.sub(r"\$\w+", lambda match: filled[match[0]], target["expr"])
            unit = panel["fieldConfig"]["defaults"].get("unit", "short")
            found.append(PanelQuery(panel["title"], panel["type"], unit, target["legendFormat"], expr))
    return found
