"""Campaign 11: who else could write what runs here is refused; the refusal's command mends it; trust is configured."""

import os
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, as_bytes, shell, wait_for
from tests.torture.campaign import patched_copy, report

STRANGER = 12345
"""A user and a group without a name."""
COLLEAGUE = "games"
"""A user that every Debian has, and who is in no group of ours."""
WORKFLOW = as_bytes({"tasks": [shell("work", "echo ran >> ran")]})

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def daemon(make_daemon: MakeDaemon) -> Iterator[Daemon]:
    """A daemon that is not started, at a place that everybody can reach; the folder has a workflow below `team`."""
    home = Path(tempfile.mkdtemp(prefix="wizflow-modes-"))
    home.chmod(0o755)
    daemon = make_daemon(home)
    daemon.may_complain = True
    (daemon.workflows / "team").mkdir()
    (daemon.workflows / "team" / "a b.json").write_bytes(WORKFLOW)
    yield daemon
    daemon.close()
    shutil.rmtree(home)


def give_acl(path: Path) -> None:
    """Let a named user write, as `setfacl -m u:12345:rw` does. Source: linux/posix_acl_xattr.h."""
    nobody = 0xFFFFFFFF
    entries = [(0x01, 6, nobody), (0x02, 6, STRANGER), (0x04, 4, nobody), (0x10, 6, nobody), (0x20, 4, nobody)]
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", packed)


def link_hard(path: Path) -> None:
    os.link(path, path.with_name("another-name"))


def mode(bits: int) -> Callable[[Path], None]:
    return lambda path: path.chmod(bits)


def owner(path: Path) -> None:
    os.chown(path, STRANGER, -1)


def group(path: Path) -> None:
    os.chown(path, -1, STRANGER)
    path.chmod(path.stat().st_mode | stat.S_IWGRP)


def everything(path: Path) -> None:
    for loosen in (owner, group, mode(0o666), link_hard):
        loosen(path)


@dataclass(frozen=True)
class Looseness:
    """A way to be loose: at a path relative to the daemon's home, with words of the refusal."""

    name: str
    at: str
    loosen: Callable[[Path], None]
    says: str


FILE, BELOW, FOLDER, PARENT = "workflows/team/a b.json", "workflows/team", "workflows", "."
LOOSENESS = [
    Looseness("file that everybody can write", FILE, mode(0o666), "can be written by everybody"),
    Looseness("file of a stranger", FILE, owner, "belongs to user 12345"),
    Looseness("file that a strange group can write", FILE, group, "the group 12345"),
    Looseness("file with an access list", FILE, give_acl, "by its access list"),
    Looseness("file with a second name", FILE, link_hard, "has 2 hard links"),
    Looseness("file with all of that", FILE, everything, "has 2 hard links"),
    Looseness("folder below that everybody can write", BELOW, mode(0o777), "can be written by everybody"),
    Looseness("folder below, sticky", BELOW, mode(0o1777), "can be written by everybody"),
    Looseness("folder below of a stranger", BELOW, owner, "belongs to user 12345"),
    Looseness("folder that everybody can write", FOLDER, mode(0o777), "can be written by everybody"),
    Looseness("folder that a strange group can write", FOLDER, group, "the group 12345"),
    Looseness("parent that everybody can write", PARENT, mode(0o777), "can be written by everybody"),
    Looseness("parent of a stranger", PARENT, owner, "belongs to user 12345"),
]


def refusal(daemon: Daemon) -> list[str]:
    """Wait until the folder or the workflow is refused, and return the problems."""
    error = daemon.folder("team/a b") / "error.txt"

    def told() -> list[str]:
        unavailable = daemon.ask("status")["unavailable"]
        if unavailable:
            return [f"{daemon.workflows}: {part}" for part in unavailable.split(f"{daemon.workflows}: ")[1:]]
        return error.read_text().splitlines() if error.exists() else []

    return wait_for(told, "a refusal", 20)


def mends_of(problems: list[str]) -> list[str]:
    """Return the command that each problem ends with."""
    return [problem.rstrip("; ").rpartition("; ")[2] for problem in problems]


@pytest.mark.parametrize("loose", LOOSENESS, ids=lambda loose: loose.name)
def test_what_is_loose_is_refused_and_its_own_command_mends_it(daemon: Daemon, loose: Looseness) -> None:
    loose.loosen(daemon.home / loose.at)
    daemon.launch()
    problems = refusal(daemon)
    assert loose.says in " ".join(problems)
    assert daemon.finished("team/a b") == []

    for mend in mends_of(problems):
        if mend.startswith("setfacl") and not shutil.which("setfacl"):
            pytest.skip("the package acl is not installed")
        subprocess.run(["sh", "-ec", mend], check=True, cwd="/")

    assert daemon.wait_run("team/a b").status == "succeeded"
    assert not (daemon.folder("team/a b") / "error.txt").exists()
    report("strict modes", loose=loose.name, refused=1, commands=len(problems), mended=1)


