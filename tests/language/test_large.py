"""Large graphs: what planning and scheduling cost, told by counting where that can be done, and in seconds."""

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.scenes import NOW, after, begun, failed, line, succeeded
from wizflowd.cli.main import main
from wizflowd.core.compile import Compiled, compile_definition
from wizflowd.core.finish import settle
from wizflowd.core.loader import Syntax
from wizflowd.core.observations import WorkflowId
from wizflowd.core.plan import Disk, Plan, Surroundings, make_plan, plan_lines
from wizflowd.core.schedule import Capacity, next_start

Task = dict[str, Any]


def task(name: str, *needs: str) -> Task:
    return {"id": name, "type": "SHELL", "command": "true", "depends_on": [*needs]}


def random_graph(count: int, edges_each: int = 3) -> list[Task]:
    """Return tasks of which each needs some of the hundred before it."""
    chance = random.Random(count)
    return [
        task(f"t{n}", *sorted({f"t{chance.randrange(max(0, n - 100), n)}" for _ in range(edges_each)} if n > 2 else {}))
        for n in range(count)
    ]


def ladder(depth: int) -> list[Task]:
    """Return diamonds one below the other: 2 to the power of the depth ways lead through it."""
    tasks = [task("top0")]
    for n in range(depth):
        tasks += [task(f"l{n}", f"top{n}"), task(f"r{n}", f"top{n}"), task(f"top{n + 1}", f"l{n}", f"r{n}")]
    return tasks


def planned(tasks: list[Task]) -> tuple[Compiled, Plan]:
    data = json.dumps({"tasks": tasks}).encode()
    compiled = compile_definition(data, Syntax.JSON, stem="w")
    return compiled, make_plan(WorkflowId("w"), compiled, Surroundings(), {}, Disk())


def calls_of(work: Callable[[], object]) -> int:
    """Return how many functions are called, of Python and of C."""
    calls = 0

    def counted(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_ten_thousand_tasks_with_thirty_thousand_edges_are_planned_in_two_seconds(
    record_property: Callable[[str, object], None],
) -> None:
    tasks = random_graph(10_000, edges_each=4)
    edges = sum(len(each["depends_on"]) for each in tasks)
    planned(tasks[:10])  # imports are paid once in the life of a daemon
    begun_s = time.process_time()

    compiled, plan = planned(tasks)
    lines = plan_lines(plan, compiled.definition)

    taken_s = time.process_time() - begun_s
    record_property("seconds", round(taken_s, 2))
    print(f"10,000 tasks, {edges:,} edges: {taken_s:.2f} s of CPU")
    assert edges >= 30_000
    assert len(lines) == 10_000
    assert taken_s < 2.0


def test_planning_costs_the_same_for_each_task_of_a_small_and_of_a_large_graph() -> None:
    small, large = random_graph(1_000), random_graph(4_000)
    planned(small[:10])

    few, many = (calls_of(lambda tasks=tasks: planned(tasks)) for tasks in (small, large))  # type: ignore[misc]

    assert 3.5 < many / few < 4.6, (few, many)


def test_a_ladder_of_diamonds_is_planned_at_once(record_property: Callable[[str, object], None]) -> None:
    planned(ladder(2))
    begun_s = time.process_time()

    short, deep = (calls_of(lambda depth=depth: planned(ladder(depth))) for depth in (20, 40))  # type: ignore[misc]
    _, plan = planned(ladder(40))

    taken_s = time.process_time() - begun_s
    record_property("seconds", round(taken_s, 3))
    assert (len(plan.tasks), plan.graph.levels, plan.graph.width) == (121, 81, 2)
    assert 1.6 < deep / short < 2.4, (short, deep)
    assert taken_s < 2.0


def drive(tasks: list[Task]) -> None:
    """Take every task through its whole life."""
    compiled, plan = planned(tasks)
    state = begun(*plan_lines(plan, compiled.definition))
    (run,) = state.runs.values()
    while (start := next_start(state, NOW, Capacity(50, 1))) is not None:
        after(start, succeeded(start.task, run=run.id), state=state)
        assert run.open == 0 or settle(run, NOW) == []
    assert run.open == 0


def test_scheduling_costs_the_same_for_each_task_of_a_small_and_of_a_large_graph() -> None:
    few, many = (calls_of(lambda count=count: drive(random_graph(count))) for count in (500, 2_000))  # type: ignore[misc]

    assert 3.5 < many / few < 4.6, (few, many)


@pytest.mark.parametrize("wide", [True, False])
def test_a_need_of_all_and_a_chain_of_all_cost_what_they_have_edges(*, wide: bool) -> None:
    def shape(count: int) -> list[Task]:
        names = [f"t{n}" for n in range(count)]
        if wide:
            return [*map(task, names), task("end", *names)]
        return [task(name, *names[n - 1 : n] if n else ()) for n, name in enumerate(names)]

    few, many = (calls_of(lambda count=count: drive(shape(count))) for count in (500, 2_000))  # type: ignore[misc]

    assert 3.4 < many / few < 4.6, (few, many)


def test_a_failure_at_the_top_skips_ten_thousand_at_constant_cost() -> None:
    def fall(count: int) -> None:
        state = begun(line("a"), *(line(f"t{n}", f"t{n - 1}" if n else "a") for n in range(count)))
        (run,) = state.runs.values()
        start = next_start(state, NOW, Capacity(50, 1))
        assert start is not None
        after(start, failed("a"), state=state)
        while events := settle(run, NOW):
            after(*events, state=state)
        assert run.status == "failed"

    few, many = calls_of(lambda: fall(500)), calls_of(lambda: fall(2_000))

    assert 3.5 < many / few < 4.6, (few, many)


def test_the_command_plans_ten_thousand_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.json"
    path.write_text(json.dumps({"tasks": random_graph(2_000)}))

    assert main(["plan", str(path)]) == 0
    assert "2,000 tasks, 2,000 to run, 0 reused" in capsys.readouterr().out
