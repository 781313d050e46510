"""When the bytes of a file can be had."""

import mmap
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from wizflowd.watcher.scan import Entry, entry_at
from wizflowd.watcher.settle import Unsettled, read_settled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "etl.yaml"
    path.write_bytes(b"content")
    return path


def entry_of(path: Path) -> Entry:
    entry = entry_at(str(path.parent), path.name)
    assert entry is not None
    return entry


def read(entry: Entry, quiet_s: float = 1.0, max_bytes: int = 100) -> bytes | Unsettled:
    return read_settled(entry, quiet_s=quiet_s, max_bytes=max_bytes)


def test_a_file_that_nobody_writes_is_read_at_once(path: Path) -> None:
    assert read(entry_of(path), quiet_s=0) == b"content"


def test_a_file_that_is_open_for_writing_is_busy(path: Path) -> None:
    with path.open("ab"):
        assert read(entry_of(path)) is Unsettled.BUSY
    assert read(entry_of(path)) == b"content"


def test_a_file_that_is_mapped_for_writing_is_busy(path: Path) -> None:
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    entry = entry_of(path)

    while_mapped = read(entry)
    mapped.close()

    assert while_mapped is Unsettled.BUSY
    assert read(entry_of(path)) == b"content"


def test_a_file_that_is_another_than_the_scan_saw_is_changed(path: Path) -> None:
    entry = entry_of(path)

    beside = path.with_name("beside")
    beside.write_bytes(b"another")
    beside.rename(path)

    assert read(entry) is Unsettled.CHANGED


@pytest.mark.parametrize("kind", ["fifo", "link", "nothing"])
def test_what_took_the_place_of_the_file_is_not_opened(path: Path, kind: str) -> None:
    entry = entry_of(path)
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/passwd")

    assert read(entry) is Unsettled.CHANGED


def test_of_a_file_over_the_limit_one_byte_more_is_read(path: Path) -> None:
    assert read(entry_of(path), max_bytes=3) == b"cont"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give up its rights")
def test_where_the_kernel_does_not_tell_the_quiet_time_decides() -> None:
    code = (
        "import os, sys; from tests.watcher.test_settle import *\n"
        "os.setuid(65534); entry = entry_of(Path(sys.argv[1]))\n"
        "print(read(entry, quiet_s=0.0) is Unsettled.EARLY, read(entry, quiet_s=0.06) == b'content')"
    )
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        path = Path(open_to_all) / "etl.yaml"
        path.write_bytes(b"content")

        ended = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)

    assert ended.stdout == "True True\n", ended.stderr


def test_a_writer_that_comes_during_the_question_ends_nothing(path: Path) -> None:
    write = (
        "import contextlib, os, sys, time\n"
        "end = time.monotonic() + 60\n"
        "while time.monotonic() < end:\n"
        "    with contextlib.suppress(BlockingIOError):\n"
        "        os.close(os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK))"
    )
    ask = (
        "import sys; from tests.watcher.test_settle import *\n"
        "path = Path(sys.argv[1])\n"
        "for _ in range(3000): read(entry_of(path))"
    )
    writer = subprocess.Popen([sys.executable, "-c", write, str(path)])
    try:
        ended = subprocess.run([sys.executable, "-c", ask, str(path)], capture_output=True, text=True)
    finally:
        writer.kill()
        writer.wait()

    assert ended.returncode == 0, ended.stderr
