"""A definition and what is known of earlier successes -> a Plan: per task `run` or `reuse`, and why.

In: a compiled definition, the values that reach its tasks (`Surroundings`), the last successes, and what the disk
holds now (`Disk`), all gathered by the caller. Out: a `Plan`. `parts_of` is also what a success is recorded with,
so that the next plan can say which part changed (SPEC section 2.5).
"""

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from wizflowd.core.attempt import RunId, TaskId
from wizflowd.core.compile import Compiled
from wizflowd.core.definition import Definition, Task, task_fields
from wizflowd.core.events import PlanLine
from wizflowd.core.graph import Graph
from wizflowd.core.names import Names, names_of
from wizflowd.core.observations import WorkflowId
from wizflowd.core.references import names_reaching
from wizflowd.core.values import Json, digest

_STRUCTURE = frozenset({"id", "depends_on", "cache", "env", "priority", "pool", "breakpoint", "max_parallel"})
"""Fields that are no part of the key: they say where a task stands, or reach it in another way."""

NEVER_RAN, DID_NOT_SUCCEED = "never ran", "did not succeed last time"


class Surroundings(Struct, frozen=True):
    """The values that reach tasks from outside: parameters of the run, the contents of the `dotenv` files."""

    params: Mapping[str, Json] = {}
    dotenv: Mapping[str, str] = {}


class Success(Struct, frozen=True):
    """The last success of a task: with what (`parts`), in which run, what came out, what its files held."""

    run: RunId
    key: str
    parts: Mapping[str, str]
    outputs: Mapping[str, Json] = {}
    files: Mapping[str, str] = {}


class Disk(Struct, frozen=True):
    """What lies on the disk now: hashes of the files that successes declared (None: missing) and of `sources`."""

    workspace: bool = True
    files: Mapping[str, str | None] = {}
    sources: Mapping[TaskId, str] = {}


class PlannedTask(Struct, frozen=True, gc=False):
    """`reused` is the success that stands in for a run of the task."""

    action: Literal["run", "reuse"]
    reason: str
    reused: Success | None = None


class Plan(Struct, frozen=True):
    """A definition compiled to a graph, with an action and its reason per task, in topological order."""

    workflow: WorkflowId
    digest: str
    graph: Graph
    tasks: Mapping[TaskId, PlannedTask]

    def to_json(self) -> dict[str, Json]:
        """Return `plan.json` as SPEC section 3 has it."""
        graph = self.graph
        return {
            "workflow": self.workflow,
            "digest": self.digest,
            "width": graph.width,
            "levels": graph.levels,
            "critical_path": list(graph.critical_path),
            "tasks": [
                {
                    "id": task,
                    "level": graph.level[task],
                    "needs": list(graph.needs[task]),
                    "action": planned.action,
                    "reason": planned.reason,
                }
                for task, planned in self.tasks.items()
            ],
        }


def parts_of(compiled: Compiled, names: Names, task: Task, surroundings: Surroundings, sources: str) -> dict[str, str]:
    """Return the hash of each part of a task's key but its upstream: fields, params, env, secrets by name, sources."""
    definition = compiled.definition
    parts = {name: digest(value)[:16] for name, value in task_fields(task).items() if name not in _STRUCTURE}
    reach = names_reaching(task, names)
    if reach.params:
        parts["params"] = digest({name: surroundings.params.get(name) for name in sorted(reach.params)})[:16]
    env: dict[str, Json] = {**surroundings.dotenv, **definition.env, **task.env}
    if task.type != "SHELL":  # of a command, all of it
        env = {name: env.get(name) for name in reach.env}
    if env:
        parts["env"] = digest(env)[:16]
    if reach.secrets:
        parts["secrets"] = digest([*sorted(reach.secrets)])[:16]
    if task.sources:
        parts["sources"] = sources[:16]
    return parts


def instance_parts(parts: Mapping[str, str], values: Mapping[str, Json]) -> dict[str, str]:
    """Return the parts of an instance's key: those of its task, but its own values in place of all of them."""
    own = {name: part for name, part in parts.items() if name not in ("matrix", "for_each")}
    return {**own, "values": digest({**values})[:16]}


def key_of(parts: Mapping[str, str], upstream: Mapping[TaskId, str]) -> tuple[str, dict[str, str]]:
    """Return the key of a task, and its parts with one `upstream ID` for each task that it needs.

    `upstream` maps each need to `outcome_key` of it.
    """
    whole = {**parts, **{f"upstream {task}": key for task, key in upstream.items()}}
    return digest({**whole}), whole


