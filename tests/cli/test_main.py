"""`wizflow` itself: usage, the configuration, its start, and a reader who leaves early."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.alone import WIZFLOW, Wizflow, environment, wizflow

GOOD = "tasks: [{id: a, type: SHELL, command: 'true'}]\n"
HEAVY = {"asyncio", "httpx", "networkx", "pydantic", "rich", "yaml"}


@pytest.mark.parametrize("arguments", [[], ["bogus"], ["run"], ["run", "--bogus", "x.yaml"], ["graph", "a", "b"]])
def test_wrong_usage_ends_with_2_and_says_what_was_wrong(alone: Wizflow, arguments: list[str]) -> None:
    said = alone(*arguments)

    assert (said.status, said.out) == (2, "")
    assert said.errors[0].startswith("usage: wizflow")
    assert "error: " in said.errors[-1]


def test_help_and_version_import_nothing_heavy() -> None:
    for option in ("--help", "--version"):
        code = f"import sys; from wizflowd.cli.main import main\ntry: main(['{option}'])\nfinally: print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert HEAVY.isdisjoint(done.stdout.split())


def test_a_configuration_that_was_named_must_be_there(alone: Wizflow) -> None:
    Path("etl.yaml").write_text(GOOD)

    said = alone("--config", "none.yaml", "validate", "etl.yaml")

    assert said.status == 2
    assert said.err.startswith("cannot read the configuration none.yaml: No such file or directory")


def test_limits_come_from_the_configuration(alone: Wizflow, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("etl.yaml").write_text(GOOD)
    monkeypatch.setenv("WIZFLOWD_LIMITS__DEFINITION__BYTES", "16")

    said = alone("validate", "etl.yaml")

    assert said.status == 2
    assert "allowed are 16" in said.err


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_reader_who_leaves_early_is_no_error(tmp_path: Path, command: str) -> None:
    tasks = [
        {"id": f"t{number}", "type": "SHELL", "command": "true"} for number in range(20 if command == "run" else 3000)
    ]
    (tmp_path / "etl.json").write_text(json.dumps({"tasks": tasks}))
    with subprocess.Popen(
        [WIZFLOW, command, "etl.json"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "etl" in process.stdout.readline()
        process.stdout.close()
        complaints = process.stderr.read()

    assert complaints == ""
    if command == "run":  # goes on to its end
        assert process.returncode == 0
        assert json.loads((tmp_path / "etl.runs/latest/result.json").read_text())["status"] == "succeeded"


def test_names_that_the_terminal_cannot_write_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "ümläut.yaml").write_text(GOOD)

    said = wizflow("plan", "ümläut.yaml", cwd=tmp_path, env=environment(PYTHONIOENCODING="ascii"))

    assert said.status == 0
    assert said.out.startswith("\\xfcml\\xe4ut: planned")


def test_schema_prints_the_json_schema(alone: Wizflow) -> None:
    said = alone("schema")

    assert said.status == 0
    assert {"$schema", "properties", "required"} <= json.loads(said.out).keys()
