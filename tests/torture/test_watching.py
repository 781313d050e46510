"""Campaign 6: whatever happens to the watched folder while nobody looks, its final contents run, each once."""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, publish, shell, wait_for
from tests.torture.campaign import either, patched_copy, report
from tests.torture.disks import unmount

FILES = either(100, 500)
CHANGES = either(18_000, 40_000)
GROUP = 5
WITHIN_S = 10.0
CONTENT = b'{"tasks": [{"id": "say", "type": "SHELL", "command": "echo %d"}], "description": "%d"}'
QUEUE = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())

pytestmark = pytest.mark.slow


def name_of(number: int) -> str:
    return f"w{number:03d}"


def content(number: int, version: int) -> bytes:
    return CONTENT % (version, number)


def change_often(daemon: Daemon, changes: int) -> dict[str, int]:
    """Rename files over others, group by group: of the last groups there is no event in the queue, it is full by then.

    Return the last version of each.
    """
    rounds, staged = changes // FILES, f"{daemon.home}/staged"
    for begin in range(0, FILES, GROUP):
        for version in range(1, rounds + 1):
            for number in range(begin, begin + GROUP):
                with open(staged, "wb", buffering=0) as file:
                    file.write(content(number, version))
                os.rename(staged, f"{daemon.workflows}/{name_of(number)}.json")  # quicker than pathlib
    return dict.fromkeys(map(name_of, range(FILES)), rounds)


def overflows_of(daemon: Daemon) -> int:
    """Return how often the kernel's queue was too full, as the daemon counts it."""
    (port,) = (line.fields["port"] for line in daemon.told("metrics", "are served"))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith("wizflow_watch_overflows_total "))
    return int(float(value))


@dataclass
class Burst:
    """What came of changes behind the daemon's back: seconds until all had run, what ran wrongly, by kind."""

    took_s: float
    versions: dict[str, int]
    faults: Counter[str] = field(default_factory=Counter)


def burst(daemon: Daemon, within_s: float) -> Burst:
    """Change files while the daemon is stopped; look at what ran when it has gone on."""
    wait_for(lambda: len(daemon.ask("workflows")) == FILES, "all are recorded")
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        versions = change_often(daemon, CHANGES)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    began_s = time.monotonic()
    with contextlib.suppress(AssertionError):  # what is missing is counted
        wait_for(lambda: all((daemon.folder(name) / "latest").exists() for name in versions), "all ran", within_s)
    found = Burst(time.monotonic() - began_s, versions)
    daemon.settle()
    for name, version in versions.items():
        said = [log.read_text().strip() for log in daemon.folder(name).glob("*-*/logs/say.1.log")]
        found.faults["lost"] += not said
        found.faults["repeated"] += len(said) > 1
        found.faults["other content"] += bool(said) and said[-1] != str(version)
    found.faults = +found.faults
    return found


@pytest.fixture
def crowded(make_daemon: MakeDaemon) -> Daemon:
    """A daemon that is not started, with files that it is to record at its first scan and not to run."""
    daemon = make_daemon(watch__first_scan="record")
    daemon.metrics = "127.0.0.1:0"
    for number in range(FILES):
        (daemon.workflows / f"{name_of(number)}.json").write_bytes(content(number, 0))
    return daemon


@pytest.mark.timeout(either(120, 300))
def test_changes_that_overflow_the_queue_run_once_with_their_final_contents(crowded: Daemon) -> None:
    crowded.start()

    found = burst(crowded, 3 * WITHIN_S)

    overflows = overflows_of(crowded)
    report(
        "queue overflow",
        changes=CHANGES,
        queue=QUEUE,
        overflows=overflows,
        contents=FILES,
        faults=dict(found.faults),
        took_s=round(found.took_s, 2),
    )
    assert overflows > 0
    assert found.faults == {}
    assert found.took_s < WITHIN_S


def test_the_campaign_sees_changes_that_only_a_walk_finds(crowded: Daemon, tmp_path: Path) -> None:
    crowded.settings |= patched_copy(
        tmp_path / "patched",
        "watcher/__init__.py",
        ("_MAX_PEEKS = 256", "_MAX_PEEKS = 1 << 20"),
        ("        self._overflow = self._overflow or hint.overflow\n", "        if hint.path is None: return\n"),
        ("wait_s = max(_WALK_AFTER_S, 10 * self._walk_cost_s)", "wait_s = 1e9"),
    )
    crowded.start()

    found = burst(crowded, 3)

    assert found.faults["lost"] > 0


# -- the folder goes, and comes back -------------------------------------------------------------------------------


@pytest.fixture
def apart(make_daemon: MakeDaemon, tmp_path: Path) -> Daemon:
    """A daemon that is not started, with its results in a place of their own."""
    return make_daemon(results_dir=str(tmp_path / "results"), watch__settle="0s")


def fill(folder: Path, versions: Mapping[str, int]) -> None:
    for name, version in versions.items():
        publish(folder / f"{name}.json", json.dumps({"tasks": [shell("say", f"echo {version}")]}))


