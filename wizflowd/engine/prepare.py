"""A due run -> its plan, its folder and its lock: everything that has to be read before the run can be decided.

In: a queued run and the journal. Out: `RunPrepared` with a `Context`, or `RunUnprepared`. Also compiles sources.
Nothing is decided here; disk work is done in threads.
"""

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from msgspec.structs import replace

from wizflowd.core.attempt import RunId, TaskId
from wizflowd.core.compile import Compiled, compile_definition
from wizflowd.core.loader import LoadLimits, Syntax, syntax_of
from wizflowd.core.observations import Source
from wizflowd.core.plan import Disk, Plan, Success, Surroundings, make_plan
from wizflowd.core.state import Run
from wizflowd.engine.batches import SMALL_RUN, Batches
from wizflowd.engine.context import Context
from wizflowd.engine.inbox import ContentRead, RunPrepared, RunUnprepared
from wizflowd.engine.quarantine import Quarantine
from wizflowd.errors import DefinitionError, RequestError, StateLockedError, SyncError, WizflowError
from wizflowd.executors.outputs import hash_file, hash_sources
from wizflowd.files import Steps, add_folders, complete, sync_folders
from wizflowd.journal import Due, Journal, Past
from wizflowd.process import give_back_memory
from wizflowd.results import Places, Results
from wizflowd.secrets import read_dotenv
from wizflowd.threads import start_pool

LOCK_RETRY_S = 1.0
_SMALLEST = b'tasks: [{id: a, type: SHELL, command: "true"}]'
_LARGE_BYTES = 256 * 1024
_KEPT_TASKS = 2_000
"""How many tasks of compiled definitions are kept in memory for a run that soon follows."""


