"""`matrix` and `for_each`: which instances there are, how they run, and what a dependent sees of them."""

import itertools
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.core.scenes import NOW, RUN, WORKFLOW, after, begun, line, succeeded
from tests.language.conftest import Alone
from tests.system.running import Daemon, gated, lines_of, shell, wait_for
from wizflowd.core.attempt import Facts, Succeeded, TaskId
from wizflowd.core.definition import Retry, ShellTask
from wizflowd.core.events import InstanceLine, TaskAdmitted, TaskExpanded
from wizflowd.core.fanout import item_instances, matrix_instances
from wizflowd.core.finish import Policy, end_attempt, end_group, settle
from wizflowd.core.schedule import Capacity, next_start
from wizflowd.core.state import State, apply
from wizflowd.core.values import Json
from wizflowd.errors import FillError

TEXT = {"v": {"type": "text"}}

# -- which instances there are ----------------------------------------------------------------------------------------

Axes = Mapping[str, Sequence[Json]]
FRUIT: dict[str, list[Json]] = {"fruit": ["apple", "pear"], "animal": ["cat", "dog"]}
OS: dict[str, list[Json]] = {"os": ["windows", "ubuntu"], "version": [10, 12, 14]}
GITHUB: list[tuple[str, Axes, list[dict[str, Json]]]] = [
    (
        "the product of the axes, the last one fastest",
        OS,
        [{"os": os, "version": version} for os in ("windows", "ubuntu") for version in (10, 12, 14)],
    ),
    (
        "include extends what agrees, may overwrite what another include added, and is one of its own elsewhere",
        {
            **FRUIT,
            "include": [
                {"color": "green"},
                {"color": "pink", "animal": "cat"},
                {"fruit": "apple", "shape": "circle"},
                {"fruit": "banana"},
                {"fruit": "banana", "animal": "cat"},
            ],
        },
        [
            {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
            {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
            {"fruit": "pear", "animal": "cat", "color": "pink"},
            {"fruit": "pear", "animal": "dog", "color": "green"},
            {"fruit": "banana"},
            {"fruit": "banana", "animal": "cat"},
        ],
    ),
    (
        "include expands one combination",
        {"os": ["windows", "ubuntu"], "node": [14, 16], "include": [{"os": "windows", "node": 16, "npm": 6}]},
        [
            {"os": "windows", "node": 14},
            {"os": "windows", "node": 16, "npm": 6},
            {"os": "ubuntu", "node": 14},
            {"os": "ubuntu", "node": 16},
        ],
    ),
    (
        "include adds a combination",
        {"os": ["macos", "ubuntu"], "version": [12, 14], "include": [{"os": "windows", "version": 17}]},
        [
            {"os": "macos", "version": 12},
            {"os": "macos", "version": 14},
            {"os": "ubuntu", "version": 12},
            {"os": "ubuntu", "version": 14},
            {"os": "windows", "version": 17},
        ],
    ),
    (
        "include alone: each is a combination",
        {"include": [{"site": "production", "datacenter": "site-a"}, {"site": "staging", "datacenter": "site-b"}]},
        [{"site": "production", "datacenter": "site-a"}, {"site": "staging", "datacenter": "site-b"}],
    ),
    (
        "what include added is not extended by the next",
        {"os": ["linux"], "include": [{"os": "bsd"}, {"os": "bsd", "arch": "arm"}]},
        [{"os": "linux"}, {"os": "bsd"}, {"os": "bsd", "arch": "arm"}],
    ),
    (
        "exclude needs only part of a combination",
        {
            "os": ["macos", "windows"],
            "version": [12, 14, 16],
            "environment": ["staging", "production"],
            "exclude": [
                {"os": "macos", "version": 12, "environment": "production"},
                {"os": "windows", "version": 16},
            ],
        },
        [
            {"os": "macos", "version": 12, "environment": "staging"},
            {"os": "macos", "version": 14, "environment": "staging"},
            {"os": "macos", "version": 14, "environment": "production"},
            {"os": "macos", "version": 16, "environment": "staging"},
            {"os": "macos", "version": 16, "environment": "production"},
            {"os": "windows", "version": 12, "environment": "staging"},
            {"os": "windows", "version": 12, "environment": "production"},
            {"os": "windows", "version": 14, "environment": "staging"},
            {"os": "windows", "version": 14, "environment": "production"},
        ],
    ),
    (
        "include is looked at after exclude and can bring back what that dropped",
        {"os": ["linux", "bsd"], "exclude": [{"os": "bsd"}], "include": [{"os": "bsd", "again": True}]},
        [{"os": "linux"}, {"os": "bsd", "again": True}],
    ),
    ("everything excluded", {"os": ["linux"], "exclude": [{"os": "linux"}]}, []),
    ("an empty axis", {"os": ["linux", "bsd"], "py": []}, []),
]


@pytest.mark.parametrize(
    ("axes", "expected"), [(axes, expected) for _, axes, expected in GITHUB], ids=[g[0] for g in GITHUB]
)
def test_a_matrix_has_the_combinations_that_github_documents(axes: Axes, expected: list[dict[str, Json]]) -> None:
    found = sorted(({**each.values} for each in matrix_instances("t", axes)), key=json.dumps)
    in_order = [{**each.values} for each in matrix_instances("t", axes)]

    assert found == sorted(expected, key=json.dumps)
    assert in_order == expected


def test_instances_are_named_by_their_values() -> None:
    named = [each.id for each in matrix_instances("build", {"os": ["linux"], "py": [3.12, True]})]

    assert named == ["build[os=linux,py=3.12]", "build[os=linux,py=true]"]
    assert [each.id for each in item_instances("t", ["a", 1, None])] == ["t[a]", "t[1]", "t[]"]


@pytest.mark.parametrize(
    "values",
    [
        ["a/b", "a%2Fb", "a]b", "a[b", "a,b", "a=b", "a b", "ä", "日本", "a\nb", "a\x00b", ""],
        ["same", "same", "same"],
        ["1", 1, 1.0, True, "true", None, ""],
        ["x" * 39, "x" * 40, "x" * 41, "x" * 100, "x" * 101],
        [{"a": 1}, {"a": 1}, [1], 0, "0", 1, "1"],
        ["a", "a,#1", "#1", "a"],
        ["\ud800", "%D800"],
    ],
)
def test_whatever_the_values_are_the_ids_differ_and_fit_a_line_and_a_path(values: list[Json]) -> None:
    for instances in (item_instances("t", values), matrix_instances("t", {"x": values})):
        ids = [each.id for each in instances]

        assert len(set(ids)) == len(values)
        assert all(name.isprintable() and "/" not in name and name.startswith("t[") for name in ids)
        assert [each.index for each in instances] == list(range(len(values)))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({name: list(range(100)) for name in "abcdef"}, "in 1000000000000 instances"),
        ({"a": list(range(10_001))}, "in 10001 instances"),
        ({"include": [{"a": n} for n in range(10_001)]}, "in 10001 instances"),
    ],
)
def test_too_many_combinations_are_refused_before_they_are_made(axes: Axes, message: str) -> None:
    with pytest.raises(FillError, match=f"cannot run t {message}: at most 10000 can be had"):
        matrix_instances("t", axes)


