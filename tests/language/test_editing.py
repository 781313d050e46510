"""A definition that is edited while it runs: what is queued, what is superseded, and what the next run will do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.system.running import Daemon, Finished, gated, shell, wait_for, wizflow


def tasks(gate: Path, version: str) -> list[dict[str, Any]]:
    return [shell("same", "true"), shell("wait", gated(gate)), shell("edited", f"echo {version}", "same")]


def edit(daemon: Daemon, gate: Path, version: str) -> str:
    """Save another version while a run is in progress; return the run that is queued for it."""
    before = {row["run"] for row in daemon.ask("runs", workflow="w")}
    daemon.drop("w.json", tasks(gate, version))
    (new,) = wait_for(lambda: [row["run"] for row in daemon.ask("runs", workflow="w") if row["run"] not in before])
    return str(new)


def wait_status(daemon: Daemon, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return `status.json` as soon as it fits."""
    found: list[dict[str, Any]] = []

    def fits() -> bool:
        found[:] = [daemon.status("w")]
        return condition(found[0])

    wait_for(fits)
    return found[0]


def of_daemon(daemon: Daemon, run: str) -> dict[str, Any]:
    return dict(daemon.ask("run", run=run))


def test_what_is_saved_while_a_run_goes_on_is_queued_and_the_older_of_two_is_superseded(
    shared: Daemon, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    shared.drop("w.json", tasks(gate, "one"))
    first = shared.wait_running("w", "wait")

    second = edit(shared, gate, "two")
    third = edit(shared, gate, "three")
    status = wait_status(shared, lambda status: status["queued"] == [third])
    row = wait_for(
        lambda: next(row for row in shared.ask("runs", workflow="w") if row["run"] == second and row["ended"])
    )
    (told,) = shared.wait_told("run.cancelled", f"w/{second}")
    gate.touch()
    runs = [shared.wait_run("w", 2), shared.finished("w")[0]]

    assert (status["state"], status["run"], status["queued"]) == ("running", first, [third])
    assert (row["status"], row["reason"]) == ("cancelled", f"superseded by {third}")
    assert f"superseded by {third}" in told.fields["reason"]
    assert of_daemon(shared, second)["reason"] == f"superseded by {third}"
    assert [run.result["run"] for run in runs] == [third, first]
    assert [run.log("edited") for run in runs] == ["three\n", "one\n"]
    assert wait_for(lambda: not shared.status("w")["queued"])


def test_plan_says_what_the_saved_content_will_run(shared: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    shared.drop("w.json", tasks(gate, "one"))
    shared.wait_running("w", "wait")
    shared.wait_told("task.succeeded", "w/", count=2)
    edit(shared, gate, "two")

    found = shared.ask("plan", path=str(shared.workflows / "w.json"))
    gate.touch()
    ran = shared.wait_run("w", 2)

    assert {task["id"]: (task["action"], task["reason"]) for task in found["tasks"]} == {
        "same": ("reuse", "nothing changed"),
        "wait": ("run", "did not succeed last time"),
        "edited": ("run", "command changed"),
    }
    assert found["digest"] == ran.result["digest"]
    assert ran.statuses == {"same": "reused", "wait": "reused", "edited": "succeeded"}  # it ended meanwhile


def test_a_broken_version_saved_while_it_runs_stands_beside_the_run(shared: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    shared.drop("w.json", tasks(gate, "one"))
    name = shared.wait_running("w", "wait")

    shared.drop("w.json", '{"tasks": [')
    status = wait_status(shared, lambda status: bool(status["error"]))
    gate.touch()
    run = shared.wait_run("w")

    assert (status["state"], status["run"], status["queued"]) == ("running", name, [])
    assert run.status == "succeeded"
    assert wait_for(lambda: shared.status("w")["state"] == "invalid")


def test_back_to_what_runs_is_a_change_that_runs_nothing_but_what_it_must(shared: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    shared.drop("w.json", tasks(gate, "one"))
    shared.wait_running("w", "wait")

    second = edit(shared, gate, "two")
    third = edit(shared, gate, "one")
    gate.touch()
    run = shared.wait_run("w", 2)

    assert run.result["run"] == third
    assert of_daemon(shared, second)["status"] == "cancelled"
    assert set(run.statuses.values()) == {"reused"}


def test_triggered_runs_are_not_superseded(shared: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    shared.drop("w.json", tasks(gate, "one"))
    shared.wait_running("w", "wait")

    asked = shared.ask("trigger", workflow="w")["run"]
    changed = edit(shared, gate, "two")
    gate.touch()
    shared.wait_run("w", 3)

    by_name = {run.result["run"]: run for run in shared.finished("w")}
    assert [by_name[name].result["trigger"] for name in (asked, changed)] == ["manual", "change"]
    assert by_name[asked].log("edited") == "one\n"  # pinned to the content with which it was asked for
    assert by_name[changed].log("edited") == "two\n"


def test_the_commands_say_what_is_queued(shared: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    shared.drop("w.json", tasks(gate, "one"))
    shared.wait_running("w", "wait")
    second = edit(shared, gate, "two")
    identity = f"{shared.prefix}w"

    said = wizflow(shared.home.parent, "runs", identity, "--json")
    gate.touch()
    finished: Finished = shared.wait_run("w", 2)

    rows = {row["run"]: row for row in json.loads(said.stdout)}
    assert rows[second]["status"] == "queued"
    assert finished.result["run"] == second
