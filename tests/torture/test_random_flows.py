"""Random workflows against a model of a few lines: what ends how, runs how often, in which order, how many at once.

The flows mix what the spawner may start by itself (`engine/feed`) with all that it may not: failures, retries, outputs,
declared or not, priorities, pools, `on_lost: fail`, and tasks that run after a failure. Nothing needs one of these: of
two reasons not to run, a failure and such a skip, the first that comes is told, and which that is the clock decides.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, Finished, lines_of, shell
from tests.torture.campaign import either, patched_copy, report

FLOWS = either(12, 400)
MAX_TASKS = 5
POOL = 2


@dataclass
class Flow:
    """One random workflow; `kinds`, `needs` and `run_on` say by task what the model has to know of it."""

    definition: dict[str, Any]
    effects: Path
    at_once: int
    kinds: dict[str, str] = field(default_factory=dict)
    needs: dict[str, list[str]] = field(default_factory=dict)
    run_on: dict[str, str] = field(default_factory=dict)

    def statuses(self) -> dict[str, str]:
        """Return how each task must end."""
        status: dict[str, str] = {}
        blamed: set[str] = set()
        for name, needs in self.needs.items():
            bad = any(need in blamed for need in needs)
            runs = {
                "success": all(status[need] == "succeeded" for need in needs),
                "failure": bad,
                "always": True,
            }[self.run_on[name]]
            status[name] = "skipped" if not runs else "failed" if self.kinds[name] == "fails" else "succeeded"
            if status[name] == "failed" or (status[name] == "skipped" and self.run_on[name] == "success" and bad):
                blamed.add(name)
        return status


def random_flow(seed: int, home: Path) -> Flow:
    rng = random.Random(seed)
    count, at_once = rng.choice([5, 20, 60, 150]), rng.choice([1, 2, 3, MAX_TASKS])
    chance = {
        kind: rng.choice([0.0, 0.0, often])
        for kind, often in (("fails", 0.1), ("retried", 0.05), ("declares", 0.3), ("writes", 0.05), ("lost", 0.05))
    }
    odds = {name: rng.choice([0.0, often]) for name, often in (("priority", 0.2), ("pool", 0.1), ("run_on", 0.05))}
    bound = rng.choice([0.0, 0.3, 0.9])
    busy, effects = home / f"busy-{seed}", home / f"effects-{seed}"
    busy.mkdir()
    flow = Flow({"concurrency": {"max_tasks": at_once}, "tasks": []}, effects, at_once)
    for number in range(count):
        name = f"t{number}"
        needs = sorted({max(0, number - 1 - int(rng.expovariate(0.3))) for _ in range(rng.choice([1, 1, 2, 4]))})
        above = [f"t{need}" for need in needs] if number and rng.random() < bound else []
        flow.needs[name] = [need for need in above if flow.run_on[need] != "failure"]
        flow.kinds[name] = next((kind for kind, share in chance.items() if rng.random() < share), "plain")
        flow.run_on[name] = "success"
        fields: dict[str, Any] = {}
        if flow.needs[name] and rng.random() < odds["run_on"]:
            fields["run_on"] = flow.run_on[name] = rng.choice(["failure", "always"])
        if rng.random() < odds["priority"]:
            fields["priority"] = rng.randrange(-2, 3)
        if rng.random() < odds["pool"]:
            fields["pool"] = "few"
        pause = f"sleep {rng.random() * 0.02:.3f};" if rng.random() < 0.2 else ""
        ends: dict[str, tuple[str, dict[str, Any]]] = {
            "plain": ("true", {}),
            "fails": ("exit 1", {}),
            "retried": (f"[ $(grep -cx {name} {effects}) -gt 1 ]", {"retry": {"limit": 2, "delay": "0s"}}),
            "declares": ("echo said", {"outputs": {"text": {"type": "text"}}}),
            "writes": ("echo said=it >> $WIZFLOW_OUTPUT", {}),
            "lost": ("true", {"on_lost": "fail"}),
        }
        end, more = ends[flow.kinds[name]]
        begin = f"touch {busy}/{name}; ls {busy} | wc -l >> {effects}.width; echo {name} >> {effects}"
        command = f"{begin}; {pause} rm {busy}/{name}; echo end-{name} >> {effects}; {end}"
        flow.definition["tasks"].append(shell(name, command, *flow.needs[name], **fields, **more))
    return flow


def faults(flow: Flow, run: Finished) -> Iterator[str]:
    """Yield what is not as the model has it."""
    wanted = flow.statuses()
    yield from (f"ended: {name}" for name, status in wanted.items() if run.statuses[name] != status)
    lines = lines_of(flow.effects)
    times = Counter(lines)
    first = {line: len(lines) - 1 - number for number, line in enumerate(reversed(lines))}
    last = {line: number for number, line in enumerate(lines)}
    for name, status in wanted.items():
        ran = 0 if status == "skipped" else 2 if flow.kinds[name] == "retried" else 1
        if times[name] != ran:
            yield f"ran {times[name]} and not {ran} times: {name}"
        early = [need for need in flow.needs[name] if ran and last.get(f"end-{need}", -1) > first.get(name, len(lines))]
        yield from (f"before what it needs: {name}, {need}" for need in early)
    if max(map(int, lines_of(flow.effects.with_name(f"{flow.effects.name}.width")))) > flow.at_once:
        yield "more at once than there are places"
    running = 0
    for kind in run.types:
        change = {"started": 1, "succeeded": -1, "failed": -1, "retrying": -1}.get(
            kind.removeprefix("wizflow.task."), 0
        )
        running += change
        if running > flow.at_once:
            yield "more at once by the records than there are places"
            return


def run_flows(daemon: Daemon, seeds: range) -> tuple[Counter[str], int]:
    """Run flows one after the other; return what was wrong, by its first words, and how many tasks there were."""
    found: Counter[str] = Counter()
    tasks = 0
    for seed in seeds:
        flow = random_flow(seed, daemon.home)
        daemon.drop(f"flow{seed}.json", flow.definition)
        run = daemon.wait_run(f"flow{seed}")
        tasks += len(flow.needs)
        found.update(fault.partition(":")[0] for fault in faults(flow, run))
    return found, tasks


@pytest.mark.timeout(either(120, 900))
def test_random_flows_go_as_a_model_of_them_says(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(limits__max_tasks=str(MAX_TASKS), pools=json.dumps({"few": POOL}))
    daemon.start()

    found, tasks = run_flows(daemon, range(FLOWS))

    report("random flows", flows=FLOWS, tasks=tasks, faults=dict(found))
    assert not found


def test_the_campaign_sees_what_is_started_after_a_bad_end(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon(limits__max_tasks=str(MAX_TASKS), pools=json.dumps({"few": POOL}))
    drops = '                if exited["well"]:\n'
    daemon.settings |= patched_copy(
        tmp_path / "patched", "spawner/supervisor.py", (drops, "                if True:\n")
    )
    daemon.may_complain = True
    daemon.start()
    found: Counter[str] = Counter()

    for seed in range(40):
        found += run_flows(daemon, range(seed, seed + 1))[0]
        if found:
            break

    report("random flows, a bad end drops nothing", faults=dict(found))
    assert found
