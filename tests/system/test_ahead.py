"""Attempts that run a moment ahead of their record: a `kill -9` in that moment repeats and loses none of them."""

import random
import time
from collections import Counter

import pytest

from tests.system.running import Daemon, assert_gapless, lines_of, shell, wait_for

TASKS, KILLS = 200, 4


@pytest.mark.slow
def test_what_ran_ahead_of_its_record_is_neither_repeated_nor_lost_by_a_kill(daemon: Daemon) -> None:
    rng, effects = random.Random(6), daemon.home / "effects"
    tasks = [shell(f"t{number}", f"echo t{number} >> {effects}; sleep 0.01") for number in range(TASKS)]

    daemon.drop("many.json", {"concurrency": {"max_tasks": 6}, "tasks": tasks})
    for kill in range(1, KILLS + 1):
        wanted = kill * TASKS // (KILLS + 2)
        wait_for(lambda wanted=wanted: len(lines_of(effects)) >= wanted, "some tasks have begun")  # type: ignore[misc]
        time.sleep(rng.random() * 0.03)
        daemon.kill9()
        daemon.start()
    run = daemon.wait_run("many")

    assert run.status == "succeeded"
    assert Counter(lines_of(effects)) == Counter(f"t{number}" for number in range(TASKS))
    assert [len(task["attempts"]) for task in run.tasks.values()] == [1] * TASKS
    types = Counter(run.types)
    assert types["wizflow.task.started"] == types["wizflow.task.succeeded"] == TASKS
    assert daemon.stop() == 0
    assert_gapless(sequence for sequence, _, _ in daemon.records())


def test_a_chain_that_ran_ahead_goes_on_after_a_kill_where_it_was(daemon: Daemon) -> None:
    effects, gate = daemon.home / "effects", daemon.home / "gate"
    names = [f"t{number}" for number in range(30)]
    tasks = [
        shell(name, f"echo {name} >> {effects}", *([f"t{number - 1}"] if number else []))
        for number, name in enumerate(names)
    ]
    held = shell("held", f"while [ ! -e {gate} ]; do sleep 0.02; done; echo held >> {effects}", "t29")

    daemon.drop("chain.json", [*tasks, held])
    wait_for(lambda: "t29" in lines_of(effects), "the chain has ended")
    daemon.kill9()
    daemon.start()
    gate.touch()
    run = daemon.wait_run("chain")

    assert run.status == "succeeded"
    assert lines_of(effects) == [*names, "held"]