# -- how they run -----------------------------------------------------------------------------------------------------


def test_a_matrix_runs_once_for_each_combination_and_gives_lists_in_order(alone: Alone) -> None:
    matrix = {"os": ["linux", "bsd"], "py": [3.11, 3.12], "exclude": [{"os": "bsd", "py": 3.11}]}
    tasks = [
        shell(
            "build",
            "sleep 0.0$WIZFLOW_ATTEMPT; printf '%s-%s' {{matrix.os}} {{matrix.py}}",
            matrix=matrix,
            outputs=TEXT,
        ),
        shell("use", "printf '%s' {{v}}; printf ' %s' {{tasks.build.outputs.v[1]}}", "build", outputs=TEXT),
    ]

    run = alone.run({"tasks": tasks})

    ids = ["build[os=linux,py=3.11]", "build[os=linux,py=3.12]", "build[os=bsd,py=3.12]"]
    outputs = ["linux-3.11", "linux-3.12", "bsd-3.12"]
    assert run.named("succeeded") == {"build", "use", *ids}
    assert run.tasks["build"]["instances"] == ids
    assert run.tasks["build"]["outputs"] == {"v": outputs}
    assert run.tasks["build"]["attempts"] == []
    assert [run.tasks[name]["outputs"]["v"] for name in ids] == outputs
    assert run.tasks["use"]["outputs"]["v"] == f"{json.dumps(outputs, separators=(',', ':'))} linux-3.12"
    started = {event["subject"].rsplit("/", 1)[1] for event in run.events if event["type"] == "wizflow.task.started"}
    assert started == {"use", *ids}


