"""Who may write what runs here."""

import os
from pathlib import Path

import pytest

from tests.watcher.watching import publish, watching
from wizflowd.core.observations import FolderAvailable, FolderUnavailable
from wizflowd.watcher import WatchSettings

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "workflows"
    folder.mkdir()
    publish(folder / "etl.yaml", b"x")
    return folder


async def test_a_file_that_everybody_can_write_is_refused_until_mended(folder: Path) -> None:
    (folder / "etl.yaml").chmod(0o666)

    async with watching(folder, WatchSettings()) as watch:
        problem = await watch.until_refused("etl")
        (folder / "etl.yaml").chmod(0o644)
        await watch.until_seen("etl", b"x")

    name = folder / "etl.yaml"
    assert f"etl.yaml: {name} can be written by everybody; chmod o-w {name}" in problem


async def test_a_told_file_is_refused_once_it_becomes_loose(folder: Path) -> None:
    async with watching(folder, WatchSettings()) as watch:
        await watch.until_seen("etl", b"x")
        (folder / "etl.yaml").chmod(0o646)
        await watch.until_refused("etl")
        await watch.watcher.rescan()

    assert len(watch.refused("etl")) == 1


async def test_a_loose_folder_below_refuses_the_files_in_it(folder: Path) -> None:
    (folder / "team").mkdir()
    publish(folder / "team/own.yaml", b"y")

    async with watching(folder, WatchSettings()) as watch:
        await watch.until_seen("team/own", b"y")
        (folder / "team").chmod(0o777)
        problem = await watch.until_refused("team/own")
        (folder / "team").chmod(0o755)
        await watch.until(lambda: len(watch.seen("team/own")) == 2)

    assert f"chmod o-w {folder / 'team'}" in problem


@pytest.mark.parametrize("which", [".", ".."])
async def test_a_loose_root_or_parent_makes_the_folder_unavailable(folder: Path, which: str) -> None:
    (folder / which).chmod(0o777)

    async with watching(folder, WatchSettings()) as watch:
        first = watch.told[0]
        (folder / which).chmod(0o755)
        await watch.until(lambda: watch.count(FolderAvailable) > 0)
        await watch.until_seen("etl", b"x")

    assert isinstance(first, FolderUnavailable)
    assert f"chmod o-w {(folder / which).resolve()}" in first.reason


async def test_a_sticky_parent_is_as_good_as_tmp(folder: Path) -> None:
    folder.parent.chmod(0o1777)

    async with watching(folder, WatchSettings()) as watch:
        await watch.until_seen("etl", b"x")


async def test_a_hard_linked_definition_is_refused(folder: Path, tmp_path: Path) -> None:
    os.link(folder / "etl.yaml", tmp_path / "other")

    async with watching(folder, WatchSettings()) as watch:
        problem = await watch.until_refused("etl")
        (tmp_path / "other").unlink()
        await watch.watcher.rescan()
        await watch.until_seen("etl", b"x")

    assert "has 2 hard links" in problem


@pytest.mark.root
@needs_root
async def test_a_foreign_owner_and_a_foreign_writing_group_are_refused(folder: Path) -> None:
    publish(folder / "group.yaml", b"x")
    os.chown(folder / "etl.yaml", 12345, 0)
    os.chown(folder / "group.yaml", 0, 12345)
    (folder / "group.yaml").chmod(0o664)

    async with watching(folder, WatchSettings()) as watch:
        owner = await watch.until_refused("etl")
        group = await watch.until_refused("group")

    assert "belongs to user 12345" in owner
    assert "can be written by the group 12345" in group


@pytest.mark.root
@needs_root
async def test_owners_named_are_trusted(folder: Path) -> None:
    os.chown(folder / "etl.yaml", 1, 1)
    (folder / "etl.yaml").chmod(0o664)

    async with watching(folder, WatchSettings(owners=("daemon", "@daemon"))) as watch:
        await watch.until_seen("etl", b"x")


async def test_an_owner_that_nobody_knows_is_told_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with watching(folder, WatchSettings(owners=("nobody-of-here", "@no-group", "root"))) as watch:
        await watch.until_seen("etl", b"x")
        await watch.watcher.rescan()

    told = [(each.getMessage(), vars(each)["owner"]) for each in caplog.records if "cannot trust" in each.getMessage()]
    assert told == [
        ("cannot trust an owner: this host has no such group", "@no-group"),
        ("cannot trust an owner: this host has no such user", "nobody-of-here"),
    ]


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("trusted", [True, False])
async def test_the_folders_owner_is_trusted_only_where_told_so(folder: Path, trusted: bool) -> None:
    os.chown(folder, 12345, 0)
    os.chown(folder / "etl.yaml", 12345, 0)

    async with watching(folder, WatchSettings(folder_owner_trusted=trusted)) as watch:
        assert isinstance(watch.told[0], FolderAvailable if trusted else FolderUnavailable)


async def test_without_strict_modes_nothing_is_refused(folder: Path) -> None:
    folder.chmod(0o777)
    (folder / "etl.yaml").chmod(0o666)

    async with watching(folder, WatchSettings(strict_modes=False)) as watch:
        await watch.until_seen("etl", b"x")
