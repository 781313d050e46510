"""Tasks that the spawner has before there is a place for them: to be seen in nothing but that they start at once."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.running import Daemon, assert_gapless, is_alive, lines_of, shell, wait_for

MakeDaemon = Callable[..., Daemon]
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def many(count: int, command: str, *needs: str, **fields: Any) -> list[dict[str, Any]]:
    return [shell(f"t{number}", command.replace("NAME", f"t{number}"), *needs, **fields) for number in range(count)]


def chain(count: int, command: str) -> list[dict[str, Any]]:
    needs: list[list[str]] = [[], *([f"t{number}"] for number in range(count - 1))]
    return [
        shell(f"t{number}", command.replace("NAME", f"t{number}"), *above, inputs={"n": "{{params.n}}"})
        for number, above in enumerate(needs)
    ]


def until(path: Path) -> str:
    return f"while [ ! -e {path} ]; do sleep 0.01; done"


def succeeded(daemon: Daemon) -> set[str]:
    return {line.subject.rpartition("/")[2] for line in daemon.told("task.succeeded")}


def freeze(daemon: Daemon) -> None:
    """Stop the daemon when it has handed over what comes next, which it does right after the start that it told."""
    time.sleep(0.3)
    os.kill(daemon.pid, signal.SIGSTOP)


@pytest.fixture
def narrow(make_daemon: MakeDaemon) -> Daemon:
    """A daemon with one place."""
    made = make_daemon(limits__max_tasks="1")
    made.start()
    return made


def test_tasks_go_on_while_the_daemon_stands_still_and_all_of_it_is_recorded(daemon: Daemon) -> None:
    ran, gate = daemon.home / "ran", daemon.home / "gate"
    tasks = many(12, f"echo NAME >> {ran}; [ NAME != t0 ] || {until(gate)}")

    daemon.drop("w.json", {"concurrency": {"max_tasks": 1}, "tasks": tasks})
    daemon.wait_running("w", "t0")
    freeze(daemon)
    gate.touch()
    wait_for(lambda: len(lines_of(ran)) > 4, "the spawner goes on by itself")
    os.kill(daemon.pid, signal.SIGCONT)
    run = daemon.wait_run("w")

    assert run.status == "succeeded"
    assert lines_of(ran) == [f"t{number}" for number in range(12)]
    assert [len(task["attempts"]) for task in run.tasks.values()] == [1] * 12


def test_never_more_run_than_there_are_places_and_the_records_say_so_too(daemon: Daemon) -> None:
    busy = daemon.home / "busy"
    command = f"mkdir -p {busy}; touch {busy}/NAME; ls {busy} | wc -l; sleep 0.002; rm {busy}/NAME"

    daemon.drop("w.json", {"concurrency": {"max_tasks": 3}, "tasks": many(300, command)})
    run = daemon.wait_run("w")

    assert max(int(run.log(name)) for name in run.tasks) == 3
    running = most = 0
    for kind in run.types:
        running += {"wizflow.task.started": 1, "wizflow.task.succeeded": -1}.get(kind, 0)
        most = max(most, running)
    assert most == 3
    assert daemon.stop() == 0
    assert_gapless(sequence for sequence, _, _ in daemon.records())


def test_a_chain_runs_in_order_with_what_is_filled_in(daemon: Daemon) -> None:
    ran = daemon.home / "ran"
    command = f"echo NAME $(tail -n 1 {ran} | cut -d' ' -f1) {{{{n}}}} >> {ran}"

    daemon.drop("w.json", {"params": {"n": "filled"}, "tasks": chain(50, command)})
    run = daemon.wait_run("w")

    assert run.status == "succeeded"
    assert lines_of(ran) == ["t0 filled", *(f"t{number} t{number - 1} filled" for number in range(1, 50))]


@pytest.mark.parametrize("bad", ["exit 3", "kill -9 $$"])
def test_nothing_starts_after_a_failure(narrow: Daemon, bad: str) -> None:
    ran = narrow.home / "ran"
    tasks = many(60, f"echo NAME >> {ran}; [ NAME != t30 ] || {bad}")

    narrow.drop("w.json", {"fail_fast": True, "tasks": tasks})
    run = narrow.wait_run("w")

    assert run.status == "failed"
    assert lines_of(ran) == [f"t{number}" for number in range(31)]
    assert run.named("succeeded") == {f"t{number}" for number in range(30)}


def test_what_needs_a_failed_task_is_skipped_and_the_others_go_on(narrow: Daemon) -> None:
    ran = narrow.home / "ran"
    tasks = [*many(20, f"echo NAME >> {ran}; [ NAME != t5 ] || exit 1"), shell("after", f"echo after >> {ran}", "t5")]

    narrow.drop("w.json", tasks)
    run = narrow.wait_run("w")

    assert run.named("skipped") == {"after"}
    assert sorted(lines_of(ran)) == sorted(f"t{number}" for number in range(20))


def test_a_task_that_fails_is_tried_again_before_what_was_handed_over_behind_it(narrow: Daemon) -> None:
    ran = narrow.home / "ran"
    flaky = f"echo NAME >> {ran}; [ NAME != t3 ] || [ $(grep -c t3 {ran}) -gt 1 ]"

    narrow.drop("w.json", many(20, flaky, retry={"limit": 2, "delay": "0s"}))
    run = narrow.wait_run("w")

    assert run.status == "succeeded"
    assert lines_of(ran)[:6] == ["t0", "t1", "t2", "t3", "t3", "t4"]
    assert sorted(lines_of(ran)) == sorted([*(f"t{number}" for number in range(20)), "t3"])


def test_outputs_that_nobody_declared_reach_the_task_that_asks_for_them(narrow: Daemon) -> None:
    said = shell("use", "echo got {{tasks.t3.outputs.word}}", *(f"t{number}" for number in range(8)))
    command = "[ NAME != t3 ] || echo word=NAME-says >> $WIZFLOW_OUTPUT"

    narrow.drop("w.json", [*many(8, command), said])
    run = narrow.wait_run("w")

    assert run.log("use") == "got t3-says\n"


def test_what_the_spawner_cannot_judge_has_its_turn_among_the_others(narrow: Daemon) -> None:
    ran = narrow.home / "ran"
    tasks = many(40, f"echo NAME >> {ran}; sleep 0.005")
    first = shell("made", f"echo made >> {ran}; echo 1", "t0", priority=5, outputs={"n": {"type": "json"}})

    narrow.drop("w.json", [*tasks, first])
    run = narrow.wait_run("w")

    assert run.tasks["made"]["outputs"] == {"n": 1}
    assert lines_of(ran).index("made") <= 2


def test_no_place_stands_empty_while_what_was_handed_over_waits_for_a_long_task(daemon: Daemon) -> None:
    gate = daemon.home / "gate"
    behind = [shell(f"d{number}", "true", "long") for number in range(20)]
    last = [shell(f"e{number}", "true", f"d{number}") for number in range(20)]
    tasks = [shell("long", until(gate)), *behind, *last, *many(30, "true")]

    daemon.drop("w.json", {"concurrency": {"max_tasks": 4}, "tasks": tasks})
    ended = {f"t{number}" for number in range(30)}
    wait_for(lambda: ended <= succeeded(daemon), "all others have ended")
    gate.touch()

    assert daemon.wait_run("w").status == "succeeded"


def test_what_the_spawner_cannot_judge_starts_though_something_waits_for_a_long_task(daemon: Daemon) -> None:
    gate = daemon.home / "gate"
    made = shell("made", "echo 1", "short", outputs={"n": {"type": "json"}})
    tasks = [shell("long", until(gate)), shell("short", "sleep 0.2"), shell("behind", "true", "long"), made]

    daemon.drop("w.json", {"concurrency": {"max_tasks": 4}, "tasks": tasks})
    wait_for(lambda: "made" in succeeded(daemon), "it has ended")
    gate.touch()

    assert daemon.wait_run("w").tasks["made"]["outputs"] == {"n": 1}


def test_after_a_pause_nothing_starts_until_the_run_goes_on(narrow: Daemon) -> None:
    ran = narrow.home / "ran"
    narrow.drop("w.json", many(200, f"echo NAME >> {ran}; sleep 0.005"))
    wait_for(lambda: len(lines_of(ran)) > 20, "it is under way")
    run_id = narrow.ask("runs")[0]["run"]

    narrow.ask("pause", run=run_id)
    begun = len(lines_of(ran)) + 1  # one may be between its start and its line
    time.sleep(0.3)
    assert len(lines_of(ran)) <= begun < 200
    narrow.ask("resume", run=run_id)
    run = narrow.wait_run("w")

    assert lines_of(ran) == [f"t{number}" for number in range(200)]
    assert run.status == "succeeded"


def test_after_a_cancel_nothing_starts(narrow: Daemon) -> None:
    ran = narrow.home / "ran"
    narrow.drop("w.json", many(200, f"echo NAME >> {ran}; sleep 0.005"))
    wait_for(lambda: len(lines_of(ran)) > 20, "it is under way")

    narrow.ask("cancel", run=narrow.ask("runs")[0]["run"])
    run = narrow.wait_run("w")

    begun = lines_of(ran)
    assert run.status == "cancelled"
    time.sleep(0.2)
    assert lines_of(ran) == begun
    assert len(run.named("succeeded")) in (len(begun), len(begun) - 1)


def test_another_workflow_has_its_turn_before_a_long_run_has_ended(narrow: Daemon) -> None:
    ran = narrow.home / "ran"
    narrow.drop("long.json", many(300, f"echo NAME >> {ran}; sleep 0.01"))
    wait_for(lambda: len(lines_of(ran)) > 20, "it is under way")
    before = len(lines_of(ran))

    narrow.drop("short.json", many(3, f"echo NAME of short >> {ran}"))
    narrow.wait_run("short")

    assert len(lines_of(ran)) < before + 150
    narrow.wait_run("long")


@pytest.mark.parametrize("rebooted", [False, True], ids=["killed", "rebooted"])
def test_what_the_spawner_started_by_itself_is_known_after_a_kill_and_repeated_in_order_after_a_power_cut(
    daemon: Daemon, *, rebooted: bool
) -> None:
    ran, gate, exits = daemon.home / "ran", daemon.home / "gate", daemon.state / "spawner" / "exits"
    names = [f"t{number}" for number in range(5)]
    tasks = chain(5, f"[ NAME != t0 ] || sleep 0.3; echo NAME >> {ran}; [ NAME != t0 ] || {until(gate)}")
    daemon.drop("w.json", {"params": {"n": 1}, "tasks": tasks})
    daemon.wait_running("w", "t0")

    freeze(daemon)
    gate.touch()
    wait_for(lambda: exits.read_bytes().count(b'"exited"') == 5, "the spawner has run all of it")
    daemon.kill9()
    if rebooted:
        spawner = daemon.spawner_pid
        os.kill(spawner, signal.SIGKILL)
        wait_for(lambda: not is_alive(spawner), "the spawner is dead")
        exits.write_bytes(exits.read_bytes().replace(BOOT_ID.read_bytes().strip(), b"another"))
    daemon.start()
    run = daemon.wait_run("w")

    assert run.status == "succeeded"
    assert lines_of(ran) == names * (1 + rebooted)


def test_a_spawner_that_dies_with_what_it_was_handed_is_replaced_and_every_task_runs(daemon: Daemon) -> None:
    ran = daemon.home / "ran"
    daemon.drop("w.json", {"concurrency": {"max_tasks": 2}, "tasks": many(200, f"echo NAME >> {ran}; sleep 0.005")})
    wait_for(lambda: len(lines_of(ran)) > 50, "it is under way")

    os.kill(daemon.spawner_pid, signal.SIGKILL)
    run = daemon.wait_run("w")

    assert run.status == "succeeded"
    assert set(lines_of(ran)) == {f"t{number}" for number in range(200)}
    assert len(lines_of(ran)) <= 204  # those that ran when it died are repeated
