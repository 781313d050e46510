"""What becomes of tasks that fail, hang or are cancelled (SPEC section 2.10 and what follows it)."""

import os
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, gated, is_alive, lines_of, shell, tasks_alive, wait_for
from wizflowd.errors import RequestError

TREE = """\
(setsid sh -c 'echo $$ >> pids; trap "" TERM; for _ in $(seq 600); do sleep 0.1; done' &)
sh -c 'echo $$ >> pids; for _ in $(seq 600); do sleep 0.1; done' &
nohup sh -c 'echo $$ >> pids; for _ in $(seq 600); do sleep 0.1; done' >/dev/null 2>&1 &
echo $$ >> pids
for _ in $(seq 600); do sleep 0.1; done
"""
"""Four shells: one in a session of its own that will not be told, one that ignores the hangup, two plain ones."""


def wait_for_tree(pids: Path) -> list[int]:
    """Return the processes of TREE once all of them run."""
    wait_for(lambda: len(lines_of(pids)) == 4, "the tree is there")
    return [int(pid) for pid in lines_of(pids)]


def drop_and_wait(daemon: Daemon, tasks: list[dict[str, Any]], **fields: Any) -> Any:
    daemon.drop("w.json", {**fields, "tasks": tasks})
    return daemon.wait_run("w")


# -- retries -------------------------------------------------------------------------------------------------------


def test_a_failure_is_retried_with_a_growing_delay_until_it_succeeds(shared: Daemon) -> None:
    flaky = "echo try $WIZFLOW_ATTEMPT; [ $WIZFLOW_ATTEMPT -ge 4 ] || exit $WIZFLOW_ATTEMPT"
    run = drop_and_wait(shared, [shell("flaky", flaky, retry={"limit": 5, "delay": "100ms", "backoff": 2})])

    attempts = run.tasks["flaky"]["attempts"]
    assert run.status == "succeeded"
    assert [attempt["exit_code"] for attempt in attempts] == [1, 2, 3, 0]
    assert [attempt["attempt"] for attempt in attempts] == [1, 2, 3, 4]
    assert [run.log("flaky", number) for number in range(1, 5)] == [f"try {number}\n" for number in range(1, 5)]
    retrying = [event["data"] for event in run.events if event["type"] == "wizflow.task.retrying"]
    assert [data["delay_s"] for data in retrying] == pytest.approx([0.1, 0.2, 0.4])
    waits = [seconds(after["started"]) - seconds(before["ended"]) for before, after in pairwise(attempts)]
    assert all(wait >= delay for wait, delay in zip(waits, (0.1, 0.2, 0.4), strict=True)), waits


