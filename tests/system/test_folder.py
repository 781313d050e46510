"""The folder is the desired state: policies, removal, broken files, twins, first scans (SPEC sections 2.6 to 2.9)."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, gated, lines_of, publish, queued_runs, shell, wait_for
from wizflowd.errors import RequestError


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that long tasks wait for."""
    return tmp_path / "gate"


def gated_by(gate: Path, version: int, policy: str = "queue", **fields: Any) -> dict[str, Any]:
    """Return a workflow whose only task waits for the gate, then notes its version."""
    task = shell("work", gated(gate, f"echo {version} >> ran"))
    return {"concurrency": {"policy": policy}, **fields, "tasks": [task]}


def statuses(daemon: Daemon, workflow: str) -> list[str]:
    return [run.status for run in daemon.finished(workflow)]


def rows(daemon: Daemon, workflow: str) -> list[dict[str, Any]]:
    """Return what the control socket says of the runs of a workflow, oldest first."""
    return list(reversed(daemon.ask("runs", workflow=workflow)))


# -- changed while running -----------------------------------------------------------------------------------------


def test_queue_runs_the_newest_change_after_the_present_run_and_says_what_was_superseded(
    shared: Daemon, gate: Path
) -> None:
    shared.drop("q.json", gated_by(gate, 1))
    shared.wait_running("q", "work")
    for version in (2, 3):
        shared.drop("q.json", gated_by(gate, version))
        shared.wait_told("run.queued", "q/", version)
    wait_for(lambda: [row["status"] for row in rows(shared, "q")] == ["running", "cancelled", "queued"])
    assert wait_for(lambda: shared.status("q"))["state"] == "running"

    gate.touch()
    last = shared.wait_run("q", 2)

    first, superseded, newest = rows(shared, "q")
    assert (first["status"], newest["status"]) == ("succeeded", "succeeded")
    assert superseded["reason"] == f"superseded by {newest['run']}"
    (told,) = shared.told("run.cancelled", f"q/{superseded['run']}")
    assert newest["run"] in told.fields["reason"]
    assert last.result["run"] == newest["run"]
    assert lines_of(shared.workspace("q") / "ran") == ["1", "3"]


def test_triggered_runs_wait_their_turn_in_the_queue(shared: Daemon, gate: Path) -> None:
    shared.drop("q.json", gated_by(gate, 1))
    shared.wait_running("q", "work")
    for _ in range(2):
        shared.ask("trigger", workflow="q")
    shared.drop("q.json", gated_by(gate, 2))
    wait_for(lambda: len(rows(shared, "q")) == 4)

    gate.touch()
    shared.wait_run("q", 4)

    assert statuses(shared, "q") == ["succeeded"] * 4
    assert lines_of(shared.workspace("q") / "ran") == ["1", "1", "1", "2"]  # each pinned to its content


def test_replace_cancels_the_present_run_first(shared: Daemon, gate: Path) -> None:
    shared.drop("r.json", gated_by(gate, 1, "replace"))
    shared.wait_running("r", "work")

    gate2 = gate.with_name("gate2")
    gate2.touch()
    shared.drop("r.json", gated_by(gate2, 2, "replace"))
    last = shared.wait_run("r", 2)

    assert statuses(shared, "r") == ["cancelled", "succeeded"]
    assert shared.finished("r")[0].result["reason"] == f"replaced by {last.result['run']}"
    assert shared.finished("r")[0].statuses == {"work": "cancelled"}
    assert lines_of(shared.workspace("r") / "ran") == ["2"]


def test_forbid_records_a_change_and_refuses_a_trigger(shared: Daemon, gate: Path) -> None:
    shared.drop("f.json", gated_by(gate, 1, "forbid"))
    shared.wait_running("f", "work")
    shared.drop("f.json", gated_by(gate, 2, "forbid"))

    shared.wait_told("workflow.changed", "f")
    with pytest.raises(RequestError, match="a run is in progress") as refused:
        shared.ask("trigger", workflow="f")
    assert refused.value.code == "busy"
    gate.touch()
    shared.wait_run("f")
    shared.settle()

    assert len(shared.finished("f")) == 1
    assert lines_of(shared.workspace("f") / "ran") == ["1"]
    assert "forbid" in str(wait_for(lambda: shared.status("f"))["note"])
    shared.ask("trigger", workflow="f")
    shared.wait_run("f", 2)
    assert lines_of(shared.workspace("f") / "ran") == ["1", "2"]


