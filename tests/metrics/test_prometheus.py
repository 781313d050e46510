"""A real daemon under a mixed load and a real Prometheus: counters are what the stream says, panels have series."""

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.metrics.load import LAST, Labels, Said, mixed_runs, said_by, stream_of
from tests.metrics.prometheus import HAS_PROMETHEUS, WHY_NOT, PanelQuery, Prometheus, fetch, free_port, panel_queries
from tests.metrics.prometheus import prometheus as run_prometheus
from tests.system.running import Daemon, shell, wait_for

pytestmark = pytest.mark.skipif(not HAS_PROMETHEUS, reason=WHY_NOT)
Values = dict[str, dict[Labels, float]]


def daemon_in(home: Path) -> Daemon:
    home.mkdir()
    daemon = Daemon(home)
    daemon.workflows.mkdir()
    daemon.metrics = f"127.0.0.1:{free_port()}"
    return daemon


def page_of(daemon: Daemon, *headers: tuple[str, str]) -> str:
    return fetch(f"http://{daemon.metrics}/metrics", *headers)


def values_of(page: str) -> Values:
    """Return every sample by name and the values of its labels, in the order of the labels' names."""
    found: Values = {}
    for family in parse_text(page):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Prometheus]]:
    """A daemon after fifty runs of which Prometheus has seen each round."""
    home = tmp_path_factory.mktemp("busy")
    daemon = daemon_in(home / "daemon")
    daemon.start()
    try:
        with run_prometheus(home / "prometheus", int(daemon.metrics.rpartition(":")[2])) as server:
            wait_for(lambda: server.query("wizflow_build_info"), "the first scrape")
            mixed_runs(daemon, lambda: wait_until_scraped(daemon, server))
            wait_until_scraped(daemon, server)
            yield daemon, server
    finally:
        daemon.close()


def wait_until_scraped(daemon: Daemon, server: Prometheus) -> None:
    """Wait until Prometheus has all ended runs: what begins and grows between two scrapes has no rate."""
    ended = sum(values_of(page_of(daemon))["wizflow_runs_total"].values())
    wait_for(lambda: [s["value"][1] for s in server.query("sum(wizflow_runs_total)")] == [f"{ended:.0f}"], "a scrape")


@pytest.fixture(scope="module")
def said(busy: tuple[Daemon, Prometheus]) -> Said:
    return said_by(stream_of(busy[0]))


def assert_page_says(values: Values, said: Said) -> None:
    """Check that the page has the counts of the stream, all of them and no others."""
    for name, counted in said.counts.items():
        assert values[name] == dict(counted), name
    for name, summed in said.sums.items():
        assert values[name] == pytest.approx(dict(summed), abs=1e-4), name


def test_after_fifty_mixed_runs_every_counter_is_what_the_stream_says(
    busy: tuple[Daemon, Prometheus], said: Said
) -> None:
    values = values_of(page_of(busy[0]))

    assert_page_says(values, said)
    assert sum(said.counts["wizflow_runs_total"].values()) == 51
    assert {status for status, _, _ in said.counts["wizflow_runs_total"]} == {"succeeded", "failed", "cancelled"}
    ends = {status for status, _, _ in said.counts["wizflow_tasks_total"]}
    assert ends == {"succeeded", "failed", "skipped", "cancelled"}
    assert said.counts["wizflow_reused_tasks_total"][("reused",)] == 8
    assert said.counts["wizflow_task_retries_total"] == {("flaky",): 5, ("hopeless",): 10}
    assert said.counts["wizflow_definition_errors_total"].total() >= 2
    assert values["wizflow_reaction_seconds_sum"][()] < 60 * 51


def test_gauges_are_what_the_daemon_says_of_itself(busy: tuple[Daemon, Prometheus]) -> None:
    daemon, _ = busy

    values = values_of(page_of(daemon))

    states = {workflow["workflow"]: workflow["state"] for workflow in daemon.ask("workflows")}
    shown = {labels[0]: int(count) for labels, count in values["wizflow_workflows"].items() if count}
    assert shown == {state: list(states.values()).count(state) for state in set(states.values())}
    assert shown["invalid"] == 2
    bad = {labels[0] for labels, value in values["wizflow_last_run_failed"].items() if value}
    assert bad == {"failing", "hopeless", "rest-broken"}
    good = {labels[0] for labels in values["wizflow_last_success_timestamp_seconds"]}
    assert good == {"team/good", "reused", "flaky", "tolerated", "rest", LAST}
    assert values["wizflow_runs"] == {("queued",): 0, ("running",): 0, ("paused",): 0}
    assert set(values["wizflow_disk_free_bytes"]) == {(str(daemon.workflows),), (str(daemon.state),)}
    assert values["wizflow_journal_commit_seconds_count"][()] > 100


