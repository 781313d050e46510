"""Real programs for the system tests: a daemon with folders of its own, `wizflow`, and conditions to wait for.

Nothing here knows the inside of wizflowd but the control socket's client and, once the daemon is down, its journal.
"""

import copy
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wizflowd.client import ask

T = TypeVar("T")
PROGRAMS = Path(sys.executable).parent
SEED = Path(__file__).parent.parent / "data" / "seed"
DEADLINE_S = 60.0
TIED = ("setpriv", "--pdeathsig", "TERM")
"""Starts the command behind it as a process that is told to end when the one that started it dies, however it does."""
_POLL_S = 0.01


def wait_for(condition: Callable[[], T], what: str = "", deadline_s: float = DEADLINE_S) -> T:
    """Return what `condition` gives as soon as that is true.

    A file that is not there or not whole yet, and a daemon that does not listen yet, are no answer.
    """
    end_s = time.monotonic() + deadline_s
    while True:
        try:
            if found := condition():
                return found
        except (FileNotFoundError, ConnectionError, json.JSONDecodeError):
            pass
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {deadline_s:g} s: {what or condition}")
        time.sleep(_POLL_S)


def shell(name: str, command: str | list[str], *needs: str, **fields: Any) -> dict[str, Any]:
    """Return a SHELL task."""
    task: dict[str, Any] = {"id": name, "type": "SHELL", "command": command}
    return {**task, **({"depends_on": list(needs)} if needs else {}), **fields}


def publish(path: Path, content: Mapping[str, Any] | str | bytes) -> Path:
    """Write beside and rename, as one should."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(as_bytes(content))
    draft.replace(path)
    return path


def as_bytes(content: Mapping[str, Any] | str | bytes) -> bytes:
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else json.dumps(content, indent=1)).encode()


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file that tasks append to; none while it is not there."""
    return path.read_text().splitlines() if path.exists() else []


