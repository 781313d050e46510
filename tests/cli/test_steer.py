"""`trigger`, `cancel`, `pause`, `resume`, `retry`, `backup`: what the daemon is asked to do is done."""

import json
import sqlite3
from pathlib import Path

from tests.cli.fleet import Fleet
from tests.system.running import shell, wait_for


def state_of(fleet: Fleet, run: str) -> str:
    return str(fleet.daemon.ask("run", run=run)["status"])


def test_a_triggered_run_takes_its_params(fleet: Fleet) -> None:
    fleet.daemon.drop(
        "greets.json",
        {"params": {"who": "all"}, "tasks": [shell("a", "echo hello {{params.who}}")], "on_change": "record"},
    )
    wait_for(lambda: "greets" in fleet("status").stdout, "greets is known")

    run = json.loads(fleet("trigger", "greets", "-p", "who=you = me", "--json").stdout)["run"]
    wait_for(lambda: state_of(fleet, run) == "succeeded", "it ran")

    assert fleet("logs", run, "a").stdout == "hello you = me\n"


def test_a_param_without_value_is_wrong_usage(fleet: Fleet) -> None:
    said = fleet("trigger", "good", "-p", "who")

    assert said.returncode == 2
    assert "write NAME=VALUE, not 'who'" in said.stderr


def test_a_run_is_paused_goes_on_and_is_cancelled_by_its_workflow(fleet: Fleet, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"until [ -e {gate} ]; do sleep 0.02; done"
    tasks = [shell("first", wait), shell("second", "true", "first"), shell("third", "sleep 1000", "second")]
    fleet.daemon.drop("steered.json", tasks)
    wait_for(lambda: fleet.daemon.ask("runs", workflow="steered"), "it is queued")
    run = fleet.run_of("steered")
    wait_for(lambda: state_of(fleet, run) == "running", "it runs")

    assert "wizflow resume" in fleet("pause", "steered").stdout
    gate.touch()
    wait_for(lambda: fleet.daemon.ask("run", run=run)["tasks"][0]["status"] == "succeeded", "the first is over")
    assert state_of(fleet, run) == "paused"
    assert fleet.daemon.ask("run", run=run)["tasks"][1]["status"] == "pending"

    assert fleet("resume", run).returncode == 0
    wait_for(lambda: fleet.daemon.ask("run", run=run)["tasks"][1]["status"] == "succeeded", "the second is over")

    assert fleet("cancel", "steered").stdout == f"{run} is being cancelled\n"
    wait_for(lambda: state_of(fleet, run) == "cancelled", "it is cancelled")
    said = fleet("cancel", "steered")
    assert said.returncode == 2
    assert said.stderr == "cannot cancel steered: none of its runs is in progress\n"


def test_a_retry_reuses_what_succeeded(fleet: Fleet, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    fleet.daemon.drop("retried.json", [shell("good", "true"), shell("bad", f"test -e {mended}", "good")])
    fleet.daemon.wait_run("retried")
    failed = fleet.run_of("retried")
    mended.touch()

    said = fleet("retry", "retried")
    fleet.daemon.wait_run("retried", 2)

    assert said.stdout.startswith("queued ")
    run = fleet.daemon.ask("run", run=fleet.run_of("retried"))
    assert (run["status"], run["retry_of"]) == ("succeeded", failed)
    assert [task["reused"] for task in run["tasks"]] == [True, False]


def test_a_backup_is_a_state_that_can_be_opened(fleet: Fleet) -> None:
    copy = fleet.daemon.home / "copy.db"

    assert fleet("backup", "copy.db").stdout.startswith(f"{copy}: ")

    with sqlite3.connect(copy) as db:
        assert db.execute("SELECT count(*) FROM runs").fetchone()[0] >= 4
    db.close()
    again = fleet("backup", "copy.db")
    assert again.returncode == 2
    assert "File exists" in again.stderr


def test_a_task_at_its_breakpoint_goes_on_when_it_is_approved(fleet: Fleet) -> None:
    fleet.daemon.drop("guarded.json", [shell("a", "true"), shell("b", "echo approved", "a", breakpoint=True)])
    wait_for(lambda: fleet.daemon.ask("runs", workflow="guarded"), "it is queued")
    run = fleet.run_of("guarded")
    wait_for(
        lambda: [task["status"] for task in fleet.daemon.ask("run", run=run)["tasks"]][1:] == ["paused"], "it waits"
    )

    said = fleet("approve", "guarded", "b")

    assert (said.returncode, said.stdout) == (0, f"b of {run} is approved\n")
    fleet.daemon.wait_run("guarded")
    assert fleet("logs", run, "b").stdout == "approved\n"
    assert fleet("approve", run, "b").returncode == 2
