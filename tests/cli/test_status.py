"""`status`, `runs`, `show`: what the daemon knows, on terminals and in pipes."""

import json
import re
import subprocess
import sys

import pytest

from tests.cli.alone import environment, wizflow
from tests.cli.fleet import LONG_NAME, Fleet
from tests.system.running import shell, wait_for

HEAVY = {"asyncio", "pydantic", "yaml", "networkx", "rich", "ssl", "sqlite3", "logging"}
ESCAPE = "\x1b["


def line_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if re.search(rf"(^|\s){re.escape(name)}(\s|$)", line))


def test_every_workflow_is_told_in_one_plain_line(fleet: Fleet) -> None:
    said = fleet("status")

    assert said.returncode == 0
    lines = {line.split("\t")[0]: line.split("\t") for line in said.stdout.splitlines()}
    assert lines["good"][1:3] == ["idle", "succeeded"]
    assert lines["fails"][1:3] == ["idle", "failed"]
    assert lines["fails"][5] == "1 skipped"
    assert lines["broken"][5].startswith("broken.yaml:2:5: ")


@pytest.mark.parametrize("command", ["status", "runs"])
def test_what_was_tolerated_does_not_look_plain_green(fleet: Fleet, command: str) -> None:
    shown = fleet.on_terminal(command, colour=True, columns=140)

    assert "\x1b[32m✓" in next(line for line in shown.splitlines() if " good " in line)
    tolerant = next(line for line in shown.splitlines() if "tolerant" in line)
    assert "\x1b[33m!" in tolerant
    assert "1 tolerated" in tolerant
    assert "\x1b[32m" not in tolerant


def test_on_a_narrow_terminal_columns_are_left_out_and_no_line_is_too_long(fleet: Fleet) -> None:
    wide, narrow = (fleet.on_terminal("runs", columns=columns).splitlines() for columns in (110, 60))

    assert "TRIGGER" in wide[0]
    assert "TRIGGER" not in narrow[0]
    assert {"RUN", "WORKFLOW", "STATUS"} <= set(narrow[0].split())
    assert max(map(len, narrow)) <= 60


def test_a_tolerated_task_looks_neither_green_nor_failed(fleet: Fleet) -> None:
    shown = fleet.on_terminal("show", "tolerant", colour=True)

    assert "\x1b[33mfailed, tolerated" in shown
    assert "succeeded in" not in shown
    assert "1 tolerated" in shown.splitlines()[0]


def test_a_run_is_shown_with_its_tries_and_reasons(fleet: Fleet) -> None:
    shown = fleet.on_terminal("show", "fails")

    assert re.search(r"✗  bad +SHELL +failed +2 ", shown)
    assert "exit code 7" in line_of(shown, "✗  bad")
    assert "upstream bad failed" in line_of(shown, "↷  after")
    assert f"wizflow retry {fleet.run_of('fails')}" in shown


@pytest.mark.parametrize("columns", [50, 85])
@pytest.mark.parametrize("command", [["status"], ["runs"], ["show", LONG_NAME]])
def test_no_table_is_wider_than_the_terminal(fleet: Fleet, command: list[str], columns: int) -> None:
    shown = fleet.on_terminal(*command, columns=columns)

    rows = [line for line in shown.splitlines() if line.startswith(("✓", "✗", "!", "   ")) and "wizflow" not in line]
    needed = {"status": 48, "runs": 82, "show": 48}[command[0]]
    if columns >= needed:
        assert max(map(len, rows[1 if command[0] == "show" else 0 :])) <= columns


def test_nothing_is_coloured_in_pipes_and_without_colour(fleet: Fleet) -> None:
    assert ESCAPE not in fleet("status").stdout
    assert ESCAPE not in fleet.on_terminal("status")
    assert ESCAPE in fleet.on_terminal("status", colour=True)


def test_one_workflow_is_shown_with_its_runs(fleet: Fleet) -> None:
    shown = fleet.on_terminal("status", "fails")

    assert "1 skipped" in line_of(shown, "passed")
    assert fleet.run_of("fails") in shown.splitlines()[-1]


def test_a_refused_definition_is_shown_with_all_its_problems(fleet: Fleet) -> None:
    said = fleet("status", "broken")

    assert "invalid" in said.stdout.splitlines()[0]
    assert 'did you mean "command"' in said.stdout


@pytest.mark.parametrize("command", ["status", "runs", "show", "retry", "cancel", "trigger"])
def test_an_unknown_name_is_refused_in_one_line(fleet: Fleet, command: str) -> None:
    said = fleet(command, "toleran")

    assert (said.returncode, said.stdout) == (2, "")
    assert len(said.stderr.splitlines()) == 1
    assert "there is no such workflow" in said.stderr


def test_a_misspelt_workflow_is_guessed(fleet: Fleet) -> None:
    assert 'did you mean "tolerant"' in fleet("show", "toleran").stderr


@pytest.mark.parametrize("command", [["status"], ["show", "x"], ["events"]])
def test_without_a_daemon_one_line_says_what_would_help(command: list[str]) -> None:
    said = wizflow(*command, env=environment(WIZFLOWD_EVENTS_SOCKET="/nonexistent/events.sock"))

    assert (said.status, said.out) == (1, "")
    assert len(said.errors) == 1
    assert said.err.startswith("cannot reach wizflowd: nobody listens on /nonexistent/")
    assert "start it" in said.err


def test_json_is_what_the_daemon_says(fleet: Fleet) -> None:
    status = json.loads(fleet("status", "--json").stdout)
    runs = json.loads(fleet("runs", "tolerant", "--json").stdout)
    run = json.loads(fleet("show", "tolerant", "--json").stdout)

    assert {entry["workflow"] for entry in status["workflows"]} >= {"good", "fails", "tolerant", "broken"}
    assert [row["tolerated"] for row in runs] == [1]
    assert run["tolerated"] == ["may"]


def test_a_run_in_progress_has_no_end_yet(fleet: Fleet) -> None:
    fleet.daemon.drop("endless.json", [shell("wait", "sleep 1000"), shell("then", "true", "wait")])
    wait_for(lambda: "running" in "".join(fleet("show", "endless").stdout.splitlines()[-2:-1]), "it runs")

    run = json.loads(fleet("show", "endless", "--json").stdout)
    shown = fleet.on_terminal("show", "endless")

    assert (run["status"], run["ended"], run["duration_s"]) == ("running", None, None)
    assert re.search(r"▶  wait +SHELL +running +1 +\d+\.\d+ s", shown)
    assert re.search(r"○  then +SHELL +pending", shown)
    fleet("cancel", "endless")
    wait_for(lambda: json.loads(fleet("show", "endless", "--json").stdout)["status"] == "cancelled", "it is cancelled")


def test_status_imports_nothing_heavy(fleet: Fleet) -> None:
    code = "import sys; from wizflowd.cli.main import main; main(['status']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=fleet.environment(), capture_output=True, text=True, check=True
    )

    assert HEAVY.isdisjoint(done.stderr.split())
