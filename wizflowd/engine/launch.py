"""Attempts that were recorded as started -> calls to executors; ends of attempts -> observations.

In: a run, its context and a task. Out: one `AttemptEnded` in the inbox for each launch. A value that cannot be filled
is the failure of the attempt. All executors behind one door: SHELL in the spawner, WORKFLOW as a run of its own, the
others in the loop.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from wizflowd.core.attempt import (
    AttemptId,
    Call,
    Facts,
    Failed,
    Lost,
    Outcome,
    ShellCall,
    TaskId,
    attempt_id,
)
from wizflowd.core.calls import Setting, build_adopted_call, build_call, inherited_env
from wizflowd.core.definition import Task
from wizflowd.core.state import Run, TaskRun
from wizflowd.engine.context import Context
from wizflowd.engine.inbox import AttemptBegun, AttemptEnded, BacklogDropped, Inbox
from wizflowd.errors import FillError
from wizflowd.executors.email import EmailExecutor, SmtpSettings
from wizflowd.executors.plugin import PluginExecutor
from wizflowd.executors.rest import RestExecutor
from wizflowd.executors.shell import STDOUT_SUFFIX, Handed, Inventory, ShellExecutor
from wizflowd.secrets import NO_SECRETS, Secrets, resolve_secrets
from wizflowd.spawner.masking import Masker

CallT = TypeVar("CallT", bound=Call)


class Executor(Protocol):
    """What performs attempts of some kinds: takes the calls of these kinds, and tells one outcome for each."""

    def start(self, call: Any) -> None: ...
    def cancel(self, attempt: AttemptId) -> None: ...


class ChildRuns(Executor, Protocol):
    """Attempts that are runs of other workflows; `ended` is told every run that has ended."""

    def ended(self, run: Run) -> None: ...


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """`state` holds the spawner's folder and the attempts' private files; `smtp` None: no mail can be sent."""

    state: Path
    log_max: int
    grace_s: float
    smtp: SmtpSettings | None = None
    key_file: Path | None = None
    with_parent: bool = False
    own_spawner: bool = True


@dataclass(slots=True)
class Launcher:
    """Starts, adopts and cancels attempts. `unwell` is the count of dropped backlogs up to which the state is known."""

    inbox: Inbox
    settings: LaunchSettings
    background: asyncio.TaskGroup
    shell: ShellExecutor = field(init=False)
    rest: RestExecutor = field(init=False)
    email: EmailExecutor = field(init=False)
    plugin: PluginExecutor = field(init=False)
    children: ChildRuns = field(init=False)
    outer_env: Mapping[str, str] = field(init=False)
    scratch: Path = field(init=False)
    where: dict[AttemptId, Executor] = field(default_factory=dict)
    unwell: int = 0
    _handed: set[AttemptId] = field(default_factory=set)

    def __post_init__(self) -> None:
        settings = self.settings
        self.outer_env = inherited_env(os.environ)
        self.scratch = settings.state / "attempts"
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.shell = ShellExecutor(
            settings.state / "spawner",
            self.ended,
            self._started,
            self._dropped,
            own=settings.own_spawner,
            with_parent=settings.with_parent,
        )
        self.rest = RestExecutor(self.ended)
        self.plugin = PluginExecutor(self.ended)
        self.email = EmailExecutor(self.ended, settings.smtp)

    async def connect(self) -> Inventory:
        """Join the spawner and learn what it has. Raises SpawnerError."""
        await self.rest.__aenter__()
        await self.email.__aenter__()
        await self.plugin.__aenter__()
        inventory = await self.shell.connect()
        self.unwell = self.shell.unwell
        return inventory

    async def close(self, *, kill: bool) -> None:
        """Let attempts in this process end within the grace; leave SHELL attempts to the spawner, or kill them."""
        grace_s = self.settings.grace_s
        inside = [executor.close(grace_s) for executor in (self.rest, self.email, self.plugin)]
        await asyncio.gather(self.shell.close(kill=kill), *inside)

    async def warm_up(self, context: Context) -> None:
        """Load what the tasks of a run need, before the first of them is said to have started."""
        kinds = {task.type for task in context.tasks.values()}
        if "RESTAPI" in kinds:
            await self.rest.warm_up()
        if "EMAIL" in kinds:
            await self.email.warm_up()

    def launch(self, run: Run, task: TaskRun, context: Context) -> None:
        """Perform the present attempt of a task."""
        self._with_secrets(run, task, context, self._start)

    def adopt(self, run: Run, task: TaskRun, context: Context) -> None:
        """Take over an attempt that the spawner has since before the restart."""
        self._with_secrets(run, task, context, self._adopt)

    def lose(self, run: Run, task: TaskRun, message: str) -> None:
        """Say that nobody knows what came of the present attempt."""
        started_s = task.started_s or time.time()
        facts = Facts(started_s, max(time.time(), started_s))
        self.ended(attempt_id(run.id, task.id, task.attempt), Lost(facts, message))

    def build_ahead(self, run: Run, task: TaskRun, context: Context) -> ShellCall | None:
        """Return the call of the first attempt of a SHELL task without secrets; None where it cannot be filled."""
        try:
            call = build_call(self.setting(run, task, context, NO_SECRETS, 1), context.spec(task))
        except FillError:
            return None
        assert isinstance(call, ShellCall)  # noqa: S101 - of a SHELL task
        return call

    def hand_over(self, handed: Sequence[Handed], limit: int) -> None:
        """Have the spawner start attempts in order, each when fewer than `limit` run and what it is `after` is good."""
        for each in handed:
            self.where[each.call.job.attempt] = self.shell
            self._handed.add(each.call.job.attempt)
        self.shell.hand_over(handed, limit, self.unwell)

    @property
    def takes_backlog(self) -> bool:
        """Whether something can be handed over: the spawner takes it, and all ends that drop it have been decided."""
        return self.unwell == self.shell.unwell > 0

    async def take_back(self) -> None:
        """Return when the spawner starts nothing more by itself, and all that it has started was told."""
        self._forget(await self.shell.withdraw())

    def _dropped(self, attempts: Iterable[AttemptId], unwell: int) -> None:
        self._forget(attempts)
        self.inbox.put(BacklogDropped(unwell))

    def _forget(self, attempts: Iterable[AttemptId]) -> None:
        """Take note that attempts were handed over and have not begun; one that was asked for since is none of them."""
        for attempt in attempts:
            if attempt in self._handed:
                self._handed.discard(attempt)
                self.where.pop(attempt, None)

    def cancel(self, attempt: AttemptId) -> None:
        """End an attempt; its outcome follows when nothing of it is alive."""
        if executor := self.where.get(attempt):  # else it is being filled, and `_start` finds it cancelled
            executor.cancel(attempt)

    def acknowledge(self, attempts: Iterable[AttemptId]) -> None:
        """Say that these outcomes are durable."""
        of_shell = [attempt for attempt in attempts if self.where.pop(attempt, None) is self.shell]
        if of_shell:  # else the spawner would be woken for nothing
            self.shell.acknowledge(of_shell)

    def ended(self, attempt: AttemptId, outcome: Outcome) -> None:
        """Take the outcome of an attempt."""
        self.inbox.put(AttemptEnded(attempt, outcome))

    def _started(self, attempt: AttemptId, _pid: int, _started_s: float) -> None:
        if attempt in self._handed:
            self._handed.discard(attempt)
            self.inbox.put(AttemptBegun(attempt))

    def _with_secrets(
        self, run: Run, task: TaskRun, context: Context, perform: Callable[[Run, TaskRun, Context, Secrets], None]
    ) -> None:
        sources = context.compiled.definition.secrets
        if not sources:
            perform(run, task, context, NO_SECRETS)
            return

        async def read_then_perform() -> None:
            secrets = await asyncio.to_thread(resolve_secrets, sources, os.environ, self.settings.key_file)
            perform(run, task, context, secrets)

        self.background.create_task(read_then_perform())

    def _start(self, run: Run, task: TaskRun, context: Context, secrets: Secrets) -> None:
        call = self._call(run, task, context, secrets, build_call)
        if call is None:
            return
        self.where[call.job.attempt].start(call)
        if run.cancelling is not None:
            self.cancel(call.job.attempt)

    def _adopt(self, run: Run, task: TaskRun, context: Context, secrets: Secrets) -> None:
        call = self._call(run, task, context, secrets, build_adopted_call)
        if call is not None:
            self.shell.adopt(call)
        if call is None or run.cancelling is not None:  # None: where its outputs are can no longer be said
            self.shell.cancel(attempt_id(run.id, task.id, task.attempt))

    def _call(
        self, run: Run, task: TaskRun, context: Context, secrets: Secrets, build: Callable[[Setting, Task], CallT]
    ) -> CallT | None:
        spec = context.spec(task)
        if spec.runs_on not in (None, "local"):
            moment = time.time()
            message = f"there is no executor {spec.runs_on!r}; executors: in the configuration names them"
            failed = Failed(Facts(moment, moment), "refused", message, retryable=False)
            self.ended(attempt_id(run.id, task.id, task.attempt), failed)
            return None
        setting = self.setting(run, task, context, secrets)
        try:
            call = build(setting, spec)
        except FillError as error:
            moment = time.time()
            message = Masker([*secrets.values.values(), *context.surroundings.dotenv.values()]).mask(str(error))
            self.ended(setting.attempt, Failed(Facts(moment, moment), "input", message, retryable=False))
            return None
        self.where[setting.attempt] = self._executor_of(spec.type)
        self._handed.discard(setting.attempt)
        return call

    def _executor_of(self, kind: str) -> Executor:
        own: dict[str, Executor] = {
            "SHELL": self.shell,
            "RESTAPI": self.rest,
            "EMAIL": self.email,
            "WORKFLOW": self.children,
        }
        return own.get(kind, self.plugin)

    def forget_all_but(self, attempts: Mapping[AttemptId, str]) -> None:
        """Remove the private files of attempts other than these (with their labels): a kill left them. Blocks."""
        kept = {_private_name(attempt, label) for attempt, label in attempts.items()}
        for path in self.scratch.iterdir():
            if path.name.removesuffix(STDOUT_SUFFIX) not in kept:
                path.unlink(missing_ok=True)

    def setting(
        self, run: Run, task: TaskRun, context: Context, secrets: Secrets, number: int | None = None
    ) -> Setting:
        """Return what surrounds an attempt of a task, by default the present one."""
        number = task.attempt if number is None else number
        attempt = attempt_id(run.id, task.id, number)
        label = label_of(task)
        return Setting(
            attempt,
            run,
            context.compiled.definition,
            context.names,
            context.workspace,
            f"{context.places.folder}/{run.id}",
            context.places.home,
            context.places.log(run.id, label, number),
            self.settings.log_max,
            f"{self.scratch}/{_private_name(attempt, label)}",
            self.settings.grace_s,
            self.outer_env,
            context.surroundings.dotenv,
            secrets.values,
            secrets.missing,
            context.mails.get(TaskId(task.id), ""),
            task.values,
            task.id,
            label,
        )


def label_of(task: TaskRun) -> str:
    """Return how files name a task: an instance by its group and index."""
    return task.id if task.group is None else f"{task.group}.{task.index}"


def _private_name(attempt: AttemptId, label: str) -> str:
    run, _, number = attempt.rsplit("/", 2)
    return f"{run}.{label}.{number}"
