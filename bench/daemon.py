"""A wizflowd of its own for an experiment: started, given files, watched at work, stopped.

Metrics are on, a client reads its event stream, and everything that it promises is kept: what is measured is what
users run.
"""

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bench.measure import BenchError, Usage, usage, wait_until
from bench.place import PROGRAMS, Place

Json = dict[str, Any]
_READY_WITHIN_S = 60.0


@dataclass(slots=True)
class Daemon:
    """A running daemon; `spawner` is the process that starts its tasks."""

    folder: Path
    process: "subprocess.Popen[bytes]"

    @property
    def workflows(self) -> Path:
        return self.folder / "workflows"

    @property
    def events(self) -> Path:
        return self.folder / "events.sock"

    @property
    def spawner(self) -> int:
        return int(json.loads((self.folder / "state/spawner/lock").read_text())["pid"])

    def usage(self, *, spawner: bool = True) -> Usage:
        """Return what it has used so far, with its spawner or alone."""
        return usage([self.process.pid, self.spawner] if spawner else [self.process.pid])

    def drop(self, name: str, definition: Json) -> None:
        """Publish a workflow the way it should be done: by a rename."""
        temporary = self.workflows / f".{name}.json"
        temporary.write_text(json.dumps(definition))
        temporary.rename(self.workflows / f"{name}.json")

    def run(self, name: str, definition: Json, within_s: float = 600.0) -> "RunRecord":
        """Drop a workflow and return the record of its run when that has ended well."""
        with self.listening("wizflow.run.*") as events:
            self.drop(name, definition)
            for event in events:
                if event["type"] in ("wizflow.run.succeeded", "wizflow.run.failed"):
                    break
        folder = self.workflows / f"{name}.runs" / event["subject"].rpartition("/")[2]
        path = folder / "events.ndjson"
        wait_until(path.exists, within_s, f"{path} is not there")
        if event["type"] != "wizflow.run.succeeded":
            raise BenchError(f"the run failed: see {folder}")
        return RunRecord(folder)

    @contextlib.contextmanager
    def listening(self, *types: str) -> Iterator[Iterator[Json]]:
        """Give the events of some types from here on, as they come."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.events))
            with client.makefile("rb") as lines:
                lines.readline()  # the hello of the connection
                client.sendall(json.dumps({"types": types}).encode() + b"\n")
                lines.readline()  # that of the wish
                yield self._events_in(lines)

    def _events_in(self, lines: BinaryIO) -> Iterator[Json]:
        """Yield the events of a stream that does not end by itself."""
        with contextlib.suppress(ValueError, OSError):  # of an end in the middle of a line
            yield from (event for event in map(json.loads, lines) if "sequence" in event)
        raise BenchError(f"the event stream has ended: see {self.folder}/daemon.log")


class RunRecord:
    """What a run left: its events, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def engine_s(self) -> float:
        """Return the seconds from the first task's recorded start to the last one's recorded end."""
        events = [json.loads(line) for line in (self.folder / "events.ndjson").read_text().splitlines()]
        started = [_seconds(event["time"]) for event in events if event["type"] == "wizflow.task.started"]
        ended = [_seconds(event["time"]) for event in events if event["type"] == "wizflow.task.succeeded"]
        return max(ended) - min(started)

    def attempts(self) -> dict[str, tuple[float, float]]:
        """Return when the process of each task was started and when its end was seen, in the order of their starts."""
        tasks = json.loads((self.folder / "result.json").read_text())["tasks"]
        last = {task["id"]: task["attempts"][-1] for task in tasks}
        spans = {name: (_seconds(attempt["started"]), _seconds(attempt["ended"])) for name, attempt in last.items()}
        return dict(sorted(spans.items(), key=lambda item: item[1]))


def _seconds(text: str) -> float:
    """Return seconds within the day of a time of ours: differences are all that is asked."""
    hours, minutes, seconds = text.rstrip("Z").partition("T")[2].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


@contextlib.contextmanager
def running(place: Place, *, at_once: int = 64, folder: Path | None = None, **config: str) -> Iterator[Daemon]:
    """Give a daemon that is ready; `config` as in its environment (`WATCH__SETTLE="50ms"`), by default no settling."""
    folder = folder or place.fresh("daemon")
    daemon = Daemon(folder, start(place, folder, at_once, config))
    try:
        wait_until(lambda: _is_ready(daemon), _READY_WITHIN_S, f"wizflowd is not ready, see {folder}/daemon.log")
        yield daemon
    finally:
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.wait(timeout=60)


def start(place: Place, folder: Path, at_once: int, config: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a daemon in a folder."""
    (folder / "workflows").mkdir(exist_ok=True)
    settings = {"WATCH__SETTLE": "0", "LIMITS__MAX_TASKS": str(at_once), "METRICS__LISTEN": f"127.0.0.1:{_free_port()}"}
    env = place.env(**{f"WIZFLOWD_{name}": value for name, value in (settings | dict(config)).items()})
    argv: list[str | Path] = [PROGRAMS / "wizflowd", "--workflows", folder / "workflows", "--state", folder / "state"]
    argv += ["--events-socket", folder / "events.sock", "--control-socket", folder / "control.sock"]
    (folder / "port").write_text(env["WIZFLOWD_METRICS__LISTEN"])
    with (folder / "daemon.log").open("ab") as log:
        return subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _is_ready(daemon: Daemon) -> bool:
    if daemon.process.poll() is not None:
        raise BenchError(f"wizflowd ended: {(daemon.folder / 'daemon.log').read_text()[-2000:]}")
    host, _, port = (daemon.folder / "port").read_text().partition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(b"GET /-/ready HTTP/1.0\r\n\r\n")
            return b" 200 " in client.recv(64)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