def said(daemon: Daemon) -> dict[str, list[str]]:
    """Return what the runs of each workflow have said, in the order of their ends."""
    names = {path.name.removesuffix(".runs") for path in daemon.results.glob("w*.runs")}
    return {name: [run.log("say").strip() for run in daemon.finished(name)] for name in sorted(names)}


def wait_available(daemon: Daemon, *, available: bool) -> None:
    wait_for(lambda: bool(daemon.ask("status")["unavailable"]) != available, f"available: {available}", 5)


@pytest.fixture
def mountable(apart: Daemon) -> Iterator[Daemon]:
    """The same with its folder on a tmpfs, that the test mounts and unmounts."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    mount(apart)
    yield apart
    while os.path.ismount(apart.workflows):
        subprocess.run(["umount", "--lazy", apart.workflows], check=True)


def mount(daemon: Daemon) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "torture", daemon.workflows], check=True)


def remount_often(daemon: Daemon, rounds: int, within_s: float = WITHIN_S) -> dict[str, list[str]]:
    """Unmount the folder and mount it again empty and then filled, with one file changed; return what is expected."""
    versions = {name_of(number): 0 for number in range(20)}
    expected = {name: ["0"] for name in versions}
    fill(daemon.workflows, versions)
    daemon.start()
    for round_ in range(rounds):
        wait_for(lambda: said(daemon) == expected, f"round {round_}", within_s)
        unmount(daemon.workflows)
        wait_available(daemon, available=False)
        mount(daemon)
        time.sleep(0.2)  # time to fall for the empty folder
        changed = name_of(round_ % len(versions))
        versions[changed] += 1
        expected[changed].append(str(versions[changed]))
        fill(daemon.workflows, versions)
        wait_available(daemon, available=True)
    return expected


def assert_ran_once(daemon: Daemon, expected: dict[str, list[str]], campaign: str, rounds: int) -> None:
    """Check that every content ran, none twice, and nothing was taken for a removal."""
    wait_for(lambda: said(daemon) == expected, "the last change ran", 10)
    daemon.settle()
    removed = len(daemon.told("workflow.removed"))
    report(campaign, rounds=rounds, runs=sum(map(len, said(daemon).values())), removed=removed)
    assert said(daemon) == expected
    assert removed == 0


@pytest.mark.root
def test_an_unmounted_folder_is_no_removal_and_runs_nothing_twice(mountable: Daemon) -> None:
    rounds = either(3, 20)

    expected = remount_often(mountable, rounds)

    assert_ran_once(mountable, expected, "unmount", rounds)


def without_doubt(folder: Path) -> dict[str, str]:
    """Return a watcher that takes an empty folder for what it looks like."""
    return patched_copy(folder, "watcher/root.py", ("        if not held or listing.files:\n", "        if True:\n"))


@pytest.mark.root
def test_the_campaign_sees_a_mass_removal(mountable: Daemon, tmp_path: Path) -> None:
    mountable.settings |= without_doubt(tmp_path / "patched")

    with pytest.raises(AssertionError):
        remount_often(mountable, 2, 3)

    assert mountable.told("workflow.removed")


def swap_often(daemon: Daemon, rounds: int, within_s: float = WITHIN_S) -> dict[str, list[str]]:
    """Let a link lead to one folder after the other, as a checkout that is published whole; return what is expected."""
    daemon.workflows.rmdir()
    versions = {name_of(number): 0 for number in range(20)}
    expected = {name: ["0"] for name in versions}
    for round_ in range(rounds + 1):
        release, link = daemon.home / f"release-{round_}", daemon.home / "link"
        release.mkdir()
        if round_:
            changed = name_of(round_ % len(versions))
            versions[changed] += 1
            expected[changed].append(str(versions[changed]))
        fill(release, versions)
        link.symlink_to(release)
        link.rename(daemon.workflows)
        if not round_:
            daemon.start()
        wait_for(lambda: said(daemon) == expected, f"round {round_}", within_s)
        shutil.rmtree(daemon.home / f"release-{round_ - 1}", ignore_errors=True)
    return expected


def test_each_swap_of_a_linked_folder_runs_what_changed_once(apart: Daemon) -> None:
    rounds = either(5, 50)

    expected = swap_often(apart, rounds)

    assert_ran_once(apart, expected, "link swapped", rounds)


def test_the_campaign_sees_a_swap_that_nobody_notices(apart: Daemon, tmp_path: Path) -> None:
    blind = (
        "        if watch.wd == self._parent_wd:\n",
        "        if watch.wd == self._parent_wd:\n            return None\n",
    )
    apart.settings |= patched_copy(tmp_path / "patched", "watcher/inotify.py", blind)

    with pytest.raises(AssertionError, match="round 1"):
        swap_often(apart, 1, 4)


def make_anew_often(daemon: Daemon, rounds: int, within_s: float = WITHIN_S) -> dict[str, list[str]]:
    """Remove the folder and make it anew, empty and then filled, with one file changed; return what is expected."""
    versions = {name_of(number): 0 for number in range(20)}
    expected = {name: ["0"] for name in versions}
    fill(daemon.workflows, versions)
    daemon.start()
    for round_ in range(rounds):
        wait_for(lambda: said(daemon) == expected, f"round {round_}", within_s)
        shutil.rmtree(daemon.workflows)
        changed = name_of(round_ % len(versions))
        versions[changed] += 1
        expected[changed].append(str(versions[changed]))
        daemon.workflows.mkdir()
        time.sleep(0.2)  # time to fall for the empty folder
        fill(daemon.workflows, versions)
    return expected


def test_a_root_that_is_made_anew_again_and_again_runs_what_changed_once(apart: Daemon) -> None:
    rounds = either(5, 50)

    expected = make_anew_often(apart, rounds)

    assert_ran_once(apart, expected, "root made anew", rounds)


def test_the_campaign_sees_that_a_root_made_anew_is_taken_for_a_removal(apart: Daemon, tmp_path: Path) -> None:
    apart.settings |= without_doubt(tmp_path / "patched")
    make_anew_often(apart, 0)
    wait_for(lambda: len(said(apart)) == 20, "all ran")

    shutil.rmtree(apart.workflows)
    apart.workflows.mkdir()

    wait_for(lambda: apart.told("workflow.removed"), "the campaign's fault", WITHIN_S)


# -- what is no file -----------------------------------------------------------------------------------------------


def make_strange(folder: bytes) -> None:
    """Fill a folder with what is named like a definition and is none."""
    os.mkfifo(folder + b"/pipe.json")
    for name, minor in ((b"zero", 5), (b"full", 7)):
        if os.geteuid() == 0:
            os.mknod(folder + b"/" + name + b".yaml", stat.S_IFCHR | 0o644, os.makedev(1, minor))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(folder + b"/socket.yml")
    os.mkdir(folder + b"/folder.json")
    os.symlink(b"nowhere", folder + b"/dangling.json")
    os.symlink(b"loop.json", folder + b"/loop.json")
    os.symlink(b"/dev/zero", folder + b"/endless.json")
    os.symlink(b"pipe.json", folder + b"/linked-pipe.json")
    tasks = json.dumps({"tasks": [shell("say", "touch {{run.dir}}/PWNED")]}).encode()
    os.mkdir(folder + b"/\xff\xfe")
    for name in (b"\xff.json", b"caf\xe9.yaml", b"\xff\xfe/inner.json", b"line\nbreak.json", b"\x1b[31m.json"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(tasks)


def flip(folder: Path, flips: int) -> None:
    """Let a name stand for a file, then for a pipe, then for nothing, quicker than anybody can look."""
    for number in range(flips):
        path, draft = folder / f"flip{number % 5}.json", folder / ".draft"
        if number % 3 == 0:
            draft.write_text("{}")
        elif number % 3 == 1:
            os.mkfifo(draft)
        else:
            path.unlink(missing_ok=True)
            continue
        draft.rename(path)


def good_beside_strange(daemon: Daemon) -> list[float]:
    """Return for how long each good workflow took that was dropped among strange things."""
    make_strange(os.fsencode(daemon.workflows))
    took_s = []
    for number in range(10):
        flip(daemon.workflows, either(200, 2000))
        began_s = time.monotonic()
        daemon.drop(f"good{number}.json", [shell("say", "echo good")])
        assert daemon.wait_run(f"good{number}", deadline_s=5).status == "succeeded"
        took_s.append(time.monotonic() - began_s)
    return took_s


def test_names_that_are_not_utf8_pipes_and_devices_harm_nobody(daemon: Daemon) -> None:
    took_s = good_beside_strange(daemon)
    daemon.settle()

    ran = [run["workflow"] for run in daemon.ask("runs", limit=1000)]
    report("strange files", good="10 of 10", slowest_s=round(max(took_s), 3), others_run=len(ran) - 11)
    assert sorted(ran) == sorted([*(f"good{number}" for number in range(10)), "marker-1"])
    assert list(daemon.workflows.rglob("PWNED")) == []
    daemon.restart()
    assert daemon.ask("status")["ready"]


def test_the_campaign_sees_a_daemon_that_waits_for_a_pipe(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon()
    daemon.settings |= patched_copy(tmp_path / "patched", "watcher/settle.py", (" | os.O_NONBLOCK", ""))
    any_file = (
        "_DEFINITION.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)",
        "_DEFINITION.fullmatch(entry.name)",
    )
    any_hinted_file = (
        "Entry.of(root, path, seen) if stat.S_ISREG(seen.st_mode) else None",
        "Entry.of(root, path, seen)",
    )
    patched_copy(tmp_path / "patched", "watcher/scan.py", any_file, any_hinted_file)
    daemon.start()

    with pytest.raises(AssertionError, match="1 runs of good"):
        good_beside_strange(daemon)
