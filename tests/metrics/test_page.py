"""The page under pressure: many workflows, many who ask, a disk that does not answer."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from tests.core.scenes import NOW, run_started
from tests.metrics.serving import Got, Scene, get, serving
from tests.metrics.test_tally import ended
from wizflowd.core.events import Record
from wizflowd.metrics import disks


async def longest_gap(of: "asyncio.Task[Got]") -> float:
    """Return the longest time, in seconds, that the loop did nothing else while a task was at work."""
    longest_s, seen_s = 0.0, time.monotonic()
    while not of.done():
        await asyncio.sleep(0)
        now_s = time.monotonic()
        longest_s, seen_s = max(longest_s, now_s - seen_s), now_s
    return longest_s


async def test_the_loop_goes_on_while_two_thousand_workflows_are_written() -> None:
    scene = Scene()
    scene.add_workflows(2000)
    monitor = scene.monitor()
    for workflow in scene.state.workflows:
        for event in (run_started(run="r", workflow=workflow), *ended("failed", "r", workflow)):
            monitor.tally.told([Record(1, None, NOW.wall_s, event)])

    async with serving(monitor) as port:
        began_s = time.monotonic()
        asking = asyncio.create_task(get(port, "/metrics"))
        gap_s = await longest_gap(asking)
        took_s = time.monotonic() - began_s

    assert (await asking).body.count(b"\n") > 20_000
    assert gap_s < took_s / 3


async def test_many_who_ask_at_once_share_what_is_written() -> None:
    scene = Scene()
    scene.add_workflows(2000)

    async with serving(scene.monitor()) as port:
        began_s = time.monotonic()
        await get(port, "/metrics")
        alone_s = time.monotonic() - began_s
        began_s = time.monotonic()
        answers = await asyncio.gather(*(get(port, "/metrics") for _ in range(20)))
        together_s = time.monotonic() - began_s

    assert {got.status for got in answers} == {200}
    assert together_s < 10 * alone_s


async def test_a_disk_that_does_not_answer_takes_only_its_own_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    looks: list[str] = []

    def hang(folders: tuple[Path, ...]) -> dict[str, int]:
        looks.append("look")
        answers.wait()
        return {str(folder): 42 for folder in folders}

    monkeypatch.setattr(disks, "_free_bytes", hang)
    monkeypatch.setattr(disks, "_PATIENCE_S", 0.05)
    scene = Scene(folders=(tmp_path,))

    async with serving(scene.monitor()) as port:
        hung = [await get(port, "/metrics", f"Accept-Encoding: {form}") for form in ("identity", "gzip")]
        answers.set()
        well = await get(port, "/metrics", "Accept: application/openmetrics-text")

    assert [(got.status, b"wizflow_disk_free_bytes{" in got.body) for got in hung] == [(200, False)] * 2
    assert f'wizflow_disk_free_bytes{{path="{tmp_path}"}} 42.0' in well.body.decode()
    assert looks == ["look"]


async def test_a_folder_that_is_gone_is_left_out(tmp_path: Path) -> None:
    scene = Scene(folders=(tmp_path, tmp_path / "unmounted"))

    async with serving(scene.monitor()) as port:
        page = (await get(port, "/metrics")).body.decode()

    assert f'wizflow_disk_free_bytes{{path="{tmp_path}"}}' in page
    assert "unmounted" not in page
