"""What the engine holds of a run beside its state: things that are looked up or read again, never recorded.

Made by `prepare` for a run that starts, and by the start of the daemon for one that goes on.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wizflowd.core.attempt import TaskId
from wizflowd.core.compile import Compiled
from wizflowd.core.definition import Task
from wizflowd.core.events import InstanceLine
from wizflowd.core.finish import Policy, policy_of, upstream_keys
from wizflowd.core.names import Names, names_of
from wizflowd.core.plan import Disk, Success, Surroundings, instance_parts, key_of, parts_of
from wizflowd.core.state import Run, TaskRun
from wizflowd.results import EventsFile, Places


@dataclass(slots=True)
class Context:
    """One run's definition, surroundings and places. `lock` is a held descriptor; `events` None: read the journal."""

    compiled: Compiled
    surroundings: Surroundings
    places: Places
    workspace: Path
    own_workspace: bool
    mails: Mapping[TaskId, str] = field(default_factory=dict)
    events: EventsFile | None = None
    lock: int | None = None
    earlier: Mapping[TaskId, Success] = field(default_factory=dict)
    disk: Disk = field(default_factory=Disk)
    tasks: Mapping[TaskId, Task] = field(init=False)
    names: Names = field(init=False)

    def __post_init__(self) -> None:
        self.tasks = {TaskId(task.id): task for task in self.compiled.definition.all_tasks}
        self.names = names_of(self.compiled.definition, dotenv=self.surroundings.dotenv)

    def unlock(self) -> None:
        """Give the lock back, if it is held."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def spec(self, task: TaskRun) -> Task:
        """Return what the definition says of a task, or of the one that an instance is of."""
        return self.tasks[task.group or task.id]

    def policy(self, task: TaskRun) -> Policy:
        """Return what the definition says about the ends of a task."""
        return policy_of(self.spec(task))

    def parts(self, task: TaskRun, sources: str) -> dict[str, str]:
        """Return the parts of a task's key, less its upstream."""
        parts = parts_of(self.compiled, self.names, self.spec(task), self.surroundings, sources)
        return parts if task.group is None else instance_parts(parts, task.values)

    def standing(self, run: Run, group: TaskRun, lines: Iterable[InstanceLine]) -> dict[TaskId, Success]:
        """Return the earlier successes of instances that were with the same parts, and whose files are as they were."""
        parts = parts_of(self.compiled, self.names, self.spec(group), self.surroundings, "")
        found = {}
        for line in lines:
            success = self.earlier.get(line.task)
            if success is None or self.spec(group).sources:
                continue
            _, whole = key_of(instance_parts(parts, line.values), upstream_keys(run, group))
            files = self.disk.files
            if whole == success.parts and all(files.get(path) == seen for path, seen in success.files.items()):
                found[line.task] = success
        return found

    @property
    def types(self) -> dict[str, str]:
        return {task: spec.type for task, spec in self.tasks.items()}
