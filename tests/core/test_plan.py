"""What runs again and what stands, and the reason that is given for it."""

import itertools
from collections.abc import Mapping
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.core.scenes import FACTS, NOW, WORKFLOW, after, compiled, queued, started, the_run
from wizflowd.core.attempt import RunId, Succeeded, TaskId
from wizflowd.core.compile import Compiled
from wizflowd.core.events import RunStarted, TaskSucceeded
from wizflowd.core.finish import end_attempt, policy_of
from wizflowd.core.names import names_of
from wizflowd.core.plan import Disk, Plan, Success, Surroundings, make_plan, outcome_key, parts_of, plan_lines
from wizflowd.core.values import Json

NOTHING = Surroundings()
EMPTY_DISK = Disk()


def performed(
    workflow: Compiled,
    surroundings: Surroundings = NOTHING,
    *,
    outputs: Mapping[str, Json] | None = None,
    files: Mapping[str, str] | None = None,
    sources: str = "",
) -> dict[TaskId, Success]:
    """Return what the journal knows when every task has succeeded with these outputs, files and sources."""
    plan = make_plan(WORKFLOW, workflow, surroundings, {}, EMPTY_DISK)
    state = after(queued(), RunStarted(RunId("r"), WORKFLOW, plan_lines(plan, workflow.definition)))
    names = names_of(workflow.definition, dotenv=surroundings.dotenv)
    specs = {task.id: task for task in workflow.definition.tasks}
    successes = {}
    for task in workflow.graph.order:
        after(started(task), state=state)
        run, spec = the_run(state), specs[task]
        parts = parts_of(workflow, names, spec, surroundings, sources)
        outcome = Succeeded(FACTS, outputs or {}, files or {})
        event = end_attempt(run, run.tasks[task], outcome, policy_of(spec), parts, NOW, 0.5)
        assert isinstance(event, TaskSucceeded)
        after(event, state=state)
        successes[task] = Success(run.id, event.key, event.parts, event.outputs, event.files)
    return successes


def actions(plan: Plan) -> dict[str, str]:
    """Return `task: reason` of what runs, and `task: reuse` of what does not."""
    return {task: "reuse" if planned.action == "reuse" else planned.reason for task, planned in plan.tasks.items()}


def replanned(
    before: str,
    now: str,
    *,
    dotenv: tuple[dict[str, str], dict[str, str]] = ({}, {}),
    params: tuple[dict[str, Json], dict[str, Json]] = ({}, {}),
) -> dict[str, str]:
    """Return what a changed workflow runs after all of it had succeeded as it was before."""
    first, second = compiled(before, **dotenv[0]), compiled(now, **dotenv[1])
    successes = performed(first, Surroundings(params[0], dotenv[0]))
    return actions(make_plan(WORKFLOW, second, Surroundings(params[1], dotenv[1]), successes, EMPTY_DISK))


CHAIN = "tasks:\n" + "\n".join(
    f'- {{id: t{place}, type: SHELL, command: "echo {place}", depends_on: [{f"t{place - 1}" if place else ""}]}}'
    for place in range(10)
)


def test_at_first_everything_runs() -> None:
    plan = make_plan(WORKFLOW, compiled(CHAIN), NOTHING, {}, EMPTY_DISK)

    assert set(actions(plan).values()) == {"never ran"}


def test_what_ran_and_did_not_succeed_runs_and_is_not_said_to_have_never_run() -> None:
    plan = make_plan(WORKFLOW, compiled(CHAIN), NOTHING, {}, EMPTY_DISK, failed={TaskId("t0")})

    assert actions(plan)["t0"] == "did not succeed last time"
    assert actions(plan)["t1"] == "never ran"


def test_what_has_succeeded_and_has_not_changed_stands() -> None:
    assert replanned(CHAIN, CHAIN) == {f"t{place}": "reuse" for place in range(10)}


@pytest.mark.parametrize("edited", range(10))
def test_an_edit_in_a_chain_runs_that_task_and_what_is_downstream(edited: int) -> None:
    changed = CHAIN.replace(f'"echo {edited}"', '"echo something else"')

    expected = {f"t{place}": "reuse" for place in range(edited)}
    expected[f"t{edited}"] = "command changed"
    expected |= {f"t{place}": f"upstream t{place - 1} changed" for place in range(edited + 1, 10)}
    assert replanned(CHAIN, changed) == expected