def test_the_page_has_the_names_of_the_contract_and_no_others(busy: tuple[Daemon, Prometheus]) -> None:
    page = page_of(busy[0], OPENMETRICS)
    names = {family.name for family in parse_openmetrics(page)}  # type: ignore[no-untyped-call]

    own = {name for name in names if name.startswith("wizflow")}
    assert own == {name.removesuffix("_total") if name not in CLASHING else name for name in SPEC_NAMES}
    assert {name.split("_")[0] for name in names} == {"wizflow", "process", "python"}


OPENMETRICS = ("Accept", "application/openmetrics-text; version=1.0.0")
CLASHING = {"wizflow_runs_total", "wizflow_tasks_total"}
"""In OpenMetrics these would be of the same family as the gauges `wizflow_runs` and `wizflow_tasks`."""
SPEC_NAMES = {
    "wizflow_build_info",
    "wizflow_workflows",
    "wizflow_runs_total",
    "wizflow_runs",
    "wizflow_run_duration_seconds",
    "wizflow_tasks_total",
    "wizflow_tasks",
    "wizflow_task_duration_seconds",
    "wizflow_task_retries_total",
    "wizflow_task_wait_seconds",
    "wizflow_reaction_seconds",
    "wizflow_definition_errors_total",
    "wizflow_last_success_timestamp_seconds",
    "wizflow_last_run_failed",
    "wizflow_reused_tasks_total",
    "wizflow_adopted_tasks_total",
    "wizflow_journal_commit_seconds",
    "wizflow_stream_clients",
    "wizflow_stream_lagged_total",
    "wizflow_watch_overflows_total",
    "wizflow_watch_last_scan_timestamp_seconds",
    "wizflow_disk_free_bytes",
}


def test_promtool_finds_nothing_to_mend(busy: tuple[Daemon, Prometheus]) -> None:
    checked = subprocess.run(["promtool", "check", "metrics"], input=page_of(busy[0]), text=True, capture_output=True)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_prometheus_scrapes_it_and_agrees(busy: tuple[Daemon, Prometheus], said: Said) -> None:
    _, server = busy

    targets = server.ask("targets")["activeTargets"]

    assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")]
    scraped = server.query("sum by (status) (wizflow_runs_total)")
    expected: Counter[str] = Counter()
    for (status, _, _), count in said.counts["wizflow_runs_total"].items():
        expected[status] += count
    assert {series["metric"]["status"]: int(series["value"][1]) for series in scraped} == expected


@pytest.mark.parametrize("query", panel_queries("10m", "1h"), ids=lambda query: f"{query.panel}: {query.legend}")
def test_a_panel_has_series(busy: tuple[Daemon, Prometheus], query: PanelQuery) -> None:
    found = busy[1].query(query.expr)

    assert found, query.expr
    assert any(series["value"][1] != "NaN" for series in found), query.expr


def test_the_alerts_of_this_daemon_are_raised(busy: tuple[Daemon, Prometheus]) -> None:
    _, server = busy

    def alerts() -> set[str]:
        return {alert["labels"].get("workflow", "") for alert in server.ask("alerts")["alerts"]}

    wait_for(lambda: alerts() >= {"failing", "hopeless", "rest-broken"}, "three workflows are alerted")
    rules = [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}


def test_after_a_crash_counters_begin_anew_and_the_adopted_task_is_counted(tmp_path: Path) -> None:
    daemon = daemon_in(tmp_path / "daemon")
    try:
        daemon.start()
        daemon.drop("good.yaml", [shell("a", "true")])
        daemon.wait_run("good")
        daemon.drop("good.yaml", [shell("a", "false")])
        daemon.wait_run("good", 2)
        daemon.drop("long.yaml", [shell("a", "while ! test -e go; do sleep 0.05; done")])
        daemon.wait_begun("long", "a")
        daemon.kill9()

        daemon.start()
        (daemon.workspace("long") / "go").touch()
        daemon.wait_run("long")
        daemon.drop(f"{LAST}.yaml", [shell("a", "true")])
        daemon.wait_run(LAST)
        values = values_of(page_of(daemon))

        assert_page_says(values, said_by(stream_of(daemon)))
        assert values["wizflow_adopted_tasks_total"] == {(): 1}
        assert values["wizflow_runs_total"] == {("succeeded", "change", "long"): 1, ("succeeded", "change", LAST): 1}
        assert set(values["wizflow_last_success_timestamp_seconds"]) == {("good",), ("long",), (LAST,)}
        assert values["wizflow_last_run_failed"][("good",)] == 1
    finally:
        daemon.close()
