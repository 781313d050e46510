"""What is told after which look, one look at a time."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from wizflowd.core.observations import FolderObservation, ScanDone, SourceGone, SourceSeen, WorkflowId
from wizflowd.watcher import WatchSettings, scan
from wizflowd.watcher import ledger as ledger_module
from wizflowd.watcher.ledger import Ledger, Look
from wizflowd.watcher.scan import Entry, entry_at


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "workflows"
    folder.mkdir()
    return folder


def walk(ledger: Ledger) -> Look:
    return ledger.walk(lambda _path, _seen: None, lambda: False)


def contents(look: Look) -> list[bytes]:
    return [o.source.data for o in look.observations if isinstance(o, SourceSeen)]


def told(look: Look) -> list[FolderObservation]:
    return [o for o in look.observations if not isinstance(o, ScanDone)]


def wait_until(monotonic_s: float) -> None:
    while time.monotonic() < monotonic_s:
        time.sleep(0.002)


def test_a_file_that_is_away_for_a_moment_is_a_save(folder: Path) -> None:
    (folder / "etl.yaml").write_bytes(b"x")
    ledger = Ledger(str(folder), WatchSettings(settle_s=0), {})
    walk(ledger)

    (folder / "etl.yaml").unlink()
    away = [walk(ledger), walk(ledger), ledger.peek(["etl.yaml"])]
    (folder / "etl.yaml").write_bytes(b"x")
    back = walk(ledger)
    wait_until(away[0].walk_s)

    assert [told(look) for look in (*away, back, walk(ledger))] == [[]] * 5


def test_a_file_that_stays_away_is_gone_at_the_time_foretold(folder: Path) -> None:
    (folder / "etl.yaml").write_bytes(b"x")
    ledger = Ledger(str(folder), WatchSettings(settle_s=0), {})
    walk(ledger)

    (folder / "etl.yaml").unlink()
    wait_until(walk(ledger).walk_s)

    assert told(walk(ledger)) == [SourceGone(WorkflowId("etl"))]


def test_a_file_is_quiet_for_the_settle_time_before_it_is_told(folder: Path) -> None:
    ledger = Ledger(str(folder), WatchSettings(settle_s=0.08), {})
    (folder / "etl.yaml").write_bytes(b"x")
    began = time.monotonic()

    first = walk(ledger)
    early = ledger.peek(["etl.yaml"])
    wait_until(first.peek_s)

    assert contents(early) == contents(first) == []
    assert first.peek_s >= began + 0.08
    assert contents(ledger.peek([])) == [b"x"]


def test_a_later_write_under_the_same_stat_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def coarse(seen: os.stat_result) -> tuple[int, int, int, int, int]:
        return (seen.st_dev, seen.st_ino, seen.st_size, 0, 0)

    monkeypatch.setattr("wizflowd.watcher.scan.signature", coarse)
    monkeypatch.setattr("wizflowd.watcher.settle.signature", coarse)
    ledger = Ledger(str(folder), WatchSettings(settle_s=0), {})
    (folder / "etl.yaml").write_bytes(b"a")

    first = walk(ledger)
    (folder / "etl.yaml").write_bytes(b"b")
    wait_until(first.peek_s)

    assert contents(first) == [b"a"]
    assert contents(ledger.peek([])) == [b"b"]


def test_a_file_that_stays_open_for_writing_is_asked_after_ever_less_often(folder: Path) -> None:
    ledger = Ledger(str(folder), WatchSettings(settle_s=0), {})
    with (folder / "etl.yaml").open("wb"):
        waits = []
        look = walk(ledger)
        for _ in range(4):
            wait_until(look.peek_s)
            look = ledger.peek([])
            waits.append(look.peek_s - time.monotonic())

    assert waits == sorted(waits)
    assert waits[-1] > 2 * waits[0]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_mount_that_comes_off_below_is_no_removal(folder: Path) -> None:
    (folder / "team").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "mode=755", "none", str(folder / "team")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        (folder / "team/etl.yaml").write_bytes(b"x")
        ledger = Ledger(str(folder), WatchSettings(settle_s=0), {})
        walk(ledger)
    finally:
        subprocess.run(["umount", str(folder / "team")], check=True)

    first = walk(ledger)
    wait_until(time.monotonic() + 0.06)

    assert told(first) == told(walk(ledger)) == []


def test_a_walk_over_ten_thousand_known_files_is_cheap(folder: Path) -> None:
    for number in range(10_000):
        (folder / f"w{number}.json").touch()
    ledger = Ledger(str(folder), WatchSettings(), {})
    costs = []

    for _ in range(5):
        began = time.process_time()
        look = walk(ledger)
        costs.append(time.process_time() - began)

    done = look.observations[-1]
    assert isinstance(done, ScanDone)
    assert len(done.present) == 10_000
    assert min(costs) < 0.15


def test_a_look_reads_so_many_bytes_and_the_next_goes_on_without_looking_at_what_must_wait(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_BYTES_PER_LOOK", 25)
    texts = [b"%010d" % number for number in range(30)]
    for number, text in enumerate(texts):
        (folder / f"w{number}.yaml").write_bytes(text)
    looked_at: list[str] = []

    def noting(root: str, path: str) -> Entry | None:
        looked_at.append(path)
        return entry_at(root, path)

    monkeypatch.setattr(scan, "entry_at", noting)
    ledger = Ledger(str(folder), WatchSettings(settle_s=0), {})

    looks = [walk(ledger)]
    while len([data for look in looks for data in contents(look)]) < len(texts):
        wait_until(looks[-1].peek_s)
        looks.append(ledger.peek([]))

    assert max(len(contents(look)) for look in looks) == 3
    assert sorted(data for look in looks for data in contents(look)) == texts
    assert len(looked_at) <= 2 * len(texts)  # once to tell it, and once more where it was written just before
