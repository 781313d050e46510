"""`logs`: in order, exact in a pipe, escaped on a terminal, and as they grow."""

import json
from pathlib import Path

import pytest

from tests.cli.fleet import Fleet
from tests.system.running import shell, wait_for
from wizflowd.cli.follow import GrowingLog
from wizflowd.cli.logview import LogView, Style
from wizflowd.spawner.log import CappedLog


def wait_until_queued(fleet: Fleet, workflow: str) -> None:
    wait_for(lambda: fleet.daemon.ask("runs", workflow=workflow), f"{workflow} is queued")


def test_the_log_of_one_task_comes_out_byte_for_byte(fleet: Fleet) -> None:
    assert fleet("logs", "fails", "fetch").stdout == "one\n\x1b[31mred\ttab\nno end"
    assert fleet("logs", fleet.run_of("good"), "bye").stdout == "bye"


def test_the_logs_of_a_run_stand_in_order_under_headings(fleet: Fleet) -> None:
    said = fleet("logs", "fails").stdout.splitlines()

    headings = [line for line in said if line.startswith("==> ")]
    assert [heading.split()[2] for heading in headings] == ["fetch", "bad", "bad", "after"]
    assert ["attempt 1" in headings[1], "attempt 2" in headings[2]] == [True, True]
    assert all(heading.endswith(": exit code 7") for heading in headings[1:3])
    assert headings[3].endswith("skipped: upstream bad failed")
    assert said[said.index("no end") + 1] == headings[1]


def test_a_terminal_is_shown_no_control_characters_of_a_log(fleet: Fleet) -> None:
    shown = fleet.on_terminal("logs", "fails", "fetch", colour=True)

    assert r"\x1b[31mred" in shown
    assert "\x1b[31mred" not in shown


def test_logs_as_json_name_task_and_attempt(fleet: Fleet) -> None:
    lines = [json.loads(line) for line in fleet("logs", "fails", "--json").stdout.splitlines()]

    assert [(line["task"], line["attempt"]) for line in lines] == [("fetch", 1)] * 3 + [("bad", 1), ("bad", 2)]
    assert lines[0] == {"run": fleet.run_of("fails"), "task": "fetch", "attempt": 1, "line": "one"}


def test_an_unknown_task_is_refused_and_guessed(fleet: Fleet) -> None:
    said = fleet("logs", "fails", "fetsch")

    assert (said.returncode, said.stdout) == (2, "")
    assert 'did you mean "fetch"' in said.stderr


def test_following_shows_lines_as_they_come_and_ends_with_the_run(fleet: Fleet, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"until [ -e {gate} ]; do sleep 0.02; done"
    fleet.daemon.drop("grows.json", [shell("one", f"echo begun; {wait}; echo over"), shell("two", "echo also", "one")])
    wait_until_queued(fleet, "grows")

    with fleet.start("logs", "-f", "grows") as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "one | begun\n"
        gate.touch()
        assert follower.stdout.read() == "one | over\ntwo | also\n"

    assert follower.returncode == 0


def test_following_a_run_that_waits_for_its_turn_begins_with_it(fleet: Fleet, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    fleet.daemon.drop("turns.json", [shell("a", f"until [ -e {gate} ]; do sleep 0.02; done; echo $WIZFLOW_RUN")])
    wait_until_queued(fleet, "turns")
    second = json.loads(fleet("trigger", "turns", "--json").stdout)["run"]

    with fleet.start("logs", "-f", second, "a") as follower:
        assert follower.stdout is not None
        gate.touch()
        assert follower.stdout.read() == f"{second}\n"


@pytest.mark.parametrize("looks", [1, 3, 30])
def test_a_log_whose_middle_is_cut_while_it_is_followed_is_shown_without_repeating(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], looks: int
) -> None:
    path = tmp_path / "t.1.log"
    writer = CappedLog(str(path), 20_000)
    lines = [f"line {number:05}\n".encode() for number in range(looks * 100)]
    followed = None
    for place, line in enumerate(lines):
        writer.write(line)
        if place % 100 == 0:
            followed = followed or GrowingLog(path, LogView(Style(False, False, "r", exact=True), "t", 1, named=False))
            followed.look()

    writer.close()
    assert followed is not None
    followed.close()

    shown = capfd.readouterr().out.splitlines()
    numbers = [int(line.split()[1]) for line in shown if line.startswith("line ") and len(line) == 10]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == len(lines) - 1
    assert any("bytes cut" in line for line in shown) == (looks == 30)


def test_following_goes_on_while_the_daemon_restarts(fleet: Fleet, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"until [ -e {gate} ]; do sleep 0.02; done"
    fleet.daemon.drop("survives.json", [shell("one", f"echo begun; {wait}; echo over")])
    wait_until_queued(fleet, "survives")

    with fleet.start("logs", "-f", "survives", "one") as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "begun\n"
        fleet.daemon.restart()
        gate.touch()
        assert follower.stdout.read() == "over\n"
