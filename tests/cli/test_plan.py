"""`wizflow plan`: what it says, of what it knows, and that it writes nothing."""

import fcntl
import json
import os
from pathlib import Path

from tests.cli.alone import Wizflow, wizflow

CHAIN = """
tasks:
  - {id: one, type: SHELL, command: "echo 1 > one"}
  - {id: two, type: SHELL, command: "echo 2", depends_on: [one]}
  - {id: three, type: SHELL, command: "echo 3", depends_on: [two]}
  - {id: beside, type: SHELL, command: "echo 4"}
"""


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


def test_without_earlier_runs_everything_would_run(alone: Wizflow, tmp_path: Path) -> None:
    Path("etl.yaml").write_text(CHAIN)
    before = tree(tmp_path)

    said = alone("plan", "etl.yaml")

    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines() == [
        "etl: planned without knowledge of earlier runs",
        "4 tasks, 4 to run, 0 reused; 3 levels, 2 wide",
        "    0  run    one     never ran",
        "    0  run    beside  never ran",
        "    1  run    two     never ran  after one",
        "    2  run    three   never ran  after two",
        "longest path: one -> two -> three",
    ]
    assert tree(tmp_path) == before


def test_an_edit_runs_what_changed_and_what_is_downstream(alone: Wizflow, tmp_path: Path) -> None:
    Path("etl.yaml").write_text(CHAIN)
    assert alone("run", "etl.yaml").status == 0
    Path("etl.yaml").write_text(CHAIN.replace("echo 2", "echo two"))
    before = tree(tmp_path)

    said = alone("plan", "etl.yaml", "--json")

    tasks = {task["id"]: (task["action"], task["reason"]) for task in json.loads(said.out)["tasks"]}
    assert tasks == {
        "one": ("reuse", "nothing changed"),
        "beside": ("reuse", "nothing changed"),
        "two": ("run", "command changed"),
        "three": ("run", "upstream two changed"),
    }
    assert tree(tmp_path) == before
    first, second = alone("plan", "etl.yaml").out.splitlines()[:2]
    assert first == "etl: planned by earlier runs beside it"
    assert second.startswith("4 tasks, 2 to run, 2 reused")


def test_what_failed_last_time_is_told_from_what_never_ran(alone: Wizflow) -> None:
    Path("w.yaml").write_text(CHAIN.replace("echo 2", "exit 2"))
    assert alone("run", "w.yaml").status == 1

    planned = json.loads(alone("plan", "w.yaml", "--json").out)

    assert {task["id"]: task["reason"] for task in planned["tasks"]} == {
        "one": "nothing changed",
        "beside": "nothing changed",
        "two": "did not succeed last time",
        "three": "never ran",
    }


def test_json_is_the_plan_as_a_run_writes_it(alone: Wizflow) -> None:
    Path("etl.yaml").write_text(CHAIN)

    planned = json.loads(alone("plan", "etl.yaml", "--json").out)

    assert alone("run", "etl.yaml").status == 0
    written = json.loads(Path("etl.runs/latest/plan.json").read_text())
    for plan in (planned, written):
        for task in plan["tasks"]:
            del task["reason"]
    assert planned == written


def test_all_problems_are_told_with_the_name_that_was_given(alone: Wizflow) -> None:
    Path("etl.yaml").write_text(
        "tasks: [{id: a, type: SHELL, command: 'echo {{no}}'}, {id: a, type: SHELL, command: x}]\n"
    )

    said = alone("plan", "./etl.yaml")

    assert (said.status, said.out) == (2, "")
    assert len(said.errors) == 2
    assert all(line.startswith("./etl.yaml:1:") for line in said.errors)


def test_it_plans_while_a_run_is_under_way(alone: Wizflow) -> None:
    Path("etl.yaml").write_text(CHAIN)
    assert alone("run", "etl.yaml").status == 0
    lock = os.open("etl.runs/.state/state.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)

    said = alone("plan", "etl.yaml")

    os.close(lock)
    assert (said.status, said.err) == (0, "")


def test_a_state_that_is_damaged_is_one_line(alone: Wizflow) -> None:
    Path("etl.yaml").write_text(CHAIN)
    Path("etl.runs/.state").mkdir(parents=True)
    Path("etl.runs/.state/state.db").write_text("no database " * 1000)

    said = alone("plan", "etl.yaml")

    assert said.status == 1
    assert len(said.errors) == 1
    assert "file is not a database" in said.err


def test_ten_thousand_tasks_are_planned_in_moments(tmp_path: Path) -> None:
    tasks = [
        {"id": f"t{n}", "type": "SHELL", "command": f"echo {n}", "depends_on": [f"t{n - 100}"] if n >= 100 else []}
        for n in range(10_000)
    ]
    (tmp_path / "big.json").write_text(json.dumps({"tasks": tasks}))

    said = wizflow("plan", "big.json", cwd=tmp_path)

    assert said.status == 0
    assert "10,000 tasks, 10,000 to run, 0 reused; 100 levels, 100 wide" in said.out
