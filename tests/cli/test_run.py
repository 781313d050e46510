"""`wizflow run`: one file, here and now: exit codes, what is said, parameters, reuse, and interruption."""

import json
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.alone import WIZFLOW, Said, Wizflow, environment, wizflow

DEMO = """
params: {who: world, n: {type: integer, default: 3}, on: {type: boolean, default: false}, l: {type: list, default: []}}
tasks:
  - {id: greet, type: SHELL, command: "printf 'hello %s' {{params.who}}", outputs: {text: {type: text}}}
  - id: values
    type: SHELL
    command: "printf '%s|%s|%s' {{params.n}} {{params.on}} {{params.l}}"
    outputs: {v: {type: text}}
"""
FAILING = """
tasks:
  - {id: good, type: SHELL, command: "true"}
  - {id: bad, type: SHELL, command: "echo before; echo 'what went \\e[31mwrong' >&2; exit 3"}
  - {id: after, type: SHELL, command: "true", depends_on: [bad]}
  - {id: soft, type: SHELL, command: "false", continue_on_failure: true}
"""


def wait_for(condition: Callable[[], Any], deadline_s: float = 30.0) -> Any:
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("not in time")


def run_text(alone: Wizflow, text: str, *arguments: str, name: str = "etl.yaml") -> Said:
    Path(name).write_text(text)
    return alone("run", *arguments, "--", name)


def result(folder: Path, stem: str = "etl") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{stem}.runs/latest/result.json").read_text())
    return found


def test_a_run_that_succeeds_tells_each_task_and_where_the_results_are(alone: Wizflow, tmp_path: Path) -> None:
    said = run_text(alone, DEMO)

    lines = said.out.splitlines()
    assert (said.status, said.err) == (0, "")
    assert re.fullmatch(r"etl  2 tasks, 2 to run, 0 reused, 2 wide  \d{8}-\d{6}-[0-9a-f]{6}", lines[0])
    assert {line.split()[2] for line in lines[1:] if " succeeded " in line} == {"greet", "values"}
    assert re.fullmatch(r"succeeded in .* s: 2 succeeded", lines[-2])
    assert lines[-1] == f"results: {(tmp_path / 'etl.runs/latest').resolve()}"
    assert "\x1b" not in said.out
    assert result(tmp_path)["outputs"]["greet"] == {"text": "hello world"}


def test_a_run_that_fails_shows_the_end_of_the_log_and_is_never_plain_green(alone: Wizflow, tmp_path: Path) -> None:
    said = run_text(alone, FAILING)

    assert (said.status, said.err) == (1, "")
    assert "failed bad: exit code 3\n  log: " in said.out
    assert "    before\n    what went \\x1b[31mwrong\n" in said.out
    assert "1 failed, 1 tolerated, 1 succeeded, 1 skipped\ntolerated: soft\nskipped: after\n" in said.out
    assert result(tmp_path)["status"] == "failed"


def test_parameters_are_read_by_their_type(alone: Wizflow, tmp_path: Path) -> None:
    said = run_text(alone, DEMO, "-p", "n=7", "-p", "on=true", "-p", "l=[1, 2]", "-p", "who=a=b $(id)")

    assert said.status == 0
    assert result(tmp_path)["params"] == {"who": "a=b $(id)", "n": 7, "on": True, "l": [1, 2]}
    assert result(tmp_path)["outputs"] == {"greet": {"text": "hello a=b $(id)"}, "values": {"v": "7|true|[1,2]"}}


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("n=x", 'cannot run: parameter n: "x" is not of type integer'),
        ("m=1", "cannot run: there is no parameter 'm'; it has who, n, on, l"),
        ("whom=1", "cannot run: there is no parameter 'whom'; did you mean \"who\"?"),
        ("n", "cannot use -p n: write -p NAME=VALUE"),
    ],
)
def test_a_parameter_that_does_not_fit_ends_with_2_and_runs_nothing(
    alone: Wizflow, tmp_path: Path, param: str, message: str
) -> None:
    said = run_text(alone, DEMO, "-p", param)

    assert (said.status, said.out, said.err) == (2, "", f"{message}\n")
    assert not list(tmp_path.glob("etl.runs/2*"))


def test_a_required_parameter_must_be_given(alone: Wizflow, tmp_path: Path) -> None:
    text = "params: {day: {required: true}}\ntasks: [{id: a, type: SHELL, command: 'echo {{params.day}}'}]\n"

    assert run_text(alone, text).err == "cannot run: parameter day has no value; give it with -p day=...\n"
    assert run_text(alone, text, "-p", "day=1").status == 0