def tree_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return every path below `folder` with what changes when it is written: inode, size, mtime."""
    found = {}
    for path in sorted(folder.rglob("*")):
        seen = path.lstat()
        found[str(path.relative_to(folder))] = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
    return found


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def tasks_alive(below: Path, task: str = "") -> list[int]:
    """Return the processes of tasks, or of one, and what came of them, whose private files lie below a folder."""
    marks = [f"WIZFLOW_OUTPUT={below}/".encode(), *([f"WIZFLOW_TASK={task}\0".encode()] if task else [])]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if all(mark in environ for mark in marks) and is_alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the tests' environment without settings of any wizflowd that is really in use."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("WIZFLOWD_")}
    xdg = {"XDG_RUNTIME_DIR": str(home), "XDG_STATE_HOME": str(home), "WIZFLOWD_CONTROL_SOCKET": f"{home}/control.sock"}
    return {**outer, **xdg, "NO_COLOR": "1", **(more or {})}


def wizflow(
    home: Path, *arguments: str | Path, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run `wizflow` to its end; it finds a daemon only where that has its socket in `home`."""
    return subprocess.run(
        [PROGRAMS / "wizflow", *arguments],
        env=environment(home, env),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def start_wizflow(
    home: Path, *arguments: str | Path, env: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start `wizflow` and return at once; its output goes to `wizflow.log`."""
    with (home / "wizflow.log").open("ab") as log:
        return subprocess.Popen(
            [PROGRAMS / "wizflow", *arguments], env=environment(home, env), cwd=home, stdout=log, stderr=log
        )


@dataclass(frozen=True)
class Finished:
    """A run of which everything is on the disk."""

    folder: Path
    result: dict[str, Any]
    plan: dict[str, Any]
    events: list[dict[str, Any]]

    @property
    def status(self) -> str:
        return str(self.result["status"])

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        return {task["id"]: task for task in self.result["tasks"]}

    @property
    def statuses(self) -> dict[str, str]:
        """The state of each task, with the mark `reused` in its place."""
        return {name: "reused" if task["reused"] else task["status"] for name, task in self.tasks.items()}

    @property
    def actions(self) -> dict[str, str]:
        """What the plan says of each task."""
        return {task["id"]: task["action"] for task in self.plan["tasks"]}

    @property
    def reasons(self) -> dict[str, str]:
        return {task["id"]: task["reason"] for task in self.plan["tasks"]}

    @property
    def types(self) -> list[str]:
        """The types of its events, in order."""
        return [event["type"] for event in self.events]

    def named(self, *states: str) -> set[str]:
        """Return the tasks in one of these states."""
        return {name for name, state in self.statuses.items() if state in states}

    def log(self, task: str, attempt: int = 1) -> str:
        return (self.folder / "logs" / f"{task}.{attempt}.log").read_text()


def finished_in(runs: Path) -> list[Finished]:
    """Return the finished runs below a `*.runs` folder, oldest first."""
    found = []
    for events in _finished_files(runs):
        folder = events.parent
        told = [json.loads(line) for line in events.read_text().splitlines()]
        result, plan = (json.loads((folder / name).read_text()) for name in ("result.json", "plan.json"))
        found.append(Finished(folder, result, plan, told))
    return sorted(found, key=lambda run: str(run.result["started"]))


def _finished_files(runs: Path) -> list[Path]:
    return list(runs.glob("*-*/events.ndjson"))


@dataclass(frozen=True)
class Told:
    """One line that the daemon told of itself; `fields` are as they stand in the line."""

    what: str
    subject: str
    fields: dict[str, Any]


class _Log:
    """What a daemon told of itself in all its lives, read on from where it was read last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._told: list[Told] = []
        self._read = 0

    def told(self) -> list[Told]:
        """Return the lines of records that are whole."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                whole = file.read().rpartition(b"\n")[0]
            self._read += len(whole) + bool(whole)
            for line in whole.split(b"\n"):
                if line.startswith(b"{"):
                    fields = json.loads(line)
                    what, _, subject = fields["message"].partition(" ")
                    self._told.append(Told(what, subject, fields))
        return self._told


class Daemon:
    """`wizflowd` as a process, with its folders below `home`. `settings` are environment variables.

    A `corner` of it is the same process seen from one folder below the watched one: names begin there.
    """

    def __init__(self, home: Path, settings: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.workflows = home / "workflows"
        self.state = home / "state"
        self.socket = home / "control.sock"
        self.log_path = home / "wizflowd.log"
        self.may_complain = False
        self.metrics = "off"
        self.settings = {"WIZFLOWD_LOG__FORMAT": "json", **(settings or {})}
        results = self.settings.get("WIZFLOWD_RESULTS_DIR")
        self.results = Path(results) if results else self.workflows
        self.under: tuple[str, ...] = ()
        """A command that starts the program named behind it."""
        self.options: tuple[str | Path, ...] = ()
        self.prefix = ""
        self._told = _Log(self.log_path)
        self._markers = 0
        self._process: subprocess.Popen[bytes] | None = None

    def corner(self, name: str) -> "Daemon":
        """Return the same running daemon, as a test sees it that has one folder and the workflows in it for itself."""
        corner = copy.copy(self)
        corner.prefix = f"{name}/"
        corner.home = self.home / name
        corner.workflows, corner.results = self.workflows / name, self.results / name
        for folder in (corner.home, corner.workflows):
            folder.mkdir()
        return corner

    # -- its life ---------------------------------------------------------------------------------------------

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start the process and return at once."""
        assert self._process is None or self._process.poll() is not None, "it runs"
        options: list[str | Path] = ["--workflows", self.workflows, "--state", self.state, "--metrics", self.metrics]
        options += ["--control-socket", self.socket, "--events-socket", self.home / "events.sock"]
        options += self.options
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*TIED, *self.under, *TIED, PROGRAMS / "wizflowd", *options],
                env=environment(self.home, self.settings),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self._process

    def start(self) -> None:
        """Start it, and return when it has seen its folder."""
        self.launch()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            process = self.process
            assert process.poll() is None, f"it ended with {process.returncode}:\n{self.log}"
            return bool(self.ask("status")["ready"])

        wait_for(ready, "the daemon is ready")

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill9(self) -> None:
        """Kill it as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Stop it cleanly and return its exit status."""
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    def restart(self) -> None:
        """Stop it cleanly and start it again."""
        assert self.stop() == 0
        self.start()

    @property
    def spawner_pid(self) -> int:
        """The process that owns the tasks; 0 where there is none."""
        path = self.state / "spawner" / "lock"
        try:
            pid = int(json.loads(path.read_text() or "{}").get("pid", 0))
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return 0
        return pid if str(path.parent).encode() in command.split(b"\0") and is_alive(pid) else 0

    def close(self) -> None:
        """End all of it, and see that nothing is left."""
        if self._process is not None and self._process.poll() is None:
            self.kill9()
        if pid := self.spawner_pid:
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: not is_alive(pid), "the spawner has ended")
        assert tasks_alive(self.home) == []
        if not self.may_complain:
            assert self.complaints() == []

    # -- what it tells ----------------------------------------------------------------------------------------

    def ask(self, op: str, **fields: Any) -> Any:
        if "workflow" in fields:
            fields["workflow"] = f"{self.prefix}{fields['workflow']}"
        return ask(self.socket, {"op": op, **fields}, DEADLINE_S)

    @property
    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def told(self, what: str = "", subject: str = "") -> list[Told]:
        """Return the lines of records whose type and subject begin so, over all its lives."""
        subject = f"{self.prefix}{subject}"
        return [
            Told(line.what, line.subject.removeprefix(self.prefix), line.fields)
            for line in self._told.told()
            if line.what.startswith(what) and line.subject.startswith(subject)
        ]

    def wait_told(self, what: str, subject: str = "", count: int = 1) -> list[Told]:
        """Wait until so many such lines were told, and return them."""
        wait_for(lambda: len(self.told(what, subject)) >= count, f"{count} of {what} {subject}")
        found = self.told(what, subject)
        assert len(found) == count, found
        return found

    def queued(self) -> list[str]:
        """Return the runs that it told of, `WORKFLOW/RUN`, but those of markers. Whole only if it was never killed."""
        return [line.subject for line in self.told("run.queued") if not line.subject.startswith("marker-")]

    def complaints(self) -> list[str]:
        """Return what is no line of a record or a message below an error."""
        lines = self.log.splitlines()
        return [line for line in lines if not line.startswith("{") or json.loads(line)["level"] == "error"]

    def records(self) -> list[tuple[int | None, str, dict[str, Any]]]:
        """Return sequence, kind and data of every event in the journal. Only while it is down."""
        assert self.process.poll() is not None
        with sqlite3.connect(self.state / "state.db") as db:
            rows = db.execute("SELECT sequence, kind, data FROM records ORDER BY id").fetchall()
        db.close()
        return [(sequence, kind, json.loads(data)) for sequence, kind, data in rows]

    # -- its folder -------------------------------------------------------------------------------------------

    def drop(self, name: str, content: Mapping[str, Any] | str | bytes | Sequence[Mapping[str, Any]]) -> Path:
        """Publish a definition: its text, its tree, or only its tasks."""
        if isinstance(content, Sequence) and not isinstance(content, str | bytes):
            content = {"tasks": list(content)}
        path = self.workflows / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return publish(path, content)

    def folder(self, workflow: str) -> Path:
        return self.results / f"{workflow}.runs"

    def workspace(self, workflow: str) -> Path:
        return self.folder(workflow) / "workspace"

    def status(self, workflow: str) -> dict[str, Any]:
        return dict(json.loads((self.folder(workflow) / "status.json").read_text()))

    def finished(self, workflow: str) -> list[Finished]:
        return finished_in(self.folder(workflow))

    def wait_run(self, workflow: str, count: int = 1, deadline_s: float = DEADLINE_S) -> Finished:
        """Wait until so many runs of a workflow have finished, and return the last of exactly so many."""

        def enough() -> list[Finished]:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log}"
            return self.finished(workflow) if len(_finished_files(self.folder(workflow))) >= count else []

        found = wait_for(enough, f"{count} runs of {workflow}", deadline_s)
        assert len(found) == count, [run.result["run"] for run in found]
        return found[-1]

    def wait_idle(self, workflow: str) -> dict[str, Any]:
        """Wait until the status says that the last of the finished runs was the last of all, and return it."""
        last = self.finished(workflow)[-1].result["run"]

        def idle() -> bool:
            status = self.status(workflow)
            return status["state"] == "idle" and status["last"] is not None and status["last"]["run"] == last

        wait_for(idle, f"the status of {workflow}")
        return self.status(workflow)

    def wait_running(self, workflow: str, *tasks: str) -> str:
        """Wait until these tasks of a workflow have started, and return the run."""

        def started() -> str:
            lines = self.told("task.started", f"{workflow}/")
            runs = {line.subject.split("/")[-2] for line in lines if line.subject.rsplit("/", 1)[1] in tasks}
            names = {line.subject.rsplit("/", 1)[1] for line in lines}
            return max(runs) if runs and set(tasks) <= names else ""

        return wait_for(started, f"{tasks} of {workflow} run")

    def wait_begun(self, workflow: str, *tasks: str) -> str:
        """Wait until these SHELL tasks of a workflow have a process, and return the run: a start is told before."""
        run = self.wait_running(workflow, *tasks)
        for task in tasks:
            wait_for(lambda: tasks_alive(self.home, task), f"{task} has a process")  # noqa: B023
        return run

    def settle(self) -> None:
        """Return when all that was done to the folder before has been seen, judged and, where it is due, run.

        A file dropped now is found by the same or a later look, and its run has ended.
        """
        self._markers += 1
        name = f"marker-{self._markers}"
        self.drop(f"{name}.json", [shell("mark", "true")])
        self.wait_run(name)


def queued_runs(daemon: Daemon, workflow: str = "") -> list[dict[str, Any]]:
    """Return every run that was ever queued, from the journal; of one workflow, or of all but the markers."""
    found = [data for _, kind, data in daemon.records() if kind == "RunQueued"]
    return [
        data
        for data in found
        if (data["workflow"] == workflow if workflow else not data["workflow"].startswith("marker-"))
    ]


def assert_gapless(sequences: Iterable[int | None]) -> int:
    """Check that the public sequence goes 1, 2, 3 …; return its last."""
    found = [sequence for sequence in sequences if sequence is not None]
    assert found == list(range(1, len(found) + 1))
    return len(found)


def gated(gate: Path, then: str = "") -> str:
    """Return a command that waits until `gate` exists, but not for ever, should nobody be left to make it."""
    return f"n=0; while [ ! -e {gate} ] && [ $((n += 1)) -lt 9000 ]; do sleep 0.02; done; {then}"
