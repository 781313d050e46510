"""Crontabs become workflows that do what cron did."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wizflowd.cli.main import main
from wizflowd.core.compile import Compiled, compile_definition
from wizflowd.core.definition import ShellTask
from wizflowd.core.loader import Syntax
from wizflowd.importers import Imported, import_crontab


def compiled(imported: Imported) -> dict[str, Compiled]:
    return {
        name: compile_definition(text.encode(), Syntax.YAML, stem=name.removesuffix(".yaml"))
        for name, text in imported.files.items()
    }


def only(text: str, *, system: bool = False) -> tuple[Compiled, ShellTask]:
    (found,) = compiled(import_crontab(text, system=system)).values()
    (task,) = found.definition.tasks
    assert isinstance(task, ShellTask)
    return found, task


def test_a_job_keeps_its_times_command_and_variables() -> None:
    found, task = only("# nightly\nPATH=/usr/bin\nSHELL=/bin/bash\n\n30 2 * * 1-5 /opt/backup.sh --all\n")

    assert [each.cron for each in found.definition.schedule] == ["30 2 * * 1-5"]
    assert task.command == "cd\n/opt/backup.sh --all\n"
    assert task.shell == "/bin/bash"
    assert found.definition.env == {"PATH": "/usr/bin"}
    assert not found.definition.runs_on_change


def test_times_are_those_of_the_host_unless_the_crontab_names_a_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tab").write_text("0 1 * * * /opt/a\nCRON_TZ=Asia/Tokyo\n0 2 * * * /opt/b\n")
    (tmp_path / "dag.yaml").write_text(
        'schedule: ["0 3 * * *", "CRON_TZ=Asia/Tokyo 0 4 * * *"]\nsteps: [{command: "true"}]\n'
    )
    monkeypatch.setenv("TZ", ":America/New_York")

    assert main(["import", str(tmp_path / "tab")]) == main(["import", str(tmp_path / "dag.yaml")]) == 0
    written = capsys.readouterr().out

    zones = [line.split()[-1] for line in written.splitlines() if "timezone" in line]
    assert zones == ["America/New_York", "Asia/Tokyo", "America/New_York", "Asia/Tokyo"]


def test_each_job_is_a_workflow_with_a_name_of_its_own() -> None:
    files = import_crontab("@daily /opt/backup.sh\n@hourly /opt/backup.sh -q\n").files

    assert [*files] == ["backup.yaml", "backup_2.yaml"]


def test_what_follows_a_percent_sign_is_stdin_unless_it_is_escaped() -> None:
    _, task = only("0 1 * * * mail -s 'at 100\\%' ops%line one%line two\n")

    assert task.command == "cd\nmail -s 'at 100%' ops\n"
    assert task.stdin == "line one\nline two\n"


def test_a_column_for_the_user_is_read_and_told() -> None:
    imported = import_crontab("0 1 * * * root /opt/x\n", system=True)
    _, task = only("0 1 * * * root /opt/x\n", system=True)

    assert task.command == "cd\n/opt/x\n"
    assert imported.left_out == ("line 1: the user root; a workflow runs as the user of wizflowd",)


def test_braces_in_a_command_stay_text() -> None:
    _, task = only("0 1 * * * docker ps --format {{name}}\n")

    assert task.command == "cd\ndocker ps --format \\{{name}}\n"


def test_a_time_zone_is_carried_over() -> None:
    found, _ = only("CRON_TZ=Europe/Berlin\n0 2 * * * true\n")

    assert found.definition.schedule[0].timezone == "Europe/Berlin"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("@reboot /opt/x", "a systemd unit does this"),
        ("MAILTO=ops@example.org", "add an EMAIL task to finally"),
        ("61 * * * * true", "is not a cron expression"),
        ("just words", "neither a setting nor a job"),
    ],
)
def test_what_cannot_be_carried_over_is_told_with_its_line(line: str, said: str) -> None:
    imported = import_crontab(f"# first\n{line}\n")

    assert imported.files == {}
    (told,) = imported.left_out
    assert told.startswith("line 2: ")
    assert said in told


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_text_is_read_without_an_error(text: str) -> None:
    import_crontab(text)


@given(st.from_regex(r"(@daily|[0-5] [0-9] \* \* [0-6]) [ -~]{1,60}", fullmatch=True))
@example("@daily 08")
@example("@daily 0o7")
@example("@daily 1e999")
def test_whatever_comes_out_is_a_workflow(line: str) -> None:
    compiled(import_crontab(line))
