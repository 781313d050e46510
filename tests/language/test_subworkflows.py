"""Tasks of type WORKFLOW: a run of another workflow as the attempt of a task, linked both ways."""

from pathlib import Path
from typing import Any

import pytest

from tests.language.conftest import Alone
from tests.system.running import Daemon, gated, lines_of, queued_runs, shell, wait_for
from wizflowd.errors import RequestError


def calling(name: str, workflow: str, *needs: str, **fields: Any) -> dict[str, Any]:
    """Return a WORKFLOW task."""
    return {"id": name, "type": "WORKFLOW", "workflow": workflow, "depends_on": [*needs], **fields}


def record(daemon: Daemon, name: str, *tasks: dict[str, Any], **more: Any) -> None:
    """Drop a definition that runs only when it is asked for, and return when it is in force."""
    digest = daemon.status(name)["digest"] if (daemon.folder(name) / "status.json").exists() else None
    daemon.drop(f"{name}.json", {"on_change": "record", **more, "tasks": [*tasks]})
    wait_for(lambda: daemon.status(name)["digest"] != digest)


def inside(daemon: Daemon, name: str) -> str:
    """Return the identity of a workflow of this corner."""
    return f"{daemon.prefix}{name}"


# -- both ways --------------------------------------------------------------------------------------------------------


def test_a_run_of_another_workflow_is_linked_both_ways_and_gives_its_end(shared: Daemon) -> None:
    params = {"day": "none", "n": {"type": "integer", "default": 0}, "all": {"type": "list", "default": []}}
    show = shell(
        "show", "printf '%s %s %s' {{params.day}} {{params.n}} {{params.all}}", outputs={"v": {"type": "text"}}
    )
    record(shared, "child", show, params=params)
    given = {"day": "{{params.day}}", "n": "{{tasks.count.outputs.n}}", "all": ["x", "{{params.day}}"]}
    shared.drop(
        "parent.json",
        {
            "params": {"day": "monday"},
            "tasks": [
                shell("count", "echo 7", outputs={"n": {"type": "json"}}),
                calling("call", inside(shared, "child"), params=given),
                shell("after", "echo {{tasks.call.outputs.run}}", "call"),
            ],
        },
    )

    parent, child = shared.wait_run("parent"), shared.wait_run("child")

    assert (parent.status, child.status) == ("succeeded", "succeeded")
    assert child.result["trigger"] == "workflow"
    assert child.result["parent"] == f"{parent.result['run']}/call/1"
    assert parent.tasks["call"]["outputs"] == {"run": child.result["run"]}
    assert parent.tasks["call"]["attempts"][0]["notes"] == [f"run {child.result['run']}"]
    assert parent.log("after") == f"{child.result['run']}\n"
    assert child.tasks["show"]["outputs"]["v"] == 'monday 7 ["x","monday"]'
    assert str(parent.tasks["call"]["attempts"][0]["ended"]) >= str(child.result["ended"])


def test_a_failure_comes_up_and_is_tried_again_with_a_run_of_its_own(shared: Daemon) -> None:
    record(shared, "child", shell("a", "false"))
    shared.drop(
        "parent.json",
        [calling("call", inside(shared, "child"), retry={"limit": 1, "delay": 0}), shell("b", "true", "call")],
    )

    parent = shared.wait_run("parent")
    children = [shared.wait_run("child", 2), shared.finished("child")[0]]

    assert (parent.status, parent.statuses) == ("failed", {"call": "failed", "b": "skipped"})
    assert {child.result["parent"] for child in children} == {f"{parent.result['run']}/call/{n}" for n in (1, 2)}
    assert parent.tasks["call"]["reason"] == f"its run {children[0].result['run']} failed"


def test_a_child_that_somebody_cancels_fails_the_task(shared: Daemon) -> None:
    record(shared, "child", shell("long", "sleep 60"))
    shared.drop("parent.json", [calling("call", inside(shared, "child"))])
    name = shared.wait_running("child", "long")

    shared.ask("cancel", run=name)
    parent = shared.wait_run("parent")

    assert parent.status == "failed"
    assert parent.tasks["call"]["reason"] == f"its run {name} was cancelled"


