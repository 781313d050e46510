"""Every test of this folder runs inside a booted systemd, and is reported as if it had run here.

On this host the first of them builds the package, boots a container on an overlay of this machine, and runs pytest in
there with all that were chosen; the reports come back over a file. In there (`BOOTED_GUEST`) they are plain tests, in
the order in which they stand: the package is installed first and removed last.
With several workers one of them has all of these tests (tests/conftest.py), so that there is one boot.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
EXCHANGE = Path("/exchange")
REPORTS = "reports.ndjson"
IN_GUEST = "BOOTED_GUEST" in os.environ
NEXT_VERSION = "99.0-1"
_reports: dict[str, list[dict[str, Any]]] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _why_not()
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.slow)
            if not IN_GUEST:
                item.add_marker(pytest.mark.timeout(0))  # the first waits for the boot of all
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def _why_not() -> str:
    """Return why no systemd can be booted here, nothing if one can."""
    if os.geteuid() != 0:
        return "only root can boot a container"
    if shutil.which("systemd-nspawn") is None:
        return "systemd-nspawn is missing; install it: sudo apt-get install systemd-container dbus"
    if not Path("/usr/bin/python3.11").exists():
        return "the package is for Debian 12, whose /usr/bin/python3.11 is missing"
    return ""


class Reporter:
    """Writes every report of the guest to where the host reads it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        line = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with (EXCHANGE / REPORTS).open("a") as file:
            file.write(json.dumps(line) + "\n")


if IN_GUEST:

    def pytest_configure(config: pytest.Config) -> None:
        config.pluginmanager.register(Reporter(config))

else:

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
        if not item.path.is_relative_to(HERE) or item.get_closest_marker("skip"):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for line in _told(item):
            report = item.config.hook.pytest_report_from_serializable(config=item.config, data=line)
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True


def _told(item: pytest.Item) -> list[dict[str, Any]]:
    """Return the reports of one test, after a boot if there was none yet."""
    if not _reports:
        chosen = [other.nodeid for other in item.session.items if other.path.is_relative_to(HERE)]
        said = _boot(Path(item.config.invocation_params.dir), chosen)
        _reports[""] = [_failure(item, said)]
    return _reports.get(item.nodeid, _reports[""])


def _failure(item: pytest.Item, said: str) -> dict[str, Any]:
    report = pytest.TestReport(
        item.nodeid, item.location, {}, "failed", f"the guest did not report it:\n{said}", "call"
    )
    told: dict[str, Any] = item.config.hook.pytest_report_to_serializable(config=item.config, report=report)
    return told


def _boot(directory: Path, chosen: list[str]) -> str:
    """Run tests in a booted systemd; return what was printed there."""
    exchange = Path(subprocess.check_output(["mktemp", "-d", "/tmp/wizflowd-guest.XXXXXX"], text=True).strip())
    try:
        _packages(exchange)
        tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp=/tmp/pytest", *chosen]
        enter = ["/usr/bin/env", "-C", str(directory), "BOOTED_GUEST=1", "PYTHONDONTWRITEBYTECODE=1", *tests]
        program = [str(PROJECT / "tests/tools/booted-systemd.sh"), str(exchange), *enter]
        env = {**os.environ, "SHOW": str(PROJECT)}
        done = subprocess.run(program, env=env, capture_output=True, text=True, check=False)
        if (exchange / REPORTS).exists():
            for line in (exchange / REPORTS).read_text().splitlines():
                report = json.loads(line)
                _reports.setdefault(report["nodeid"], []).append(report)
        return f"{done.stdout}\n{done.stderr}"
    finally:
        shutil.rmtree(exchange)


def _packages(exchange: Path) -> None:
    """Put the package there, and one that differs from it by its version: what an upgrade brings."""
    subprocess.run(["make", "-s", "deb"], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    shutil.copy(PROJECT / "dist/wizflowd.deb", exchange / "wizflowd.deb")
    tree = exchange / "tree"
    subprocess.run(["dpkg-deb", "-R", exchange / "wizflowd.deb", tree], check=True)
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("".join(f"Version: {NEXT_VERSION}\n" if "Version:" in line else f"{line}\n" for line in lines))
    pack = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(tree), str(exchange / "next.deb")]
    subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)


@pytest.fixture(scope="session")
def installed() -> None:
    """The package is installed as an operator would; a daemon that does not come up fails every test at once."""
    Path("/var/lib/man-db/auto-update").unlink(missing_ok=True)  # ten seconds for each change of a package
    subprocess.run(["apt-get", "install", "-y", "-q", EXCHANGE / "wizflowd.deb"], check=True)
    if subprocess.run(["systemctl", "is-active", "-q", "wizflowd"], check=False).returncode != 0:
        pytest.fail(subprocess.check_output(["journalctl", "-n", "50", "-u", "wizflowd*"], text=True))
