"""What must neither end the daemon nor keep it busy, whatever a task says and whatever a kill leaves."""

import asyncio
import time
from pathlib import Path
from typing import Any

from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, gated, shell, wait_for
from wizflowd.core.attempt import RunId
from wizflowd.core.events import RunEnded, RunQueued
from wizflowd.core.observations import WorkflowId
from wizflowd.journal import Commit, Journal

HALF_A_PAIR = r"""printf '{"v": "\\ud800"}'"""


def test_half_a_surrogate_pair_from_a_task_fails_what_cannot_take_it_and_nothing_else(daemon: Daemon) -> None:
    says = shell("says", HALF_A_PAIR, outputs={"v": {"type": "json", "json_path": "v"}})
    takers: dict[str, dict[str, Any]] = {
        "argv": {"command": ["echo", "{{v}}"]},
        "command": {"command": "echo {{v}}"},
        "env": {"command": "true", "env": {"V": "{{v}}"}},
        "stdin": {"command": "cat", "stdin": "{{v}}"},
        "folder": {"command": "true", "working_dir": "{{v}}"},
        "output": {"command": "true", "outputs": {"f": {"type": "file", "path": "{{v}}"}}},
    }
    tasks = [{"id": name, "type": "SHELL", "depends_on": ["says"], **task} for name, task in takers.items()]

    daemon.drop("half.json", [says, *tasks, shell("beside", "true")])

    run = daemon.wait_run("half")
    assert run.named("succeeded") == {"says", "beside"}
    assert run.named("failed") == set(takers)
    assert {len(task["attempts"]) for task in run.tasks.values()} == {1}
    daemon.restart()  # what was recorded can be read


def test_a_retry_that_waits_for_a_place_does_not_keep_the_engine_busy(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon(limits__max_tasks="1")
    daemon.start()
    gate = tmp_path / "gate"
    fails = shell("fails", "exit 1", retry={"limit": 1, "delay": "100ms"})
    daemon.drop("busy.json", [fails, shell("waits", gated(gate))])
    daemon.wait_running("busy", "waits")
    wait_for(lambda: daemon.told("task.retrying", "busy/"))
    time.sleep(0.3)  # the retry is due

    before_s = cpu_s(daemon.pid)
    time.sleep(1.0)
    used_s = cpu_s(daemon.pid) - before_s

    gate.touch()
    daemon.wait_run("busy")
    assert used_s < 0.3


def cpu_s(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_a_run_whose_dotenv_file_went_away_with_the_daemon_fails_and_the_daemon_goes_on(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.may_complain = True
    dotenv = daemon.workflows / ".env.etl"
    dotenv.write_text("WHO=me\n")
    tasks = [shell("waits", gated(tmp_path / "gate")), shell("more", "true", "waits"), shell("late", "true")]
    daemon.drop("etl.json", {"dotenv": [".env.etl"], "concurrency": {"max_tasks": 1}, "tasks": tasks})
    daemon.wait_running("etl", "waits")
    daemon.kill9()
    dotenv.unlink()

    daemon.start()

    told = wait_for(lambda: daemon.told("run.failed", "etl/"), "the run has failed")
    assert "its definition can no longer be read" in told[0].fields["reason"]
    daemon.drop("other.json", [shell("a", "true")])
    daemon.wait_run("other")


def test_a_running_task_whose_folder_went_elsewhere_meanwhile_is_adopted(daemon: Daemon, tmp_path: Path) -> None:
    make = shell("make", "mkdir sub")
    daemon.drop("etl.json", [make, shell("waits", gated(tmp_path / "gate"), "make", working_dir="sub")])
    daemon.wait_begun("etl", "waits")
    daemon.kill9()
    folder = daemon.workspace("etl") / "sub"
    folder.rename(tmp_path / "away")
    folder.symlink_to(tmp_path / "away")

    daemon.start()

    (tmp_path / "gate").touch()
    run = daemon.wait_run("etl")
    assert run.statuses == {"make": "succeeded", "waits": "succeeded"}
    assert len(run.tasks["waits"]["attempts"]) == 1


def test_a_queued_run_that_ended_right_before_a_kill_does_not_stand_in_the_way(daemon: Daemon) -> None:
    daemon.drop("etl.json", {"concurrency": {"policy": "forbid"}, "tasks": [shell("a", "true")]})
    daemon.wait_run("etl")
    daemon.kill9()
    run, workflow = RunId("20261123-000000-abcdef"), WorkflowId("etl")
    (stamp,) = {data["stamp"] for _, kind, data in daemon.records() if kind == "RunQueued"}
    queued = RunQueued(run, workflow, "etl.json", stamp, "digest", "change", policy="forbid")
    asyncio.run(record(daemon, queued, RunEnded(run, workflow, "cancelled", "superseded")))

    daemon.start()

    daemon.ask("trigger", workflow="etl")
    daemon.wait_run("etl", 2)


def test_private_files_of_attempts_that_a_kill_left_go_with_the_next_start_and_those_in_use_stay(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.drop("etl.json", [shell("waits", f'echo "a=b" >> "$WIZFLOW_OUTPUT"; {gated(tmp_path / "gate")}')])
    daemon.wait_running("etl", "waits")
    private = daemon.state / "attempts"
    (in_use,) = wait_for(lambda: list(private.iterdir()), "the task has written")
    daemon.kill9()
    (private / "20261123-000000-abcdef.a.1.stdout").write_text("left")

    daemon.start()

    assert list(private.iterdir()) == [in_use]
    (tmp_path / "gate").touch()
    daemon.wait_run("etl")
    wait_for(lambda: not list(private.iterdir()), "its files are gone")


async def record(daemon: Daemon, *events: RunQueued | RunEnded) -> None:
    """Put records into the journal of a daemon that is down, as if it had been killed right after their commit."""
    journal = Journal(daemon.state)
    journal.open()
    await journal.commit(Commit([*events], time.time()))
    journal.close()
