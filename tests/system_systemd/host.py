"""What an operator does on a host with wizflowd: units, drop-ins, files, the journal. Used inside the guest."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.system.running import publish, wait_for

DAEMON, SPAWNER = "wizflowd.service", "wizflowd-spawner.service"
DOCUMENTATION = Path(__file__).parents[2] / "docs/operations.md"
HOME = Path("/var/lib/wizflowd")
WORKFLOWS = HOME / "workflows"
CONTROL, EVENTS = Path("/run/wizflowd/control.sock"), Path("/run/wizflowd/events.sock")
CONFIGURATION = Path("/etc/wizflowd/wizflowd.yaml")


def run(*command: str | Path) -> str:
    """Run a command to its good end and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def shown(unit: str, name: str) -> str:
    """Return a property of a unit."""
    return run("systemctl", "show", "--value", f"--property={name}", unit).strip()


def main_pid(unit: str) -> int:
    return int(shown(unit, "MainPID"))


def restart(*units: str) -> None:
    run("systemctl", "restart", *units)


@contextmanager
def drop_in(unit: str, *lines: str) -> Iterator[None]:
    """Change a unit as documented, and change it back."""
    path = Path(f"/etc/systemd/system/{unit}.d/test.conf")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("[Service]", *lines, "")))
    run("systemctl", "daemon-reload")
    restart(unit)
    try:
        yield
    finally:
        path.unlink()
        run("systemctl", "daemon-reload")
        restart(unit)


@contextmanager
def configured(text: str) -> Iterator[None]:
    """Put a text in the place of the configuration and have it read, and change both back."""
    before = CONFIGURATION.read_text()
    CONFIGURATION.write_text(text)
    run("systemctl", "reload", DAEMON)
    try:
        yield
    finally:
        CONFIGURATION.write_text(before)
        run("systemctl", "reload", DAEMON)


class Workflow:
    """A workflow file in the watched folder, and what becomes of it."""

    def __init__(self, name: str, *tasks: Mapping[str, Any], **more: Any) -> None:
        self.name = name
        self.runs = WORKFLOWS / f"{name}.runs"
        path = publish(WORKFLOWS / f"{name}.json", {**more, "tasks": tasks})
        os.chmod(path, 0o644)

    def result(self) -> dict[str, Any]:
        """Return the result of its run, which ends soon."""
        return wait_for(lambda: json.loads((self.runs / "latest/result.json").read_text()), f"a result of {self.name}")

    def log(self, task: str) -> str:
        """Return what a task of the last run printed until here."""
        return (self.folders()[-1] / f"logs/{task}.1.log").read_text()

    def folders(self) -> list[Path]:
        """Return the folders of its runs, oldest first."""
        return sorted(self.runs.glob("2*"))


class Waiting(Workflow):
    """A workflow with one task that counts, line by line, until it is told to end."""

    def __init__(self, name: str, **fields: Any) -> None:
        self._go, self._pid = HOME / f"{name}.go", HOME / f"{name}.pid"
        command = (
            f"echo $$ > {self._pid}.new; mv {self._pid}.new {self._pid}\n"
            f"n=0; until test -s {self._go}; do n=$((n + 1)); echo $n; sleep 0.05; done; exit $(cat {self._go})"
        )
        super().__init__(name, {"id": "wait", "type": "SHELL", "command": command, **fields})
        self.pid: int = wait_for(lambda: int(self._pid.read_text()), f"the task of {name}")

    def counted(self) -> list[int]:
        return [int(line) for line in self.log("wait").splitlines()]

    def end(self, status: int = 0) -> None:
        self._go.write_text(f"{status}\n")


def entries(*matches: str) -> list[dict[str, Any]]:
    """Return what the journal has about something: `RUN=...`."""
    return [json.loads(line) for line in run("journalctl", "-q", "-o", "json", *matches).splitlines()]


def runs(workflow: str) -> list[str]:
    """Return the runs of a workflow that the daemon knows."""
    return [entry["run"] for entry in json.loads(run("wizflow", "runs", workflow, "--json"))]


def documentation(beginning: str) -> str:
    """Return the example of docs/operations.md that begins so."""
    return beginning + DOCUMENTATION.read_text().split(f"```\n{beginning}", 1)[1].split("```", 1)[0]
