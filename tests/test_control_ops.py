"""What a daemon answers on its control socket, to everybody who may ask (SPEC section 5)."""

import grp
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import MakeDaemon, common_daemon, daemon, make_daemon, shared
from tests.system.running import Daemon, gated, shell, wait_for
from wizflowd.errors import RequestError
from wizflowd.sockets import reachable

__all__ = ["common_daemon", "daemon", "make_daemon", "shared"]

OPS = [
    "approve",
    "backup",
    "cancel",
    "drain",
    "pause",
    "plan",
    "reload",
    "resume",
    "retry",
    "run",
    "runs",
    "status",
    "trigger",
    "workflows",
]
GROUP = "daemon"
AS_NOBODY = """
import os, socket, sys
path, request, groups = sys.argv[1], sys.argv[2], [int(group) for group in sys.argv[3:]]
os.setgroups(groups)
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
with socket.socket(socket.AF_UNIX) as peer:
    peer.settimeout(30)
    try:
        peer.connect(path)
    except PermissionError as error:
        sys.exit(error.strerror)
    try:
        peer.sendall(request.encode() + b"\\n")
    except BrokenPipeError:
        pass  # it has been told what it may not
    print(peer.makefile().readline())
"""
STRANGE: list[Any] = [True, -1, 1.5, 10**30, "", "x" * 300, "\0", "/tmp/\0", "\ud800", "\udcff", [], ["a"], {"a": {}}]
FIELDS = ["run", "workflow", "path", "task", "from_task", "by", "params", "limit", "incremental", "as_text", "off"]


