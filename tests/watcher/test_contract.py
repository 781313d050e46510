"""What holds over every way to hear of changes."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.watcher.watching import Watching, publish, watching
from wizflowd.core.observations import FolderAvailable, FolderUnavailable, ScanDone
from wizflowd.watcher import WatchSettings
from wizflowd.watcher.hints import Backend


@pytest.fixture(params=["inotify", "watchfiles", "polling"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.setattr("wizflowd.watcher.hints._POLL_S", 0.1)
    name: Backend = request.param
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "workflows"
    folder.mkdir()
    return folder


@pytest.fixture
async def watch(folder: Path, backend: Backend) -> AsyncIterator[Watching]:
    async with watching(folder, WatchSettings(backend=backend)) as it:
        yield it


async def test_a_new_file_is_told_once(watch: Watching) -> None:
    (watch.folder / "etl.yaml").write_bytes(b"tasks: []")

    await watch.until_seen("etl", b"tasks: []")
    await watch.marker()

    assert watch.seen("etl") == [b"tasks: []"]
    assert watch.refused("etl") == []


async def test_a_file_that_was_there_before_the_start_is_told(folder: Path, backend: Backend) -> None:
    (folder / "old.json").write_bytes(b"{}")

    async with watching(folder, WatchSettings(backend=backend)) as watch:
        await watch.until_seen("old", b"{}")

        assert isinstance(watch.told[0], FolderAvailable)


async def test_a_rename_into_the_folder_is_told(watch: Watching, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"ready")

    (tmp_path / "outside").rename(watch.folder / "moved.YML")

    await watch.until_seen("moved", b"ready")


async def test_a_change_in_place_and_an_atomic_replacement_are_told_and_no_removal(watch: Watching) -> None:
    path = watch.folder / "etl.yaml"
    publish(path, b"one")
    await watch.until_seen("etl", b"one")

    path.write_bytes(b"two")
    await watch.until_seen("etl", b"two")
    path.unlink()
    publish(path, b"six")
    await watch.until_seen("etl", b"six")
    await watch.marker()

    assert watch.seen("etl") == [b"one", b"two", b"six"]
    assert watch.gone() == set()


async def test_a_file_written_byte_by_byte_is_told_whole(watch: Watching) -> None:
    content = b"tasks: [{id: a, type: SHELL, command: 'true'}]"
    with (watch.folder / "slow.yaml").open("wb", buffering=0) as file:
        for at in range(len(content)):
            file.write(content[at : at + 1])
            if at % 16 == 0:
                await watch.watcher.rescan()
        await watch.marker()
        assert watch.seen("slow") == []

    await watch.until_seen("slow", content)

    assert watch.seen("slow") == [content]


async def test_touch_and_chmod_tell_nothing(watch: Watching) -> None:
    path = watch.folder / "etl.yaml"
    publish(path, b"one")
    await watch.until_seen("etl", b"one")

    path.touch()
    path.chmod(0o600)
    await watch.marker()

    assert watch.seen("etl") == [b"one"]


async def test_a_removed_file_is_gone_once(watch: Watching) -> None:
    publish(watch.folder / "etl.yaml", b"one")
    await watch.until_seen("etl", b"one")

    (watch.folder / "etl.yaml").unlink()

    await watch.until_gone("etl")
    publish(watch.folder / "etl.yaml", b"one")
    await watch.until(lambda: watch.seen("etl") == [b"one", b"one"])


async def test_a_file_made_right_after_its_new_folder_is_told(watch: Watching) -> None:
    for number in range(5):
        deep = watch.folder / f"team{number}" / "sub"
        deep.mkdir(parents=True)
        (deep / "etl.yaml").write_bytes(b"x")

    for number in range(5):
        await watch.until_seen(f"team{number}/sub/etl", b"x")


async def test_a_folder_moved_away_takes_its_files_with_it(watch: Watching, tmp_path: Path) -> None:
    (watch.folder / "team").mkdir()
    publish(watch.folder / "team/etl.yaml", b"x")
    await watch.until_seen("team/etl", b"x")

    (watch.folder / "team").rename(watch.folder / "crew")
    await watch.until_seen("crew/etl", b"x")
    await watch.until_gone("team/etl")
    publish(watch.folder / "crew/etl.yaml", b"y")

    await watch.until_seen("crew/etl", b"y")


async def test_two_files_of_one_identity_are_refused_until_one_is_left(watch: Watching) -> None:
    publish(watch.folder / "twin.yaml", b"a")
    await watch.until_seen("twin", b"a")

    publish(watch.folder / "twin.json", b"b")
    problems = await watch.until_refused("twin")
    (watch.folder / "twin.yaml").unlink()
    await watch.until_seen("twin", b"b")

    assert 'twin.json: has the same identity "twin" as twin.yaml; rename or remove one of them' in problems
    assert problems.count("\n") == 1


async def test_names_that_cannot_be_an_identity_are_refused_and_end_nothing(watch: Watching) -> None:
    (watch.folder / "wr!ong.json").write_bytes(b"{}")
    with open(os.fsencode(watch.folder) + b"/caf\xe9.yaml", "wb") as file:
        file.write(b"x")

    rule = await watch.until_refused("wr!ong")
    escaped = await watch.until_refused("caf\\udce9")
    await watch.marker()

    assert rule.startswith("wr!ong.json: the name cannot be an identity; rename it")
    assert escaped.isprintable()
    assert watch.count(ScanDone) > 0


async def test_what_is_no_definition_tells_nothing(watch: Watching, tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_bytes(b"x")
    os.mkfifo(watch.folder / "fifo.yaml")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(watch.folder / "sock.json"))
        (watch.folder / "leads_out.yaml").symlink_to(tmp_path / "outside.yaml")
        (watch.folder / "loop").symlink_to(watch.folder)
        (watch.folder / "broken.yaml").symlink_to("nothing")
        for name in (".hidden.yaml", "etl.yaml~", "#etl.yaml", "~$etl.json", "etl.tmp.json", "notes.txt"):
            (watch.folder / name).write_bytes(b"x")
        for name in (".git", "etl.runs"):
            (watch.folder / name).mkdir()
            (watch.folder / name / "etl.yaml").write_bytes(b"x")

        await watch.marker()

    done = next(o for o in reversed(watch.told) if isinstance(o, ScanDone))
    assert done.present == {"marker"}


async def test_a_link_inside_the_folder_follows_its_target(watch: Watching) -> None:
    for version in ("one", "two"):
        (watch.folder / f".{version}").mkdir()
        (watch.folder / f".{version}/etl.yaml").write_bytes(version.encode())
    (watch.folder / "..data").symlink_to(".one")
    (watch.folder / "etl.yaml").symlink_to("..data/etl.yaml")
    await watch.until_seen("etl", b"one")
    await watch.marker()

    (watch.folder / "..next").symlink_to(".two")
    (watch.folder / "..next").rename(watch.folder / "..data")

    await watch.until_seen("etl", b"two")


async def test_a_folder_created_anew_is_no_removal(watch: Watching) -> None:
    publish(watch.folder / "etl.yaml", b"x")
    publish(watch.folder / "other.yaml", b"x")
    await watch.until_seen("etl", b"x")
    await watch.until_seen("other", b"x")

    shutil.rmtree(watch.folder)
    watch.folder.mkdir()
    await watch.until(lambda: watch.count(FolderUnavailable) > 0)
    publish(watch.folder / "etl.yaml", b"x")
    publish(watch.folder / "other.yaml", b"y")

    await watch.until(lambda: isinstance(watch.told[0], FolderAvailable) and watch.count(FolderAvailable) > 1)
    await watch.until_seen("other", b"y")
    assert watch.seen("etl") == [b"x"]
    assert watch.gone() == set()
    publish(watch.folder / "etl.yaml", b"z")
    await watch.until_seen("etl", b"z")


async def test_a_root_link_that_is_swapped_is_followed(tmp_path: Path, backend: Backend) -> None:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "etl.yaml").write_bytes(version.encode())
    (tmp_path / "v1/old.yaml").write_bytes(b"old")
    (tmp_path / "current").symlink_to("v1")

    rescan_s = 1.0 if backend == "watchfiles" else 60.0  # it hears nothing of the link
    async with watching(tmp_path / "current", WatchSettings(backend=backend, rescan_s=rescan_s)) as watch:
        await watch.until_seen("etl", b"v1")
        (tmp_path / "next").symlink_to("v2")
        (tmp_path / "next").rename(tmp_path / "current")

        await watch.until_seen("etl", b"v2")
        publish(tmp_path / "v2/etl.yaml", b"v3")
        await watch.until_seen("etl", b"v3")
        await watch.until_gone("old")


async def test_a_burst_of_files_is_told_in_full(watch: Watching, tmp_path: Path) -> None:
    (tmp_path / "staged").mkdir()
    for number in range(500):
        (tmp_path / f"staged/w{number}.json").write_bytes(b"%d" % number)

    for number in range(500):
        (tmp_path / f"staged/w{number}.json").rename(watch.folder / f"w{number}.json")
        if number % 100 == 0:
            await asyncio.sleep(0)

    await watch.until(lambda: all(watch.seen(f"w{number}") == [b"%d" % number] for number in (0, 250, 499)))
    await watch.marker()
    assert all(watch.seen(f"w{number}") == [b"%d" % number] for number in range(500))