def test_allow_runs_side_by_side_each_in_a_workspace_of_its_own(shared: Daemon, gate: Path) -> None:
    shared.drop("a.json", gated_by(gate, 1, "allow"))
    shared.wait_running("a", "work")
    shared.drop("a.json", gated_by(gate, 2, "allow"))
    shared.wait_told("workflow.changed", "a")
    shared.ask("trigger", workflow="a")
    wait_for(lambda: [row["status"] for row in rows(shared, "a")] == ["running"] * 3)

    gate.touch()
    shared.wait_run("a", 3)

    ran = [(run.folder / "workspace/ran").read_text() for run in shared.finished("a")]
    assert sorted(ran) == ["1\n", "2\n", "2\n"]
    assert not shared.workspace("a").exists()
    assert {run.actions["work"] for run in shared.finished("a")} == {"run"}  # under allow no SHELL task is reused


# -- removed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_remove", "status", "ran"), [("finish", "succeeded", ["1"]), ("cancel", "cancelled", [])])
def test_a_removed_file_lets_its_run_finish_or_cancels_it(
    shared: Daemon, gate: Path, on_remove: str, status: str, ran: list[str]
) -> None:
    path = shared.drop("gone.json", gated_by(gate, 1, on_remove=on_remove))
    shared.wait_running("gone", "work")

    path.unlink()
    shared.wait_told("workflow.removed", "gone")
    if on_remove == "finish":
        gate.touch()
    run = shared.wait_run("gone")

    assert run.status == status
    assert lines_of(shared.workspace("gone") / "ran") == ran
    wait_for(lambda: not (shared.folder("gone") / "status.json").exists())
    assert (run.folder / "result.json").exists()  # results stay
    assert "gone" not in str(shared.ask("workflows"))


def test_a_removed_file_that_comes_back_is_new_and_runs_everything(shared: Daemon) -> None:
    path = shared.drop("back.json", [shell("a", "echo 1 >> ran")])
    shared.wait_run("back")
    path.unlink()
    shared.wait_told("workflow.removed", "back")

    shared.drop("back.json", [shell("a", "echo 1 >> ran")])
    run = shared.wait_run("back", 2)

    assert run.reasons == {"a": "never ran"}
    assert len(shared.told("workflow.added", "back")) == 2