class Preparer:
    """Reads definitions and prepares runs. `home` is the watched folder."""

    def __init__(self, journal: Journal, results: Results, home: Path, limits: LoadLimits) -> None:
        self.journal, self.results, self.home, self.limits = journal, results, home, limits
        self._compiler = start_pool(1, "compile")
        self._compiled: dict[tuple[str, str], Compiled] = {}
        self._kept = 0
        self._quarantine = Quarantine(journal.directory / "reading")
        self._is_warm = False
        self._beginnings = Batches()

    def close(self) -> None:
        """Wait for the compiler's thread."""
        self._compiler.shutdown()

    async def read(self, source: Source) -> ContentRead:
        """Compile a source; sources are compiled one after the other, in their order."""
        return await asyncio.get_running_loop().run_in_executor(self._compiler, self._read_and_tidy, source)

    async def catch_up(self) -> None:
        """Return when every source given to `read` before has been compiled."""
        await asyncio.get_running_loop().run_in_executor(self._compiler, lambda: None)

    def _read_and_tidy(self, source: Source) -> ContentRead:
        read = self._read(source)
        if len(source.data) >= _LARGE_BYTES:  # here, for in a turn of its own it would let later ones overtake
            give_back_memory()
        return read

    def _read(self, source: Source) -> ContentRead:
        stamp = hashlib.sha256(source.data).hexdigest()
        name = PurePosixPath(source.path).name
        dotenv: list[str] = []
        try:
            self._warm_up()
            with self._quarantine.reading(stamp):
                compiled = self._compile(source.path, source.data, stamp, dotenv)
            definition = compiled.definition
            sources = tuple(sorted({glob for task in definition.all_tasks for glob in task.sources}))
            companions = self._companions(source.path, sources, definition.dotenv)
        except DefinitionError as error:
            beside = self._companions(source.path, (), tuple(dotenv))
            return ContentRead(source, stamp, beside, None, error.lines(name), tuple(dotenv))
        except (WizflowError, OSError) as error:
            return ContentRead(source, stamp, "", None, (f"{name}: {error}",))
        return ContentRead(source, stamp, companions, compiled)

    def _companions(self, path: str, sources: tuple[str, ...], dotenv: tuple[str, ...]) -> str:
        if not sources and not dotenv:
            return ""
        from wizflowd.watcher.companions import companions_digest  # 30 ms that few workflows need

        return companions_digest(self.home, path, sources, dotenv)

    async def still_there(self, path: str, stamp: str) -> bytes | None:
        """Return the bytes of a definition file if they are those with this hash."""
        return await asyncio.to_thread(self._still_there, path, stamp)

    def _still_there(self, path: str, stamp: str) -> bytes | None:
        try:
            descriptor = os.open(self.home / path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                data = file.read(self.limits.bytes + 1) or b""
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == stamp else None

    def _warm_up(self) -> None:
        """Import what compiling needs: it takes longer than most files do, and a kill meanwhile is not their doing."""
        if not self._is_warm:
            compile_definition(_SMALLEST, Syntax.YAML, stem="smallest")
            self._is_warm = True

    def _compile(self, path: str, data: bytes, stamp: str, asked: list[str] | None = None) -> Compiled:
        """Compile and keep; `asked` gets the names of the `dotenv` files, also when it is refused."""
        folder = (self.home / path).parent

        def read_beside(names: tuple[str, ...]) -> Mapping[str, str]:
            if asked is not None:
                asked.extend(names)
            return read_dotenv(folder, names)

        compiled = compile_definition(
            data,
            syntax_of(path),
            stem=PurePosixPath(path).stem,
            limits=self.limits,
            read_dotenv=read_beside,
        )
        self._forget((path, stamp))
        self._compiled[path, stamp] = compiled
        self._kept += len(compiled.definition.all_tasks)
        while self._kept > _KEPT_TASKS and len(self._compiled) > 1:
            self._forget(next(iter(self._compiled)))
        return compiled

    def _forget(self, key: tuple[str, str]) -> None:
        compiled = self._compiled.pop(key, None)
        if compiled is not None:
            self._kept -= len(compiled.definition.all_tasks)

    async def compiled(self, path: str, stamp: str) -> Compiled:
        """Return a definition in force by its hash, from memory or the journal. Raises DefinitionError."""
        if (path, stamp) in self._compiled:
            return self._compiled[path, stamp]
        data = await self.journal.definition(stamp)
        return await asyncio.get_running_loop().run_in_executor(self._compiler, self._compile, path, data, stamp)

    async def prepare(self, run: Run) -> tuple[RunPrepared | RunUnprepared, Context | None]:
        """Plan a queued run and make its folder."""
        try:
            due = await self.journal.due(run.id, run.workflow, run.stamp)
            past = await self._of_retry(run, due.past)
            context = await self.context(run, past.mails)
            beginning = self._plan_and_begin(run, context, past, due)
            if _takes_long(context, past):
                plan = await asyncio.to_thread(complete, beginning)
            else:
                plan = await self._beginnings.complete(beginning)
        except StateLockedError as error:
            return RunUnprepared(run.id, str(error), LOCK_RETRY_S), None
        except DefinitionError as error:
            name = PurePosixPath(run.path).name
            return RunUnprepared(run.id, "; ".join(error.lines(name)[:3])), None
        except SyncError:
            raise
        except WizflowError as error:
            return RunUnprepared(run.id, str(error)), None
        except OSError as error:
            reason = f"cannot write below {self.results.places(run.workflow).folder}: {error.strerror}"
            return RunUnprepared(run.id, reason, LOCK_RETRY_S), None
        return RunPrepared(run.id, plan), context

    async def plan_change(self, source: Source) -> Plan:
        """Plan what a change to this source would run, and keep nothing. Raises RequestError with its problems."""
        read = await self.read(source)
        if read.compiled is None:
            raise RequestError("invalid", "\n".join(read.problems))
        definition = read.compiled.definition
        run = Run(
            RunId(""),
            source.workflow,
            source.path,
            read.stamp,
            read.compiled.digest,
            "change",
            0.0,
            params={name: param.default for name, param in definition.params.items()},
            incremental=True,
            policy=definition.concurrency.policy,
        )
        past = await self._of_retry(run, await self.journal.past(run.workflow))
        return await asyncio.to_thread(_plan, run, await self.context(run, past.mails, read.compiled), past)

    async def context(self, run: Run, mails: Mapping[TaskId, str], compiled: Compiled | None = None) -> Context:
        """Return what surrounds a run, read anew; `mails` are those that its workflow last sent.

        Raises DefinitionError, SecretError.
        """
        compiled = compiled or await self.compiled(run.path, run.stamp)
        folder = (self.home / run.path).parent
        dotenv: Mapping[str, str] = {}
        if compiled.definition.dotenv:
            dotenv = await asyncio.to_thread(read_dotenv, folder, compiled.definition.dotenv)
        places = self.results.places(run.workflow)
        own = run.policy == "allow"
        workspace, sent = places.workspace(run.id, own=own), mails if run.incremental else {}
        return Context(compiled, Surroundings(run.params, dotenv), places, workspace, own, sent)

    async def _of_retry(self, run: Run, past: Past) -> Past:
        """Return what the plan of a run goes by: for a retry, what the retried run made or reused."""
        if not run.retry_of:
            return past
        stood = set()
        for record in await self.journal.records(RunId(run.retry_of)):
            if type(record.event).__name__ in ("TaskSucceeded", "TaskReused"):
                stood.add(record.event.task)  # type: ignore[union-attr]
        successes = {task: success for task, success in past.successes.items() if task in stood}
        return replace(past, successes=successes, unsuccessful=past.unsuccessful | (past.successes.keys() - stood))

    def _plan_and_begin(self, run: Run, context: Context, past: Past, due: Due) -> Steps[Plan]:
        plan = _plan(run, context, past)
        yield from self._begin(run, context, plan, due)
        return plan

    def _begin(self, run: Run, context: Context, plan: Plan, due: Due) -> Steps[None]:
        places = context.places
        changed: list[Path] = []
        try:
            if not context.own_workspace:
                changed = _add_state(places)
                context.lock = _lock(places)
            definition = (run.path, due.definition)
            yield from self.results.begin(places.run(run.id), context.workspace, definition, plan.to_json(), changed)
            context.events = self.results.events_file(places, run.id)
            for record in due.records:
                context.events.add(record)
        except BaseException as error:
            context.unlock()  # nobody will have this context, and the next attempt takes the lock anew
            if not isinstance(error, SyncError):  # after which there is none
                sync_folders(changed)  # it will find them made
            raise


def _plan(run: Run, context: Context, past: Past) -> Plan:
    """Plan a run by what the journal and the disk know now. Blocks."""
    disk = look_at_disk(context, past.successes)
    if run.incremental:
        context.earlier = {task: success for task, success in past.successes.items() if task not in context.tasks}
        context.disk = disk
    return make_plan(
        run.workflow,
        context.compiled,
        context.surroundings,
        past.successes,
        disk,
        forced={TaskId(run.from_task)} if run.retry_of and run.from_task else frozenset(),
        failed=past.unsuccessful,
        fresh="" if run.incremental else f"runs everything ({run.trigger})",
    )


def look_at_disk(context: Context, successes: Mapping[TaskId, Success]) -> Disk:
    """Return what lies on the disk of what earlier successes declared. Blocks."""
    workspace = context.workspace
    files: dict[str, str | None] = {}
    for success in successes.values():
        for path in success.files:
            if path not in files:
                found = workspace / path
                files[path] = hash_file(found) if found.is_file() else None
    sources = {
        task: hash_sources(context.places.home, spec.sources)
        for task, spec in context.tasks.items()
        if spec.sources and task in successes
    }
    return Disk(workspace.is_dir() and not context.own_workspace, files, sources)


def _takes_long(context: Context, past: Past) -> bool:
    """Whether other runs should not wait for the plan of one: it is large, or files are to be hashed for it."""
    if len(context.tasks) > SMALL_RUN:
        return True
    sources = (spec.sources for spec in context.tasks.values())
    return bool(past.successes) and (any(sources) or any(success.files for success in past.successes.values()))


def take_lock(places: Places) -> int:
    """Take the lock of a workflow's runs and return its descriptor. Raises StateLockedError."""
    sync_folders(_add_state(places))
    return _lock(places)


def _add_state(places: Places) -> list[Path]:
    """Make the folder of the lock and return the folders that are to be synced for that."""
    changed = add_folders(places.state, within=places.within)
    return [folder for folder in changed if folder != places.folder]  # the lock itself need not outlast a power cut


def _lock(places: Places) -> int:
    fd = os.open(places.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise StateLockedError(f"cannot start a run in {places.folder}: another process runs it") from exc
    return fd
