"""What lies beside a definition after its run (SPEC section 3), and that nothing else does."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.running import DEADLINE_S, Daemon, assert_gapless, shell, tree_of, wait_for

DEFINITION = """\
# The comment and the order are kept, byte by byte.
workflow_name: nightly
secrets: {TOKEN: {env: WIZFLOW_TEST_TOKEN}}
tasks:
  - id: fetch
    type: SHELL
    command: |
      echo "with {{secrets.TOKEN}}"; echo "on stderr" >&2
      printf 'a\\nb\\n' > items.txt
    outputs: {items: {type: file, path: items.txt}}
  - {id: count, type: SHELL, command: "wc -l < {{items}}", depends_on: [fetch], outputs: {lines: {type: text}}}
  - {id: silent, type: SHELL, command: "true", depends_on: [fetch]}
"""
TOKEN = "hunter2-is-no-secret"
RESULT_KEYS = {
    *("run", "workflow", "status", "trigger", "digest", "retry_of", "started", "ended", "duration_s"),
    *("skipped", "tolerated", "outputs", "tasks"),
}
TASK_KEYS = {"id", "type", "status", "reason", "reused_from", "outputs", "attempts"}
ATTEMPT_KEYS = {"attempt", "pid", "started", "ended", "exit_code", "signal", "status_code", "error", "log"}
STATUS_KEYS = {"workflow", "digest", "state", "run", "last", "error", "next"}


def start_with_token(daemon: Daemon) -> Daemon:
    daemon.settings["WIZFLOW_TEST_TOKEN"] = TOKEN
    daemon.drop("team/etl.yaml", DEFINITION)
    daemon.start()
    return daemon


def check_everything_is_there(daemon: Daemon) -> None:
    """Check each file of a run of DEFINITION in turn."""
    run = daemon.wait_run("team/etl")
    name = run.result["run"]
    assert (run.folder / "definition.yaml").read_bytes() == DEFINITION.encode()

    assert run.plan.keys() >= {"workflow", "digest", "width", "levels", "critical_path", "tasks"}
    assert (run.plan["width"], run.plan["levels"], run.plan["critical_path"][0]) == (2, 2, "fetch")
    assert run.actions == dict.fromkeys(("fetch", "count", "silent"), "run")

    assert run.result.keys() >= RESULT_KEYS
    assert (run.result["workflow"], run.status, run.result["trigger"]) == ("team/etl", "succeeded", "change")
    assert run.result["outputs"] == {"count": {"lines": "2"}}
    assert all(task.keys() >= TASK_KEYS for task in run.result["tasks"])
    assert all(attempt.keys() >= ATTEMPT_KEYS for task in run.result["tasks"] for attempt in task["attempts"])
    assert [run.tasks[task]["attempts"][0]["log"] for task in ("fetch", "silent")] == ["logs/fetch.1.log", None]

    sequences = [int(event["sequence"]) for event in run.events]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    assert run.types[0] == "wizflow.run.queued"
    assert run.types[-1] == "wizflow.run.succeeded"
    assert sorted(run.types[1:-1]) == sorted(
        ["wizflow.run.started", *3 * ["wizflow.task.started", "wizflow.task.succeeded"]]
    )
    assert all(event["subject"].startswith(f"team/etl/{name}") for event in run.events)
    assert {event["specversion"] for event in run.events} == {"1.0"}

    picture = ElementTree.parse(run.folder / "graph.svg").getroot()
    assert picture.tag.endswith("svg")
    assert all(task in (run.folder / "graph.svg").read_text() for task in run.tasks)

    status = daemon.wait_idle("team/etl")
    assert status.keys() >= STATUS_KEYS
    assert (status["last"]["run"], status["last"]["status"], status["error"]) == (name, "succeeded", None)
    assert status["digest"] == run.result["digest"] == run.plan["digest"]

    folder = daemon.folder("team/etl")
    assert os.readlink(folder / "latest") == name
    assert run.log("fetch") == "with ***\non stderr\n"
    logs = {path.name for path in (run.folder / "logs").iterdir()}
    assert logs == {"fetch.1.log", "count.1.log"}
    assert (folder / "workspace/items.txt").read_text() == "a\nb\n"


def stray_files(folder: Path) -> list[str]:
    """Return what should have been renamed or removed."""
    return [
        str(path) for path in folder.rglob("*") if path.name.startswith((".tmp-", ".draft")) or path.suffix == ".tmp"
    ]


def test_everything_lies_beside_the_definition(make_daemon: MakeDaemon) -> None:
    daemon = start_with_token(make_daemon())

    check_everything_is_there(daemon)

    assert {path.name for path in (daemon.workflows / "team").iterdir()} == {"etl.yaml", "etl.runs"}
    assert stray_files(daemon.home) == []


def test_with_a_results_dir_nothing_is_written_into_the_watched_folder(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon(results_dir=str(tmp_path / "results"))
    daemon.drop("team/etl.yaml", DEFINITION)
    before = tree_of(daemon.workflows)

    start_with_token(daemon)
    check_everything_is_there(daemon)

    after = tree_of(daemon.workflows)
    assert after.keys() == before.keys() == {"team", "team/etl.yaml"}
    assert stray_files(tmp_path) == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_read_only_tree_is_no_obstacle_with_a_results_dir(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon(results_dir=str(tmp_path / "results"))
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && ! touch "$0/x" 2>&- && exec "$@"'
    daemon.under = ("unshare", "--mount", "sh", "-c", mount, str(daemon.workflows))
    probe = subprocess.run([*daemon.under, "true"], check=False)
    if probe.returncode:
        pytest.skip("cannot mount here")

    start_with_token(daemon)

    check_everything_is_there(daemon)


def test_the_whole_stream_is_gapless_and_holds_nothing_twice(make_daemon: MakeDaemon) -> None:
    daemon = start_with_token(make_daemon())
    run = daemon.wait_run("team/etl")
    daemon.settle()
    daemon.restart()
    daemon.settle()
    assert daemon.stop() == 0

    records = daemon.records()
    last = assert_gapless(sequence for sequence, _, _ in records)
    in_run = [kind for _, kind, data in records if data.get("run") == run.result["run"]]
    assert in_run.count("RunArchived") == in_run.count("RunQueued") == 1
    assert in_run.count("TaskSucceeded") == 3
    assert [kind for sequence, kind, _ in records if sequence == last] == ["DaemonStopping"]


def test_a_results_own_files_never_wake_the_watcher(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("no strace")
    daemon = make_daemon(watch__rescan="1h")
    write = "for i in $(seq 300); do echo $i > made-$i.json; mkdir -p d$i; done"
    daemon.drop("busy.json", [shell("write", write)])
    daemon.start()
    daemon.wait_run("busy")
    daemon.settle()
    trace = tmp_path / "trace"
    with (tmp_path / "strace.log").open("wb") as log:
        tracer = subprocess.Popen(
            [strace, "-f", "-qq", "-y", "-e", "trace=getdents64", "-o", trace, "-p", str(daemon.pid)], stderr=log
        )
    try:
        if not wait_for(lambda: is_traced(daemon.pid) or tracer.poll() is not None) or tracer.poll() is not None:
            pytest.skip("cannot trace here")
        wait_until_quiet(trace)
        before = len(trace.read_text())

        daemon.ask("trigger", workflow="busy")
        daemon.wait_run("busy", 2)
        daemon.wait_idle("busy")
        wait_until_quiet(trace)
        quiet = trace.read_text()[before:]
        (daemon.workflows / "other.txt").touch()  # the trace is worth something: a name in the folder is a reason
        daemon.drop("new.json", [shell("write", "true")])
        daemon.wait_run("new")
    finally:
        tracer.terminate()
        tracer.wait(DEADLINE_S)

    walked = f"<{daemon.workflows}>"
    assert walked not in quiet
    assert walked in trace.read_text()


def wait_until_quiet(trace: Path) -> None:
    """Return when nothing was traced for a while: a burst of hints ends with a walk a tenth of a second later."""
    since_s, size = time.monotonic(), -1

    def quiet() -> bool:
        nonlocal since_s, size
        if trace.stat().st_size != size:
            since_s, size = time.monotonic(), trace.stat().st_size
        return time.monotonic() - since_s > 0.5

    wait_for(quiet)


def is_traced(pid: int) -> bool:
    return "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text()


def test_retention_removes_the_oldest_runs_and_keeps_the_newest(shared: Daemon) -> None:
    for number in range(1, 5):
        shared.drop("kept.json", {"retention": {"runs": 2}, "tasks": [shell("a", f"echo {number}")]})
        shared.wait_told("run.succeeded", "kept/", number)

    wait_for(lambda: [run.log("a") for run in shared.finished("kept")] == ["3\n", "4\n"])
    assert len(shared.finished("kept")) == 2
    assert (
        json.loads((shared.folder("kept") / "latest/result.json").read_text())["run"]
        == shared.finished("kept")[-1].result["run"]
    )


def test_what_is_told_of_a_run_while_it_is_planned_is_among_its_events(daemon: Daemon) -> None:
    makes = shell("big", "truncate -s 1G big", outputs={"big": {"type": "file", "path": "big"}})
    daemon.drop("etl.json", [makes])  # hashing that takes a plan a good while
    daemon.wait_run("etl")

    run_id = daemon.ask("trigger", workflow="etl")["run"]
    daemon.ask("pause", run=run_id)
    assert not (daemon.folder("etl") / run_id / "plan.json").exists()
    wait_for((daemon.folder("etl") / run_id / "plan.json").exists)
    daemon.ask("resume", run=run_id)
    types = daemon.wait_run("etl", 2).types

    assert types.count("wizflow.run.paused") == types.count("wizflow.run.resumed") == 1
    assert types.index("wizflow.run.queued") < types.index("wizflow.run.paused") < types.index("wizflow.run.started")
