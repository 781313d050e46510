"""The original files of the Wizflow format: those that load run, the editor's draft says what to fill in."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import Answer, HttpServer
from tests.system.running import SEED, Daemon, Finished, finished_in, publish, wait_for, wizflow


def run_alone(home: Path, name: str, text: str | None = None) -> tuple[int, Finished]:
    """Run a seed file by `wizflow run`; return the exit status and the run."""
    path = publish(home / name, text if text is not None else (SEED / name).read_bytes())
    done = wizflow(home, "run", path)
    (run,) = finished_in(home / f"{path.stem}.runs")
    return done.returncode, run


def run_dropped(daemon: Daemon, name: str) -> tuple[int, Finished]:
    """Run a seed file by dropping it; the status is what `wizflow run` would have ended with."""
    daemon.drop(name, (SEED / name).read_bytes())
    run = daemon.wait_run(Path(name).stem)
    return {"succeeded": 0, "failed": 1}[run.status], run


Way = Callable[[str], tuple[int, Finished]]


@pytest.fixture(params=["run", "dropped"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    if request.param == "dropped":
        daemon = request.getfixturevalue("shared")
        return lambda name: run_dropped(daemon, name)
    return lambda name: run_alone(tmp_path, name)


def test_shell_json_counts_its_lines_and_packs_its_folder(way: Way) -> None:
    status, run = way("shell.json")

    workspace = run.folder.parent / "workspace"
    assert status == 0
    assert run.statuses == dict.fromkeys(("init", "gen_file", "count_lines", "archive"), "succeeded")
    assert (workspace / "workspace/line_count.txt").read_text() == "3\n"
    assert run.result["outputs"] == {"archive": {"archive_file": "workspace.tar.gz"}}
    assert (workspace / "workspace.tar.gz").stat().st_size > 0


def test_large_json_runs_its_sixteen_tasks_side_by_side_both_ways(shared: Daemon) -> None:
    alone = shared.home / "alone"
    alone.mkdir()
    shared.drop("large.json", (SEED / "large.json").read_bytes())

    status, by_hand = run_alone(alone, "large.json")

    assert status == 0
    for run in (by_hand, shared.wait_run("large")):
        written = {path.name for path in (run.folder.parent / "workspace/workspace").iterdir()}
        assert len(run.named("succeeded")) == 16
        assert written == {f"t{number}.txt" for number in range(1, 16)}
        assert 5.0 <= run.result["duration_s"] < 14.0  # the longest chain is five sleeps; one by one they were 15


@pytest.mark.parametrize("has_response", [False, True], ids=["without the response", "with the response"])
def test_sample_json_fails_at_step3_alone_unless_the_response_lies_there(tmp_path: Path, has_response: bool) -> None:
    def answer(request: object) -> Answer:
        return Answer(headers=(("Content-Type", "application/json"),), body=b'{"made": 1, "response": {"json": "ok"}}')

    workspace = tmp_path / "sample.runs/workspace"
    workspace.mkdir(parents=True)
    if has_response:
        (workspace / "api_response.json").write_text('{"saved": true}\n')
    with HttpServer(answer) as server:
        text = (SEED / "sample.json").read_text()
        assert text.count("https://api.example.com/") == 2
        status, run = run_alone(tmp_path, "sample.json", text.replace("https://api.example.com/", f"{server.url}/"))

    steps = {f"step{number}": "succeeded" for number in range(1, 6)}
    assert status == (0 if has_response else 1)
    assert run.statuses == (steps if has_response else {**steps, "step3": "failed"})
    assert 'Processing data: {"made":1,"response":{"json":"ok"}}' in run.log("step3")
    assert run.log("step5") == "Finalizing process with ID generated_id.txt and status ok\n"
    posted = next(request for request in server.requests if request.method == "POST")
    assert (posted.target, posted.json["id"]) == ("/create", "generated_id.txt")
    if not has_response:
        assert run.result["reason"] == "step3 failed"
        assert run.tasks["step3"]["attempts"][0]["exit_code"] == 1


MISSING = {
    "recipients": "tasks[0]",
    "method": "tasks[1]",
    "url": "tasks[1]",
}


def check_draft_messages(lines: list[str]) -> None:
    assert len(lines) == len(MISSING)
    for line, (field, task) in zip(lines, MISSING.items(), strict=True):
        assert line.startswith("websocket.json:"), line
        assert f'{task}: missing field "{field}"' in line


def test_websocket_json_run_by_hand_says_what_to_fill_in(tmp_path: Path) -> None:
    publish(tmp_path / "websocket.json", (SEED / "websocket.json").read_bytes())

    done = wizflow(tmp_path, "run", "websocket.json")

    assert done.returncode == 2
    check_draft_messages(done.stderr.splitlines())
    assert not (tmp_path / "websocket.runs").exists()


def test_websocket_json_dropped_says_what_to_fill_in(shared: Daemon) -> None:
    shared.drop("websocket.json", (SEED / "websocket.json").read_bytes())

    error = shared.folder("websocket") / "error.txt"
    check_draft_messages(wait_for(lambda: error.read_text().splitlines()))
    status = wait_for(lambda: shared.status("websocket"))
    assert (status["state"], status["run"], status["last"]) == ("invalid", None, None)
    assert shared.finished("websocket") == []


def test_the_seed_files_are_the_originals() -> None:
    names = {path.name: len(json.loads(path.read_text())["tasks"]) for path in SEED.glob("*.json")}

    assert names == {"shell.json": 4, "large.json": 16, "sample.json": 5, "websocket.json": 2}
