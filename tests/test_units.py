"""The units as systemd itself reads them: no mistakes in them, and how much the daemon's can do."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent / "systemd"
pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")


def test_the_daemons_exposure_is_two_at_most() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNITS / "wizflowd.service")]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    for unit in UNITS.glob("wizflowd*"):
        text = unit.read_text().replace("ExecStart=/opt/wizflowd/bin/", "ExecStart=/usr/bin/true ")
        (tmp_path / unit.name).write_text(text)
    units = sorted(tmp_path.iterdir())

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units],
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )

    assert len(units) == 4
    assert done.stderr == ""
    assert done.returncode == 0