def test_cancel_goes_down_through_all_generations(shared: Daemon) -> None:
    record(shared, "grandchild", shell("long", "sleep 60"))
    record(shared, "child", calling("call", inside(shared, "grandchild")))
    shared.drop("parent.json", [calling("call", inside(shared, "child")), shell("after", "true", "call")])
    shared.wait_running("grandchild", "long")

    shared.ask("cancel", run=shared.wait_running("parent", "call"))
    runs = [shared.wait_run(name) for name in ("grandchild", "child", "parent")]

    assert [run.status for run in runs] == ["cancelled"] * 3
    assert runs[2].statuses == {"call": "cancelled", "after": "cancelled"}
    assert runs[0].result["reason"] == "the run that waits for it was cancelled"


def test_a_task_that_does_not_wait_ends_when_the_run_is_queued(shared: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    record(shared, "child", shell("wait", gated(gate)))
    shared.drop("parent.json", [calling("call", inside(shared, "child"), wait=False)])

    parent = shared.wait_run("parent")
    unfinished = not shared.finished("child")
    gate.touch()
    child = shared.wait_run("child")

    assert unfinished
    assert (parent.status, child.status) == ("succeeded", "succeeded")
    assert parent.tasks["call"]["outputs"]["run"] == child.result["run"]


def test_a_time_limit_of_the_task_ends_the_child(shared: Daemon) -> None:
    record(shared, "child", shell("long", "sleep 60"))
    shared.drop("parent.json", [calling("call", inside(shared, "child"), timeout="500ms")])

    parent, child = shared.wait_run("parent"), shared.wait_run("child")

    assert (parent.status, child.status) == ("failed", "cancelled")
    assert "timed out after 0.5 s" in parent.tasks["call"]["reason"]


# -- what cannot be ---------------------------------------------------------------------------------------------------


def test_a_circle_over_files_is_refused_where_it_would_close(shared: Daemon) -> None:
    record(shared, "a", calling("to_b", inside(shared, "b")))
    record(shared, "b", calling("to_a", inside(shared, "a")))

    shared.ask("trigger", workflow="a")
    a, b = shared.wait_run("a"), shared.wait_run("b")

    chain = " -> ".join(inside(shared, name) for name in "aba")
    assert b.tasks["to_a"]["reason"] == f"cannot run {inside(shared, 'a')}: it waits for itself: {chain}"
    assert (a.status, b.status) == ("failed", "failed")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (calling("call", "nowhere"), "cannot run 'nowhere': there is no such workflow"),
        (calling("call", "CHILD", params={"nn": 1}), "cannot run: there is no parameter 'nn'; did you mean \"n\"?"),
        (calling("call", "CHILD", params={"n": "x"}), 'cannot run: parameter n: "x" is not of type integer'),
    ],
)
def test_a_run_that_cannot_be_fails_the_task_once_and_says_why(
    shared: Daemon, task: dict[str, Any], message: str
) -> None:
    record(shared, "child", shell("a", "true"), params={"n": 1})
    workflow = task["workflow"].replace("CHILD", inside(shared, "child"))
    shared.drop("parent.json", [{**task, "workflow": workflow, "retry": {"limit": 5, "delay": 0}}])

    parent = shared.wait_run("parent")

    assert parent.status == "failed"
    assert parent.tasks["call"]["reason"].startswith(message)
    assert len(parent.tasks["call"]["attempts"]) == 1


def test_without_a_daemon_such_a_task_says_what_it_needs(alone: Alone) -> None:
    run = alone.run({"tasks": [calling("call", "team/other"), shell("beside", "true")]})

    assert run.statuses == {"call": "failed", "beside": "succeeded"}
    assert run.tasks["call"]["reason"] == (
        "cannot run team/other: `wizflow run` runs one file, without a daemon; put both files into a daemon's folder"
    )


# -- together with everything else ------------------------------------------------------------------------------------


