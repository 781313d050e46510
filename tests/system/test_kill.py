"""`kill -9` at any point: nothing is lost, nothing is done twice, running tasks are adopted (SPEC section 10)."""

import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, Finished, assert_gapless, lines_of, shell, tree_of, wait_for

LONG = os.environ.get("WIZFLOW_TORTURE") == "long"
WIDTH, DEPTH, LINES = 8, 5, 40
SIDE_EFFECT = """\
echo "pid $$"
echo {name} >> {effects}
i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo "line $i"; sleep 0.005; done
printf '%s' {name} > {name}.out
"""


def forty_tasks(effects: str) -> list[dict[str, Any]]:
    """Return five rows of eight tasks, each of which waits for two of the row above it."""
    tasks = []
    for row in range(DEPTH):
        for column in range(WIDTH):
            name = f"t{row}{column}"
            command = SIDE_EFFECT.format(name=name, effects=effects, lines=LINES)
            needs = [f"t{row - 1}{column}", f"t{row - 1}{(column + 1) % WIDTH}"] if row else []
            tasks.append(shell(name, command, *needs, outputs={"made": {"type": "file", "path": f"{name}.out"}}))
    return tasks


@dataclass
class Figures:
    """What happened in the rounds."""

    kills: int = 0
    adopted: int = 0
    lost: int = 0
    moments: Counter[str] = field(default_factory=Counter)


def kill_at_random(daemon: Daemon, rng: random.Random, figures: Figures) -> None:
    """Kill the daemon at some moment of its start, of its first look or of its work, and start it again."""
    chance = rng.random()
    if chance < 0.25:
        figures.moments["starting"] += 1
        time.sleep(rng.random() * 1.2)
    elif chance < 0.4:
        figures.moments["looking"] += 1
        daemon.wait_until_ready()
        time.sleep(rng.random() * 0.3)
    else:
        figures.moments["working"] += 1
        wanted = min(len(effects_of(daemon)) + rng.randrange(1, 4), WIDTH * DEPTH)
        wait_for(lambda: len(effects_of(daemon)) >= wanted, "some tasks have begun")
        time.sleep(rng.random() * 0.3)
    figures.moments["after the end"] += bool(daemon.finished("forty"))
    daemon.kill9()
    daemon.launch()
    figures.kills += 1


def effects_of(daemon: Daemon) -> list[str]:
    return lines_of(daemon.home / "effects")


def check_run(daemon: Daemon, run: Finished, figures: Figures) -> None:
    names = {f"t{row}{column}" for row in range(DEPTH) for column in range(WIDTH)}
    assert run.status == "succeeded"
    assert run.named("succeeded") == names
    assert Counter(effects_of(daemon)) == Counter(names)  # each exactly once
    for name, task in run.tasks.items():
        last = task["attempts"][-1]
        assert [attempt["exit_code"] for attempt in task["attempts"]] == [*[None] * (len(task["attempts"]) - 1), 0]
        assert run.log(name, last["attempt"]) == "".join(
            [f"pid {last['pid']}\n", *(f"line {number}\n" for number in range(1, LINES + 1))]
        )
    types = Counter(run.types)
    sequences = [int(event["sequence"]) for event in run.events]
    assert (run.types[0], run.types[-1]) == ("wizflow.run.queued", "wizflow.run.succeeded")
    assert types["wizflow.run.queued"] == types["wizflow.run.started"] == types["wizflow.run.succeeded"] == 1
    assert types["wizflow.task.succeeded"] == len(names)
    assert sequences == sorted(set(sequences))
    # The status of the workflow is written after its results.
    wait_for(lambda: not [path for path in tree_of(daemon.workflows) if ".tmp-" in path], "no file is half-written")
    figures.adopted += types["wizflow.task.adopted"]
    figures.lost += types["wizflow.task.retrying"]


def check_journal(daemon: Daemon) -> None:
    """The whole stream has no gap over all lives, and the run's file is its part of it."""
    assert daemon.stop() == 0
    records = daemon.records()
    assert_gapless(sequence for sequence, _, _ in records)
    (run,) = daemon.finished("forty")
    in_journal = [sequence for sequence, _, data in records if data.get("run") == run.result["run"] and sequence]
    assert in_journal == [int(event["sequence"]) for event in run.events]
    ends = Counter(data["task"] for _, kind, data in records if kind == "TaskSucceeded" and data["workflow"] == "forty")
    assert set(ends.values()) == {1}


def one_round(daemon: Daemon, rng: random.Random, kills: int, figures: Figures) -> None:
    daemon.drop("forty.json", forty_tasks(str(daemon.home / "effects")))
    daemon.launch()
    for _ in range(kills):
        kill_at_random(daemon, rng, figures)
    daemon.wait_until_ready()
    check_run(daemon, daemon.wait_run("forty"), figures)
    check_journal(daemon)


@pytest.mark.slow
@pytest.mark.timeout(1800 if LONG else 120)
def test_kills_of_the_daemon_do_not_repeat_or_lose_a_task(
    make_daemon: MakeDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds, kills = (10, 5) if LONG else (1, 7)
    seed = int(os.environ.get("WIZFLOW_SEED", "7"))
    figures = Figures()
    started_s = time.monotonic()

    for number in range(rounds):
        one_round(make_daemon(tmp_path / f"round-{number}"), random.Random(seed + number), kills, figures)

    assert figures.kills == rounds * kills
    assert figures.adopted > 0
    if LONG:
        with capsys.disabled():
            print(f"\n{rounds} rounds in {time.monotonic() - started_s:.0f} s: {figures}")
