"""The two programs as people and systemd use them: stopping, exit codes, `run` and `plan` (SPEC section 7)."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.running import (
    DEADLINE_S,
    PROGRAMS,
    Daemon,
    environment,
    finished_in,
    gated,
    is_alive,
    lines_of,
    publish,
    shell,
    start_wizflow,
    tasks_alive,
    tree_of,
    wait_for,
    wizflow,
)

TREE = """\
trap '' INT
(setsid sh -c 'echo $$ >> {pids}; trap "" TERM; for _ in $(seq 600); do sleep 0.1; done' &)
sh -c 'echo $$ >> {pids}; for _ in $(seq 600); do sleep 0.1; done' &
echo $$ >> {pids}
for _ in $(seq 600); do sleep 0.1; done
"""


def pids_of(path: Path, count: int) -> list[int]:
    wait_for(lambda: len(lines_of(path)) == count, "its processes are there")
    return [int(line) for line in lines_of(path)]


# -- stop and start ------------------------------------------------------------------------------------------------


def test_a_clean_stop_leaves_tasks_running_and_the_next_start_adopts_them(daemon: Daemon) -> None:
    gate, pids = daemon.home / "gate", daemon.home / "pids"
    long = f"echo $$ >> {pids}; echo before; {gated(gate)} echo after"
    daemon.drop("w.json", [shell("long", long), shell("after", "echo done >> ran", "long")])
    (pid,) = pids_of(pids, 1)

    assert daemon.stop() == 0
    assert is_alive(pid)
    gate.touch()
    wait_for(lambda: not is_alive(pid))
    daemon.start()
    run = daemon.wait_run("w")

    (attempt,) = run.tasks["long"]["attempts"]
    assert run.status == "succeeded"
    assert (attempt["pid"], attempt["exit_code"]) == (pid, 0)
    assert run.log("long") == "before\nafter\n"
    assert run.types.count("wizflow.task.adopted") == 1
    assert lines_of(pids) == [str(pid)]
    assert lines_of(daemon.workspace("w") / "ran") == ["done"]


def test_a_stop_that_is_to_kill_leaves_nothing_alive_and_the_next_start_repeats_it(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(shutdown__tasks="kill", shutdown__grace="300ms")
    daemon.start()
    gate, pids = daemon.home / "gate", daemon.home / "pids"
    long = f"[ -e {gate} ] && exit 0; {TREE.format(pids=pids)}"
    daemon.drop("w.json", [shell("long", long), shell("once", long, on_lost="fail"), shell("after", "true", "long")])
    tree = pids_of(pids, 6)

    assert daemon.stop() == 0
    assert [pid for pid in tree if is_alive(pid)] == []
    assert tasks_alive(daemon.home) == []
    gate.touch()
    daemon.start()
    run = daemon.wait_run("w")

    assert run.statuses == {"long": "succeeded", "once": "failed", "after": "succeeded"}
    assert [attempt["exit_code"] for attempt in run.tasks["long"]["attempts"]] == [None, 0]
    assert "outcome unknown" in run.tasks["once"]["reason"]


def test_a_second_daemon_on_the_same_state_exits_3_and_harms_nothing(daemon: Daemon) -> None:
    second = subprocess.run(
        [PROGRAMS / "wizflowd", "--workflows", daemon.workflows, "--state", daemon.state, "--metrics", "off"],
        env=environment(daemon.home),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )

    assert second.returncode == 3
    assert "another wizflowd holds it" in second.stderr
    daemon.drop("w.json", [shell("a", "true")])
    daemon.wait_run("w")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("limits: {max_task: 3}\n", 'did you mean "max_tasks"?'),
        ("limits: {max_tasks: none}\n", ":1:"),
        ("workflows_dir: [\n", ":2:"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--check"]], ids=["start", "check"])
def test_a_bad_configuration_exits_2(tmp_path: Path, text: str, complaint: str, options: list[str]) -> None:
    config = publish(tmp_path / "wizflowd.yaml", text)

    done = subprocess.run(
        [PROGRAMS / "wizflowd", "--config", config, *options],
        env=environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )

    assert done.returncode == 2
    assert complaint in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"wizflowd.yaml"}


def test_sigint_and_sigterm_stop_it_cleanly_and_are_recorded(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.wait(DEADLINE_S) == 0
    daemon.start()
    assert daemon.stop() == 0

    kinds = [kind for _, kind, _ in daemon.records() if kind.startswith("Daemon")]
    assert kinds == ["DaemonStarted", "DaemonReady", "DaemonStopping"] * 2
    assert not daemon.socket.exists()


def test_sighup_takes_over_a_configuration_and_keeps_the_old_one_when_it_is_bad(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    config = publish(daemon.home / "wizflowd.yaml", "limits: {max_tasks: 1}\n")
    daemon.options = ("--config", config)
    daemon.start()
    gate = daemon.home / "gate"
    daemon.drop("w.json", [shell(f"t{number}", gated(gate)) for number in range(6)])
    wait_for(lambda: daemon.ask("status")["running_tasks"] == 1)

    publish(config, "limits: {max_tasks: 3}\n")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: daemon.ask("status")["running_tasks"] == 3)
    publish(config, "limits: {max_tasks: many}\n")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "the configuration stays as it was" in daemon.log)
    assert daemon.ask("status")["running_tasks"] == 3

    gate.touch()
    daemon.wait_run("w")
    daemon.may_complain = True


def test_a_reload_names_the_changed_settings_that_take_a_restart(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    config = publish(daemon.home / "wizflowd.yaml", "limits: {max_tasks: 1}\n")
    daemon.options = ("--config", config)
    daemon.start()

    publish(config, "limits: {max_tasks: 2, stream_clients: 3}\nowners: [root]\n")
    daemon.process.send_signal(signal.SIGHUP)

    wait_for(lambda: "some changed settings take a restart" in daemon.log)
    assert "owners, limits.stream_clients" in daemon.log
    daemon.may_complain = True


# -- wizflow run ---------------------------------------------------------------------------------------------------


def test_wizflow_run_exits_0_1_or_2_and_leaves_its_results_beside_the_file(tmp_path: Path) -> None:
    publish(tmp_path / "good.yaml", "tasks: [{id: a, type: SHELL, command: echo 1 >> ran}]\n")
    publish(tmp_path / "bad.yaml", "tasks: [{id: a, type: SHELL, command: 'echo why; exit 4'}]\n")
    publish(tmp_path / "wrong.yaml", "tasks: [{id: a, type: SHELL}]\n")

    good, bad, wrong, missing = (
        wizflow(tmp_path, "run", f"{name}.yaml") for name in ("good", "bad", "wrong", "missing")
    )

    assert [done.returncode for done in (good, bad, wrong, missing)] == [0, 1, 2, 2]
    (run,) = finished_in(tmp_path / "good.runs")
    assert (run.status, run.result["trigger"]) == ("succeeded", "manual")
    assert run.types[-1] == "wizflow.run.succeeded"
    assert "why" in bad.stdout
    assert "exit code 4" in bad.stdout
    assert wrong.stderr.startswith("wrong.yaml:1:")
    assert 'missing field "command"' in wrong.stderr
    assert missing.stderr == "cannot read missing.yaml: there is no such file\n"
    assert tasks_alive(tmp_path) == []


def test_wizflow_run_runs_everything_unless_it_is_to_be_incremental(tmp_path: Path) -> None:
    publish(tmp_path / "w.json", {"tasks": [shell("a", "echo a >> ran"), shell("b", "echo b >> ran", "a")]})

    for options in ([], [], ["--incremental"]):
        assert wizflow(tmp_path, "run", "w.json", *options).returncode == 0
    publish(tmp_path / "w.json", {"tasks": [shell("a", "echo a >> ran"), shell("b", "echo B >> ran", "a")]})
    assert wizflow(tmp_path, "run", "w.json", "--incremental").returncode == 0

    assert lines_of(tmp_path / "w.runs/workspace/ran") == ["a", "b", "a", "b", "B"]
    runs = finished_in(tmp_path / "w.runs")
    assert [run.named("reused") for run in runs] == [set(), set(), {"a", "b"}, {"a"}]


def test_params_of_wizflow_run_are_read_by_their_type(tmp_path: Path) -> None:
    params = {"count": {"type": "integer", "required": True}, "names": {"type": "list", "default": []}}
    publish(tmp_path / "w.json", {"params": params, "tasks": [shell("a", "echo {{params.count}} {{params.names}}")]})

    given = wizflow(tmp_path, "run", "w.json", "-p", "count=3", "-p", 'names=["x y"]')
    refused = [wizflow(tmp_path, "run", "w.json", *options) for options in ([], ["-p", "count=x"], ["-p", "cuont=1"])]

    assert given.returncode == 0
    (run,) = finished_in(tmp_path / "w.runs")
    assert run.log("a") == '3 ["x y"]\n'
    assert [done.returncode for done in refused] == [2, 2, 2]
    assert 'did you mean "count"?' in refused[2].stderr
    assert all(len(done.stderr.splitlines()) == 1 for done in refused)


def test_sigint_ends_the_whole_tree_and_exits_130(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    publish(tmp_path / "w.json", {"tasks": [shell("hang", TREE.format(pids=pids)), shell("after", "true", "hang")]})
    process = start_wizflow(tmp_path, "run", "w.json", env={"WIZFLOWD_SHUTDOWN__GRACE": "500ms"})
    tree = pids_of(pids, 3)

    process.send_signal(signal.SIGINT)

    assert process.wait(DEADLINE_S) == 130
    assert [pid for pid in tree if is_alive(pid)] == []
    assert tasks_alive(tmp_path) == []
    (run,) = finished_in(tmp_path / "w.runs")
    assert run.status == "cancelled"
    assert run.statuses == {"hang": "cancelled", "after": "cancelled"}


def test_a_wizflow_run_that_is_killed_leaves_no_task_alive_and_the_next_one_works(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    publish(tmp_path / "w.json", {"tasks": [shell("hang", TREE.format(pids=pids))]})
    process = start_wizflow(tmp_path, "run", "w.json")
    tree = pids_of(pids, 3)

    process.kill()
    process.wait()
    wait_for(lambda: not any(map(is_alive, tree)))
    wait_for(lambda: not tasks_alive(tmp_path))

    publish(tmp_path / "w.json", {"tasks": [shell("hang", "true")]})
    done = wizflow(tmp_path, "run", "w.json")
    assert (done.returncode, done.stderr) == (0, "")
    statuses = [run.status for run in finished_in(tmp_path / "w.runs")]
    assert statuses == ["cancelled", "succeeded"]


def test_two_wizflow_runs_of_one_file_at_once_the_second_exits_3(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    publish(tmp_path / "w.json", {"tasks": [shell("a", f"echo >> {tmp_path}/began; {gated(gate)}")]})
    first = start_wizflow(tmp_path, "run", "w.json")
    wait_for((tmp_path / "began").exists)

    second = wizflow(tmp_path, "run", "w.json")
    gate.touch()

    assert second.returncode == 3
    assert len(second.stderr.splitlines()) == 1
    assert first.wait(DEADLINE_S) == 0


def test_wizflow_run_on_a_watched_file_exits_3_and_names_trigger(daemon: Daemon) -> None:
    path = daemon.drop("team/w.json", [shell("a", "echo 1 >> ran")])
    daemon.wait_run("team/w")
    daemon.wait_idle("team/w")
    before = tree_of(daemon.workflows)

    done = wizflow(daemon.home, "run", path)

    assert done.returncode == 3
    assert "wizflow trigger team/w" in done.stderr
    assert tree_of(daemon.workflows) == before
    assert daemon.stop() == 0
    assert wizflow(daemon.home, "run", path).returncode == 0  # nobody watches it


# -- wizflow plan --------------------------------------------------------------------------------------------------


def test_plan_asks_the_daemon_that_watches_the_file_what_a_change_would_run(daemon: Daemon) -> None:
    tasks = [shell("a", "echo a"), shell("b", "echo b", "a"), shell("c", "echo c")]
    daemon.drop("w.json", {"on_change": "record", "tasks": tasks})
    daemon.wait_told("workflow.added", "w")
    daemon.ask("trigger", workflow="w")
    daemon.wait_run("w")
    daemon.wait_idle("w")
    path = daemon.drop("w.json", {"on_change": "record", "tasks": [tasks[0], shell("b", "echo B", "a"), tasks[2]]})
    daemon.wait_told("workflow.changed", "w")
    wait_for(lambda: daemon.status("w")["digest"] != daemon.finished("w")[0].result["digest"])
    before = tree_of(daemon.workflows)

    done = wizflow(daemon.home, "plan", path, "--json")

    planned = {task["id"]: (task["action"], task["reason"]) for task in json.loads(done.stdout)["tasks"]}
    unchanged = ("reuse", "nothing changed")
    assert planned == {"a": unchanged, "b": ("run", "command changed"), "c": unchanged}
    assert tree_of(daemon.workflows) == before
    assert len(daemon.ask("runs", workflow="w")) == 1


def test_plan_of_a_watched_file_changes_nothing_and_says_whose_knowledge_it_used(daemon: Daemon) -> None:
    path = daemon.drop("w.json", [shell("a", "echo a"), shell("b", "echo b", "a")])
    daemon.wait_run("w")
    daemon.wait_idle("w")
    before = tree_of(daemon.workflows)

    done = wizflow(daemon.home, "plan", path)

    assert done.returncode == 0
    assert "the daemon" in done.stdout.splitlines()[0]
    assert "2 tasks, 0 to run, 2 reused" in done.stdout
    assert tree_of(daemon.workflows) == before
    assert len(daemon.finished("w")) == 1


def test_plan_without_a_daemon_uses_what_earlier_runs_left_and_writes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    publish(home / "w.json", {"tasks": [shell("a", "echo a"), shell("b", "echo b", "a")]})
    before = tree_of(home)
    first = wizflow(home, "plan", "w.json", "--json")
    assert tree_of(home) == before
    assert wizflow(home, "run", "w.json").returncode == 0
    publish(home / "w.json", {"tasks": [shell("a", "echo a"), shell("b", "echo B", "a")]})

    before = tree_of(home)
    second = wizflow(home, "plan", "w.json", "--json")
    assert tree_of(home) == before

    actions = [{task["id"]: task["reason"] for task in json.loads(done.stdout)["tasks"]} for done in (first, second)]
    assert actions == [{"a": "never ran", "b": "never ran"}, {"a": "nothing changed", "b": "command changed"}]
    assert finished_in(home / "w.runs")[0].status == "succeeded"


def test_plan_works_in_a_folder_where_nothing_may_be_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    publish(home / "w.json", {"tasks": [shell("a", "echo a")]})
    assert wizflow(home, "run", "w.json").returncode == 0
    for path in (*home.rglob("*"), home):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    try:
        done = wizflow(home, "plan", "w.json")
    finally:
        for path in (home, *home.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o200)

    assert (done.returncode, done.stderr) == (0, "")
    assert "1 tasks, 0 to run, 1 reused" in done.stdout or "1 task, 0 to run, 1 reused" in done.stdout