def test_everything_runs_again_unless_it_is_asked_to_be_incremental(alone: Wizflow, tmp_path: Path) -> None:
    def states(*arguments: str) -> list[bool]:
        assert run_text(alone, DEMO, *arguments).status == 0
        return [task["reused"] for task in result(tmp_path)["tasks"]]

    assert states() == [False, False]
    assert states("--incremental") == [True, True]
    assert states("--incremental", "-p", "n=4") == [True, False]
    assert states() == [False, False]


def test_a_refused_definition_ends_with_2_and_leaves_nothing(alone: Wizflow, tmp_path: Path) -> None:
    said = run_text(alone, "tasks: []\n")

    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("etl.yaml:1:8: tasks: is empty")
    assert [path.name for path in tmp_path.iterdir()] == ["etl.yaml"]


@pytest.mark.parametrize("name", ["two words.yaml", "$(touch PWNED).yaml", "-dash.yaml", "ümläut.json"])
def test_a_file_may_have_any_name(alone: Wizflow, tmp_path: Path, name: str) -> None:
    task = {"id": "a", "type": "SHELL", "command": "echo {{workflow.name}}", "outputs": {"o": {"type": "text"}}}
    text = json.dumps({"tasks": [task]})

    said = run_text(alone, text, name=name)

    assert (said.status, said.err) == (0, "")
    assert result(tmp_path, Path(name).stem)["outputs"] == {"a": {"o": Path(name).stem}}
    assert not list(tmp_path.rglob("PWNED"))


def test_what_a_task_prints_never_reaches_the_terminal_raw(alone: Wizflow, tmp_path: Path) -> None:
    command = "printf '\\033]0;title\\007\\r'; exit 1"

    said = run_text(alone, json.dumps({"tasks": [{"id": "a", "type": "SHELL", "command": command}]}))

    assert said.status == 1
    assert all(line.isprintable() for line in said.out.splitlines())
    assert "\\x1b]0;title\\x07" in said.out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_in_a_folder_that_may_not_be_written_it_says_so(alone: Wizflow, tmp_path: Path) -> None:
    (tmp_path / "etl.yaml").write_text(DEMO)
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)

    said = alone("run", "etl.yaml")

    assert (said.status, said.err) == (1, f"cannot use {tmp_path}/etl.runs/.state: Permission denied\n")


# -- interruption ---------------------------------------------------------------------------------------------

OBEDIENT = """
tasks:
  - {id: a, type: SHELL, command: "echo $$ > pid; exec sleep 60"}
  - {id: b, type: SHELL, command: "true", depends_on: [a]}
"""
STUBBORN = """
tasks:
  - {id: a, type: SHELL, command: "trap '' TERM; echo $$ > pid; for _ in $(seq 600); do sleep 0.1; done"}
"""


def start(folder: Path, text: str) -> tuple["subprocess.Popen[str]", int]:
    """Start a run and return its process, and that of its first task."""
    (folder / "etl.yaml").write_text(text)
    process = subprocess.Popen(
        [WIZFLOW, "run", "etl.yaml"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    pid = folder / "etl.runs/workspace/pid"
    return process, int(wait_for(lambda: pid.exists() and pid.read_text()))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_its_tasks_and_says_130(tmp_path: Path, number: int) -> None:
    process, task = start(tmp_path, OBEDIENT)

    process.send_signal(number)
    out, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (130, "")
    assert "interrupted: ending what runs" in out
    assert "cancelled in " in out
    assert not is_alive(task)
    assert {task["id"]: task["status"] for task in result(tmp_path)["tasks"]} == {"a": "cancelled", "b": "cancelled"}


def test_interrupted_twice_it_ends_at_once_and_so_do_its_tasks(tmp_path: Path) -> None:
    process, task = start(tmp_path, STUBBORN)
    assert process.stdout is not None

    process.send_signal(signal.SIGINT)
    while "interrupted" not in process.stdout.readline():
        pass
    began_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (130, "")
    assert time.monotonic() - began_s < 8  # the grace is 10 s
    wait_for(lambda: not is_alive(task))


def test_killed_it_takes_its_tasks_along_and_the_next_run_begins_anew(alone: Wizflow, tmp_path: Path) -> None:
    process, task = start(tmp_path, OBEDIENT)

    process.kill()
    process.communicate()

    wait_for(lambda: not is_alive(task))
    said = run_text(alone, DEMO)
    assert said.status == 0
    assert "has to wait" not in said.out


def test_a_second_run_of_the_same_file_is_refused_with_3(tmp_path: Path) -> None:
    process, _ = start(tmp_path, OBEDIENT)

    said = wizflow("run", "etl.yaml", cwd=tmp_path)
    process.send_signal(signal.SIGTERM)
    process.communicate()

    assert said.status == 3
    assert said.err == f"cannot use {tmp_path}/etl.runs/.state: another wizflowd holds it\n"