def talk(path: Path, requests: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Send requests on one connection and return what each was answered with."""
    with socket.socket(socket.AF_UNIX) as peer, reachable(path) as name:
        peer.settimeout(60)
        peer.connect(name)
        lines = peer.makefile("rb")
        answers = []
        for request in requests:
            peer.sendall(json.dumps(request).encode() + b"\n")
            answers.append(json.loads(lines.readline() or b"null"))
        return answers


def refusal(daemon: Daemon, op: str, **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        daemon.ask(op, **fields)
    return caught.value


def test_the_operations_are_those_of_the_contract(shared: Daemon) -> None:
    assert str(refusal(shared, "fly")) == f"there is no such op; there are {', '.join(OPS)}"


def test_every_operation_answers_whatever_stands_in_its_fields(shared: Daemon) -> None:
    requests = [
        {"id": number, "op": op, "off": True, field: value}
        for number, (op, field, value) in enumerate(
            (op, field, value) for op in OPS for field in FIELDS for value in STRANGE
        )
    ]

    answers = talk(shared.socket, requests)

    assert [answer and answer["id"] for answer in answers] == list(range(len(requests)))
    assert shared.ask("drain", off=True)["draining"] is False


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"op": "runs", "limit": 0}, "cannot runs: limit is to be a number from 1 to 100,000"),
        ({"op": "run", "run": "\ud800"}, "cannot run: run is to be a text"),
        ({"op": "trigger", "workflow": "w", "params": [1]}, "cannot trigger: params is to be an object, value by name"),
        ({"op": "drain", "off": "yes"}, "cannot drain: off is to be true or false"),
        ({"op": "plan", "path": "/a\0b"}, "cannot plan: path is to be the path of a file"),
    ],
)
def test_a_field_that_cannot_be_read_is_named(shared: Daemon, fields: dict[str, Any], what: str) -> None:
    (answer,) = talk(shared.socket, [fields])

    assert answer["error"] == {"code": "bad_request", "message": what}


def test_nothing_starts_while_it_drains_and_what_runs_goes_on(daemon: Daemon, tmp_path: Path) -> None:
    daemon.drop("old.json", [shell("first", gated(tmp_path / "gate")), shell("second", "true", "first")])
    run = daemon.wait_running("old", "first")

    told = daemon.ask("drain")
    daemon.drop("new.json", [shell("a", "true")])
    wait_for(lambda: daemon.ask("runs", workflow="new"), "the other is queued")
    (tmp_path / "gate").touch()
    wait_for(lambda: daemon.ask("status")["running_tasks"] == 0, "what ran has ended")
    held = [task["status"] for task in daemon.ask("run", run=run)["tasks"]]
    queued = daemon.ask("runs", workflow="new")[0]["status"]
    draining = daemon.ask("status")["draining"]
    daemon.ask("drain", off=True)

    assert told == {"draining": True, "running_tasks": 1}
    assert (held, queued, draining) == (["succeeded", "pending"], "queued", True)
    assert daemon.wait_run("old").status == daemon.wait_run("new").status == "succeeded"


def test_a_retry_runs_all_that_failed_and_what_was_skipped_for_it(shared: Daemon) -> None:
    mended = shared.home / "mended"
    tasks = [
        shell("good", "true"),
        *(shell(name, f"test -e {mended}", "good") for name in ("bad", "worse")),
        shell("after", "true", "bad", "worse"),
    ]
    shared.drop("w.json", tasks)
    failed = shared.wait_run("w").result["run"]
    mended.touch()

    answer = shared.ask("retry", run=failed)
    again = shared.wait_run("w", 2)

    assert (again.result["run"], again.result["retry_of"]) == (answer["run"], failed)
    assert again.statuses == {"good": "reused", "bad": "succeeded", "worse": "succeeded", "after": "succeeded"}


def test_what_is_not_there_is_told_by_name(shared: Daemon) -> None:
    shared.drop("w.json", [shell("a", "true")])
    run = shared.wait_run("w").result["run"]
    no_run = "20200101-000000-abcdef"

    assert {op: refusal(shared, op, run=no_run).code for op in ("run", "cancel", "pause", "resume", "retry")} == (
        dict.fromkeys(("run", "cancel", "pause", "resume", "retry"), "not_found")
    )
    assert no_run in str(refusal(shared, "retry", run=no_run))
    assert "no such run is in progress" in str(refusal(shared, "cancel", run=run))
    assert "no such workflow" in str(refusal(shared, "trigger", workflow="no-such"))
    assert "is not in" in str(refusal(shared, "plan", path="/etc/passwd"))


def test_a_reload_keeps_what_the_configuration_says_of_pools(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "wizflowd.yaml").write_text("pools: {gpu: 1}\nlimits: {max_tasks: 2}\n")
    daemon = make_daemon()
    daemon.options = ("--config", tmp_path / "wizflowd.yaml")
    daemon.start()

    assert daemon.ask("reload") == {}
    daemon.drop("w.json", [shell("a", "true", pool="gpu")])
    assert daemon.wait_run("w").status == "succeeded"

    (tmp_path / "wizflowd.yaml").write_text("pools: {gpu: none}\n")
    refused = refusal(daemon, "reload")
    assert refused.code == "invalid"
    assert "the configuration stays as it was" in str(refused)


@pytest.fixture
def for_group(make_daemon: MakeDaemon) -> Iterator[Daemon]:
    """A daemon whose sockets are for a group, in a folder that everybody may enter."""
    folder = Path(tempfile.mkdtemp(prefix="wizflowd-", dir="/tmp"))
    folder.chmod(0o755)
    daemon = make_daemon(control_group=GROUP, events_group=GROUP)
    daemon.socket = folder / "control.sock"
    daemon.options = ("--control-socket", daemon.socket, "--events-socket", folder / "events.sock")
    daemon.start()
    yield daemon
    daemon.stop()
    shutil.rmtree(folder)


def asked_by_nobody(path: Path, *groups: int, request: str = '{"op": "status"}') -> str:
    """Return what user 65534 is answered, or why it cannot ask; `groups` are its further ones."""
    command = [sys.executable, "-c", AS_NOBODY, str(path), request, *map(str, groups)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout.strip() or done.stderr.strip()


@pytest.mark.root
def test_the_sockets_are_for_a_member_of_their_group_and_for_nobody_else(for_group: Daemon) -> None:
    member = grp.getgrnam(GROUP).gr_gid
    control, events = for_group.socket, for_group.socket.with_name("events.sock")

    allowed = [asked_by_nobody(path, 12345, member) for path in (control, events)]
    by_mode = [asked_by_nobody(path, 12345) for path in (control, events)]
    for path in (control, events):
        path.chmod(0o666)  # as an administrator's mistake: the peer's credentials decide all the same
    by_peer = [json.loads(asked_by_nobody(path, 12345)) for path in (control, events)]

    assert json.loads(allowed[0])["ok"]["ready"] is True
    assert json.loads(allowed[1])["type"] == "wizflow.hello"
    assert by_mode == ["Permission denied"] * 2
    assert by_peer[0]["error"] == {"code": "forbidden", "message": "you may not control this wizflowd"}
    assert by_peer[1]["data"] == {"message": "you may not read the events of this wizflowd"}


@pytest.mark.root
def test_an_approval_is_signed_by_who_the_kernel_says_it_is(for_group: Daemon) -> None:
    for_group.drop("w.json", [shell("a", "true", breakpoint=True)])
    paused = wait_for(lambda: for_group.told("task.paused", "w/"), "it waits")
    run = paused[0].subject.split("/")[1]
    request = json.dumps({"op": "approve", "run": run, "task": "a", "by": "root"})

    asked_by_nobody(for_group.socket, grp.getgrnam(GROUP).gr_gid, request=request)

    for_group.wait_run("w")
    assert for_group.stop() == 0
    assert [data["approved_by"] for _, _, data in for_group.records() if data.get("approved_by")] == ["nobody"]
