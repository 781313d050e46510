"""The folder is the desired state: what an observed source, a removal or a request means for the runs.

In: the state and one observation, with ids and compiled content given. Out: events, at most one new run.
Source of the rules: SPEC sections 2.5 to 2.9.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from wizflowd.core.attempt import RunId, TaskId
from wizflowd.core.definition import Definition
from wizflowd.core.events import (
    DefinitionAccepted,
    DefinitionRejected,
    Event,
    Now,
    RunCancelling,
    RunEnded,
    RunPaused,
    RunQueued,
    RunResumed,
    SchedulePassed,
    TaskAdmitted,
    Trigger,
    WorkflowRemoved,
)
from wizflowd.core.observations import WorkflowId
from wizflowd.core.params import fit_params
from wizflowd.core.state import Run, State
from wizflowd.core.suggest import did_you_mean
from wizflowd.core.values import Json
from wizflowd.errors import RequestError

ON_TIME_S = 60.0
"""How late a scheduled run may be and still count as on time."""


class Content(Struct, frozen=True):
    """A definition as it was read: its place, bytes (by hash), meaning (by digest) and companions (by digest).

    `settled_s` is the wall time at which the file was found settled, where that is known.
    """

    workflow: WorkflowId
    path: str
    stamp: str
    digest: str
    companions: str
    definition: Definition
    settled_s: float = 0.0


def accept_content(
    state: State, content: Content, run: RunId, *, trigger: Trigger = "change", run_first: bool = True
) -> list[Event]:
    """Return what good content means: in force from here on, and run if it is a change.

    `run` is the id to use for a run; `run_first` False records what a first scan finds without running it.
    """
    known = state.workflows.get(content.workflow)
    fresh = known is None or not known.digest
    same = known is not None and known.digest == content.digest
    if same and known is not None and known.companions == content.companions:
        if known.stamp == content.stamp and known.path == content.path and not known.problems:
            return []
        return [accepted(content, "unchanged", known.note)]
    change: Literal["added", "changed"] = "added" if fresh else "changed"
    note = _why_not_run(state, content, run_first=run_first)
    if note:
        return [accepted(content, change, note)]
    return [
        accepted(content, change),
        *_make_way(state, content, run),
        _queued(content, run, "sources" if same else trigger, _defaults(content.definition)),
    ]


def accepted(content: Content, change: Literal["added", "changed", "unchanged"], note: str = "") -> DefinitionAccepted:
    """Return that the content is in force from here on."""
    sources = {glob for task in content.definition.all_tasks for glob in task.sources}
    return DefinitionAccepted(
        content.workflow,
        content.path,
        content.stamp,
        content.digest,
        content.companions,
        change,
        note,
        tuple(sorted(sources)),
        content.definition.dotenv,
        tuple((each.cron, each.timezone, each.catch_up) for each in content.definition.schedule),
    )


def _why_not_run(state: State, content: Content, *, run_first: bool) -> str:
    definition = content.definition
    missing = [name for name, param in definition.params.items() if param.required and param.default is None]
    if not run_first:
        return "recorded at the first scan, not run"
    if not definition.runs_on_change:
        why = "on_change: record" if definition.on_change else "it has a schedule"
        return f"recorded, not run ({why})"
    if missing:
        return f"waiting for a value of {', '.join(missing)}: give it with `wizflow trigger`"
    if definition.concurrency.policy == "forbid" and any(True for _ in state.live_runs(content.workflow)):
        return "not run: a run is in progress (policy forbid)"
    return ""


def _defaults(definition: Definition) -> dict[str, Json]:
    return {name: param.default for name, param in definition.params.items()}


def _make_way(state: State, content: Content, run: RunId) -> Iterator[Event]:
    """Yield what the policy does to the runs in the way: older queued changes are dropped, `replace` cancels."""
    policy = content.definition.concurrency.policy
    if policy == "allow":
        return
    for other in state.live_runs(content.workflow):
        if other.ended_s is not None or other.cancelling is not None:
            continue
        if other.status == "queued" and other.trigger in ("change", "sources"):
            yield RunEnded(other.id, other.workflow, "cancelled", f"superseded by {run}")
        elif policy == "replace":
            yield RunCancelling(other.id, other.workflow, "cancelled", f"replaced by {run}")


def _queued(content: Content, run: RunId, trigger: Trigger, params: Mapping[str, Json]) -> RunQueued:
    definition = content.definition
    return RunQueued(
        run,
        content.workflow,
        content.path,
        content.stamp,
        content.digest,
        trigger,
        params,
        incremental=trigger in ("change", "sources"),
        policy=definition.concurrency.policy,
        on_remove=definition.on_remove,
        settled_s=content.settled_s,
    )


def reject_content(state: State, workflow: WorkflowId, path: str, stamp: str, problems: tuple[str, ...]) -> list[Event]:
    """Return what bad content means: the error stands, the version in force before stays so."""
    known = state.workflows.get(workflow)
    if known is not None and known.stamp == stamp and known.problems == problems:
        return []
    return [DefinitionRejected(workflow, path, stamp, problems)]


def remove_workflow(state: State, workflow: WorkflowId) -> list[Event]:
    """Return what the removal of a file means: forgotten; a run in progress finishes, or is cancelled if it says so."""
    known = state.workflows.get(workflow)
    if known is None or not known.path:
        return []
    events: list[Event] = [WorkflowRemoved(workflow)]
    for run in state.live_runs(workflow):
        if run.ended_s is not None or run.cancelling is not None:
            continue
        if run.status == "queued":
            events.append(RunEnded(run.id, workflow, "cancelled", "the file was removed"))
        elif run.on_remove == "cancel":
            events.append(RunCancelling(run.id, workflow, "cancelled", "the file was removed"))
    return events


class Asked(Struct, frozen=True):
    """A run that a person asks for, the clock (`scheduled_s`) or an attempt of another run (`parent`).

    `retry_of` names the run whose successes stand, `from_task` where to begin; `as_text`: the params are text of a
    command line.
    """

    trigger: Literal["manual", "retry", "schedule", "workflow"] = "manual"
    params: Mapping[str, Json] = {}
    as_text: bool = False
    incremental: bool = False
    retry_of: str = ""
    from_task: str = ""
    parent: str = ""
    scheduled_s: float = 0.0


def request_run(state: State, content: Content, run: RunId, asked: Asked) -> list[Event]:
    """Return the run that was asked for. Raises RequestError where it may not be."""
    definition = content.definition
    policy = definition.concurrency.policy
    if policy == "forbid" and any(True for _ in state.live_runs(content.workflow)):
        raise RequestError("busy", f"cannot run {content.workflow}: a run is in progress and its policy is forbid")
    names = [task.id for task in definition.all_tasks]
    if asked.from_task and asked.from_task not in names:
        what = f'cannot retry from {asked.from_task}: there is no task "{asked.from_task}"'
        raise RequestError("not_found", what, hint=did_you_mean(asked.from_task, names))
    queued = RunQueued(
        run,
        content.workflow,
        content.path,
        content.stamp,
        content.digest,
        asked.trigger,
        fit_params(definition, asked.params, as_text=asked.as_text),
        incremental=asked.incremental or asked.trigger == "retry",
        retry_of=asked.retry_of,
        from_task=asked.from_task,
        policy=policy,
        on_remove=definition.on_remove,
        parent=asked.parent,
        scheduled_s=asked.scheduled_s,
    )
    cancelled = (
        RunCancelling(other.id, other.workflow, "cancelled", f"replaced by {run}")
        for other in state.live_runs(content.workflow)
        if policy == "replace" and other.status == "running" and other.cancelling is None
    )
    return [*cancelled, queued]


def cancel_run(run: Run, reason: str) -> list[Event]:
    """Return the cancellation of a run, once."""
    if run.ended_s is not None or run.cancelling is not None:
        return []
    if run.status == "queued":
        return [RunEnded(run.id, run.workflow, "cancelled", reason)]
    return [RunCancelling(run.id, run.workflow, "cancelled", reason)]


def pause_run(run: Run, *, paused: bool) -> list[Event]:
    """Return that a run is held, or goes on. Raises RequestError where it is so already, or over."""
    verb = "pause" if paused else "resume"
    if run.ended_s is not None or run.cancelling is not None:
        raise RequestError("busy", f"cannot {verb} {run.id}: it is ending")
    if run.paused == paused:
        raise RequestError("busy", f"cannot {verb} {run.id}: it is {run.shown}")
    return [RunPaused(run.id, run.workflow) if paused else RunResumed(run.id, run.workflow)]


def due_runs(
    state: State, content: Content, times: Sequence[tuple[float, str]], now: Now, run_ids: Iterator[RunId]
) -> list[Event]:
    """Return the runs for scheduled times that have come, and that these times have been acted upon, in one commit.

    `times` are wall times with their catch-up, oldest first. A time that is more than a minute past was missed.
    """
    if not times:
        return []
    wanted = []
    for index, (due_s, catch_up) in enumerate(times):
        late = now.wall_s - due_s > ON_TIME_S
        if catch_up == "all" or not late or (catch_up == "latest" and index == len(times) - 1):
            wanted.append(due_s)
    if not any(catch_up == "all" for _, catch_up in times):
        wanted = wanted[-1:]
    passed = SchedulePassed(content.workflow, times[-1][0])
    events: list[Event] = []
    try:
        for due_s in wanted:
            asked = Asked("schedule", scheduled_s=due_s)
            events += request_run(state, content, next(run_ids), asked)
            if content.definition.concurrency.policy == "forbid":
                break
    except RequestError as error:
        passed = replace(passed, note=str(error))
    return [passed, *events]


def approve_task(run: Run, task: str, by: str) -> list[Event]:
    """Return that a task which waits for approval has it. Raises RequestError where none does."""
    found = run.tasks.get(TaskId(task))
    if found is None or found.status != "paused":
        waiting = [each.id for each in run.tasks.values() if each.status == "paused"]
        hint = f"{', '.join(waiting)} waits for it" if waiting else ""
        raise RequestError("not_found", f"cannot approve {task!r} of {run.id}: it waits for no approval", hint=hint)
    return [TaskAdmitted(run.id, run.workflow, found.id, by)]