def seconds(time: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(time).timestamp()


def test_retries_end_at_their_limit_and_only_for_the_exit_codes_named(shared: Daemon) -> None:
    run = drop_and_wait(
        shared,
        [
            shell("always", "exit 7", retry={"limit": 2, "delay": 0}),
            shell("other", "exit 8", retry={"limit": 5, "delay": 0, "on_exit": [7]}),
            shell("defaulted", "exit 9"),
        ],
        defaults={"retry": {"limit": 1, "delay": 0}},
    )

    assert run.status == "failed"
    assert {name: len(task["attempts"]) for name, task in run.tasks.items()} == {
        "always": 3,
        "other": 1,
        "defaulted": 2,
    }


def test_a_wait_for_a_retry_goes_on_after_a_restart(daemon: Daemon) -> None:
    flaky = "[ $WIZFLOW_ATTEMPT -ge 2 ] || exit 1"
    daemon.drop("w.json", [shell("flaky", flaky, retry={"limit": 1, "delay": "1s"})])
    daemon.wait_told("task.retrying", "w/")

    daemon.kill9()
    daemon.start()
    run = daemon.wait_run("w")

    first, second = run.tasks["flaky"]["attempts"]
    assert run.status == "succeeded"
    assert 1.0 <= seconds(second["started"]) - seconds(first["ended"]) < 20.0


# -- ends by force -------------------------------------------------------------------------------------------------


def test_a_timeout_ends_the_whole_tree_and_then_fails(shared: Daemon) -> None:
    pids = shared.home / "pids"
    run = drop_and_wait(shared, [shell("hang", TREE.replace("pids", str(pids)), timeout="1500ms"), shell("b", "true")])

    (attempt,) = run.tasks["hang"]["attempts"]
    assert run.status == "failed"
    assert run.statuses == {"hang": "failed", "b": "succeeded"}
    assert "timed out after 1.5 s" in attempt["error"]
    assert [pid for pid in wait_for_tree(pids) if is_alive(pid)] == []
    assert 1.5 <= seconds(attempt["ended"]) - seconds(attempt["started"]) < 15.0


def test_cancel_kills_the_tree_and_is_cancelled_only_then(shared: Daemon) -> None:
    pids = shared.home / "pids"
    tasks = [shell("hang", TREE.replace("pids", str(pids))), shell("after", "true", "hang")]
    shared.drop("w.json", tasks)
    tree = wait_for_tree(pids)

    name = shared.wait_running("w", "hang")
    assert shared.ask("cancel", run=name)["run"] == name
    shared.wait_told("task.cancelled", f"w/{name}/hang")
    alive = [pid for pid in tree if is_alive(pid)]
    run = shared.wait_run("w")

    assert alive == []
    assert run.status == "cancelled"
    assert run.statuses == {"hang": "cancelled", "after": "cancelled"}
    assert tasks_alive(shared.state) == []
    with pytest.raises(RequestError) as refused:
        shared.ask("cancel", run=name)
    assert refused.value.code == "not_found"


def test_what_a_task_leaves_running_is_ended_and_noted(shared: Daemon) -> None:
    pids = shared.home / "pids"
    leave = f"(setsid sh -c 'echo $$ >> {pids}; exec sleep 600' &); while [ ! -s {pids} ]; do sleep 0.01; done"
    run = drop_and_wait(shared, [shell("leaves", leave)])

    (pid,) = lines_of(pids)
    assert run.status == "succeeded"
    assert not is_alive(int(pid))
    assert run.tasks["leaves"]["attempts"][0]["notes"] == ["1 left-over process ended"]


def test_a_run_that_takes_too_long_fails_and_leaves_nothing(shared: Daemon) -> None:
    run = drop_and_wait(
        shared,
        [shell("quick", "true"), shell("hang", "sleep 600", "quick"), shell("after", "true", "hang")],
        timeout="1500ms",
    )

    assert run.status == "failed"
    assert run.result["reason"] == "the run timed out"
    assert run.statuses == {"quick": "succeeded", "hang": "cancelled", "after": "skipped"}
    assert 1.5 <= run.result["duration_s"] < 20.0
    assert tasks_alive(shared.state) == []


def test_fail_fast_cancels_what_runs_and_skips_the_rest(shared: Daemon) -> None:
    run = drop_and_wait(
        shared,
        [shell("hang", "sleep 600"), shell("bad", "sleep 0.2; exit 1"), shell("after", "true", "hang")],
        fail_fast=True,
    )

    assert run.status == "failed"
    assert run.statuses == {"hang": "cancelled", "bad": "failed", "after": "skipped"}
    assert run.result["reason"] == "fail_fast: bad failed"


# -- failures and what depends on them -----------------------------------------------------------------------------


def test_a_failure_skips_what_depends_on_it_and_nothing_else(shared: Daemon) -> None:
    run = drop_and_wait(
        shared,
        [
            shell("bad", "exit 3"),
            shell("child", "true", "bad"),
            shell("grandchild", "true", "child"),
            shell("other", "true"),
            shell("independent", "true", "other"),
        ],
    )

    assert run.status == "failed"
    assert run.named("failed") == {"bad"}
    assert run.named("succeeded") == {"other", "independent"}
    assert run.result["skipped"] == ["child", "grandchild"]
    assert run.tasks["child"]["reason"] == "upstream bad failed"


def test_run_on_failure_and_always_run_behind_a_failure(shared: Daemon) -> None:
    tasks = [
        shell("work", "exit 1"),
        shell("fine", "true"),
        shell("alarm", "echo {{tasks.work.status}}", "work", run_on="failure"),
        shell("clean", "echo {{tasks.work.status}} {{tasks.fine.status}}", "work", "fine", run_on="always"),
        shell("no_alarm", "true", "fine", run_on="failure"),
    ]
    run = drop_and_wait(shared, tasks)

    assert run.status == "failed"
    assert run.statuses == {
        "work": "failed",
        "fine": "succeeded",
        "alarm": "succeeded",
        "clean": "succeeded",
        "no_alarm": "skipped",
    }
    assert (run.log("alarm"), run.log("clean")) == ("failed\n", "failed succeeded\n")


def test_a_tolerated_failure_is_told_and_does_not_fail_the_run(shared: Daemon) -> None:
    run = drop_and_wait(
        shared,
        [shell("bad", "exit 1", continue_on_failure=True), shell("after", "echo {{tasks.bad.status}}", "bad")],
    )

    assert run.status == "succeeded"
    assert run.statuses == {"bad": "failed", "after": "succeeded"}
    assert run.result["tolerated"] == ["bad"]
    assert run.events[-1]["data"]["tolerated"] == ["bad"]


def test_retry_reuses_what_succeeded_or_begins_at_a_task(shared: Daemon) -> None:
    gate = shared.home / "gate"
    tasks = [
        shell("a", "echo a >> ran"),
        shell("b", "echo b >> ran", "a"),
        shell("c", f"test -e {gate} && echo c >> ran", "b"),
        shell("d", "echo d >> ran", "c"),
    ]
    first = drop_and_wait(shared, tasks)
    assert first.statuses == {"a": "succeeded", "b": "succeeded", "c": "failed", "d": "skipped"}
    gate.touch()

    shared.ask("retry", run=first.result["run"])
    second = shared.wait_run("w", 2)
    shared.ask("retry", run=second.result["run"], from_task="b")
    third = shared.wait_run("w", 3)

    assert second.result["retry_of"] == first.result["run"]
    assert second.statuses == {"a": "reused", "b": "reused", "c": "succeeded", "d": "succeeded"}
    assert third.statuses == {"a": "reused", "b": "succeeded", "c": "succeeded", "d": "succeeded"}
    assert lines_of(shared.workspace("w") / "ran") == ["a", "b", "c", "d", "b", "c", "d"]


# -- how many at once ----------------------------------------------------------------------------------------------


def test_no_more_tasks_run_at_once_than_the_limits_allow(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(limits__max_tasks="5")
    daemon.start()
    gate = daemon.home / "gate"
    for name, most in (("narrow", 2), ("wide", 20)):
        tasks = [shell(f"t{number}", gated(gate)) for number in range(8)]
        daemon.drop(f"{name}.json", {"concurrency": {"max_tasks": most}, "tasks": tasks})
    wait_for(lambda: daemon.ask("status")["running_tasks"] == 5)
    gate.touch()
    daemon.wait_run("narrow")
    daemon.wait_run("wide")

    running: Counter[str] = Counter()
    most_at_once: Counter[str] = Counter()
    for line in daemon.told("task."):
        for about in (line.subject.partition("/")[0], "all"):
            running[about] += {"task.started": 1, "task.succeeded": -1}[line.what]
            most_at_once[about] = max(most_at_once[about], running[about])
    assert most_at_once["all"] == 5
    assert most_at_once["narrow"] == 2
    assert not +running


# -- the environment of a task -------------------------------------------------------------------------------------


def test_a_task_sees_its_own_environment_and_nothing_else_of_the_daemon(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.settings |= {"NOT_FOR_TASKS": "x", "LC_TIME": "C", "TZ": "UTC"}
    daemon.start()
    (daemon.workflows / ".env").write_text("FROM_FILE=file\nBOTH=file\n")
    run = drop_and_wait(
        daemon, [shell("show", "env", env={"OWN": "{{run.id}}"})], dotenv=[".env"], env={"BOTH": "workflow"}
    )

    names = dict(line.partition("=")[::2] for line in run.log("show").splitlines())
    allowed = {"PATH", "HOME", "USER", "SHELL", "LANG", "TZ", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_", "LC_TIME"}
    own = {
        "FROM_FILE",
        "BOTH",
        "OWN",
        *(f"WIZFLOW_{name}" for name in ("WORKFLOW", "RUN", "TASK", "ATTEMPT", "OUTPUT")),
    }
    inherited = {name for name in os.environ if name.startswith("LC_")}
    assert set(names) - own - inherited <= allowed
    assert own <= set(names)
    assert (names["OWN"], names["WIZFLOW_TASK"], names["WIZFLOW_WORKFLOW"]) == (run.result["run"], "show", "w")
