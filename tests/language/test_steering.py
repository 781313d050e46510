"""People and limits in the way of a run: approvals, pauses, retries from a task, pools, priorities and parameters."""

import getpass
import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.core.scenes import NOW, after, begun, line, queued, run_started, started, succeeded
from tests.language.conftest import Alone
from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, Finished, gated, lines_of, shell, wait_for, wizflow
from wizflowd.core.schedule import Capacity, next_start
from wizflowd.core.state import State
from wizflowd.errors import RequestError

APPROVAL = [shell("a", "true"), shell("deploy", "echo done", "a", breakpoint=True), shell("after", "true", "deploy")]


def wait_paused(daemon: Daemon, workflow: str, task: str) -> str:
    """Wait until a task waits for approval, and return the run."""
    (line,) = wait_for(
        lambda: [each for each in daemon.told("task.paused", f"{workflow}/") if each.subject.endswith(f"/{task}")]
    )
    return line.subject.split("/")[-2]


# -- breakpoints ------------------------------------------------------------------------------------------------------


def test_a_task_at_a_breakpoint_waits_until_somebody_approves_it(shared: Daemon) -> None:
    shared.drop("w.json", [*APPROVAL, shell("beside", "true", "a")])
    name = wait_paused(shared, "w", "deploy")

    wait_for(lambda: shared.told("task.succeeded", f"w/{name}/beside"))
    live = shared.ask("run", run=name)
    shown = wizflow(shared.home, "show", name, env={"WIZFLOWD_CONTROL_SOCKET": str(shared.socket)})
    with pytest.raises(RequestError, match="it waits for no approval; deploy waits for it"):
        shared.ask("approve", run=name, task="after")
    shared.ask("approve", run=name, task="deploy")
    run = shared.wait_run("w")

    assert {task["id"]: task["status"] for task in live["tasks"]}["deploy"] == "paused"
    assert f"waits for: wizflow approve {name} deploy" in shown.stdout
    assert run.statuses == {"a": "succeeded", "deploy": "succeeded", "after": "succeeded", "beside": "succeeded"}
    assert run.tasks["deploy"]["approved_by"] == getpass.getuser()
    assert run.tasks["a"]["approved_by"] is None
    assert len(run.tasks["deploy"]["attempts"]) == 1
    assert "wizflow.task.paused" in run.types


def test_what_nobody_approves_in_time_fails_or_is_tolerated(shared: Daemon) -> None:
    tasks = [
        shell("hard", "true", breakpoint={"timeout": "200ms"}),
        shell("soft", "true", breakpoint={"timeout": "200ms"}, continue_on_failure=True),
        shell("after_hard", "true", "hard"),
        shell("after_soft", "true", "soft"),
    ]
    shared.drop("w.json", tasks)

    run = shared.wait_run("w")

    assert (run.status, run.result["reason"]) == ("failed", "hard failed")
    assert run.statuses == {"hard": "failed", "soft": "failed", "after_hard": "skipped", "after_soft": "succeeded"}
    assert run.result["tolerated"] == ["soft"]
    assert run.tasks["hard"]["reason"] == "nobody approved it in time"


def test_a_restart_while_a_task_waits_for_approval_changes_nothing(daemon: Daemon) -> None:
    daemon.drop("w.json", APPROVAL)
    name = wait_paused(daemon, "w", "deploy")

    daemon.kill9()
    daemon.start()
    paused = {task["id"]: task["status"] for task in daemon.ask("run", run=name)["tasks"]}
    daemon.ask("approve", run=name, task="deploy")
    run = daemon.wait_run("w")

    assert paused == {"a": "succeeded", "deploy": "paused", "after": "pending"}
    assert run.status == "succeeded"
    assert run.types.count("wizflow.task.paused") == 1


def test_a_run_that_waits_for_approval_can_be_cancelled(shared: Daemon) -> None:
    shared.drop("w.json", APPROVAL)
    name = wait_paused(shared, "w", "deploy")

    shared.ask("cancel", run=name)
    run = shared.wait_run("w")

    assert run.statuses == {"a": "succeeded", "deploy": "cancelled", "after": "cancelled"}


def test_an_approval_stands_behind_the_condition_and_before_the_instances(shared: Daemon) -> None:
    tasks = [
        shell("never", "true", when="false", breakpoint=True),
        shell("each", "echo {{item}}", for_each=[1, 2], breakpoint=True, when="true"),
    ]
    shared.drop("w.json", tasks)
    name = wait_paused(shared, "w", "each")

    shared.ask("approve", run=name, task="each")
    run = shared.wait_run("w")

    assert run.statuses == {"never": "skipped", "each": "succeeded", "each[1]": "succeeded", "each[2]": "succeeded"}
    assert run.types.count("wizflow.task.paused") == 1


