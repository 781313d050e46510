"""`events`: the stream for people and programs, and over restarts of the daemon."""

import json
import select
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.fleet import Fleet
from tests.system.running import Daemon, assert_gapless, shell


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Fleet]:
    """A daemon of the test's own, to be restarted."""
    daemon = Daemon(tmp_path)
    daemon.workflows.mkdir()
    try:
        daemon.start()
        yield Fleet(daemon)
    finally:
        daemon.close()


def until(lines: Iterator[str], kind: str, subject: str = "") -> list[dict[str, Any]]:
    """Return the events up to the first of a kind about a subject."""
    found = []
    for line in lines:
        found.append(json.loads(line))
        if found[-1]["type"] == f"wizflow.{kind}" and found[-1]["subject"].startswith(subject):
            return found
    raise AssertionError(f"the stream ended before {kind}")


def test_kept_events_are_told_with_filters(fleet: Fleet) -> None:
    run = fleet.run_of("fails")

    with fleet.start(
        "events", "--since", "0", "--type", "task.failed", "--type", "run.f*", "--workflow", "fails"
    ) as stream:
        assert stream.stdout is not None
        lines = [stream.stdout.readline() for _ in range(2)]
        stream.terminate()

    assert "task.failed" in lines[0]
    assert f"fails/{run}/bad" in lines[0]
    assert "exit code 7" in lines[0]
    assert "run.failed" in lines[1]
    assert "skipped after" in lines[1]


def test_without_since_only_what_comes_is_told(fleet: Fleet) -> None:
    with fleet.start("events", "--json") as stream:
        assert stream.stdout is not None
        run = ""
        while not select.select([stream.stdout], [], [], 0.2)[0]:  # until it is connected
            run = json.loads(fleet("trigger", "good", "--json").stdout)["run"]
        told = until(stream.stdout, "run.succeeded", f"good/{run}")
        stream.terminate()

    first = int(told[0]["sequence"])
    assert first > 1
    assert [int(event["sequence"]) for event in told] == list(range(first, first + len(told)))


def test_the_stream_goes_on_over_a_restart_without_gap_or_repeat(own: Fleet) -> None:
    with own.start("events", "--json", "--since", "0") as stream:
        assert stream.stdout is not None
        told = until(stream.stdout, "daemon.ready")
        own.daemon.restart()
        own.daemon.drop("a.json", [shell("t", "true")])
        told += until(stream.stdout, "run.succeeded")
        stream.terminate()

    assert_gapless(int(event["sequence"]) for event in told)
    assert sum(event["type"] == "wizflow.daemon.started" for event in told) == 2


def test_a_state_created_anew_is_told_from_its_beginning(own: Fleet) -> None:
    own.daemon.drop("a.json", [shell("t", "true")])
    own.daemon.wait_run("a")
    with own.start("events", "--json", "--since", "0") as stream:
        assert stream.stdout is not None
        until(stream.stdout, "run.succeeded")
        own.daemon.stop()
        for path in own.daemon.state.glob("state.db*"):
            path.unlink()
        shutil.rmtree(own.daemon.folder("a"))
        own.daemon.start()
        told = until(stream.stdout, "run.succeeded")
        stream.terminate()

    anew = [int(event["sequence"]) for event in told]
    assert_gapless(anew[anew.index(1) :])


def test_a_wrong_number_is_wrong_usage(fleet: Fleet) -> None:
    said = fleet("events", "--since", "-1")

    assert said.returncode == 2
    assert "--since" in said.stderr
