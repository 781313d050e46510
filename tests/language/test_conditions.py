"""`when`: what is run, what is skipped and why, what is refused, and that no condition takes long."""

import time

import pytest

from tests.language.conftest import Alone
from tests.system.running import shell
from wizflowd.core.conditions import ConditionError, evaluate, read_condition
from wizflowd.core.placeholders import Reference, walk
from wizflowd.core.values import Json

GIVES = {"outputs": {"items": {"type": "json", "json_path": "$"}}}


def ask(condition: str, /, **params: Json) -> tuple[bool, dict[str, str]]:
    def lookup(reference: Reference) -> Json:
        return walk(params, reference.steps[1:], reference)

    return evaluate(read_condition(condition), lookup)


# -- run or skipped ---------------------------------------------------------------------------------------------------


def test_a_true_condition_runs_its_task(alone: Alone) -> None:
    tasks = [shell("list", "echo '[1, 2]'", **GIVES), shell("use", "true", when="tasks.list.outputs.items.size() > 1")]

    run = alone.run({"tasks": tasks})

    assert run.statuses == {"list": "succeeded", "use": "succeeded"}
    assert run.result["skipped"] == []


def test_a_false_condition_is_told_with_its_values_wherever_one_looks(alone: Alone) -> None:
    tasks = [
        shell("list", "echo '[]'", **GIVES),
        shell("use", "true", when="tasks.list.outputs.items.size() > 0 && params.day != 'today'"),
        shell("after", "true", "use"),
        shell("anyhow", "true", "use", run_on="always"),
    ]

    run = alone.run({"params": {"day": "today"}, "tasks": tasks})

    why = (
        "when: tasks.list.outputs.items.size() > 0 && params.day != 'today' is false "
        "(tasks.list.outputs.items is '[]', params.day is 'today')"
    )
    assert run.statuses == {"list": "succeeded", "use": "skipped", "after": "skipped", "anyhow": "succeeded"}
    assert run.status == "succeeded"
    assert run.result["skipped"] == ["use", "after"]
    assert [run.tasks[name]["reason"] for name in ("use", "after")] == [why, "upstream use was skipped"]
    told = [event["data"] for event in run.events if event["type"] == "wizflow.task.skipped"]
    assert [data["reason"] for data in told] == [why, "upstream use was skipped"]
    assert run.events[-1]["data"]["skipped"] == ["use", "after"]
    assert "skipped: use, after" in alone.said.out
    assert "skipped" in (run.folder / "graph.svg").read_text()


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("has(tasks.maker.outputs.extra)", "skipped"),
        ("!has(tasks.maker.outputs.extra) || tasks.maker.outputs.extra == 'x'", "succeeded"),
        ("tasks['my-task'].outputs.n == '5'", "succeeded"),
        ('tasks["my-task"].status == "succeeded"', "succeeded"),
        ("params.list.exists(i, i.name == 'b') && params.list[1].name in ['b']", "succeeded"),
        ("params.text.startsWith('a/') && !(params.text.matches('^b'))", "succeeded"),
        ("workflow.name == 'w' && run.id.size() > 10", "succeeded"),
        ("env.STAGE == 'prod' ? params.n > 2 : false", "succeeded"),
        ("params.none == null && params.n == 3 && params.f < 1.5", "succeeded"),
        ("'tasks.nobody.status' == params.text", "skipped"),
    ],
)
def test_a_condition_can_use_the_names_that_placeholders_have(alone: Alone, condition: str, expected: str) -> None:
    tasks = [
        shell("maker", "true"),
        shell("my-task", "echo 5", outputs={"n": {"type": "text"}}),
        shell("use", "true", "maker", "my-task", when=condition),
    ]
    params = {"list": [{"name": "a"}, {"name": "b"}], "text": "a/b", "n": 3, "f": 1.25, "none": None}

    run = alone.run({"params": params, "env": {"STAGE": "prod"}, "tasks": tasks})

    assert run.statuses["use"] == expected, run.tasks["use"]["reason"]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("params.n / 0 == 1", "the condition has no answer: division by zero in CEL expression (params.n is '3')"),
        ("params.n + 1", "the condition is neither true nor false but 4"),
        ("tasks.maker.outputs.extra == 1", "the condition has no answer: there is no tasks.maker.outputs.extra"),
        ("params.n + 'a' == 'b'", "the condition has no answer: No such overload"),
        ("nowhere(params.n)", "the condition has no answer: Undefined variable or function: 'nowhere'"),
    ],
)
def test_a_condition_without_an_answer_fails_its_task_and_says_why(alone: Alone, condition: str, message: str) -> None:
    tasks = [
        shell("maker", "true"),
        shell("use", "true", "maker", when=condition),
        shell("after", "true", "use"),
        shell("beside", "true"),
    ]

    run = alone.run({"params": {"n": 3}, "tasks": tasks})

    assert run.statuses == {"maker": "succeeded", "use": "failed", "after": "skipped", "beside": "succeeded"}
    assert run.status == "failed"
    assert str(run.tasks["use"]["reason"]).startswith(message)
    assert run.tasks["use"]["attempts"] == []


