"""Whole files: the old one or the new one, never a part, and nothing left beside."""

import errno
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wizflowd.errors import SyncError
from wizflowd.files import (
    TEMPORARY,
    complete,
    complete_all,
    make_folders,
    side_by_side,
    sync_files,
    sync_folder,
    write_files,
)


def test_files_and_links_of_a_folder_are_replaced(tmp_path: Path) -> None:
    complete(write_files(tmp_path, {"a.json": [b"1"], "b.json": [b"2"]}, links={"latest": "one"}))
    complete(write_files(tmp_path, {"a.json": [b"3"]}, links={"latest": "two"}))

    assert (tmp_path / "a.json").read_bytes() == b"3"
    assert (tmp_path / "b.json").read_bytes() == b"2"
    assert (tmp_path / "latest").readlink() == Path("two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json", "latest"]


def test_what_an_earlier_kill_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}a.json").write_text("half of something longer")
    (tmp_path / f"{TEMPORARY}latest").symlink_to("nowhere")

    complete(write_files(tmp_path, {"a.json": [b"1"]}, links={"latest": "one"}))

    assert (tmp_path / "a.json").read_bytes() == b"1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "latest"]


def test_a_link_in_the_place_of_the_temporary_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f"{TEMPORARY}a.json").symlink_to(victim)

    with pytest.raises(OSError, match="Too many levels"):
        complete(write_files(tmp_path, {"a.json": [b"1"]}))

    assert victim.read_text() == "mine"


def test_a_write_that_fails_leaves_the_old_files_and_nothing_beside(tmp_path: Path) -> None:
    complete(write_files(tmp_path, {"a.json": [b"old"]}))
    (tmp_path / "b.json").mkdir()

    with pytest.raises(IsADirectoryError):
        complete(write_files(tmp_path, {"b.json": [b"2"], "a.json": [b"new"]}))

    assert (tmp_path / "a.json").read_bytes() == b"old"
    assert not list(tmp_path.glob(f"{TEMPORARY}*"))


WRITE_FOR_EVER = """
import sys
from itertools import count
from pathlib import Path
from wizflowd.errors import SyncError
from wizflowd.files import complete, write_files

for number in count():
    data = [f"{number}\\n".encode() * 5000]
    complete(write_files(Path(sys.argv[1]), {"a.json": data, "b.json": data}, links={"latest": str(number)}))
    print(number, flush=True)
"""


def refusing(number: int) -> Callable[[int], None]:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_sync_that_failed_is_final_and_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "fsync", refusing(number))

    with pytest.raises(SyncError, match=f"cannot make .* durable: {os.strerror(number)}"):
        complete(write_files(tmp_path, {"a": [b"new"]}))

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_a_file_system_that_knows_no_sync_is_another_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refusing(errno.EINVAL))

    with pytest.raises(OSError, match="Invalid argument"):
        sync_folder(tmp_path)


def test_after_kill_9_each_file_is_whole_and_at_least_as_new_as_what_was_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(2)
    for _ in range(6):
        command = [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 30)):
                acknowledged = int(process.stdout.readline())
            process.kill()
            acknowledged = max([acknowledged, *(int(line) for line in process.stdout if line.endswith("\n"))])

        newest = [(tmp_path / name).read_text().split() for name in ("a.json", "b.json")]
        assert [(len(lines), len(set(lines))) for lines in newest] == [(5000, 1)] * 2
        assert min(int(lines[0]) for lines in newest) >= acknowledged
        assert int(os.readlink(tmp_path / "latest")) >= acknowledged


def test_folders_are_made_with_what_is_missing_above_them(tmp_path: Path) -> None:
    make_folders(tmp_path / "a" / "b" / "c")
    make_folders(tmp_path / "a" / "b" / "c")

    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_a_file_in_the_way_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")

    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        make_folders(tmp_path / "a" / "b")


def test_works_that_are_done_together_are_all_written_before_the_first_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def look(_: int) -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))

    monkeypatch.setattr(os, "fsync", look)

    complete_all([write_files(tmp_path, {name: [b"1"]}) for name in ("a", "b")])

    assert seen[0] == [f"{TEMPORARY}a", f"{TEMPORARY}b"]
    assert seen[-2:] == [["a", "b"]] * 2  # of the folder, behind all renames


def test_a_work_that_fails_keeps_no_other_from_its_end(tmp_path: Path) -> None:
    works = [write_files(tmp_path / "gone", {"a": [b"1"]}), write_files(tmp_path, {"b": [b"2"]})]

    failed, written = complete_all(works)

    assert isinstance(failed, FileNotFoundError)
    assert written is None
    assert (tmp_path / "b").read_bytes() == b"2"


def test_works_side_by_side_are_one_work_that_fails_with_the_first_of_them(tmp_path: Path) -> None:
    complete(side_by_side(write_files(tmp_path, {"a": [b"1"]}), write_files(tmp_path, {"b": [b"2"]}, links={"c": "a"})))
    with pytest.raises(FileNotFoundError):
        complete(side_by_side(write_files(tmp_path, {"d": [b"1"]}), write_files(tmp_path / "gone", {"e": [b"2"]})))

    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(TEMPORARY)) == ["a", "b", "c"]


def test_any_number_of_files_is_made_durable(tmp_path: Path) -> None:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    paths = [tmp_path / str(number) for number in range(100)]
    for path in paths:
        path.write_text("")
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, most))

    try:
        complete(sync_files(paths))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