@pytest.mark.parametrize(
    "loose", [LOOSENESS[0], LOOSENESS[1], LOOSENESS[4], LOOSENESS[11]], ids=lambda loose: loose.name
)
def test_the_campaign_sees_modes_that_are_not_looked_at(daemon: Daemon, tmp_path: Path, loose: Looseness) -> None:
    rules = (
        ("if seen.st_uid not in self._uids:", "if False:"),
        ("if seen.st_mode & stat.S_IWOTH:", "if False:"),
        ("if seen.st_nlink > 1:", "if False:"),
    )
    daemon.settings |= patched_copy(tmp_path / "patched", "watcher/modes.py", *rules)
    loose.loosen(daemon.home / loose.at)
    daemon.start()

    assert daemon.wait_run("team/a b").status == "succeeded"


def test_a_workflow_in_force_stays_as_it_was_when_its_file_becomes_loose(daemon: Daemon) -> None:
    daemon.start()
    daemon.wait_run("team/a b")
    path = daemon.home / FILE
    path.chmod(0o666)
    path.write_bytes(WORKFLOW.replace(b"echo ran", b"echo STRANGER"))

    refusal(daemon)
    daemon.settle()

    assert len(daemon.finished("team/a b")) == 1
    (mend,) = mends_of(refusal(daemon))
    subprocess.run(["sh", "-ec", mend], check=True)
    daemon.wait_run("team/a b", 2)


@pytest.fixture
def checkout(daemon: Daemon) -> Iterator[Path]:
    """A folder of a stranger, bind-mounted below the watched one, as for a container."""
    outside = daemon.home / "checkout"
    outside.mkdir()
    (outside / "mounted.json").write_bytes(WORKFLOW)
    for path in (outside, outside / "mounted.json"):
        os.chown(path, STRANGER, STRANGER)
    (outside / "mounted.json").chmod(0o664)
    below = daemon.workflows / "mounted"
    below.mkdir()
    if subprocess.run(["mount", "--bind", outside, below], capture_output=True).returncode:
        pytest.skip("cannot mount")
    yield outside
    daemon.close()
    subprocess.run(["umount", below], check=True)


@pytest.mark.usefixtures("checkout")
def test_a_bind_mounted_checkout_runs_where_its_owner_is_trusted(daemon: Daemon) -> None:
    error = daemon.folder("mounted/mounted") / "error.txt"
    daemon.start()
    said = wait_for(lambda: error.read_text() if error.exists() else "")
    assert "belongs to user 12345" in said
    daemon.stop()

    daemon.settings["WIZFLOWD_OWNERS"] = f'["{STRANGER}", "@{STRANGER}"]'
    daemon.start()

    assert daemon.wait_run("mounted/mounted").status == "succeeded"
    report("bind-mounted checkout", refused_by_default=1, runs_with_owners=1)


def test_a_colleague_s_copy_runs_where_she_is_trusted(daemon: Daemon) -> None:
    """As cp makes it with the umask 002 of Debian's private groups, in a folder that her group may write."""
    shared = daemon.workflows / "shared"
    shared.mkdir()
    shutil.chown(shared, group=COLLEAGUE)
    shared.chmod(stat.S_ISGID | 0o775)
    draft = daemon.home / "draft.json"
    draft.write_bytes(WORKFLOW)
    draft.chmod(0o644)
    copy = f"umask 002; cp {draft} {shared}/copied.json"
    subprocess.run(
        ["setpriv", f"--reuid={COLLEAGUE}", f"--regid={COLLEAGUE}", "--clear-groups", "sh", "-ec", copy], check=True
    )
    error = daemon.folder("shared/copied") / "error.txt"
    daemon.start()
    said = wait_for(lambda: error.read_text() if error.exists() else "")
    assert f"belongs to {COLLEAGUE}" in said
    daemon.stop()

    daemon.settings["WIZFLOWD_OWNERS"] = f'["{COLLEAGUE}", "@{COLLEAGUE}"]'
    daemon.start()

    assert daemon.wait_run("shared/copied").status == "succeeded"
    report("a colleague's cp", refused_by_default=1, runs_with_owners=1)