def test_a_reference_in_a_condition_is_a_dependency(alone: Alone) -> None:
    tasks = [shell("use", "true", when="tasks.later.outputs.n == '1'"), shell("later", "echo 1", outputs=TEXT)]

    run = alone.run({"tasks": tasks})

    assert {task["id"]: task["needs"] for task in run.plan["tasks"]} == {"use": ["later"], "later": []}
    assert run.statuses == {"use": "succeeded", "later": "succeeded"}


TEXT = {"n": {"type": "text"}}


# -- refused at plan time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "what", "hint"),
    [
        ("day == 'today'", 'unknown name "day"', "write params.day"),
        ("params.dya == 'today'", 'there is no param "dya"', 'did you mean "day"?'),
        ("params.day == today", 'unknown name "today"', "write 'today' in quotes if it is meant as text"),
        ("n == '1'", 'unknown name "n"', 'add "make" to depends_on, or write tasks.make.outputs.n'),
        ("tasks.make.outputs", "a task has outputs and a status: make", "write tasks.make.outputs.NAME"),
        ("tasks.maek.status == 'failed'", 'there is no task "maek"', 'did you mean "make"?'),
        ("item > 1", "item leads nowhere", "only a task with for_each has it"),
        ("run.status == 'failed'", "run.status is not known before the run has ended", "only finally can use it"),
        ("params.day ==", "not a CEL expression: at character", "as in tasks.fetch.outputs.items.size() > 0"),
        ("(" * 300 + "true" + ")" * 300, "it is nested too deep", "make it plainer"),
        ("true" + " || true" * 600, "the condition has 4804 characters", "at most 4096 are read"),
    ],
)
def test_a_condition_that_cannot_be_is_refused_with_its_place_and_a_hint(
    alone: Alone, condition: str, what: str, hint: str
) -> None:
    text = f"""\
params: {{day: today}}
tasks:
  - {{id: make, type: SHELL, command: echo 1, outputs: {{n: {{type: text}}}}}}
  - id: use
    type: SHELL
    command: "true"
    when: "{condition}"
"""

    (line,) = alone.refused(text)

    assert line.startswith(f"{alone.folder / 'w.yaml'}:7:11: tasks[1].when: ")
    assert what in line
    assert hint in line
    assert "{{" not in line


# -- bounded ----------------------------------------------------------------------------------------------------------

LONG: list[Json] = list(range(10_000))


@pytest.mark.parametrize(
    "condition",
    [
        "params.long.exists(x, params.long.exists(y, x - y > 10000))",
        "params.short.exists(o, o.inner.exists(a, o.inner.exists(b, a == b - 9999999)))",
        "params.long.map(x, params.long).size() == 1",
        "params.long.all(x, x in params.long)",
        "params.long.filter(x, x > 1).size() == 1",
        "(params.part + params.part + params.part).exists(x, params.part.exists(y, x - y > 1000))",
        "params.part.map(x, [x,x,x,x]).map(x, [x,x,x,x]).map(x, [x,x,x,x]).map(x, [x,x,x,x]).size() == 1",
    ],
)
def test_a_condition_that_would_take_long_is_refused_before_it_begins(condition: str) -> None:
    begun_s = time.process_time()

    with pytest.raises(ConditionError, match="would look too often at lists of"):
        ask(condition, long=LONG, part=LONG[:1700], short=[{"inner": LONG}])

    assert time.process_time() - begun_s < 1.0


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("params.long.exists(x, x > 9998)", True),
        ("params.long.all(x, x < 9999)", False),
        ("params.rows.all(r, r.state in params.allowed)", True),
        ("params.part.filter(x, x > 998).size() == 1", True),
        ("params.part.exists(x, params.part.exists(y, x * y > 998000))", True),
        ("params.text.matches('^(a+)+$')", False),
        ("!" * 4000 + "true", True),
        ("1" + " + 1" * 1000 + " == 1001", True),
    ],
)
def test_what_people_write_about_long_lists_is_answered_soon(condition: str, *, holds: bool) -> None:
    rows: Json = [{"state": "ok", "name": "n" * 20} for _ in LONG]
    begun_s = time.process_time()

    answer, _ = ask(condition, long=LONG, part=LONG[:1000], rows=rows, allowed=["ok"], text="a" * 50_000 + "b")

    assert answer is holds
    assert time.process_time() - begun_s < 3.0


def test_long_values_are_shown_short(alone: Alone) -> None:
    run = alone.run({"params": {"l": LONG}, "tasks": [shell("a", "true", when="params.l.size() < 3")]})

    assert run.tasks["a"]["reason"].endswith("...')")
    assert len(run.tasks["a"]["reason"]) < 150