def test_a_file_that_is_away_for_less_than_settle_is_a_save(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(watch__settle="500ms")
    daemon.start()
    path = daemon.drop("saved.json", [shell("a", "true")])
    daemon.wait_run("saved")

    path.rename(daemon.home / "away")
    daemon.workflows.joinpath("look.txt").touch()
    (daemon.home / "away").rename(path)
    daemon.settle()

    assert daemon.told("workflow.removed") == []
    assert len(daemon.finished("saved")) == 1


@pytest.mark.parametrize("way", ["made anew", "moved back"])
def test_a_folder_that_vanishes_is_unavailable_and_no_removal(daemon: Daemon, tmp_path: Path, way: str) -> None:
    for number in range(3):
        daemon.drop(f"w{number}.json", [shell("a", "echo 1 >> ran")])
        daemon.wait_run(f"w{number}")

    daemon.workflows.rename(tmp_path / "away")
    wait_for(lambda: daemon.ask("status")["unavailable"])
    daemon.wait_told("workflow.unavailable")
    assert {known["state"] for known in daemon.ask("workflows")} == {"unavailable"}
    assert len(daemon.ask("workflows")) == 3
    assert not daemon.workflows.exists()

    if way == "made anew":
        daemon.workflows.mkdir()
        for path in (tmp_path / "away").glob("*.json"):
            publish(daemon.workflows / path.name, path.read_bytes())
    else:
        (tmp_path / "away").rename(daemon.workflows)
    wait_for(lambda: not daemon.ask("status")["unavailable"])
    daemon.settle()

    assert daemon.told("workflow.removed") == []
    assert daemon.stop() == 0
    assert len(queued_runs(daemon)) == 3


def test_a_run_whose_folder_vanishes_ends_when_it_is_back(daemon: Daemon, gate: Path, tmp_path: Path) -> None:
    daemon.drop("w.json", [shell("a", gated(gate)), shell("b", "true")])
    daemon.wait_running("w", "a", "b")
    daemon.wait_told("task.succeeded", "w/")

    daemon.workflows.rename(tmp_path / "away")
    gate.touch()
    daemon.wait_told("task.succeeded", "w/", 2)
    wait_for(lambda: "trying again" in daemon.log)
    assert not daemon.workflows.exists()
    (tmp_path / "away").rename(daemon.workflows)

    assert daemon.wait_run("w").status == "succeeded"


def test_a_folder_that_is_missing_at_a_later_start_is_unavailable(daemon: Daemon, tmp_path: Path) -> None:
    daemon.drop("kept.json", [shell("a", "true")])
    daemon.wait_run("kept")
    assert daemon.stop() == 0
    daemon.workflows.rename(tmp_path / "away")

    daemon.launch()
    wait_for(lambda: daemon.socket.exists() and daemon.ask("status")["unavailable"])
    (tmp_path / "away").rename(daemon.workflows)
    daemon.wait_until_ready()
    daemon.settle()

    assert daemon.told("workflow.removed") == []
    assert len(daemon.finished("kept")) == 1


# -- refused -------------------------------------------------------------------------------------------------------


def test_a_broken_file_harms_only_itself_and_is_mended(shared: Daemon) -> None:
    shared.drop("etl.yaml", "tasks:\n- {id: a, type: SHELL, command: echo 1 >> ran}\n")
    shared.wait_run("etl")
    shared.drop("etl.yaml", "tasks:\n- {id: a, type: SHELL, comand: echo 2 >> ran}\n")

    error = shared.folder("etl") / "error.txt"
    text = wait_for(error.read_text)
    assert text.startswith("etl.yaml:2:")
    assert 'did you mean "command"?' in text
    status = wait_for(lambda: (found := shared.status("etl"))["state"] == "invalid" and found)
    assert status["error"].splitlines() == text.splitlines()
    shared.ask("trigger", workflow="etl")  # the previous version is in force
    shared.wait_run("etl", 2)
    shared.drop("other.json", [shell("a", "true")])
    shared.wait_run("other")

    shared.drop("etl.yaml", "tasks:\n- {id: a, type: SHELL, command: echo 3 >> ran}\n")
    shared.wait_run("etl", 3)

    wait_for(lambda: not error.exists())
    assert wait_for(lambda: shared.status("etl"))["error"] is None
    assert lines_of(shared.workspace("etl") / "ran") == ["1", "1", "3"]


def test_a_broken_file_that_goes_back_to_what_ran_does_not_run_again(daemon: Daemon) -> None:
    good = "tasks:\n- {id: a, type: SHELL, command: echo 1 >> ran}\n"
    daemon.drop("etl.yaml", good)
    daemon.wait_run("etl")
    daemon.drop("etl.yaml", "tasks: [")
    wait_for((daemon.folder("etl") / "error.txt").exists)
    daemon.restart()
    assert (daemon.folder("etl") / "error.txt").exists()

    daemon.drop("etl.yaml", good)
    wait_for(lambda: not (daemon.folder("etl") / "error.txt").exists())
    daemon.settle()

    assert lines_of(daemon.workspace("etl") / "ran") == ["1"]


def test_of_twins_neither_runs_and_the_version_in_force_goes_on(shared: Daemon) -> None:
    first = shared.drop("twin.yaml", "tasks: [{id: a, type: SHELL, command: echo 1 >> ran}]\n")
    shared.wait_run("twin")
    second = shared.drop("twin.json", [shell("a", "echo 2 >> ran")])

    text = wait_for((shared.folder("twin") / "error.txt").read_text)
    assert ("twin.json" in text, "twin.yaml" in text) == (True, True)
    shared.ask("trigger", workflow="twin")
    shared.wait_run("twin", 2)
    assert lines_of(shared.workspace("twin") / "ran") == ["1", "1"]

    first.unlink()
    shared.wait_run("twin", 3)
    wait_for(lambda: not (shared.folder("twin") / "error.txt").exists())
    assert lines_of(shared.workspace("twin") / "ran") == ["1", "1", "2"]
    assert second.exists()


def test_files_that_others_may_write_are_refused_with_the_command_that_mends_it(shared: Daemon) -> None:
    path = shared.drop(".loose", {"tasks": [shell("a", "true")]})
    path.chmod(0o666)
    path = path.rename(shared.workflows / "loose.json")

    text = wait_for((shared.folder("loose") / "error.txt").read_text)
    assert f"chmod o-w {path}" in text
    assert shared.finished("loose") == []

    path.chmod(0o644)
    shared.wait_run("loose")


def test_hidden_files_temporaries_and_pipes_are_ignored(shared: Daemon) -> None:
    import os

    content = json.dumps({"tasks": [shell("a", "true")]})
    for name in (".hidden.json", "saved.json~", "#emacs.json#", "new.json.tmp", "notes.txt", "new.tmp.json"):
        (shared.workflows / name).write_text(content)
    os.mkfifo(shared.workflows / "pipe.json")
    (shared.workflows / "old.runs").mkdir()
    (shared.workflows / "old.runs/inner.json").write_text(content)
    outside = shared.home / "outside.json"
    outside.write_text(content)
    (shared.workflows / "link.json").symlink_to(outside)
    shared.settle()
    shared.settle()

    assert [line.subject for line in shared.told("workflow.") if not line.subject.startswith("marker")] == []


# -- not run by the drop itself ------------------------------------------------------------------------------------


def test_a_required_param_keeps_a_dropped_file_waiting_until_it_is_triggered(shared: Daemon) -> None:
    params = {"day": {"required": True, "type": "string"}, "count": {"type": "integer", "default": 2}}
    shared.drop("asks.json", {"params": params, "tasks": [shell("a", "echo {{params.day}} {{params.count}}")]})

    status = wait_for(lambda: (found := shared.status("asks"))["state"] == "waiting" and found)
    assert status["run"] is None
    with pytest.raises(RequestError, match="day"):
        shared.ask("trigger", workflow="asks")
    with pytest.raises(RequestError, match="count"):
        shared.ask("trigger", workflow="asks", params={"day": "x", "count": "many"})
    shared.ask("trigger", workflow="asks", params={"day": "it's monday; ls"})
    run = shared.wait_run("asks")

    assert run.log("a") == "it's monday; ls 2\n"
    assert run.result["trigger"] == "manual"


def test_the_first_scan_may_be_recorded_and_what_comes_later_runs(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(watch__first_scan="record")
    for number in range(3):
        daemon.drop(f"old{number}.json", [shell("a", "echo old >> ran")])
    daemon.start()
    daemon.wait_told("workflow.added", "old", 3)
    daemon.drop("new.json", [shell("a", "true")])
    daemon.wait_run("new")
    daemon.settle()

    assert [row["workflow"] for row in daemon.ask("runs") if row["workflow"].startswith("old")] == []
    daemon.drop("old1.json", [shell("a", "echo changed >> ran")])
    daemon.wait_run("old1")
    daemon.restart()
    daemon.ask("trigger", workflow="old2")
    daemon.wait_run("old2")
    daemon.settle()
    assert daemon.finished("old0") == []


def test_on_change_record_takes_a_change_in_force_and_does_not_run_it(shared: Daemon) -> None:
    shared.drop("noted.json", {"on_change": "record", "tasks": [shell("a", "echo 1 >> ran")]})
    shared.wait_told("workflow.added", "noted")
    shared.drop("noted.json", {"on_change": "record", "tasks": [shell("a", "echo 2 >> ran")]})
    shared.wait_told("workflow.changed", "noted")
    shared.settle()
    assert shared.finished("noted") == []

    shared.ask("trigger", workflow="noted")
    shared.wait_run("noted")

    assert lines_of(shared.workspace("noted") / "ran") == ["2"]


def test_workflows_in_folders_have_names_with_slashes(shared: Daemon) -> None:
    shared.drop("team/deep/etl.yaml", "tasks: [{id: a, type: SHELL, command: pwd}]\n")

    run = shared.wait_run("team/deep/etl")

    assert run.log("a") == f"{shared.workflows}/team/deep/etl.runs/workspace\n"
    shutil.rmtree(shared.workflows / "team")
    shared.wait_told("workflow.removed", "team/deep/etl")