NEEDS = st.lists(st.frozensets(st.integers(1, 4), max_size=3), min_size=1, max_size=9)


@settings(max_examples=40, deadline=None)
@given(needs=NEEDS, edited=st.integers(0, 8))
def test_in_any_graph_an_edit_runs_that_task_and_what_is_downstream_of_it(
    needs: list[frozenset[int]], edited: int
) -> None:
    edited %= len(needs)
    upstream = {place: {place - back for back in backs if back <= place} for place, backs in enumerate(needs)}

    def text(mark: str) -> str:
        return "tasks:\n" + "\n".join(
            f"- {{id: t{place}, type: SHELL, command: 'echo {mark if place == edited else ''}',"
            f" depends_on: [{', '.join(f't{need}' for need in sorted(ups))}]}}"
            for place, ups in upstream.items()
        )

    downstream = {edited}
    for place, ups in upstream.items():
        if ups & downstream:
            downstream.add(place)

    found = replanned(text("a"), text("b"))

    assert {task for task, reason in found.items() if reason != "reuse"} == {f"t{place}" for place in downstream}


def test_a_task_that_never_succeeded_runs_and_so_does_what_depends_on_it() -> None:
    workflow = compiled(CHAIN)
    successes = performed(workflow)
    del successes[TaskId("t7")]

    found = actions(make_plan(WORKFLOW, workflow, NOTHING, successes, EMPTY_DISK))

    assert [reason for reason in found.values() if reason != "reuse"] == [
        "never ran",
        "upstream t7 runs",
        "upstream t8 changed",
    ]


def test_an_upstream_with_other_outputs_is_a_change_even_where_it_does_not_run() -> None:
    workflow = compiled(CHAIN)
    successes = performed(workflow)
    fetched_again = replace(successes[TaskId("t3")], outputs={"items": [1, 2]})

    plan = make_plan(WORKFLOW, workflow, NOTHING, successes | {TaskId("t3"): fetched_again}, EMPTY_DISK)

    assert actions(plan)["t3"] == "reuse"
    assert actions(plan)["t4"] == "upstream t3 changed"


def test_an_upstream_with_another_key_is_a_change_also_without_outputs() -> None:
    workflow = compiled(CHAIN)
    successes = performed(workflow)
    done_otherwise = replace(successes[TaskId("t3")], key="of what it was before")

    plan = make_plan(WORKFLOW, workflow, NOTHING, successes | {TaskId("t3"): done_otherwise}, EMPTY_DISK)

    assert actions(plan)["t3"] == "reuse"
    assert actions(plan)["t4"] == "upstream t3 changed"


def test_what_is_stored_of_an_upstream_is_a_hash_of_its_key_and_its_outputs() -> None:
    assert outcome_key("k", {}) == sha256(b'["k",{}]').hexdigest()[:16]
    assert outcome_key("k", {"n": 1}) == sha256(b'["k",{"n":1}]').hexdigest()[:16]


# -- the parts of a key ---------------------------------------------------------------------------------------------

SHELL = "{id: a, type: SHELL, command: 'echo {{params.day}}', env: {X: '1'}, sources: ['*.sql'], timeout: 5m}"
REST = "{id: a, type: RESTAPI, method: GET, url: 'http://h/{{env.HOST}}', headers: {T: '{{secrets.T}}'}}"
HEAD = "params: {day: today, other: 1}\nenv: {HOST: h, UNUSED: u}\nsecrets: {T: {env: T}, U: {env: U}}\ndotenv: [.env]"


def workflow_of(task: str, head: str = HEAD) -> str:
    return f"{head}\ntasks: [{task}]"


