"""`wizflow` without any daemon, as a program and within the test's own process."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wizflowd.cli.main import main

WIZFLOW = Path(sys.executable).with_name("wizflow")


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return self.err.splitlines()


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which no daemon is found and nothing is coloured."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("WIZFLOWD_", "XDG_"))}
    return {**outer, "WIZFLOWD_CONTROL_SOCKET": "/nonexistent/control.sock", "NO_COLOR": "1", **more}


class Wizflow:
    """Calls `main` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        for name in os.environ:
            if name.startswith("WIZFLOWD_"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("WIZFLOWD_CONTROL_SOCKET", "/nonexistent/control.sock")

    def __call__(self, *arguments: str | Path) -> Said:
        self._capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, err = self._capsys.readouterr()
        return Said(status, out, err)


def wizflow(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, **options: Any
) -> Said:
    """Run the program to its end."""
    done = subprocess.run(
        [WIZFLOW, *arguments],
        cwd=cwd,
        env=env if env is not None else environment(),
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    return Said(done.returncode, done.stdout, done.stderr)
