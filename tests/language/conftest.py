"""Workflows that are run here and now, in this process; a daemon where one is needed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli.alone import Said, Wizflow
from tests.system.conftest import common_daemon, daemon, make_daemon, shared
from tests.system.running import Finished, finished_in

__all__ = ["common_daemon", "daemon", "make_daemon", "shared"]


class Alone:
    """`wizflow run` in an empty folder: each call publishes a definition, runs it and returns what was written."""

    def __init__(self, wizflow: Wizflow, folder: Path) -> None:
        self.wizflow = wizflow
        self.folder = folder
        self.said = Said(0, "", "")

    def write(self, definition: Mapping[str, Any] | str, name: str = "w") -> Path:
        """Write a definition: its text in YAML, or its tree."""
        path = self.folder / (f"{name}.yaml" if isinstance(definition, str) else f"{name}.json")
        path.write_text(definition if isinstance(definition, str) else json.dumps(definition))
        return path

    def run(self, definition: Mapping[str, Any] | str, *arguments: str) -> Finished:
        """Run a definition to its end."""
        path = self.write(definition)
        before = {run.folder for run in finished_in(self.folder / "w.runs")}
        self.said = self.wizflow("run", *arguments, "--", path)
        found = [run for run in finished_in(self.folder / "w.runs") if run.folder not in before]
        assert len(found) == 1, f"{self.said.out}{self.said.err}"
        return found[0]

    def refused(self, definition: Mapping[str, Any] | str) -> list[str]:
        """Return the lines with which a definition is refused."""
        said = self.wizflow("validate", self.write(definition))
        assert said.status == 2, said.out
        return said.errors


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Alone:
    """`wizflow` in this process, in an empty folder, where no daemon is found."""
    monkeypatch.chdir(tmp_path)
    return Alone(Wizflow(monkeypatch, capsys), tmp_path)
