"""Dagu files become workflows that do what Dagu did, as far as it can be said."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wizflowd.cli.main import main
from wizflowd.core.compile import Compiled, compile_definition
from wizflowd.core.loader import Syntax
from wizflowd.core.task import WorkflowTask
from wizflowd.errors import WizflowError
from wizflowd.importers import import_dagu

ETL = """
name: daily etl
description: fetch, count, tell
schedule: "CRON_TZ=Europe/Berlin 0 2 * * *"
params: DAY=monday COUNT=3
env: [REGION: eu, "PLAIN=a b"]
maxActiveSteps: 4
histRetentionDays: 30
timeoutSec: 600
tags: nightly
type: graph
steps:
  - name: fetch data
    command: sh -c 'printf "%s %s" "$DAY" "$REGION"'
    output: FETCHED
    retryPolicy: {limit: 2, intervalSec: 5, exit_code: [75]}
  - name: count
    script: |
      set -e
      test "$FETCHED" = "monday eu"
      echo "$COUNT" > counted
    depends: fetch data
    continueOn: {failure: true}
  - name: hook
    executor: {type: http, config: {headers: {X-A: "1"}, body: done, timeout: 5}}
    command: POST http://127.0.0.1:9/hook
    depends: [count]
  - name: image
    executor: docker
    command: build
    depends: [count]
handlerOn:
  failure: {command: echo failed}
  exit: {command: echo over}
"""


def compiled(text: str) -> tuple[Compiled, tuple[str, ...]]:
    imported = import_dagu(text, "x")
    ((name, written),) = imported.files.items()
    found = compile_definition(written.encode(), Syntax.YAML, stem=name.removesuffix(".yaml"))
    return found, imported.left_out


def test_a_graph_keeps_its_steps_needs_times_and_policies() -> None:
    found, _ = compiled(ETL)
    definition, graph = found.definition, found.graph

    assert definition.workflow_name == "daily etl"
    assert [(each.cron, each.timezone) for each in definition.schedule] == [("0 2 * * *", "Europe/Berlin")]
    assert {name: param.default for name, param in definition.params.items()} == {"DAY": "monday", "COUNT": "3"}
    assert definition.env == {"DAY": "{{params.DAY}}", "COUNT": "{{params.COUNT}}", "REGION": "eu", "PLAIN": "a b"}
    assert definition.timeout == 600
    assert definition.concurrency.max_tasks == 4
    assert [task.id for task in definition.tasks] == ["fetch_data", "count", "hook", "image"]
    assert graph.needs["count"] == ("fetch_data",)  # type: ignore[index]
    fetch, count = definition.tasks[:2]
    assert fetch.retry is not None
    assert (fetch.retry.limit, fetch.retry.delay, fetch.retry.on_exit) == (2, 5, (75,))
    assert count.continue_on_failure
    assert count.env == {"FETCHED": "{{tasks.fetch_data.outputs.FETCHED}}"}
    assert [(task.id, task.run_on) for task in definition.final_tasks] == [
        ("on_failure", "failure"),
        ("on_exit", "always"),
    ]


def test_what_has_no_counterpart_is_told() -> None:
    _, left_out = compiled(ETL)

    assert any("tags has no counterpart" in line for line in left_out)
    assert any("step image: the executor docker has no counterpart" in line for line in left_out)


def test_steps_of_a_chain_follow_one_another_and_those_of_a_group_run_side_by_side() -> None:
    found, _ = compiled("steps: [echo a, [echo b, echo c], echo d]")

    assert {task: [*needs] for task, needs in found.graph.needs.items()} == {
        "step1": [],
        "step2": ["step1"],
        "step3": ["step1"],
        "step4": ["step2", "step3"],
    }


def test_an_imported_workflow_runs_with_the_same_effect(tmp_path: Path) -> None:
    plain = "\n".join(line for line in ETL.splitlines() if "schedule" not in line).split("  - name: hook")[0]
    (tmp_path / "etl.yaml").write_text(plain)

    assert main(["import", str(tmp_path / "etl.yaml"), "-o", str(tmp_path / "out")]) == 0
    (written,) = (tmp_path / "out").iterdir()
    assert main(["run", str(written)]) == 0

    folder = written.with_suffix(".runs")
    assert (folder / "workspace" / "counted").read_text() == "3\n"
    result = json.loads((folder / "latest" / "result.json").read_text())
    assert result["status"] == "succeeded"
    assert result["tolerated"] == []


def test_a_child_dag_becomes_a_task_of_its_own_kind() -> None:
    found, _ = compiled("steps: [{name: sub, run: team/other, params: WHO=me}]")
    (task,) = found.definition.tasks

    assert isinstance(task, WorkflowTask)
    assert (task.workflow, task.params) == ("team/other", {"WHO": "me"})


@pytest.mark.parametrize("text", ["", "a: 1", "steps: []", "- x", "steps: [", "steps: 5"])
def test_what_is_no_dagu_file_is_refused(text: str) -> None:
    with pytest.raises(WizflowError):
        import_dagu(text, "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab $A{}=%\n", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "command", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        "name",
        "command",
        "script",
        "args",
        "depends",
        "output",
        "retryPolicy",
        "continue_on",
        "executor",
        "env",
        "run",
        "params",
    ]
)
TOP = st.sampled_from(
    ["params", "env", "dotenv", "schedule", "handlerOn", "maxActiveRuns", "timeoutSec", "histRetentionDays", "type"]
)


@given(
    st.lists(st.dictionaries(KEYS, JSON, max_size=4), min_size=1, max_size=3), st.dictionaries(TOP, JSON, max_size=3)
)
def test_any_dag_is_read_or_refused_in_words(steps: list[object], top: dict[str, object]) -> None:
    try:
        imported = import_dagu(json.dumps({**top, "steps": steps}), "x")
    except WizflowError:
        return

    for text in imported.files.values():
        compile_definition(text.encode(), Syntax.YAML, stem="x")