def test_each_instance_has_its_own_log_and_its_own_tries(alone: Alone) -> None:
    flaky = "echo {{item}} try $WIZFLOW_ATTEMPT as $WIZFLOW_TASK; [ $WIZFLOW_ATTEMPT = {{item}} ]"
    tasks = [shell("each", flaky, for_each=[1, 2], retry={"limit": 2, "delay": 0})]

    run = alone.run({"tasks": tasks})

    assert run.statuses == {"each": "succeeded", "each[1]": "succeeded", "each[2]": "succeeded"}
    assert [len(run.tasks[name]["attempts"]) for name in ("each[1]", "each[2]")] == [1, 2]
    assert run.log("each.0") == "1 try 1 as each[1]\n"
    assert [run.log("each.1", number) for number in (1, 2)] == ["2 try 1 as each[2]\n", "2 try 2 as each[2]\n"]
    assert run.tasks["each[2]"]["attempts"][1]["log"] == "logs/each.1.2.log"


def test_for_each_takes_the_list_that_another_task_gives(alone: Alone) -> None:
    items = [{"name": "a b", "n": 1}, {"name": "c'd\"$(id)", "n": 2}]
    tasks = [
        shell("list", ["printf", "%s", json.dumps(items)], outputs={"items": {"type": "json"}}),
        shell("each", "printf '%s=%s' {{item.name}} {{item.n}}", for_each="{{tasks.list.outputs.items}}", outputs=TEXT),
    ]

    run = alone.run({"tasks": tasks})

    assert run.tasks["each"]["outputs"] == {"v": ["a b=1", "c'd\"$(id)=2"]}
    assert run.tasks["each"]["instances"] == ["each[0]", "each[1]"]


def test_an_empty_list_is_a_success_that_says_so(alone: Alone) -> None:
    tasks = [
        shell("list", "echo '[]'", outputs={"items": {"type": "json"}}),
        shell("each", "false", for_each="{{tasks.list.outputs.items}}", outputs=TEXT),
        shell("use", "printf '%s' {{v}}", "each", outputs={"seen": {"type": "text"}}),
    ]

    run = alone.run({"tasks": tasks})

    assert run.statuses == {"list": "succeeded", "each": "succeeded", "use": "succeeded"}
    assert run.tasks["use"]["outputs"]["seen"] == "[]"
    (ended,) = [event for event in run.events if event["subject"].endswith("/each")]
    assert ended["data"]["notes"] == ["no instances: the list is empty"]
    assert "no instances: the list is empty" in alone.said.out


@pytest.mark.parametrize("value", ['"text"', "7", '{"a": 1}', "null"])
def test_what_is_no_list_fails_the_task_and_says_what_it_is(alone: Alone, value: str) -> None:
    tasks = [
        shell("list", ["echo", value], outputs={"items": {"type": "json"}}),
        shell("each", "true", for_each="{{tasks.list.outputs.items}}"),
    ]

    run = alone.run({"tasks": tasks})

    assert run.statuses == {"list": "succeeded", "each": "failed"}
    assert run.tasks["each"]["reason"].startswith("cannot run each for each item: its for_each is no list but ")


def test_no_more_instances_are_in_flight_than_max_parallel(alone: Alone) -> None:
    count = "echo + >> seen; sleep 0.03; echo - >> seen"
    tasks = [shell("each", count, for_each=list(range(9)), max_parallel=2)]

    run = alone.run({"tasks": tasks})

    changes = lines_of(alone.folder / "w.runs/workspace/seen")
    heights = list(itertools.accumulate({"+": 1, "-": -1}[change] for change in changes))
    assert run.status == "succeeded"
    assert len(changes) == 18
    assert max(heights) <= 2


