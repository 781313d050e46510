"""`doctor`: what is wrong is found and comes with its mend."""

import json
from pathlib import Path
from typing import Any

from tests.cli.alone import environment, wizflow
from tests.cli.fleet import Fleet


def findings(text: str, about: str) -> list[dict[str, Any]]:
    return [finding for finding in json.loads(text) if finding["about"] == about]


def test_a_host_where_all_is_well_is_told_so(fleet: Fleet) -> None:
    said = fleet("doctor", "--json")

    assert said.returncode == 0
    levels = {finding["about"]: finding["level"] for finding in json.loads(said.stdout)}
    assert {levels[about] for about in ("configuration", "daemon", "event stream", "state", "spawner", "folder")} == {
        "good"
    }
    assert str(fleet.daemon.pid) in findings(said.stdout, "state")[0]["what"]


def test_every_finding_that_is_not_good_says_what_mends_it(fleet: Fleet) -> None:
    told = json.loads(fleet("doctor", "--json").stdout)

    assert all(finding["mend"] for finding in told if finding["level"] != "good")
    assert "wizflow status broken" in {finding["mend"] for finding in told}


def test_a_folder_that_others_may_write_is_found(fleet: Fleet) -> None:
    mode = fleet.daemon.workflows.stat().st_mode
    fleet.daemon.workflows.chmod(0o777)
    try:
        said = fleet("doctor", "--json")
    finally:
        fleet.daemon.workflows.chmod(mode)

    assert said.returncode == 1
    found = findings(said.stdout, "folder")[0]
    assert found["level"] == "wrong"
    assert found["mend"] == f"chmod o-w {fleet.daemon.workflows}"


def test_a_daemon_that_is_not_there_is_found(tmp_path: Path) -> None:
    home = {"XDG_STATE_HOME": str(tmp_path), "WIZFLOWD_WORKFLOWS_DIR": str(tmp_path)}
    said = wizflow("doctor", "--json", env=environment(**home))

    assert said.status == 1
    assert findings(said.out, "daemon")[0]["level"] == "wrong"
    assert "start it" in findings(said.out, "daemon")[0]["mend"]


def test_a_bad_configuration_is_found_and_the_rest_still_looked_at(tmp_path: Path) -> None:
    config = tmp_path / "wizflowd.yaml"
    config.write_text("limits: {max_task: 3}\nevents_group: 7.5\n")

    said = wizflow("doctor", "--json", "--config", str(config))

    wrong = [found["what"] for found in findings(said.out, "configuration")]
    assert said.status == 1
    assert any('did you mean "max_tasks"' in what for what in wrong)
    assert findings(said.out, "programs")


def test_too_little_room_is_found(fleet: Fleet, tmp_path: Path) -> None:
    config = tmp_path / "wizflowd.yaml"
    config.write_text("limits: {disk_low_water: 900000GiB}\n")

    said = fleet("doctor", "--config", str(config))

    assert said.returncode == 1
    assert "MiB are left" in said.stdout
    assert "limits.disk_low_water" in said.stdout
