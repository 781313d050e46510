"""What follows from an end: of an attempt, of a task, of a run.

In: the state and an outcome. Out: events, never applied here; the engine applies them and asks `settle` again until
nothing more follows, and all of it is one commit.
"""

import math
from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from wizflowd.core.attempt import Cancelled, Facts, Failed, Lost, Outcome, Succeeded, TaskId, Unchanged
from wizflowd.core.definition import Retry, Task
from wizflowd.core.events import (
    Event,
    Now,
    RunCancelling,
    RunEnded,
    RunFinishing,
    RunStatus,
    TaskCancelled,
    TaskFailed,
    TaskRetrying,
    TaskReused,
    TaskSkipped,
    TaskSucceeded,
)
from wizflowd.core.plan import key_of, outcome_key
from wizflowd.core.state import ENDED, WAITING, Run, TaskRun
from wizflowd.core.values import Json

MAX_RETRY_AFTER_S = 3600.0
MAX_LOST_DELAY_S = 60.0


_NO_RETRY = Retry()


class Policy(Struct, frozen=True):
    """What a task's definition says about its ends."""

    retry: Retry
    on_lost: str
    tolerated: bool


def policy_of(task: Task) -> Policy:
    """Return the policy of a task; the default of `on_lost` is SPEC section 10's."""
    on_lost = task.on_lost or ("retry" if task.repeatable else "fail")
    return Policy(task.retry or _NO_RETRY, on_lost, task.continue_on_failure)


def end_attempt(  # noqa: PLR0913, PLR0917 - everything an end depends on
    run: Run, task: TaskRun, outcome: Outcome, policy: Policy, parts: Mapping[str, str], now: Now, chance: float
) -> Event:
    """Return what an outcome means for its task.

    `parts` are those of the task's key (without upstream), `chance` in [0, 1) decides the jitter.
    """
    place = (run.id, run.workflow, task.id)
    match outcome:
        case Succeeded():
            key, whole = key_of(parts, upstream_keys(run, task))
            return TaskSucceeded(
                *place, task.attempt, outcome.facts, outcome.outputs, outcome.files, key, whole, outcome.mail
            )
        case Unchanged():
            key, whole = key_of(parts, upstream_keys(run, task))
            return TaskReused(*place, "", "equals the last message sent", key, parts=whole)
        case Cancelled():
            return TaskCancelled(*place, run.reason or "cancelled", task.attempt, outcome.facts)
        case Lost():
            message = f"outcome unknown: {outcome.message}"
            if run.cancelling is not None:
                return TaskCancelled(*place, message, task.attempt, outcome.facts)
            if policy.on_lost == "fail":
                return TaskFailed(*place, task.attempt, outcome.facts, "lost", message, policy.tolerated)
            # At once, but not for ever: a task that brings its spawner down would do nothing else.
            delay_s = min(2.0 ** min(task.lost - 1, 10), MAX_LOST_DELAY_S) if task.lost else 0.0
            due_s = now.mono_s + delay_s
            return TaskRetrying(*place, task.attempt, outcome.facts, "lost", message, delay_s, due_s, now.boot)
        case Failed():
            return _end_failure(run, task, outcome, policy, now, chance)


def _end_failure(run: Run, task: TaskRun, outcome: Failed, policy: Policy, now: Now, chance: float) -> Event:
    place = (run.id, run.workflow, task.id)
    tries = task.attempt - task.lost
    if run.cancelling is None and tries <= policy.retry.limit and counts(outcome, policy.retry):
        delay_s = delay_before(tries, policy.retry, outcome.retry_after_s, chance)
        return TaskRetrying(
            *place,
            task.attempt,
            outcome.facts,
            outcome.reason,
            outcome.message,
            delay_s,
            now.mono_s + delay_s,
            now.boot,
        )
    return TaskFailed(*place, task.attempt, outcome.facts, outcome.reason, outcome.message, policy.tolerated)


def counts(outcome: Failed, retry: Retry) -> bool:
    """Return whether a failure is one that is tried again: `on_exit`, `on_status` empty mean any."""
    if not outcome.retryable:
        return False
    if outcome.reason == "connection" or not (retry.on_exit or retry.on_status):
        return True
    facts = outcome.facts
    if outcome.reason == "timeout" and facts.pid is None:
        return True  # of a REST call: the connection's fault
    return facts.exit_code in retry.on_exit if facts.exit_code is not None else facts.status_code in retry.on_status


def delay_before(retries: int, retry: Retry, retry_after_s: float | None, chance: float) -> float:
    """Return the seconds before the `retries`-th further try: backoff, cap, then jitter of ± the given share."""
    exponent = min(retries - 1, 1024)
    try:
        delay_s = retry.delay * retry.backoff**exponent
    except OverflowError:
        delay_s = math.inf if retry.delay else 0.0
    cap_s = retry.max_delay if retry.max_delay is not None else max(MAX_RETRY_AFTER_S, retry.delay)
    delay_s = min(delay_s, cap_s)
    delay_s *= 1 + retry.jitter * (2 * chance - 1)
    if retry_after_s is not None:
        delay_s = max(delay_s, min(retry_after_s, cap_s))
    return max(delay_s, 0.0)


