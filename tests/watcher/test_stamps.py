"""A folder that need not be listed again: what a walk finds is what one finds that has seen nothing before."""

import mmap
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wizflowd.watcher import WatchSettings, scan, stamps
from wizflowd.watcher.ledger import Ledger
from wizflowd.watcher.scan import Listing, walk
from wizflowd.watcher.stamps import file_system_of


class Looking:
    """Walks through one folder, each with what the one before has found; the clock can be turned."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.before = Listing()
        self.listed: list[str] = []
        self.ahead_s = 10
        time_ns, scandir = time.time_ns, os.scandir

        def noting(path: str) -> object:
            self.listed.append(os.path.relpath(path, folder))
            return scandir(path)

        monkeypatch.setattr(time, "time_ns", lambda: time_ns() + self.ahead_s * 1_000_000_000)
        monkeypatch.setattr(os, "scandir", noting)
        monkeypatch.setattr(stamps, "file_system_of", lambda _path: "ext4")

    def walk(self, on_folder: scan.OnFolder = lambda _path, _seen: None) -> Listing:
        self.listed.clear()
        self.before = walk(str(self.folder), on_folder, self.before)
        return self.before

    def found_anew(self) -> object:
        """Return what a walk finds that has seen nothing before."""
        return found(walk(str(self.folder), lambda _path, _seen: None))

    def pass_a_tick(self) -> None:
        """Wait until the kernel gives another stamp than it gave last."""
        probe = self.folder.parent / "probe"
        probe.touch()
        began_ns = probe.stat().st_ctime_ns
        while probe.stat().st_ctime_ns == began_ns:
            probe.touch()


@pytest.fixture
def looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Looking:
    folder = tmp_path / "workflows"
    for name in ("a.yaml", "b.yaml", "notes.txt", "team/c.yaml", "team/d.yaml", "team/deep/e.yaml", "a.runs/1/x.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    looking = Looking(folder, monkeypatch)
    looking.pass_a_tick()
    return looking


def found(listing: Listing) -> object:
    files = {path: (entry.signature, entry.access, entry.target) for path, entry in listing.files.items()}
    return files, set(listing.folders), listing.unreadable, listing.hollow, listing.linked, listing.bare


def test_a_folder_that_is_as_it_was_is_not_listed_again(looking: Looking) -> None:
    first = looking.walk()
    again = looking.walk()

    assert looking.listed == []
    assert found(again) == found(first)
    assert all(again.files[path] is entry for path, entry in first.files.items())


def write_by_mapping(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 1) as mapped:
        mapped[0:1] = b"y"
        mapped.flush()


def write_by_another_name(path: Path) -> None:
    path.parent.parent.joinpath("other").hardlink_to(path)
    path.parent.parent.joinpath("other").write_bytes(b"y")


def replace(path: Path, by: Callable[[Path], object]) -> None:
    by(path.with_name(".new"))
    path.with_name(".new").rename(path)


CHANGES: dict[str, list[Callable[[Path], object]]] = {
    "nothing": [],
    "written in place": [lambda f: (f / "a.yaml").write_bytes(b"y")],
    "written below": [lambda f: (f / "team/deep/e.yaml").write_bytes(b"y")],
    "written by a mapping": [lambda f: write_by_mapping(f / "a.yaml")],
    "written by another name": [lambda f: write_by_another_name(f / "a.yaml")],
    "cut off": [lambda f: os.truncate(f / "a.yaml", 0)],
    "another mode": [lambda f: (f / "a.yaml").chmod(0o600)],
    "an old time": [lambda f: os.utime(f / "a.yaml", ns=(1, 1))],
    "replaced": [lambda f: replace(f / "a.yaml", lambda new: new.write_bytes(b"x"))],
    "added under an old time of the folder": [
        lambda f: os.utime(f, ns=(1, 1)),
        lambda f: (f / "new.yaml").touch(),
        lambda f: os.utime(f, ns=(1, 1)),
    ],
    "replaced by a pipe": [lambda f: replace(f / "a.yaml", os.mkfifo)],
    "replaced by a link": [lambda f: replace(f / "a.yaml", lambda new: new.symlink_to("b.yaml"))],
    "swapped": [
        lambda f: (f / "a.yaml").rename(f / "t"),
        lambda f: (f / "b.yaml").rename(f / "a.yaml"),
        lambda f: (f / "t").rename(f / "b.yaml"),
    ],
    "added": [lambda f: (f / "new.yaml").touch()],
    "added below": [lambda f: (f / "team/deep/new.yaml").touch()],
    "removed": [lambda f: (f / "a.yaml").unlink()],
    "removed below": [lambda f: (f / "team/c.yaml").unlink()],
    "made what it was not": [lambda f: (f / "notes.txt").rename(f / "notes.yaml")],
    "a folder more": [lambda f: (f / "more").mkdir(), lambda f: (f / "more/new.yaml").touch()],
    "a folder less": [lambda f: (f / "team").rename(f.parent / "away")],
    "a folder made anew": [
        lambda f: (f / "team").rename(f.parent / "away"),
        lambda f: (f / "team").mkdir(),
        lambda f: (f / "team/c.yaml").touch(),
    ],
    "a folder emptied": [lambda f: (f / "team/deep/e.yaml").unlink()],
    "a folder closed": [lambda f: (f / "team/deep").chmod(0)],
    "a folder that is a link": [
        lambda f: (f / "team").rename(f / ".team"),
        lambda f: (f / "team").symlink_to(".team"),
    ],
    "the folder itself made anew": [
        lambda f: f.rename(f.parent / "away"),
        lambda f: f.mkdir(),
        lambda f: (f / "a.yaml").touch(),
    ],
    "the folder itself a link": [lambda f: f.rename(f.parent / "away"), lambda f: f.symlink_to("away")],
}


@pytest.mark.parametrize("steps", CHANGES.values(), ids=CHANGES)
def test_what_has_changed_is_found_by_its_stamp_or_its_folder_s(
    looking: Looking, steps: list[Callable[[Path], object]]
) -> None:
    looking.walk()
    looking.pass_a_tick()

    for step in steps:
        step(looking.folder)

    assert found(looking.walk()) == looking.found_anew()
    assert found(looking.walk()) == looking.found_anew()


def test_where_a_link_leads_is_looked_at_in_each_walk(looking: Looking) -> None:
    folder = looking.folder
    (folder / "alias").symlink_to("team/later")
    (folder / "f.yaml").symlink_to("team/f.txt")
    looking.walk()
    looking.pass_a_tick()

    (folder / "team/later").mkdir()
    (folder / "team/later/new.yaml").touch()
    (folder / "team/f.txt").touch()

    assert {"alias/new.yaml", "f.yaml"} <= looking.walk().files.keys()
    (folder / "team/later/new.yaml").rename(folder / "team/later/newer.yaml")
    assert "alias/newer.yaml" in looking.walk().files


def test_what_comes_while_the_watch_is_set_is_found(looking: Looking) -> None:
    looking.walk()
    looking.pass_a_tick()

    again = looking.walk(lambda path, _seen: (looking.folder / path / "new.yaml").touch())

    assert {"new.yaml", "team/new.yaml", "team/deep/new.yaml"} <= again.files.keys()


@pytest.mark.parametrize("change", [os.unlink, lambda path: replace(path, os.mkfifo)], ids=["removed", "a pipe"])
def test_what_changes_after_its_folder_was_looked_at_is_taken_as_it_is(
    looking: Looking, change: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = looking.walk()

    def late(seen: os.stat_result) -> stamps.Signature:
        if (looking.folder / "a.yaml").is_file():
            change(looking.folder / "a.yaml")
        return stamps.signature(seen)

    monkeypatch.setattr(scan, "signature", late)

    assert first.files.keys() - looking.walk().files.keys() == {"a.yaml"}


def test_a_young_folder_is_listed_again_until_it_is_at_rest(looking: Looking) -> None:
    looking.ahead_s = 0
    looking.walk()
    looking.walk()
    young = sorted(looking.listed)

    looking.ahead_s = 10
    looking.walk()
    looking.walk()

    assert young == [".", "team", "team/deep"]
    assert looking.listed == []


def test_a_clock_that_was_set_back_makes_old_stamps_worthless(looking: Looking) -> None:
    looking.ahead_s = 100
    looking.walk()

    looking.ahead_s = 90
    looking.walk()

    assert sorted(looking.listed) == [".", "team", "team/deep"]


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "overlay", "gfs2", ""])
def test_folders_under_other_clocks_are_always_listed(
    looking: Looking, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "file_system_of", lambda _path: kind)
    looking.walk()
    looking.walk()

    assert sorted(looking.listed) == [".", "team", "team/deep"]


def test_a_folder_without_a_definition_is_listed_as_its_names_may_be_encrypted(looking: Looking) -> None:
    (looking.folder / "team/deep/e.yaml").rename(looking.folder / "team/deep/x6vcmJD2bBbHqwyk4kHA")
    looking.pass_a_tick()
    looking.walk()
    looking.walk()

    assert looking.listed == ["team/deep"]


def test_the_file_system_is_that_of_the_mount() -> None:
    assert file_system_of("/proc/self") == "proc"
    assert file_system_of("/nowhere/at/all") == ""


def test_a_peek_at_what_has_not_changed_makes_no_work_for_the_walk(
    looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(str(looking.folder), WatchSettings(settle_s=0), {})
    ledger.walk(lambda _path, _seen: None, lambda: False)
    paths = ["a.yaml", "b.yaml", "team/c.yaml", "team/d.yaml", "team/deep/e.yaml"]
    while ledger.peek(paths).peek_s != float("inf"):
        time.sleep(0.01)
    asked_for: list[str] = []
    monkeypatch.setattr(scan, "identity_of", asked_for.append)

    ledger.walk(lambda _path, _seen: None, lambda: False)

    assert asked_for == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize("where", [".", "team", "team/c.yaml"])
def test_what_is_mounted_over_a_name_is_found_and_what_comes_off_too(looking: Looking, where: str) -> None:
    other, place = looking.folder.parent / "other", looking.folder / where
    if place.is_dir():
        other.mkdir()
        (other / "mounted.yaml").touch()
    else:
        other.write_bytes(b"mounted")
    looking.pass_a_tick()
    looking.walk()
    if subprocess.run(["mount", "--bind", other, place], capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        mounted = found(looking.walk()), looking.found_anew()
    finally:
        subprocess.run(["umount", place], check=True)

    assert mounted[0] == mounted[1]
    assert found(looking.walk()) == looking.found_anew() != mounted[0]
