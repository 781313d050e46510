"""Attempts of which nobody knows what came: retried where that is safe, else failed as unknown (SPEC section 10)."""

import fcntl
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.servers import Answer, HttpServer, Request, SmtpSink
from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, gated, is_alive, lines_of, shell, tasks_alive, wait_for, wizflow


def test_when_the_spawner_is_killed_its_tasks_are_lost_ended_and_tried_again(daemon: Daemon) -> None:
    gate, pids = daemon.home / "gate", daemon.home / "pids"
    command = f"echo $$ >> {pids}; {gated(gate)}"
    tasks = [shell("again", command), shell("never", command, on_lost="fail"), shell("after", "true", "again")]
    daemon.drop("w.json", tasks)
    wait_for(lambda: len(lines_of(pids)) == 2)
    first = [int(pid) for pid in lines_of(pids)]

    os.kill(daemon.spawner_pid, signal.SIGKILL)
    wait_for(lambda: len(lines_of(pids)) == 3)  # only `again` is tried again
    alive = [pid for pid in first if is_alive(pid)]
    gate.touch()
    run = daemon.wait_run("w")

    assert alive == []  # before the second try began
    assert run.statuses == {"again": "succeeded", "never": "failed", "after": "succeeded"}
    lost, won = run.tasks["again"]["attempts"]
    assert "outcome unknown" in lost["error"]
    assert (won["attempt"], won["exit_code"]) == (2, 0)
    assert "outcome unknown" in run.tasks["never"]["reason"]
    assert len(run.tasks["never"]["attempts"]) == 1
    assert tasks_alive(daemon.home) == []


def test_when_daemon_and_spawner_are_killed_together_the_tasks_are_lost_and_tried_again(daemon: Daemon) -> None:
    gate, pids = daemon.home / "gate", daemon.home / "pids"
    daemon.drop("w.json", [shell("again", f"echo $$ >> {pids}; {gated(gate)}"), shell("after", "true", "again")])
    wait_for(lambda: len(lines_of(pids)) == 1)
    first = int(lines_of(pids)[0])

    spawner = daemon.spawner_pid
    daemon.kill9()
    os.kill(spawner, signal.SIGKILL)
    daemon.start()
    wait_for(lambda: len(lines_of(pids)) == 2)
    assert not is_alive(first)
    gate.touch()
    run = daemon.wait_run("w")

    assert run.status == "succeeded"
    assert len(run.tasks["again"]["attempts"]) == 2
    assert "outcome unknown" in run.tasks["again"]["attempts"][0]["error"]


def test_while_no_spawner_can_be_had_the_status_says_so_and_tasks_wait(daemon: Daemon) -> None:
    daemon.may_complain = True
    assert daemon.ask("status")["spawner_unavailable"] is None

    with (daemon.state / "spawner/lock").open() as lock:
        os.kill(daemon.spawner_pid, signal.SIGKILL)
        fcntl.flock(lock, fcntl.LOCK_EX)  # no other can begin
        daemon.drop("w.json", [shell("waits", "true")])
        said = wait_for(lambda: daemon.ask("status")["spawner_unavailable"])
        assert "cannot reach the spawner" in said
        assert daemon.finished("w") == []
        shown = wizflow(daemon.home, "status", "--json")
        checked = wizflow(daemon.home, "doctor").stdout

    assert json.loads(shown.stdout)["daemon"]["spawner_unavailable"] == said
    assert f"SHELL tasks wait: {said}" in checked.replace("\n", " ")
    assert daemon.wait_run("w").status == "succeeded"
    assert daemon.ask("status")["spawner_unavailable"] is None


class Slow:
    """Answers the first request to each path only when it is told to; the next ones at once."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self._seen: set[str] = set()

    def __call__(self, request: Request) -> Answer:
        if request.target not in self._seen:
            self._seen.add(request.target)
            self.release.wait(60)
        return Answer(headers=(("Content-Type", "application/json"),), body=b"{}")


def rest(name: str, method: str, url: str, **fields: object) -> dict[str, object]:
    return {"id": name, "type": "RESTAPI", "method": method, "url": f"{url}/{name}", **fields}


@pytest.mark.parametrize("way", ["killed", "stopped"])
def test_requests_in_flight_are_unknown_or_repeated_with_the_same_key(make_daemon: MakeDaemon, way: str) -> None:
    daemon = make_daemon(shutdown__grace="200ms", limits__max_tasks="8")
    daemon.start()
    slow = Slow()
    with HttpServer(slow) as server:
        tasks = [rest("post", "POST", server.url), rest("get", "GET", server.url), rest("put", "PUT", server.url)]
        tasks.append(rest("asked", "POST", server.url, on_lost="retry"))
        daemon.drop("w.json", [*tasks, shell("after", "true", "post", run_on="always")])
        wait_for(lambda: len(server.requests) == 4)

        if way == "killed":
            daemon.kill9()
        else:
            assert daemon.stop() == 0
        slow.release.set()
        daemon.start()
        run = daemon.wait_run("w")

    assert run.status == "failed"
    assert run.named("failed") == {"post"}
    assert run.named("succeeded") == {"get", "put", "asked", "after"}
    assert run.tasks["post"]["reason"].startswith("outcome unknown")
    assert {name: len(run.tasks[name]["attempts"]) for name in ("post", "get", "put", "asked")} == {
        "post": 1,
        "get": 2,
        "put": 2,
        "asked": 2,
    }
    keys: dict[str, list[str]] = {}
    for request in server.requests:
        keys.setdefault(request.target, []).append(request.headers["idempotency-key"])
    assert {target: len(found) for target, found in keys.items()} == {"/post": 1, "/get": 2, "/put": 2, "/asked": 2}
    assert all(len(set(found)) == 1 for found in keys.values())
    assert len({found[0] for found in keys.values()}) == 4


def test_a_stop_waits_for_a_request_within_its_grace(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(shutdown__grace="30s")
    daemon.start()
    slow = Slow()
    with HttpServer(slow) as server:
        daemon.drop("w.json", [rest("post", "POST", server.url), shell("after", "echo 1 >> ran", "post")])
        wait_for(lambda: len(server.requests) == 1)

        daemon.process.terminate()
        wait_for(lambda: has_taken_its_signals(daemon.pid))
        daemon.ask("status")  # one more turn of its loop
        slow.release.set()
        assert daemon.process.wait(60) == 0
        daemon.start()
        run = daemon.wait_run("w")

    assert run.statuses == {"post": "succeeded", "after": "succeeded"}
    assert len(server.requests) == 1
    assert len(run.tasks["post"]["attempts"]) == 1


def has_taken_its_signals(pid: int) -> bool:
    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return int(status["SigPnd"], 16) == int(status["ShdPnd"], 16) == 0


def test_a_message_whose_fate_is_unknown_is_not_sent_again(make_daemon: MakeDaemon) -> None:
    with SmtpSink() as smtp:
        config = {"host": "127.0.0.1", "port": smtp.port, "from": "wizflowd@example.com"}
        daemon = make_daemon(smtp=json.dumps(config))
        daemon.start()
        smtp.answer_data("stall")
        mail = {"id": "tell", "type": "EMAIL", "subject": "s", "recipients": ["ops@example.com"]}
        daemon.drop("w.json", [mail])
        daemon.wait_running("w", "tell")

        daemon.kill9()
        smtp.answer_data("250 OK")
        daemon.start()
        run = daemon.wait_run("w")

        assert run.statuses == {"tell": "failed"}
        assert run.tasks["tell"]["reason"].startswith("outcome unknown")
        assert smtp.mails == []