def test_a_failing_instance_fails_its_task_after_the_others_have_run(alone: Alone) -> None:
    tasks = [
        shell("each", "echo {{item}} >> seen; [ {{item}} -lt 3 ]", for_each=[1, 2, 3, 4]),
        shell("after", "true", "each"),
        shell("clean", "true", "each", run_on="failure"),
    ]

    run = alone.run({"tasks": tasks})

    assert run.status == "failed"
    assert run.result["reason"] == "each failed"
    assert (run.statuses["each"], run.statuses["after"], run.statuses["clean"]) == ("failed", "skipped", "succeeded")
    assert run.tasks["each"]["reason"] == "2 of 4 instances failed: each[3], each[4]"
    assert sorted(lines_of(alone.folder / "w.runs/workspace/seen")) == ["1", "2", "3", "4"]


def test_failures_of_instances_can_be_tolerated(alone: Alone) -> None:
    tasks = [
        shell("each", "[ {{item}} = 1 ] && echo one", for_each=[1, 2], continue_on_failure=True, outputs=TEXT),
        shell("after", "printf '%s' {{v}}", "each", outputs={"seen": {"type": "text"}}),
    ]

    run = alone.run({"tasks": tasks})

    assert run.status == "succeeded"
    assert run.statuses == {"each": "succeeded", "each[1]": "succeeded", "each[2]": "failed", "after": "succeeded"}
    assert run.result["tolerated"] == ["each[2]"]
    assert run.tasks["after"]["outputs"]["seen"] == '["one",null]'
    assert "tolerated: each[2]" in alone.said.out


def test_under_fail_fast_the_first_failing_instance_ends_the_others(alone: Alone) -> None:
    tasks = [shell("each", "[ {{item}} != 1 ] && sleep 60", for_each=list(range(20)), max_parallel=3)]

    run = alone.run({"fail_fast": True, "tasks": tasks})

    assert run.status == "failed"
    assert run.result["reason"] == "fail_fast: each[1] failed"
    assert run.statuses["each"] == "failed"
    assert Counter(run.statuses.values())["failed"] == 2
    assert run.named("succeeded") == set()


def test_a_value_that_is_added_runs_alone(alone: Alone) -> None:
    def tasks(values: list[str]) -> list[dict[str, Any]]:
        command = "echo {{matrix.v}} >> ../seen; printf %s {{matrix.v}}"
        each = shell("each", command, matrix={"v": values, "w": [1]}, outputs=TEXT)
        return [shell("first", "true"), {**each, "depends_on": ["first"]}, shell("use", "true", "each")]

    alone.run({"tasks": tasks(["a", "b"])})
    run = alone.run({"tasks": tasks(["c", "a", "b"])}, "--incremental")

    assert run.statuses == {
        "first": "reused",
        "each": "succeeded",
        "each[v=c,w=1]": "succeeded",
        "each[v=a,w=1]": "reused",
        "each[v=b,w=1]": "reused",
        "use": "succeeded",
    }
    assert run.tasks["each"]["outputs"]["v"] == ["c", "a", "b"]
    assert sorted(lines_of(alone.folder / "w.runs/seen")) == ["a", "b", "c"]

    again = alone.run({"tasks": tasks(["c", "a", "b"])}, "--incremental")
    assert set(again.statuses.values()) == {"reused"}


def test_only_the_instances_that_failed_run_again(alone: Alone) -> None:
    tasks = [
        shell("each", "[ -e ../ok ] || [ {{item}} = 1 ]", for_each=[1, 2], sources=[]),
        shell("use", "true", "each"),
    ]
    alone.run({"tasks": tasks})
    (alone.folder / "w.runs/ok").touch()

    run = alone.run({"tasks": tasks}, "--incremental")

    assert run.statuses == {"each": "succeeded", "each[1]": "reused", "each[2]": "succeeded", "use": "succeeded"}