def outcome_key(key: str, outputs: Mapping[str, Json]) -> str:
    """Return what a dependent's key holds of an upstream: its key and a hash of its outputs."""
    return digest([key, {**outputs}])[:16] if outputs else _bare_outcome_key(key)


@lru_cache(maxsize=1024)
def _bare_outcome_key(key: str) -> str:
    """Return that of an upstream without outputs: asked by each of what may be many dependents."""
    return digest([key, {}])[:16]


def make_plan(  # noqa: PLR0913 - all that a plan is made of
    workflow: WorkflowId,
    compiled: Compiled,
    surroundings: Surroundings,
    successes: Mapping[TaskId, Success],
    disk: Disk,
    *,
    forced: Collection[TaskId] = (),
    failed: Collection[TaskId] = (),
    fresh: str = "",
) -> Plan:
    """Decide per task whether it runs or an earlier success stands.

    `forced` tasks run whatever is known (what is downstream of them follows); `failed` ones ran and have no success to
    show; `fresh`, when not empty, is the reason why everything runs but what says `cache: always`.
    """
    definition, graph = compiled.definition, compiled.graph
    final = {task.id for task in definition.final_tasks}
    names = names_of(definition, dotenv=surroundings.dotenv)
    specs = {TaskId(task.id): task for task in definition.all_tasks}
    planned: dict[TaskId, PlannedTask] = {}
    for task in graph.order:
        success = successes.get(task)
        spec = specs[task]
        if task in final:
            reason = "finally"
        elif success is None:
            reason = DID_NOT_SUCCEED if task in failed else NEVER_RAN
        elif task in forced:
            reason = "asked for"
        else:
            reason = _why_run(compiled, names, spec, surroundings, success, disk, planned, fresh)
        if reason:
            planned[task] = PlannedTask("run", reason)
        else:
            planned[task] = PlannedTask("reuse", "nothing changed", success)
    return Plan(workflow, compiled.digest, graph, planned)


def _why_run(  # noqa: PLR0913, PLR0917 - what a reason may depend on
    compiled: Compiled,
    names: Names,
    task: Task,
    surroundings: Surroundings,
    success: Success,
    disk: Disk,
    planned: Mapping[TaskId, PlannedTask],
    fresh: str,
) -> str:
    """Return why a task with an earlier success runs all the same; empty: it need not."""
    if task.cache == "never":
        return "cache: never"
    if task.cache == "auto" and not task.reusable:
        return "it is done anew each time"
    if fresh and task.cache != "always":
        return fresh
    needs = compiled.graph.needs[TaskId(task.id)]
    for need in needs:
        if planned[need].action == "run":
            return f"upstream {need} {'runs' if planned[need].reason in (NEVER_RAN, DID_NOT_SUCCEED) else 'changed'}"
    if task.type == "SHELL" and not disk.workspace:
        return "workspace is gone"
    parts = parts_of(compiled, names, task, surroundings, disk.sources.get(TaskId(task.id), ""))
    upstream = {}
    for need in needs:
        reused = planned[need].reused
        if reused is not None:
            upstream[need] = outcome_key(reused.key, reused.outputs)
    _, whole = key_of(parts, upstream)
    if whole != success.parts:
        return _name_change(whole, success.parts)
    for path, recorded in success.files.items():
        found = disk.files.get(path)
        if found != recorded:
            return "output file missing" if found is None else "output file changed"
    return ""


def _name_change(parts: Mapping[str, str], before: Mapping[str, str]) -> str:
    """Return the first part that differs, the task's own fields before what reaches it."""
    for name in (*parts, *before):
        if parts.get(name) != before.get(name):
            return f"{name} changed"
    return "definition changed"


def plan_lines(plan: Plan, definition: Definition) -> tuple[PlanLine, ...]:
    """Return what a run records of its plan."""
    specs = {TaskId(task.id): task for task in definition.all_tasks}
    final = {task.id for task in definition.final_tasks}
    graph = plan.graph
    return tuple(
        PlanLine(
            task,
            graph.needs[task],
            planned.action,
            planned.reason,
            specs[task].run_on,
            graph.rank[task],
            is_gated(specs[task]),
            task in final,
            specs[task].type == "WORKFLOW",
            specs[task].priority,
            specs[task].pool or "",
            specs[task].continue_on_failure,
        )
        for task, planned in plan.tasks.items()
    )


def is_gated(task: Task) -> bool:
    """Return whether something is decided about a task when its needs have ended."""
    return bool(task.when or task.breakpoint or task.matrix or task.for_each is not None)
