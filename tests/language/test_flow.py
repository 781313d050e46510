"""What becomes of a run when tasks fail, are skipped or cancelled: scenarios of other engines, and `finally`."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.language.conftest import Alone
from tests.system.running import Daemon, gated, shell, wait_for

DOES = {
    "ok": "true",
    "fail": "false",
    "slow": "sleep 0.2",
    "hang": "sleep 60",
    "flaky": "[ $WIZFLOW_ATTEMPT -gt 1 ]",
}
SCENARIOS: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("scenarios.yaml").read_text())


def definition_of(scenario: dict[str, Any]) -> dict[str, Any]:
    def tasks(key: str) -> list[dict[str, Any]]:
        return [
            {"type": "SHELL", "command": DOES[task["do"]], **{name: task[name] for name in task if name != "do"}}
            for task in scenario.get(key, [])
        ]

    more: dict[str, Any] = {name: scenario[name] for name in ("fail_fast", "timeout") if name in scenario}
    last = {"finally": tasks("finally")} if "finally" in scenario else {}
    return {**more, "params": {"go": "no"}, "tasks": tasks("tasks"), **last}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario["like"] for scenario in SCENARIOS])
def test_a_scenario_ends_as_it_should_and_every_view_says_the_same(alone: Alone, scenario: dict[str, Any]) -> None:
    run = alone.run(definition_of(scenario))

    expected: dict[str, str] = scenario["expect"]
    skipped = [name for name, state in expected.items() if state == "skipped"]
    tolerated = [name for name, state in expected.items() if state == "tolerated"]
    states = {name: "tolerated" if name in run.result["tolerated"] else state for name, state in run.statuses.items()}
    assert states == expected
    assert (run.status, alone.said.status) == (scenario["run"], 0 if scenario["run"] == "succeeded" else 1)
    if "reason" in scenario:
        assert run.result["reason"] == scenario["reason"]
    # never plain green: the result, the last event, the command and the picture say what was passed over
    assert (run.result["skipped"], run.result["tolerated"]) == (skipped, tolerated)
    ended = run.events[-1]["data"]
    assert run.events[-1]["type"] == f"wizflow.run.{scenario['run']}"
    assert (ended.get("skipped", []), ended.get("tolerated", [])) == (skipped, tolerated)
    for word, names in (("skipped", skipped), ("tolerated", tolerated)):
        told = next((line for line in alone.said.out.splitlines() if line.startswith(f"{word}: ")), f"{word}: ")
        assert sorted(filter(None, told.removeprefix(f"{word}: ").split(", "))) == sorted(names)
        shown = [name for name in names if "[" not in name]  # of instances the picture shows their task
        assert (run.folder / "graph.svg").read_text().count(f" {word}") >= len(shown)


def test_finally_is_given_what_the_tasks_left(alone: Alone) -> None:
    tasks = [shell("a", "echo some", outputs={"v": {"type": "text"}}), shell("b", "exit 3", "a")]
    last = [
        shell("tell", "echo {{workflow.name}} {{run.status}} {{tasks.a.outputs.v}} {{tasks.b.status}}"),
        shell("ask", "echo {{tasks.b.outputs.w}}"),
    ]

    run = alone.run({"tasks": tasks, "finally": last})

    assert run.log("tell") == "w failed some failed\n"
    assert run.statuses["ask"] == "failed"
    assert run.tasks["ask"]["reason"].startswith("cannot fill {{tasks.b.outputs.w}}: there is no output 'w' of 'b'")


def test_finally_begins_when_everything_else_has_ended(alone: Alone) -> None:
    tasks = [shell("fails", "false"), shell("long", "sleep 0.4"), shell("next", "true", "long")]

    run = alone.run({"tasks": tasks, "finally": [shell("last", "true")]})

    ends = [event["subject"].rsplit("/", 1)[1] for event in run.events if event["type"] == "wizflow.task.started"]
    assert ends[-1] == "last"
    assert run.statuses == {"fails": "failed", "long": "succeeded", "next": "succeeded", "last": "succeeded"}


@pytest.mark.parametrize(
    ("tasks", "what"),
    [
        ([shell("a", "true", "last")], "tasks[0].depends_on[0]: last is in finally"),
        ([shell("a", "echo {{tasks.last.outputs.o}}")], "tasks[0].command: last is in finally"),
        ([shell("a", "true", when="tasks.last.status == 'failed'")], "tasks[0].when: last is in finally"),
        ([shell("a", "true", for_each="{{tasks.last.outputs.o}}")], "tasks[0].for_each: last is in finally"),
        (
            [shell("a", "true", input_mappings={"v": {"from_task": "last", "output": "o"}})],
            "tasks[0].input_mappings.v.from_task: last is in finally",
        ),
        ([shell("last", "true")], "last"),
    ],
)
def test_what_finally_cannot_be_is_refused(alone: Alone, tasks: list[dict[str, Any]], what: str) -> None:
    lines = alone.refused({"tasks": tasks, "finally": [shell("last", "true", outputs={"o": {"type": "json"}})]})

    assert len(lines) == 1
    assert what in lines[0]


# -- cancelled runs ---------------------------------------------------------------------------------------------------


def test_a_cancelled_run_runs_its_finally_and_stays_cancelled(shared: Daemon) -> None:
    last = [
        shell("exit", "echo {{run.status}}"),
        shell("good", "true", run_on="success"),
        shell("bad", "true", run_on="failure"),
        shell("broken", "false"),
    ]
    shared.drop("w.json", {"tasks": [shell("long", "sleep 60"), shell("b", "true", "long")], "finally": last})
    name = shared.wait_running("w", "long")

    shared.ask("cancel", run=name)
    run = shared.wait_run("w")

    assert run.status == "cancelled"
    assert run.result["reason"] == "cancelled by request"
    assert run.log("exit") == "cancelled\n"
    assert run.statuses == {
        "long": "cancelled",
        "b": "cancelled",
        "exit": "succeeded",
        "good": "skipped",
        "bad": "skipped",
        "broken": "failed",
    }


def test_finally_itself_can_be_cancelled(shared: Daemon, tmp_path: Path) -> None:
    last = [shell("wait", gated(tmp_path / "never")), shell("next", "true", "wait")]
    shared.drop("w.json", {"tasks": [shell("a", "true")], "finally": last})
    name = shared.wait_running("w", "wait")

    shared.ask("cancel", run=name)
    run = shared.wait_run("w")

    assert run.status == "cancelled"
    assert run.statuses == {"a": "succeeded", "wait": "cancelled", "next": "cancelled"}


def test_a_kill_between_the_tasks_and_finally_changes_nothing(daemon: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    last = [shell("wait", gated(gate), run_on="failure"), shell("next", "echo {{run.status}}", "wait")]
    daemon.drop("w.json", {"tasks": [shell("a", "false")], "finally": last})
    daemon.wait_running("w", "wait")

    daemon.kill9()
    daemon.start()
    gate.touch()
    run = daemon.wait_run("w")

    assert (run.status, run.result["reason"]) == ("failed", "a failed")
    assert run.statuses == {"a": "failed", "wait": "succeeded", "next": "succeeded"}
    assert run.log("next") == "failed\n"


def test_status_says_what_a_run_passed_over(shared: Daemon) -> None:
    tasks = [shell("a", "false", continue_on_failure=True), shell("b", "true", when="false"), shell("c", "true", "b")]
    shared.drop("w.json", tasks)
    shared.wait_run("w")

    last = wait_for(lambda: shared.status("w")["last"])

    assert (last["status"], last["skipped"], last["tolerated"]) == ("succeeded", 2, 1)
    (row,) = [row for row in shared.ask("runs", workflow="w") if row["workflow"].endswith("/w")]
    assert (row["status"], row["skipped"], row["tolerated"]) == ("succeeded", 2, 1)