# -- pause, resume, retry ---------------------------------------------------------------------------------------------


def test_nothing_of_a_paused_run_starts_until_it_is_resumed_over_a_restart_too(daemon: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    tasks = [shell("a", gated(gate)), shell("b", "true", "a"), shell("each", "true", "a", for_each=[1])]
    daemon.drop("w.json", [*tasks, shell("c", "true", "a", when="true")])
    name = daemon.wait_running("w", "a")
    daemon.ask("pause", run=name)
    gate.touch()
    daemon.wait_told("task.succeeded", f"w/{name}/a")

    daemon.kill9()
    daemon.start()
    daemon.settle()
    held = {task["id"]: task["status"] for task in daemon.ask("run", run=name)["tasks"]}
    status = wait_for(lambda: daemon.status("w"))
    with pytest.raises(RequestError, match="it is paused"):
        daemon.ask("pause", run=name)
    daemon.ask("resume", run=name)
    run = daemon.wait_run("w")

    assert held == {"a": "succeeded", "b": "pending", "each": "pending", "c": "pending"}
    assert (status["state"], status["run"]) == ("paused", name)
    assert run.status == "succeeded"
    assert {"wizflow.run.paused", "wizflow.run.resumed"} <= {*run.types}


def test_a_retry_from_a_task_reuses_everything_before_it(shared: Daemon) -> None:
    seen = shared.home / "seen"
    names = ["a", "b", "c", "beside"]
    tasks = [
        shell(name, f"echo {name} >> {seen}", *needs)
        for name, needs in zip(names, ([], ["a"], ["b"], ["a"]), strict=True)
    ]
    tasks.append(shell("bad", f"[ -e {shared.home}/ok ]", "c"))
    shared.drop("w.json", tasks)
    first = shared.wait_run("w")
    (shared.home / "ok").touch()

    shared.ask("retry", run=first.result["run"], from_task="b")
    second = shared.wait_run("w", 2)
    shared.ask("retry", run=first.result["run"])
    third = shared.wait_run("w", 3)

    assert (first.status, second.status, third.status) == ("failed", "succeeded", "succeeded")
    assert second.statuses == {
        "a": "reused",
        "b": "succeeded",
        "c": "succeeded",
        "beside": "reused",
        "bad": "succeeded",
    }
    assert second.result["retry_of"] == first.result["run"]
    assert third.statuses == {**dict.fromkeys(names, "reused"), "bad": "succeeded"}
    assert Counter(lines_of(seen)) == {"a": 1, "b": 2, "c": 2, "beside": 1}


def test_a_retry_from_a_task_that_is_not_there_is_refused(shared: Daemon) -> None:
    shared.drop("w.json", [shell("a", "true")])
    run = shared.wait_run("w")

    with pytest.raises(RequestError, match='there is no task "b"'):
        shared.ask("retry", run=run.result["run"], from_task="b")


# -- pools, priorities, places ----------------------------------------------------------------------------------------


def heights(lines: Sequence[str]) -> dict[str, int]:
    """Return how many were in flight at most of each kind; a line is `+kind` or `-kind`."""
    present, highest = Counter[str](), Counter[str]()
    for sign, kind in ((each[0], each[1:]) for each in lines):
        present[kind] += 1 if sign == "+" else -1
        highest[kind] = max(highest[kind], present[kind])
    return {**highest}


def test_no_more_tasks_of_a_pool_run_than_it_has_places_over_all_runs(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(pools='{"db": 2}', limits__max_tasks="8")
    daemon.start()
    seen = daemon.home / "seen"

    def one(kind: str) -> str:
        return f"echo +{kind} >> {seen}; sleep 0.05; echo -{kind} >> {seen}"

    for name in "xyz":
        tasks = [shell(f"db{n}", one("db"), pool="db") for n in range(3)]
        each = shell("each", one("db"), pool="db", for_each=[1, 2])
        daemon.drop(f"{name}.json", [*tasks, each, *(shell(f"free{n}", one("free")) for n in range(3))])
    runs = [daemon.wait_run(name) for name in "xyz"]

    highest = heights(lines_of(seen))
    assert {run.status for run in runs} == {"succeeded"}
    assert highest["db"] == 2
    assert highest["free"] > 2


def test_a_pool_that_is_not_configured_fails_the_run_and_says_so(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(pools='{"db": 2}')
    daemon.start()

    daemon.drop("w.json", [shell("a", "true", pool="bd")])
    (row,) = wait_for(lambda: [row for row in daemon.ask("runs", workflow="w") if row["ended"]])

    assert (row["status"], row["reason"]) == ("failed", "there is no pool 'bd' in the configuration")
    assert wait_for(lambda: daemon.status("w")["last"])["status"] == "failed"


def test_pools_stay_when_the_configuration_is_read_again(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(pools='{"db": 1}')
    daemon.start()

    daemon.ask("reload")
    daemon.drop("w.json", [shell("a", "true", pool="db")])

    assert daemon.wait_run("w").status == "succeeded"


def test_in_a_pool_that_is_full_others_go_on() -> None:
    state = begun(line("a", pool="db"), line("b", pool="db"), line("c", rank=0))

    assert start_all(state, Capacity(9, 9, {"db": 1})) == ["a", "c"]

    after(succeeded("a"), state=state)
    assert start_all(state, Capacity(9, 9, {"db": 1})) == ["b"]


def start_all(state: State, capacity: Capacity) -> list[str]:
    found = []
    while (start := next_start(state, NOW, capacity)) is not None:
        after(start, state=state)
        found.append(str(start.task))
    return found


def test_the_higher_priority_goes_first_then_the_longer_path_then_the_file() -> None:
    lines = [line("low", priority=-1, rank=9), line("short", rank=1), line("long", rank=3), line("long_too", rank=3)]
    state = begun(*lines, line("high", priority=5, rank=1), line("db", priority=4, pool="db"))

    assert start_all(state, Capacity(9, 9)) == ["high", "db", "long", "long_too", "short", "low"]


def test_a_flood_of_high_priority_does_not_starve_another_run() -> None:
    state, running = after(queued("flood", "w1"), queued("small", "w2")), list[tuple[str, str]]()
    flood = [line(f"t{n}", priority=1000) for n in range(200)]
    after(run_started(*flood, run="flood", workflow="w1"), state=state)
    after(run_started(*(line(f"s{n}", priority=-1000) for n in range(10)), run="small", workflow="w2"), state=state)

    order = []
    while (start := next_start(state, NOW, Capacity(3, 9))) is not None or running:
        if start is not None:
            after(start, state=state)
            running.append((start.run, start.task))
            order.append(start.run)
        else:
            run, task = running.pop(0)
            after(succeeded(task, run=run), state=state)

    assert len(order) == 210
    assert max(place for place, run in enumerate(order) if run == "small") < 25


def test_a_flood_in_one_run_of_retries_does_not_starve_what_was_never_tried() -> None:
    state = begun(*(line(f"t{n}", priority=1000) for n in range(5)), line("low", priority=-1000))

    order = start_all(state, Capacity(6, 1))

    assert order[-1] == "low"


def test_no_more_tasks_of_a_workflow_run_than_its_max_tasks(alone: Alone) -> None:
    one = "echo +x >> seen; sleep 0.03; echo -x >> seen"
    tasks = [*(shell(f"t{n}", one) for n in range(4)), shell("each", one, for_each=[1, 2, 3, 4])]

    run = alone.run({"concurrency": {"max_tasks": 2}, "tasks": tasks})

    assert run.status == "succeeded"
    assert heights(lines_of(alone.folder / "w.runs/workspace/seen")) == {"x": 2}


def test_random_priorities_and_pools_are_kept_at_every_step() -> None:
    chance, pools = random.Random(7), {"p": 1, "q": 3}
    lines = [line(f"t{n}", priority=chance.randrange(3), pool=chance.choice(["", "p", "q"])) for n in range(60)]
    state, capacity, present = begun(*lines), Capacity(5, 1, pools), list[str]()
    by_name = {each.task: each for each in lines}

    while (start := next_start(state, NOW, capacity)) is not None or present:
        if start is None:
            after(succeeded(present.pop(chance.randrange(len(present)))), state=state)
            continue
        waiting = [each for each in lines if state.runs[start.run].tasks[each.task].status == "pending"]
        used = Counter(by_name[name].pool for name in present)  # type: ignore[index]
        open_to = [each for each in waiting if not each.pool or used[each.pool] < pools[each.pool]]
        assert by_name[start.task].priority == max(each.priority for each in open_to)
        after(started(start.task), state=state)
        present.append(start.task)
        assert len(present) <= 5
        assert all(count <= pools[pool] for pool, count in Counter(by_name[n].pool for n in present).items() if pool)  # type: ignore[index]

    assert all(task.status == "succeeded" for task in state.runs[queued().run].tasks.values())


# -- parameters -------------------------------------------------------------------------------------------------------

PARAMS: dict[str, Any] = {
    "text": {"type": "string", "default": "a", "pattern": "^[a-z0-9 ]+$"},
    "count": {"type": "integer", "default": 1},
    "share": {"type": "number", "default": 0.5},
    "flag": {"type": "boolean", "default": False},
    "names": {"type": "list", "default": []},
    "rules": {"type": "object", "default": {}},
    "stage": {"enum": ["dev", "prod"], "default": "dev"},
}
SHOW = "printf '%s|' " + " ".join(f"{{{{params.{name}}}}}" for name in PARAMS)
SHOWING = {"params": PARAMS, "tasks": [shell("show", SHOW, outputs={"all": {"type": "text"}})]}
GIVEN = {
    "text": "b 1",
    "count": 7,
    "share": 2,
    "flag": True,
    "names": [1, "x"],
    "rules": {"k": [None]},
    "stage": "prod",
}
SHOWN = 'b 1|7|2|true|[1,"x"]|{"k":[null]}|prod|'


def shown(run: Finished) -> str:
    return str(run.tasks["show"]["outputs"]["all"])


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def test_every_type_of_parameter_is_given_on_the_command_line(alone: Alone) -> None:
    arguments = itertools.chain.from_iterable(("-p", f"{name}={as_text(value)}") for name, value in GIVEN.items())

    run = alone.run(SHOWING, *arguments)

    assert shown(run) == SHOWN
    assert run.result["params"] == GIVEN


def test_every_type_of_parameter_is_given_by_the_environment_and_p_goes_before_it(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(f"WIZFLOW_PARAM_{name}", as_text(value))
    monkeypatch.setenv("WIZFLOW_PARAM_other", "not one of them")

    by_environment = alone.run(SHOWING)
    by_both = alone.run(SHOWING, "-p", "count=8")

    assert shown(by_environment) == SHOWN
    assert by_both.result["params"] == {**GIVEN, "count": 8}


def test_every_type_of_parameter_is_given_with_a_trigger(shared: Daemon) -> None:
    shared.drop("w.json", {**SHOWING, "on_change": "record"})
    wait_for(lambda: shared.status("w"))

    shared.ask("trigger", workflow="w", params=GIVEN)
    as_json = shared.wait_run("w")
    shared.ask("trigger", workflow="w", params={name: as_text(value) for name, value in GIVEN.items()}, as_text=True)
    by_text = shared.wait_run("w", 2)

    assert shown(as_json) == shown(by_text) == SHOWN
    assert as_json.result["params"] == by_text.result["params"] == GIVEN


WRONG = [
    ("count", "1.5", "1.5 is not of type integer"),
    ("count", "many", '"many" is not of type integer'),
    ("count", "true", "true is not of type integer"),
    ("share", "[]", "a list is not of type number"),
    ("share", "NaN", "it holds a number that is not finite"),
    ("flag", "yes", '"yes" is not of type boolean'),
    ("names", "a,b", '"a,b" is not of type list'),
    ("rules", "[1]", "is not of type object"),
    ("stage", "test", '"test" is not one of "dev", "prod"'),
    ("text", "A!", '"A!" does not match the pattern'),
]


@pytest.mark.parametrize(("name", "value", "what"), WRONG)
def test_a_wrong_value_names_its_parameter(
    alone: Alone, monkeypatch: pytest.MonkeyPatch, name: str, value: str, what: str
) -> None:
    path = alone.write(SHOWING)

    by_option = alone.wizflow("run", path, "-p", f"{name}={value}")
    monkeypatch.setenv(f"WIZFLOW_PARAM_{name}", value)
    by_environment = alone.wizflow("run", path)

    for said in (by_option, by_environment):
        assert (said.status, len(said.errors)) == (2, 1)
        assert said.err.startswith(f"cannot run: parameter {name}: ")
        assert what in said.err
    assert not (alone.folder / "w.runs").exists()


def test_a_parameter_that_is_not_there_or_has_no_value_is_named(alone: Alone) -> None:
    path = alone.write({"params": {"day": {"type": "string", "required": True}}, "tasks": [shell("a", "true")]})

    assert alone.wizflow("run", path, "-p", "dya=1").err == (
        "cannot run: there is no parameter 'dya'; did you mean \"day\"?\n"
    )
    assert alone.wizflow("run", path).err == "cannot run: parameter day has no value; give it with -p day=...\n"


def test_a_parameter_without_a_default_may_be_left_out(alone: Alone) -> None:
    params = {"plain": None, "typed": {"type": "integer"}}

    run = alone.run({"params": params, "tasks": [shell("a", "printf '<%s>' {{params.typed}}")]})

    assert run.log("a") == "<>"
    assert run.result["params"] == {"plain": None, "typed": None}
