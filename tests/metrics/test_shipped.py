"""What config/ has for Prometheus and Grafana: it fits the metrics, and each alert fires when it should."""

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.metrics.prometheus import DASHBOARD, HAS_PROMETHEUS, ROOT, RULES, WHY_NOT, panel_queries
from tests.metrics.test_prometheus import SPEC_NAMES

RULE_TESTS = ROOT / "tests/prometheus/wizflowd.rules.test.yml"
CHECKER = ROOT / "tests/grafana/check.js"
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
PANELS = json.loads(DASHBOARD.read_text())["panels"]
NAME = re.compile(r"wizflow_\w+?(?=_bucket|_count|[^\w]|$)")
needs_promtool = pytest.mark.skipif(not HAS_PROMETHEUS, reason=WHY_NOT)
needs_types = pytest.mark.skipif(
    shutil.which("node") is None or not (CHECKER.parent / "node_modules").is_dir(),
    reason="needs Grafana's types: npm ci --prefix tests/grafana",
)


def promtool(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True)


def check_types(dashboard: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["node", CHECKER, dashboard], capture_output=True, text=True)


@needs_promtool
def test_the_alerts_pass_their_tests() -> None:
    tested = promtool("test", "rules", RULE_TESTS)

    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs_promtool
@pytest.mark.parametrize("alert", [alert["alert"] for alert in ALERTS])
def test_an_alert_that_never_fires_fails_a_test(alert: str, tmp_path: Path) -> None:
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = "vector(0) > 1" if rule["alert"] == alert else rule["expr"]
    (tmp_path / RULES.name).write_text(yaml.safe_dump(rules))
    tests = yaml.safe_load(RULE_TESTS.read_text()) | {"rule_files": [RULES.name]}
    tests["tests"] = [test for test in tests["tests"] if alert in str(test)]
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))

    assert promtool("test", "rules", tmp_path / "tests.yml").returncode == 1


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_says_what_it_means_and_what_to_do(alert: dict[str, Any]) -> None:
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert set(NAME.findall(alert["expr"])) <= SPEC_NAMES


@needs_types
def test_the_dashboard_fits_the_types_of_grafana() -> None:
    checked = check_types(DASHBOARD)

    assert checked.returncode == 0, checked.stderr


@needs_types
def test_a_dashboard_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    changed = tmp_path / "changed.json"
    text = DASHBOARD.read_text()
    for right, wrong in ((': "bars"', ': "bar"'), ('"colorMode"', '"colourMode"'), ('"refresh": 2', '"refresh": "2"')):
        assert right in text
        text = text.replace(right, wrong, 1)
    changed.write_text(text)

    checked = check_types(changed)

    assert (checked.returncode, checked.stderr.count("error TS")) == (1, 3), checked.stderr


def test_the_dashboard_shows_every_metric_and_no_unknown_one() -> None:
    shown = {name for query in panel_queries("1m", "1h") for name in NAME.findall(query.expr)}

    assert shown == SPEC_NAMES


def test_every_panel_is_described_and_has_a_unit_and_an_id_of_its_own() -> None:
    ids = [panel["id"] for panel in PANELS]

    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]


def test_no_panel_lies_on_another() -> None:
    places = {panel["id"]: panel["gridPos"] for panel in PANELS}

    for one, other in combinations(places.values(), 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    assert all(place["x"] + place["w"] <= 24 for place in places.values())