def test_children_of_one_workflow_wait_for_each_other_and_take_no_places(make_daemon: Any) -> None:
    daemon = make_daemon(limits__max_tasks="1")
    daemon.start()
    seen = daemon.home / "seen"
    record(daemon, "child", shell("a", f"echo + >> {seen}; sleep 0.05; echo - >> {seen}"), params={"n": 0})
    daemon.drop("parent.json", [calling("each", "child", for_each=[1, 2, 3], params={"n": "{{item}}"})])

    parent = daemon.wait_run("parent")
    daemon.wait_run("child", 3)

    assert parent.status == "succeeded"
    assert lines_of(seen) == ["+", "-"] * 3
    assert sorted(run.result["params"]["n"] for run in daemon.finished("child")) == [1, 2, 3]
    assert parent.tasks["each"]["outputs"]["run"] == [parent.tasks[f"each[{n}]"]["outputs"]["run"] for n in (1, 2, 3)]


def test_a_busy_child_under_forbid_fails_the_task(shared: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    record(shared, "child", shell("wait", gated(gate)), concurrency={"policy": "forbid"})
    shared.ask("trigger", workflow="child")
    shared.wait_running("child", "wait")

    shared.drop("parent.json", [calling("call", inside(shared, "child"))])
    parent = shared.wait_run("parent")
    gate.touch()
    shared.wait_run("child")

    assert "a run is in progress and its policy is forbid" in parent.tasks["call"]["reason"]


@pytest.mark.parametrize("kills", [1, 3])
def test_a_restart_while_a_child_runs_starts_no_second_one(daemon: Daemon, tmp_path: Path, kills: int) -> None:
    gate, seen = tmp_path / "gate", tmp_path / "seen"
    record(daemon, "child", shell("wait", f"echo x >> {seen}; {gated(gate)}"))
    daemon.drop("parent.json", [calling("call", "child"), shell("after", "true", "call")])
    wait_for(lambda: lines_of(seen))

    for _ in range(kills):
        daemon.kill9()
        daemon.start()
    gate.touch()
    parent, child = daemon.wait_run("parent"), daemon.wait_run("child")
    daemon.kill9()

    assert (parent.status, child.status, lines_of(seen)) == ("succeeded", "succeeded", ["x"])
    assert len(parent.tasks["call"]["attempts"]) == 1
    assert len(queued_runs(daemon, "child")) == 1


def test_a_restart_after_the_child_has_ended_takes_its_end(daemon: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    record(daemon, "child", shell("a", gated(gate)))
    daemon.drop("parent.json", [calling("call", "child")])
    daemon.wait_running("child", "a")

    daemon.kill9()
    gate.touch()  # it ends while nobody looks
    daemon.start()
    parent = daemon.wait_run("parent")
    daemon.wait_run("child")
    daemon.kill9()

    assert parent.status == "succeeded"
    assert len(queued_runs(daemon, "child")) == 1


def test_cancelling_after_a_restart_still_goes_down(daemon: Daemon) -> None:
    record(daemon, "child", shell("long", "sleep 60"))
    daemon.drop("parent.json", [calling("call", "child")])
    daemon.wait_running("child", "long")
    name = daemon.wait_running("parent", "call")

    daemon.kill9()
    daemon.start()
    daemon.ask("cancel", run=name)

    assert (daemon.wait_run("parent").status, daemon.wait_run("child").status) == ("cancelled", "cancelled")


def test_an_unchanged_child_is_reused_with_its_parent(shared: Daemon) -> None:
    record(shared, "child", shell("a", "true"))
    shared.drop("parent.json", [calling("call", inside(shared, "child")), shell("b", "true", "call")])
    shared.wait_run("parent")

    shared.drop("parent.json", [calling("call", inside(shared, "child")), shell("b", "true # again", "call")])
    second = shared.wait_run("parent", 2)

    assert second.statuses == {"call": "reused", "b": "succeeded"}
    assert len(shared.finished("child")) == 1


def test_a_run_asked_for_twice_by_one_name_is_not_known(shared: Daemon) -> None:
    with pytest.raises(RequestError, match="there is no such workflow"):
        shared.ask("trigger", workflow="nowhere")
