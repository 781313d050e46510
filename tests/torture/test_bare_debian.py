"""The package on a Debian 12 that has nothing but itself: made by debootstrap, booted, `apt install ./wizflowd.deb`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.torture.campaign import LONG, ROOT, report

PROGRAMS = ("debootstrap", "systemd-nspawn", "apt-get")
OPERATOR = """\
set -ex
apt-get install -y -q /wizflowd.deb
systemctl is-active wizflowd wizflowd-spawner wizflowd-events.socket wizflowd-control.socket
echo 'tasks: [{id: hello, type: SHELL, command: "echo hello from $(id -un)"}]' >/var/lib/wizflowd/workflows/hello.yaml
timeout 30 sh -c 'until wizflow status hello | grep -q succeeded; do sleep 0.1; done'
wizflow logs hello | grep 'hello from wizflowd'
wizflow graph -o /tmp/hello.png /var/lib/wizflowd/workflows/hello.yaml
"""
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not LONG, reason="takes minutes: WIZFLOW_TORTURE=long"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can boot a container"),
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)}"),
]


def test_the_package_installs_on_a_bare_debian_and_starts(tmp_path: Path) -> None:
    bare, exchange = tmp_path / "bare", tmp_path / "exchange"
    exchange.mkdir()
    (exchange / "operator.sh").write_text(OPERATOR)
    subprocess.run(["make", "-s", "deb"], cwd=ROOT, check=True)
    debootstrap(bare)
    shutil.copy(ROOT / "dist/wizflowd.deb", bare)
    # The guest has no network: what the package asks of Debian is fetched before the boot.
    fetch = "apt-get update -q && apt-get install -y -q --download-only /wizflowd.deb"
    subprocess.run(["chroot", bare, "sh", "-c", fetch], check=True)
    python_before = (bare / "usr/bin/python3.11").exists()

    done = subprocess.run(
        [ROOT / "tests/tools/booted-systemd.sh", exchange, "sh", "/exchange/operator.sh"],
        env={**os.environ, "ROOT": str(bare)},
        capture_output=True,
        text=True,
    )

    assert not python_before
    assert done.returncode == 0, done.stdout + done.stderr
    report("bare_debian", package_bytes=(ROOT / "dist/wizflowd.deb").stat().st_size)


def debootstrap(bare: Path) -> None:
    """Make the least Debian 12 that boots, from the mirror that this host uses."""
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Codename: bookworm"]
    mirror = subprocess.check_output(ask, text=True).split()[0]
    make = ["debootstrap", "--variant=minbase", "--include=systemd-sysv,dbus", "bookworm", str(bare), mirror]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
