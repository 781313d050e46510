"""The commands that work on a file, in a folder of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.alone import Wizflow
from tests.cli.fleet import Fleet
from tests.system.running import Daemon


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Wizflow:
    """`wizflow` in this process, in an empty folder, where no daemon is found."""
    monkeypatch.chdir(tmp_path)
    return Wizflow(monkeypatch, capsys)


@pytest.fixture(scope="package")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A daemon whose workflows have run, shared by the tests that ask it."""
    daemon = Daemon(tmp_path_factory.mktemp("fleet"))
    daemon.workflows.mkdir()
    try:
        daemon.start()
        fleet = Fleet(daemon)
        fleet.fill()
        yield fleet
    finally:
        daemon.close()
