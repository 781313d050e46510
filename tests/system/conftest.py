"""Daemons that start in the test's own folder and are gone after it, with everything that they started."""

import contextlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.system.running import Daemon, wait_for
from wizflowd.errors import RequestError

MakeDaemon = Callable[..., Daemon]


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[MakeDaemon]:
    """Make a daemon, by default in the test's folder; settings by name: `watch__first_scan="record"`."""
    made: list[Daemon] = []

    def make(home: Path = tmp_path, **settings: str) -> Daemon:
        home.mkdir(parents=True, exist_ok=True)
        daemon = Daemon(home, {f"WIZFLOWD_{name.upper()}": value for name, value in settings.items()})
        daemon.workflows.mkdir(exist_ok=True)
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.close()


@pytest.fixture
def daemon(make_daemon: MakeDaemon) -> Daemon:
    """A daemon that watches an empty folder."""
    made = make_daemon()
    made.start()
    return made


@pytest.fixture(scope="module")
def common_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests of a module that do not mind the others."""
    home = tmp_path_factory.mktemp("common")
    made = Daemon(home, {"WIZFLOWD_SHUTDOWN__GRACE": "300ms", "WIZFLOWD_LIMITS__MAX_TASKS": "8"})
    made.workflows.mkdir()
    made.start()
    yield made
    made.close()


_CORNERS = count(1)


@pytest.fixture
def shared(common_daemon: Daemon) -> Iterator[Daemon]:
    """A corner of the module's daemon: a folder and workflows of one's own. Not to be stopped or killed."""
    corner = common_daemon.corner(f"c{next(_CORNERS)}")
    yield corner
    for row in common_daemon.ask("runs"):  # a test that failed leaves nothing running for the next
        if row["workflow"].startswith(corner.prefix) and row["ended"] is None:
            with contextlib.suppress(RequestError):
                common_daemon.ask("cancel", run=row["run"])
    wait_for(lambda: common_daemon.ask("status")["running_tasks"] == 0)
