"""Tasks that outlived the daemon, where what they were started with is gone meanwhile (SPEC section 10)."""

import fcntl
import os
import signal
import time
from pathlib import Path

import pytest

from tests.system.running import Daemon, gated, is_alive, lines_of, shell, wait_for

TOKEN = "token-of-a-task-that-runs"


def drop_with_secret(daemon: Daemon, command: str) -> Path:
    """Drop a workflow whose task has begun with a secret; return the file that holds that."""
    secret, begun = daemon.home / "token", daemon.home / "begun"
    secret.write_text(TOKEN)
    tasks = [shell("long", f"{command}; touch {begun}; {gated(daemon.home / 'gate')} echo end")]
    daemon.drop("w.json", {"secrets": {"TOKEN": {"file": str(secret)}}, "tasks": tasks})
    wait_for(begun.exists, "the task has begun")
    return secret


def test_a_task_whose_secret_is_gone_is_adopted_and_its_log_masked(daemon: Daemon) -> None:
    secret = drop_with_secret(daemon, "echo {{secrets.TOKEN}}")

    daemon.kill9()
    secret.unlink()
    daemon.start()
    (daemon.home / "gate").touch()
    run = daemon.wait_run("w")

    assert run.status == "succeeded"
    assert len(run.tasks["long"]["attempts"]) == 1
    assert run.types.count("wizflow.task.adopted") == 1
    assert run.log("long") == "***\nend\n"


def test_what_a_task_wrote_for_its_outputs_is_not_taken_where_its_secret_is_gone(daemon: Daemon) -> None:
    secret = drop_with_secret(daemon, "echo shown={{secrets.TOKEN}} >> $WIZFLOW_OUTPUT")

    daemon.kill9()
    secret.unlink()
    daemon.start()
    (daemon.home / "gate").touch()
    run = daemon.wait_run("w")

    assert run.status == "failed"
    assert (
        "cannot mask what was written to $WIZFLOW_OUTPUT: secret 'TOKEN'" in run.tasks["long"]["attempts"][0]["error"]
    )
    assert TOKEN not in (run.folder / "result.json").read_text()


def test_a_daemon_starts_while_another_runs_the_workflow_and_starts_nothing_of_it_before_that_ends(
    daemon: Daemon,
) -> None:
    gate = daemon.home / "gate"
    daemon.drop("w.json", [shell("long", gated(gate)), shell("after", "echo done >> ran", "long")])
    daemon.wait_begun("w", "long")
    ran = daemon.workspace("w") / "ran"

    daemon.kill9()
    lock = os.open(daemon.folder("w") / ".state" / "lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as `wizflow run` does
        daemon.start()
        gate.touch()
        wait_for(lambda: not daemon.ask("status")["running_tasks"], "the first has ended")
        daemon.settle()
        assert not ran.exists()
    finally:
        os.close(lock)
    run = daemon.wait_run("w")

    assert run.statuses == {"long": "succeeded", "after": "succeeded"}
    assert lines_of(ran) == ["done"]


def test_a_run_whose_tasks_ended_in_time_while_the_daemon_was_down_has_not_timed_out(daemon: Daemon) -> None:
    begun, gate = daemon.home / "begun", daemon.home / "gate"
    task = shell("a", f"touch {begun}; {gated(gate)} echo done", outputs={"said": {"type": "text"}})
    daemon.drop("w.json", {"timeout": "2s", "tasks": [task]})
    wait_for(begun.exists, "the task has begun")
    over_s = time.monotonic() + 2

    daemon.kill9()
    gate.touch()
    wait_for(lambda: time.monotonic() > over_s, "the time of the run is up")
    daemon.start()
    run = daemon.wait_run("w")

    assert run.status == "succeeded"
    assert run.tasks["a"]["outputs"] == {"said": "done"}


@pytest.mark.parametrize("rebooted", [False, True], ids=["killed", "rebooted"])
def test_an_end_that_only_the_spawner_knew_is_taken_unless_the_host_went_down(
    daemon: Daemon, *, rebooted: bool
) -> None:
    gate = daemon.home / "gate"
    commands = {"well": "echo well >> ran; echo made", "badly": "echo badly >> ran; exit 7"}
    tasks = [shell(name, gated(gate, command)) for name, command in commands.items()]
    daemon.drop("w.json", {"tasks": tasks})
    daemon.wait_begun("w", *commands)
    exits = daemon.state / "spawner" / "exits"

    daemon.kill9()
    gate.touch()
    wait_for(lambda: exits.read_bytes().count(b'"exited"') == len(commands), "the spawner has recorded the ends")
    spawner = daemon.spawner_pid
    os.kill(spawner, signal.SIGKILL)
    wait_for(lambda: not is_alive(spawner), "the spawner is dead")
    if rebooted:
        data = exits.read_bytes()
        exits.write_bytes(data.replace(Path("/proc/sys/kernel/random/boot_id").read_bytes().strip(), b"another"))
    daemon.start()
    run = daemon.wait_run("w")

    assert run.statuses == {"well": "succeeded", "badly": "failed"}
    assert sorted(lines_of(daemon.workspace("w") / "ran")) == ["badly", *["well"] * (1 + rebooted)]
    assert [attempt["exit_code"] for attempt in run.tasks["well"]["attempts"]] == [0] * (1 + rebooted)
    if rebooted:
        assert "the host went down" in run.tasks["well"]["attempts"][0]["error"]
