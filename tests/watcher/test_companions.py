"""The files beside a definition that count as its content."""

import os
from pathlib import Path

import pytest

from tests.watcher.watching import Watching, publish, watching
from wizflowd.core.observations import CompanionsSeen, WorkflowId
from wizflowd.watcher import WatchSettings, companions_digest

ETL = WorkflowId("team/etl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "workflows"
    (folder / "team/data/deep").mkdir(parents=True)
    (folder / "team/data/a.csv").write_bytes(b"a")
    (folder / "team/data/deep/b.csv").write_bytes(b"b")
    (folder / "team/.env").write_bytes(b"A=1")
    (folder / "outside.csv").write_bytes(b"o")
    return folder


def digest(folder: Path, *sources: str, dotenv: tuple[str, ...] = ()) -> str:
    return companions_digest(folder, "team/etl.yaml", sources, dotenv)


@pytest.mark.parametrize("pattern", ["data/*.csv", "data/a.csv", "data", "**/*.csv", "**", "da*/?.csv", "./data/a.csv"])
def test_a_pattern_sees_content_and_names(folder: Path, pattern: str) -> None:
    first = digest(folder, pattern)

    (folder / "team/data/a.csv").write_bytes(b"A")
    second = digest(folder, pattern)
    (folder / "team/data/a.csv").unlink()

    assert len({first, second, digest(folder, pattern)}) == 3


def test_touch_changes_nothing(folder: Path) -> None:
    before = digest(folder, "**", dotenv=(".env",))

    os.utime(folder / "team/data/a.csv", ns=(1, 1))

    assert digest(folder, "**", dotenv=(".env",)) == before


def test_double_star_goes_deep_and_one_does_not(folder: Path) -> None:
    shallow, deep = digest(folder, "data/*.csv"), digest(folder, "**/*.csv")

    (folder / "team/data/deep/b.csv").write_bytes(b"B")

    assert digest(folder, "data/*.csv") == shallow
    assert digest(folder, "**/*.csv") != deep


def test_a_missing_file_is_part_of_the_digest(folder: Path) -> None:
    missing = digest(folder, "none.csv", dotenv=(".env.none",))

    (folder / "team/.env.none").write_bytes(b"")

    assert digest(folder, "none.csv", dotenv=(".env.none",)) != missing


@pytest.mark.parametrize("pattern", ["../outside.csv", "link.csv", "up/outside.csv", "{folder}/outside.csv", "x\0y"])
def test_what_leads_out_is_never_read(folder: Path, pattern: str) -> None:
    (folder / "team/link.csv").symlink_to("../outside.csv")
    (folder / "team/up").symlink_to("..")
    pattern = pattern.format(folder=folder)
    before = digest(folder, pattern)

    (folder / "outside.csv").write_bytes(b"changed")

    assert digest(folder, pattern) == before


def test_results_never_match_and_a_fifo_does_not_block(folder: Path) -> None:
    (folder / "team/etl.runs/workspace").mkdir(parents=True)
    os.mkfifo(folder / "team/data/fifo.csv")
    patterns = ("**", "*", "etl.runs/**", "etl.runs/workspace/*")
    before = digest(folder, *patterns)

    (folder / "team/etl.runs/workspace/out.csv").write_bytes(b"x")

    assert digest(folder, *patterns) == before


def companions_told(watch: Watching) -> list[str]:
    return [o.digest for o in watch.told if isinstance(o, CompanionsSeen)]


async def test_a_change_of_a_companion_is_told_once_and_forgotten_ones_are_not(folder: Path) -> None:
    async with watching(folder, WatchSettings()) as watch:
        watch.watcher.follow(ETL, "team/etl.yaml", ("data/*.csv",), (".env",), None)
        await watch.watcher.rescan()
        (folder / "team/data/a.csv").write_bytes(b"changed")
        present = companions_digest(folder, "team/etl.yaml", ("data/*.csv",), (".env",))
        await watch.until(lambda: companions_told(watch) == [present])

        publish(folder / "team/.env", b"A=2")
        await watch.until(lambda: len(companions_told(watch)) == 2)
        watch.watcher.forget(ETL)
        publish(folder / "team/.env", b"A=3")
        await watch.marker()
        await watch.watcher.rescan()

    assert len(companions_told(watch)) == 2


async def test_a_change_while_the_daemon_was_down_is_told(folder: Path) -> None:
    acted_upon = digest(folder, "data/*.csv")
    (folder / "team/data/a.csv").write_bytes(b"changed")

    async with watching(folder, WatchSettings()) as watch:
        watch.watcher.follow(ETL, "team/etl.yaml", ("data/*.csv",), (), acted_upon)

        await watch.until(lambda: companions_told(watch) == [digest(folder, "data/*.csv")])
