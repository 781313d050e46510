"""Completion: the shells' part is a script that they take, ours are the names that the daemon knows."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.fleet import Fleet
from tests.system.running import PROGRAMS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_takes_its_script(fleet: Fleet, shell: str) -> None:
    script = fleet("completion", shell).stdout

    assert "wizflow" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def offered(fleet: Fleet, line: str, tmp_path: Path) -> set[str]:
    """Return what a shell is offered behind a line."""
    out = tmp_path / "offered"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(out), "_ARGCOMPLETE_IFS": "\n"}
    asked |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    subprocess.run([PROGRAMS / "wizflow"], env={**fleet.environment(), **asked}, check=True)
    return {word.strip() for word in out.read_text().split("\n")}


def test_commands_workflows_runs_and_tasks_are_offered(fleet: Fleet, tmp_path: Path) -> None:
    run = fleet.run_of("fails")

    assert offered(fleet, "wizflow st", tmp_path) == {"status"}
    assert offered(fleet, "wizflow trigger to", tmp_path) == {"tolerant"}
    assert run in offered(fleet, f"wizflow logs {run[:4]}", tmp_path)
    assert offered(fleet, "wizflow logs fails ", tmp_path) >= {"fetch", "bad", "after"}
    assert offered(fleet, "wizflow retry fails --from b", tmp_path) == {"bad"}


def test_without_a_daemon_nothing_is_offered_and_nothing_is_said(fleet: Fleet, tmp_path: Path) -> None:
    line = "wizflow --control-socket /nonexistent/c.sock trigger g"

    assert offered(fleet, line, tmp_path) <= {""}