@pytest.mark.parametrize(
    ("task", "old", "new", "reason"),
    [
        (SHELL, "echo", "ls", "command changed"),
        (SHELL, "timeout: 5m", "timeout: 6m", "timeout changed"),
        (SHELL, ", timeout: 5m", "", "timeout changed"),
        (SHELL, "X: '1'", "X: '2'", "env changed"),
        (SHELL, "HOST: h,", "HOST: other,", "env changed"),
        (SHELL, "sources: ['*.sql']", "sources: ['*.csv']", "reuse"),  # what they hold counts, not how they are named
        (SHELL, "timeout: 5m", "timeout: 5m, run_on: always", "run_on changed"),
        (SHELL, "timeout: 5m", "timeout: 5m, retry: {limit: 2}", "retry changed"),
        (SHELL, "timeout: 5m", "timeout: 300", "reuse"),
        (SHELL, "timeout: 5m", "timeout: 5m, name: a better name", "reuse"),
        (SHELL, "timeout: 5m", "timeout: 5m, cache: always", "reuse"),
        (SHELL, "timeout: 5m", "timeout: 5m, cache: never", "cache: never"),
        (SHELL, "timeout: 5m", "timeout: 5m, position: {x: 1}", "reuse"),
        (SHELL, "params:", "description: for people\nparams:", "reuse"),
        (REST, "GET", "POST", "method changed"),
        (REST, "HOST: h,", "HOST: other,", "env changed"),
        (REST, "UNUSED: u", "UNUSED: other", "reuse"),
        (REST, "T: {env: T}, U", "T: {env: ANOTHER}, U", "reuse"),
        (REST, "{{secrets.T}}", "{{secrets.U}}", "headers changed"),
    ],
)
def test_the_reason_names_the_part_that_changed(task: str, old: str, new: str, reason: str) -> None:
    before = workflow_of(task)
    assert old in before

    assert replanned(before, before.replace(old, new, 1))["a"] == reason


def test_defaults_are_part_of_the_key_where_they_take_effect() -> None:
    own, other = "{id: own, type: SHELL, command: x, timeout: 1m}", "{id: other, type: SHELL, command: x}"

    found = replanned(
        f"defaults: {{timeout: 5m}}\ntasks: [{own}, {other}]", f"defaults: {{timeout: 6m}}\ntasks: [{own}, {other}]"
    )

    assert found == {"own": "reuse", "other": "timeout changed"}


def test_only_params_that_reach_a_task_count() -> None:
    text = workflow_of(SHELL)

    assert replanned(text, text, params=({"day": "mon"}, {"day": "tue"}))["a"] == "params changed"
    assert replanned(text, text, params=({"other": 1}, {"other": 2}))["a"] == "reuse"


def test_a_param_counts_that_reaches_a_task_by_way_of_its_inputs_and_variables() -> None:
    task = "{id: a, type: SHELL, command: 'echo {{i}}', inputs: {i: '{{params.day}}'}, env: {V: '{{params.other}}'}}"
    text = workflow_of(task)

    assert replanned(text, text, params=({"day": "mon"}, {"day": "tue"}))["a"] == "params changed"
    assert replanned(text, text, params=({"other": 1}, {"other": 2}))["a"] == "params changed"


def test_all_of_dotenv_reaches_a_command_and_of_others_what_they_name() -> None:
    rest = REST.replace("env.HOST", "env.WHERE")
    one, two = {"WHERE": "here", "WHO": "me"}, {"WHERE": "here", "WHO": "you"}

    assert replanned(workflow_of(SHELL), workflow_of(SHELL), dotenv=(one, two))["a"] == "env changed"
    assert replanned(workflow_of(rest), workflow_of(rest), dotenv=(one, two))["a"] == "reuse"
    assert replanned(workflow_of(rest), workflow_of(rest), dotenv=(one, two | {"WHERE": "x"}))["a"] == "env changed"


def test_neither_values_of_variables_nor_of_params_stand_in_the_key() -> None:
    workflow = compiled(workflow_of(SHELL), PASSWORD="hunter22")

    successes = performed(workflow, Surroundings({"day": "hunter22"}, {"PASSWORD": "hunter22"}))

    assert "hunter22" not in repr(successes)


# -- the disk -------------------------------------------------------------------------------------------------------

