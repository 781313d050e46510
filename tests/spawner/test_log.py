"""A log keeps head and tail, stays bounded and never raises."""

import os
import resource
import signal
from pathlib import Path

import pytest

from wizflowd.spawner.log import CappedLog


def test_no_byte_no_file(tmp_path: Path) -> None:
    log = CappedLog(str(tmp_path / "a.log"), 100)

    log.close()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("piece", [1, 7, 100, 5000])
@pytest.mark.parametrize("total", [99, 100, 101, 149, 1000, 5000])
def test_head_and_tail_are_kept_however_the_output_comes(tmp_path: Path, piece: int, total: int) -> None:
    data = bytes(65 + i % 26 for i in range(total))
    log = CappedLog(str(tmp_path / "a.log"), 100)

    for start in range(0, total, piece):
        log.write(data[start : start + piece])
    log.close()

    kept = (tmp_path / "a.log").read_bytes()
    if total <= 100:
        assert kept == data
        assert not log.truncated
    else:
        assert kept == data[:50] + f"\n… {total - 100} bytes cut …\n".encode() + data[-50:]
        assert log.truncated
    assert log.state.size == len(kept)


def test_the_tail_begins_with_a_whole_line_where_one_is_near(tmp_path: Path) -> None:
    log = CappedLog(str(tmp_path / "a.log"), 100)

    for number in range(100):
        log.write(f"line {number}\n".encode())
    log.close()

    head, marker, tail = (tmp_path / "a.log").read_text().split("…")
    assert head.startswith("line 0\nline 1\n")
    assert "bytes cut" in marker
    assert tail.strip().splitlines() == [f"line {number}" for number in range(94, 100)]


def test_up_to_the_cap_the_file_is_live_and_then_disk_use_stays_bounded(tmp_path: Path) -> None:
    cap = 1 << 20
    path = tmp_path / "a.log"
    log = CappedLog(str(path), cap)

    log.write(b"x" * (cap - 1))
    live = path.stat().st_size
    for _ in range(50):
        log.write(b"y" * cap)
    size_while_running = path.stat().st_size
    ring = os.fstat(log.state.ring).st_size
    log.close()

    assert live == cap - 1
    assert size_while_running == cap
    assert ring == cap // 2
    assert path.stat().st_size < cap + 100
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.log"]


def test_what_the_disk_does_not_take_is_dropped_and_marked(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the write fails halfway, and works again later."""
    log = CappedLog(str(tmp_path / "a.log"), 1000)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, old[1]))
    try:
        log.write(b"0123456789abc")
        log.write(b"def")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, before)

    log.write(b"ghi")
    log.close()

    assert (tmp_path / "a.log").read_text() == "0123456789\n… 6 bytes lost: File too large …\nghi"


def test_a_log_that_cannot_be_made_is_a_note(tmp_path: Path) -> None:
    log = CappedLog(str(tmp_path / "missing" / "a.log"), 100)

    log.write(b"x" * 500)
    log.close()

    assert "No such file" in log.state.note