def test_a_condition_and_an_approval_stand_before_the_instances(alone: Alone) -> None:
    tasks = [shell("each", "true", for_each=[1, 2], when="params.n > 1")]

    run = alone.run({"params": {"n": 1}, "tasks": tasks})

    assert run.statuses == {"each": "skipped"}


def test_instances_of_tasks_of_other_kinds_and_of_finally(alone: Alone) -> None:
    tasks = [shell("ok", "true")]
    last = [shell("tell", "echo {{item}} {{run.status}}", for_each=["a", "b"], run_on="success")]

    run = alone.run({"tasks": tasks, "finally": last})

    assert run.statuses == {"ok": "succeeded", "tell": "succeeded", "tell[a]": "succeeded", "tell[b]": "succeeded"}
    assert run.log("tell.1") == "b succeeded\n"


# -- a kill in the middle ---------------------------------------------------------------------------------------------


def test_a_kill_in_the_middle_of_a_fan_out_repeats_nothing_and_loses_nothing(daemon: Daemon, tmp_path: Path) -> None:
    gate, seen = tmp_path / "gate", tmp_path / "seen"
    command = f"echo {{{{item}}}} >> {seen}; {gated(gate)} printf %s {{{{item}}}}"
    tasks = [shell("each", command, for_each=[f"i{n}" for n in range(12)], max_parallel=3, outputs=TEXT)]
    daemon.drop("w.json", tasks)
    wait_for(lambda: len(lines_of(seen)) == 3)

    daemon.kill9()
    daemon.start()
    gate.touch()
    run = daemon.wait_run("w")

    assert run.status == "succeeded"
    assert run.tasks["each"]["outputs"]["v"] == [f"i{n}" for n in range(12)]
    assert Counter(lines_of(seen)) == {f"i{n}": 1 for n in range(12)}
    assert {len(task["attempts"]) for name, task in run.tasks.items() if name != "each"} == {1}


# -- cost -------------------------------------------------------------------------------------------------------------


def calls_of_a_fan_out(count: int) -> int:
    """Return how many functions are called to run a task in so many instances, 50 at a time."""
    state, calls = begun(line("list"), line("each", "list", gated=True), line("use", "each")), 0
    lines = tuple(InstanceLine(TaskId(f"each[{n}]"), n, {"item": n}) for n in range(count))
    spec = ShellTask(id=TaskId("each"), type="SHELL", command="true", for_each=(1,))

    def counted(*_: object) -> None:
        nonlocal calls
        calls += 1

    after(next_started(state), succeeded("list"), state=state)
    sys.setprofile(counted)
    try:
        after(TaskExpanded(RUN, WORKFLOW, TaskId("each"), lines, 50), state=state)
        run_instances(state)
        (run,) = state.runs.values()
        after(end_group(run, run.tasks[TaskId("each")], spec, {}, NOW), state=state)
    finally:
        sys.setprofile(None)
    assert run.tasks[TaskId("each")].outputs == {"v": list(range(count))}
    return calls


def next_started(state: State) -> Any:
    start = next_start(state, NOW, Capacity(1000, 1))
    assert start is not None
    return start


def run_instances(state: State) -> None:
    (run,) = state.runs.values()
    policy = Policy(Retry(), "retry", tolerated=False)
    while (start := next_start(state, NOW, Capacity(1000, 1))) is not None:
        apply(state, start, NOW.wall_s, NOW)
        task = run.tasks[start.task]
        outcome = Succeeded(Facts(1.0, 2.0), {"v": task.values["item"]})
        apply(state, end_attempt(run, task, outcome, policy, {}, NOW, 0.0), NOW.wall_s, NOW)
        assert settle(run, NOW) == []


def test_the_last_of_ten_thousand_instances_costs_no_more_than_the_first() -> None:
    few, many = calls_of_a_fan_out(2_000), calls_of_a_fan_out(10_000)

    assert 4.5 < many / few < 5.5, (few, many)


def test_an_admitted_task_is_no_longer_at_its_gate() -> None:
    state = begun(line("a", gated=True))

    after(TaskAdmitted(RUN, WORKFLOW, TaskId("a")), state=state)

    (run,) = state.runs.values()
    assert (run.gates, run.ready) == (set(), {"a"})