MAKER = (
    "tasks: [{id: make, type: SHELL, command: x, outputs: {f: {type: file, path: out.txt}}},"
    " {id: use, type: SHELL, command: y, depends_on: [make]}]"
)


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        (Disk(files={"out.txt": "hash"}), "reuse"),
        (Disk(files={"out.txt": None}), "output file missing"),
        (Disk(files={}), "output file missing"),
        (Disk(files={"out.txt": "another"}), "output file changed"),
        (Disk(workspace=False, files={"out.txt": "hash"}), "workspace is gone"),
    ],
)
def test_a_success_stands_while_its_files_are_what_they_were(disk: Disk, reason: str) -> None:
    workflow = compiled(MAKER)
    successes = performed(workflow, files={"out.txt": "hash"})

    found = actions(make_plan(WORKFLOW, workflow, NOTHING, successes, disk))

    assert found["make"] == reason
    assert found["use"] == ("reuse" if reason == "reuse" else "upstream make changed")


def test_other_content_of_its_sources_is_a_change() -> None:
    workflow = compiled(workflow_of(SHELL, "params: {day: x}"))
    successes = performed(workflow, sources="content-one")

    def plan(sources: str) -> str:
        return actions(make_plan(WORKFLOW, workflow, NOTHING, successes, Disk(sources={TaskId("a"): sources})))["a"]

    assert plan("content-one") == "reuse"
    assert plan("content-two") == "sources changed"


def test_without_its_workspace_only_a_command_runs_again() -> None:
    workflow = compiled(workflow_of(REST))

    plan = make_plan(WORKFLOW, workflow, NOTHING, performed(workflow), Disk(workspace=False))

    assert actions(plan) == {"a": "reuse"}


# -- runs that are asked for ----------------------------------------------------------------------------------------


def test_a_run_by_hand_runs_everything_but_what_is_always_cached() -> None:
    workflow = compiled(
        "tasks: [{id: a, type: SHELL, command: x}, {id: b, type: SHELL, command: x, cache: always},"
        " {id: c, type: SHELL, command: x, cache: always, depends_on: [a]}]"
    )

    found = actions(
        make_plan(WORKFLOW, workflow, NOTHING, performed(workflow), EMPTY_DISK, fresh="runs everything (manual)")
    )

    assert found == {"a": "runs everything (manual)", "b": "reuse", "c": "upstream a changed"}


def test_a_task_that_is_asked_for_runs_with_what_is_downstream() -> None:
    workflow = compiled(CHAIN)

    plan = make_plan(WORKFLOW, workflow, NOTHING, performed(workflow), EMPTY_DISK, forced={TaskId("t8")})

    assert [reason for reason in actions(plan).values() if reason != "reuse"] == ["asked for", "upstream t8 changed"]


def test_what_is_reused_names_the_run_and_gives_its_outputs() -> None:
    workflow = compiled(CHAIN)
    successes = performed(workflow, outputs={"n": 1})

    reused = make_plan(WORKFLOW, workflow, NOTHING, successes, EMPTY_DISK).tasks[TaskId("t0")].reused

    assert reused is not None
    assert (reused.run, reused.outputs) == ("r", {"n": 1})


# -- how it is told -------------------------------------------------------------------------------------------------


def test_a_plan_as_json_is_as_specified() -> None:
    workflow = compiled(MAKER)

    told = make_plan(WORKFLOW, workflow, NOTHING, {}, EMPTY_DISK).to_json()

    assert told == {
        "workflow": "team/etl",
        "digest": workflow.digest,
        "width": 1,
        "levels": 2,
        "critical_path": ["make", "use"],
        "tasks": [
            {"id": "make", "level": 0, "needs": [], "action": "run", "reason": "never ran"},
            {"id": "use", "level": 1, "needs": ["make"], "action": "run", "reason": "never ran"},
        ],
    }


def test_a_plan_is_in_an_order_in_which_it_can_be_judged() -> None:
    workflow = compiled(
        "tasks: [{id: c, type: SHELL, command: x, depends_on: [b], run_on: always},"
        " {id: b, type: SHELL, command: x, depends_on: [a]}, {id: a, type: SHELL, command: x}]"
    )

    lines = plan_lines(make_plan(WORKFLOW, workflow, NOTHING, {}, EMPTY_DISK), workflow.definition)

    assert [(line.task, line.needs, line.rank, line.run_on) for line in lines] == [
        ("a", (), 3, "success"),
        ("b", ("a",), 2, "success"),
        ("c", ("b",), 1, "always"),
    ]
    assert all(earlier.task not in later.needs for later, earlier in itertools.combinations(lines, 2))