def upstream_keys(run: Run, task: TaskRun) -> dict[TaskId, str]:
    """Return what the key of a task holds of each task that it needs."""
    own = task if task.group is None else run.tasks[task.group]
    needs = (run.tasks[need] for need in own.needs)
    return {need.id: outcome_key(need.key, need.outputs) for need in needs}


def settle(run: Run, now: Now) -> list[Event]:
    """Return what follows from the present state of a run; empty when nothing does.

    Skips what a failure keeps from running, ends what is cancelled, ends the run when nothing of it is open.
    """
    if run.ended_s is not None:
        return []
    main_ended = not run.open_main and run.started_s is not None
    if run.verdict is None and main_ended and run.open:  # `finally` is left
        return [RunFinishing(run.id, run.workflow, *_verdict(run), now.mono_s, now.boot)]
    if run.cancelling is not None:
        events: list[Event] = list(_end_waiting(run))
    else:
        blocked = sorted((run.tasks[name] for name in run.unsettled), key=lambda task: task.position)
        events = [_judge(run, task) for task in blocked]
        if run.fail_fast and run.verdict is None and (culprits := _culprits(run, with_instances=True)):
            return [RunCancelling(run.id, run.workflow, "failed", f"fail_fast: {culprits[0]} failed")]
    if not events and not run.open and (run.started_s is not None or run.cancelling is not None):
        return [RunEnded(run.id, run.workflow, *_verdict(run))]
    return events


def _verdict(run: Run) -> tuple[RunStatus, str]:
    if run.cancelling is not None:
        return run.cancelling, run.reason
    if run.verdict is not None and run.verdict != "succeeded":
        return run.verdict, run.reason
    if culprits := _culprits(run):
        more = f" and {len(culprits) - 1} more" if len(culprits) > 1 else ""
        return "failed", f"{culprits[0]} failed{more}"
    return "succeeded", ""


def _culprits(run: Run, *, with_instances: bool = False) -> list[TaskId]:
    """Return the tasks of which the run fails, in the order of the file; of the instances of one only on request."""
    failed = (run.tasks[name] for name in run.failed)
    culprits = [task.id for task in failed if not task.tolerated and (with_instances or task.group is None)]
    return sorted(culprits, key=lambda name: run.tasks[name].position)


def _end_waiting(run: Run) -> Iterable[Event]:
    for task in run.tasks.values():
        if task.status in WAITING and (not task.final or run.verdict is not None):
            if run.cancelling == "failed":
                yield TaskSkipped(run.id, run.workflow, task.id, run.reason, blamed=True)
            else:
                yield TaskCancelled(run.id, run.workflow, task.id, run.reason)


def end_group(run: Run, group: TaskRun, spec: Task, parts: Mapping[str, str], now: Now) -> Event:
    """Return the end of a task whose instances have all ended: its outputs are the lists of theirs, in order."""
    instances = [run.tasks[name] for name in group.instances or ()]
    facts = Facts(group.ready_s, now.wall_s)
    failed = [task for task in instances if task.status == "failed" and not task.tolerated]
    cancelled = [task for task in instances if task.status == "cancelled"]
    skipped = [task for task in instances if task.status == "skipped"]
    if failed:
        message = f"{len(failed)} of {len(instances)} instances failed: {', '.join(task.id for task in failed[:5])}"
        reason = failed[0].failure or "exit"
        tolerated = spec.continue_on_failure
        return TaskFailed(run.id, run.workflow, group.id, 0, facts, reason, message, tolerated)
    if cancelled:
        return TaskCancelled(run.id, run.workflow, group.id, run.reason or "cancelled", 0, facts)
    if skipped and run.cancelling is not None:
        return TaskCancelled(run.id, run.workflow, group.id, run.reason, 0, facts)
    names = dict.fromkeys((*spec.outputs, *(name for task in instances for name in task.outputs)))
    outputs: dict[str, Json] = {name: [task.outputs.get(name) for task in instances] for name in names}
    key, whole = key_of(parts, upstream_keys(run, group))
    note = () if instances else ("no instances: the list is empty",)
    return TaskSucceeded(run.id, run.workflow, group.id, 0, replace(facts, notes=note), outputs, {}, key, whole)


def _judge(run: Run, task: TaskRun) -> TaskSkipped:
    """Return why a task is skipped whose needs did not end as its `run_on` asks."""
    if task.final and all(run.tasks[need].good for need in task.needs):
        return TaskSkipped(run.id, run.workflow, task.id, f"the run {run.verdict}")
    if task.run_on == "failure" and not task.final:
        return TaskSkipped(run.id, run.workflow, task.id, "nothing upstream failed")
    needs = [run.tasks[need] for need in task.needs]
    culprit = next((need for need in needs if need.bad and not need.good), None)
    if culprit is not None:
        verb = "failed" if culprit.status == "failed" else "was skipped"
        return TaskSkipped(run.id, run.workflow, task.id, f"upstream {culprit.id} {verb}", blamed=True)
    other = next(need for need in needs if need.status in ENDED and not need.good)
    return TaskSkipped(run.id, run.workflow, task.id, f"upstream {other.id} was {other.status}")
