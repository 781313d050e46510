"""`wizflow validate`: what it says of files, good, bad and odd."""

import json
import os
import stat
from pathlib import Path

import pytest

from tests.cli.alone import Wizflow, wizflow

GOOD = "tasks: [{id: a, type: SHELL, command: 'true'}]\n"
BAD = "tasks:\n  - {id: a, type: SHELL, comand: 'true'}\n"


def test_a_good_file_is_called_good(alone: Wizflow) -> None:
    Path("etl.yaml").write_text(GOOD)

    said = alone("validate", "etl.yaml")

    assert (said.status, said.out, said.err) == (0, "etl.yaml: good\n", "")


def test_every_problem_has_a_line_that_begins_with_the_file_as_it_was_named(alone: Wizflow, tmp_path: Path) -> None:
    Path("etl.yaml").write_text(BAD)

    for name in ("etl.yaml", "./etl.yaml", f"{tmp_path}/etl.yaml", ".//etl.yaml"):
        said = alone("validate", name)

        assert (said.status, said.out) == (2, "")
        assert said.errors == [
            f'{name}:2:5: tasks[0]: missing field "command"; the SHELL task "a" needs it',
            f'{name}:2:26: tasks[0].comand: unknown field; did you mean "command"?',
        ]


def test_one_bad_file_does_not_keep_the_others_from_being_checked(alone: Wizflow) -> None:
    Path("bad.yaml").write_text(BAD)
    Path("good.json").write_text(json.dumps({"tasks": [{"id": "a", "type": "SHELL", "command": "x"}]}))

    said = alone("validate", "missing.yaml", "bad.yaml", "good.json")

    assert (said.status, said.out) == (2, "good.json: good\n")
    assert said.errors[0] == "cannot read missing.yaml: there is no such file"
    assert {line.partition(":")[0] for line in said.errors[1:]} == {"bad.yaml"}


def test_what_is_legal_but_seldom_meant_is_a_warning(alone: Wizflow) -> None:
    Path("etl.yaml").write_text("tasks: [{id: a, type: SHELL, command: 'echo {{ params.x }}'}]\n")

    said = alone("validate", "etl.yaml")

    assert (said.status, said.out) == (0, "etl.yaml: good\n")
    assert len(said.errors) == 1
    assert said.errors[0].startswith("warning: etl.yaml:1:")


def test_a_name_that_only_a_dotenv_file_gives_is_known_and_a_missing_file_is_a_problem(alone: Wizflow) -> None:
    Path("etl.yaml").write_text("dotenv: [.env]\ntasks: [{id: a, type: SHELL, command: 'echo {{env.DAY}}'}]\n")
    missing = alone("validate", "etl.yaml")
    Path(".env").write_text("DAY=monday\n")
    given = alone("validate", "etl.yaml")
    Path(".env").write_text("NIGHT=monday\n")
    other = alone("validate", "etl.yaml")

    assert (missing.status, given.status, other.status) == (2, 0, 2)
    assert "dotenv: cannot read" in missing.err
    assert "DAY" in other.err


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder.yaml", "it is not a regular file"),
        ("fifo.yaml", "it is not a regular file"),
        ("missing.yaml", "there is no such file"),
        ("dangling.yaml", "there is no such file"),
        ("notes.txt", "a workflow file ends in .yaml, .yml or .json"),
        ("nodir/etl.yaml", "there is no such file"),
        ("long" * 100 + ".yaml", "File name too long"),
    ],
)
def test_what_is_no_definition_file_is_refused_with_its_reason(alone: Wizflow, name: str, reason: str) -> None:
    Path("folder.yaml").mkdir()
    os.mkfifo("fifo.yaml")
    Path("dangling.yaml").symlink_to("nowhere.yaml")
    Path("notes.txt").write_text(GOOD)

    said = alone("validate", name)

    assert (said.status, said.out, said.err) == (2, "", f"cannot read {name}: {reason}\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_file_that_may_not_be_read_is_refused(alone: Wizflow, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Path("etl.yaml").write_text(GOOD)
    Path("etl.yaml").chmod(stat.S_IRUSR)
    os.seteuid(65534)
    try:
        said = alone("validate", "etl.yaml")
    finally:
        os.seteuid(0)

    assert (said.status, said.err) == (2, "cannot read etl.yaml: Permission denied\n")


@pytest.mark.parametrize("name", ["two words.yaml", "$(touch PWNED).yaml", "-dash.yaml", "ümläut.yaml"])
def test_a_file_may_have_any_name(alone: Wizflow, name: str) -> None:
    Path(name).write_text(GOOD)
    good = alone("validate", "--", name)
    Path(name).write_text(BAD)
    bad = alone("validate", "--", name)

    assert (good.status, good.out) == (0, f"{name}: good\n")
    assert bad.status == 2
    assert all(line.startswith(f"{name}:2:") for line in bad.errors)
    assert not Path("PWNED").exists()


def test_control_characters_of_a_name_never_reach_the_terminal(alone: Wizflow) -> None:
    Path("a\n\x1b[2J.yaml").write_text(GOOD)

    said = alone("validate", "a\n\x1b[2J.yaml", "b\x1b.yaml")

    assert said.status == 2
    assert all(line.isprintable() for line in said.errors)
    assert said.errors[-1] == "cannot read b\\x1b.yaml: there is no such file"


def test_a_name_that_is_no_utf8_is_shown_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.yaml")
    (tmp_path / name).write_text(GOOD)

    said = wizflow("validate", name, cwd=tmp_path)

    assert (said.status, said.out) == (0, "caf\\udce9.yaml: good\n")


def test_a_file_over_the_limit_is_refused_without_being_read_whole(alone: Wizflow) -> None:
    with Path("big.yaml").open("wb") as file:
        file.truncate(1 << 40)

    said = alone("validate", "big.yaml")

    assert said.status == 2
    assert said.err.startswith("big.yaml: the file has ")


def test_without_a_file_the_usage_is_told(alone: Wizflow) -> None:
    said = alone("validate")

    assert said.status == 2
    assert said.errors[-1] == "wizflow validate: error: the following arguments are required: FILE"
