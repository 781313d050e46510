"""Which decisions may be acted upon a moment before they are on the disk, so that no place stands empty for a sync.

Asked by the engine about every turn. After a kill the spawner still has the commands that were begun this way, and the
ends that nobody acknowledged: the same is decided again, and nothing runs twice (`engine/recover`). After a power cut
nothing of them is left, and the plan, which is on the disk, starts them anew. So it must be the first attempt of a task
that may be repeated, decided from nothing but ends that the spawner tells again in the same words. A REST call that may
be repeated is made again after a kill as well, so its end may wait too, unless something follows from it.
"""

from collections.abc import Mapping

from wizflowd.core.attempt import RunId
from wizflowd.core.events import Event, TaskStarted, TaskSucceeded
from wizflowd.core.state import Run, State, TaskRun
from wizflowd.engine.context import Context


def may_run_ahead(event: Event, state: State, contexts: Mapping[RunId, Context]) -> bool:
    """Return whether an event, just applied, may be recorded after what follows from it is done."""
    if not isinstance(event, TaskStarted | TaskSucceeded):
        return False
    run = state.runs[event.run]
    task = run.tasks[event.task]
    context = contexts[event.run]
    if event.attempt != 1 or not may_begin_ahead(run, task, context):
        return False
    if isinstance(event, TaskSucceeded) and (event.outputs or event.files):
        return False  # those are read anew, and may have been changed meanwhile
    of_rest = isinstance(event, TaskSucceeded) and context.spec(task).type == "RESTAPI"
    return not (of_rest and task.id in run.dependents)


def may_begin_ahead(run: Run, task: TaskRun, context: Context) -> bool:
    """Return whether the first attempt of a task may be under way before that is recorded."""
    if task.group is not None or task.gated or task.final or run.cancelling is not None:
        return False
    if context.compiled.definition.secrets or context.surroundings.dotenv:
        return False  # after the kill they may say something else
    spec = context.spec(task)
    if spec.type not in ("SHELL", "RESTAPI") or spec.runs_on not in (None, "local"):
        return False
    return context.policy(task).on_lost == "retry"
