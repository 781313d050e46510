"""Campaign 9: servers that answer without end or sense, and tasks that print without end or sense."""

import datetime
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, shell
from tests.torture.campaign import either, forget_peak, memory_mib, patched_copy, report
from tests.torture.hostile_server import ANSWERS, Answer, HostileServer

MOST_MIB = 64
TOKEN = "bearer-Tok3n-for-one-party-only"
MIB = 1 << 20

pytestmark = pytest.mark.slow


@pytest.fixture
def daemon(make_daemon: MakeDaemon) -> Daemon:
    """A daemon that is not started and has a secret in its environment."""
    daemon = make_daemon(limits__max_tasks="4", limits__log_max="1MiB")
    daemon.settings["TORTURE_TOKEN"] = TOKEN
    return daemon


def ask_for(url: str, **fields: Any) -> dict[str, Any]:
    """Return a workflow of one request with credentials that keeps what it gets."""
    task = {
        "id": "get",
        "type": "RESTAPI",
        "method": "GET",
        "url": url,
        "auth": {"bearer": "{{secrets.TOKEN}}"},
        "follow_redirects": True,
        "timeout": 60,
        "outputs": {"all": {"type": "text"}},
        **fields,
    }
    return {"secrets": {"TOKEN": {"env": "TORTURE_TOKEN"}}, "tasks": [task]}


def warm_up(daemon: Daemon) -> int:
    """Start it, have it do one of everything, and return its memory in MiB."""
    daemon.start()
    with HostileServer(
        {"fine": lambda c, _: c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")}
    ).running() as server:
        daemon.drop("warm.json", ask_for(f"http://127.0.0.1:{server.port}/fine"))
        assert daemon.wait_run("warm").status == "succeeded"
    daemon.settle()
    forget_peak(daemon.pid)
    return memory_mib(daemon.pid)[0]


def error_of(daemon: Daemon, workflow: str) -> str:
    """Wait for the one run of a workflow of one task and return the error that it failed with."""
    run = daemon.wait_run(workflow)
    assert run.status == "failed", workflow
    (task,) = run.result["tasks"]
    return str(task["attempts"][-1]["error"])


def ask_all(daemon: Daemon, names: list[str]) -> dict[str, str]:
    """Have every hostile answer asked for, at once; return those of which the error is not the one expected."""
    answers = {name: ANSWERS[name][0] for name in names}
    with HostileServer(answers).running() as server:
        for name in names:
            timeout = 3 if ANSWERS[name][1] == "timed out" else 60
            daemon.drop(f"{name}.json", ask_for(f"http://127.0.0.1:{server.port}/{name}", timeout=timeout))
        errors = {name: error_of(daemon, name) for name in names}
    return {name: error for name, error in errors.items() if ANSWERS[name][1] not in error or not error.isprintable()}


@pytest.mark.timeout(either(120, 900))
def test_no_answer_harms_more_than_its_task(daemon: Daemon) -> None:
    before = warm_up(daemon)

    wrong = ask_all(daemon, list(ANSWERS))

    _, peak = memory_mib(daemon.pid)
    report("hostile answers", answers=len(ANSWERS), ended_as_expected=len(ANSWERS) - len(wrong), peak_mib=peak - before)
    assert wrong == {}
    assert peak - before <= MOST_MIB


def test_the_campaign_sees_a_body_without_a_bound(daemon: Daemon, tmp_path: Path) -> None:
    bounds = (("self._maximum - decoded + 1", "1 << 31"), ("max(sent, decoded) > self._maximum", "decoded > 1 << 30"))
    daemon.settings |= patched_copy(tmp_path / "patched", "executors/body.py", *bounds)
    before = warm_up(daemon)

    ask_all(daemon, ["bomb"])

    assert memory_mib(daemon.pid)[1] - before > MOST_MIB


def redirected(daemon: Daemon) -> bytes:
    """Have one server send the request on to another, and return what that one was sent."""
    ok: Answer = lambda connection, _: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # noqa: E731
    with HostileServer({"taken": ok}).running() as other:
        away = f"HTTP/1.1 307 X\r\nLocation: http://localhost:{other.port}/taken\r\nContent-Length: 0\r\n\r\n".encode()
        with HostileServer({"here": lambda connection, _: connection.sendall(away)}).running() as server:
            fields = {"headers": {"X-Key": "key {{secrets.TOKEN}}", "Cookie": "a=b"}, "query": {"plain": "1"}}
            daemon.drop("away.json", ask_for(f"http://127.0.0.1:{server.port}/here", **fields))
            assert daemon.wait_run("away").status == "succeeded"
            assert TOKEN.encode() in server.heads[0]
        (head,) = other.heads
    return head


def test_no_credentials_follow_a_redirect_to_another_host(daemon: Daemon) -> None:
    daemon.start()

    head = redirected(daemon)

    report("credentials over a redirect", leaked=int(TOKEN.encode() in head))
    assert TOKEN.encode() not in head
    assert b"cookie" not in head.lower()


def test_the_campaign_sees_credentials_that_follow(daemon: Daemon, tmp_path: Path) -> None:
    guard = "if name.title() in _CREDENTIALS or masker.mask(value) != value:"
    daemon.settings |= patched_copy(tmp_path / "patched", "executors/rest.py", (guard, "if False:"))
    daemon.start()

    assert TOKEN.encode() in redirected(daemon)


def certificate(folder: Path, kind: str) -> ssl.SSLContext:
    """Return the server's side with a certificate of some kind, and write the authority to `ca.pem`."""
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    match kind:
        case "expired":
            issued = authority.issue_cert("127.0.0.1", not_before=past, not_after=past + datetime.timedelta(days=1))
        case "self-signed":
            issued = stranger.issue_cert("127.0.0.1")
        case "of another host":
            issued = authority.issue_cert("example.org")
        case _:
            issued = authority.issue_cert("127.0.0.1")
    issued.configure_cert(context)
    return context


@pytest.mark.parametrize("kind", ["expired", "self-signed", "of another host"])
def test_a_certificate_that_proves_nothing_is_refused(daemon: Daemon, kind: str) -> None:
    daemon.start()
    tls = certificate(daemon.workflows, kind)
    with HostileServer({"x": ANSWERS["nothing"][0]}, tls).running() as server:
        daemon.drop("tls.json", ask_for(f"https://127.0.0.1:{server.port}/x", tls={"ca_file": "ca.pem"}))
        error = error_of(daemon, "tls")
        heads = server.heads

    report(f"certificate {kind}", requests_sent=len(heads))
    assert "cannot trust the certificate" in error
    assert heads == []


def test_the_campaign_sees_certificates_that_are_not_verified(daemon: Daemon, tmp_path: Path) -> None:
    made = "context = ssl.create_default_context(cafile=ca_file)\n"
    loose = f"{made}    context.check_hostname = False\n    context.verify_mode = ssl.CERT_NONE\n"
    daemon.settings |= patched_copy(tmp_path / "patched", "executors/connection.py", (made, loose))
    daemon.start()
    with HostileServer({"x": ANSWERS["nothing"][0]}, certificate(daemon.workflows, "expired")).running() as server:
        daemon.drop("tls.json", ask_for(f"https://127.0.0.1:{server.port}/x", tls={"ca_file": "ca.pem"}))
        error_of(daemon, "tls")

        assert server.heads != []


FLOOD_MIB = either(50, 200)
LINELESS_MIB = either(50, 100)
PRINTERS = {
    "flood": f"echo first-line; yes | head -c {FLOOD_MIB}M; echo last-line",
    "lineless": f"printf first-line; head -c {LINELESS_MIB}M /dev/zero | tr '\\0' x; printf last-line",
    "escapes": r"echo first-line; i=0; while [ $i -lt 20000 ]; do printf '\033[2J\033]0;owned\007\033]52;c;eA==\007'; "
    "i=$((i+1)); done; echo last-line",
    "not_utf8": "echo first-line; head -c 20M /dev/urandom; echo; echo last-line",
    "both": f"echo first-line; yes | head -c {FLOOD_MIB}M & yes | head -c {FLOOD_MIB}M >&2; wait; echo last-line",
}


def print_all(daemon: Daemon) -> list[str]:
    """Run all printers at once, before a subscriber who never reads; return what is wrong with the logs."""
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect(str(daemon.home / "events.sock"))
        lazy.sendall(json.dumps({"output": True}).encode() + b"\n")
        for name, command in PRINTERS.items():
            secrets = {"TOKEN": {"env": "TORTURE_TOKEN"}}
            daemon.drop(f"{name}.json", {"secrets": secrets, "tasks": [shell("print", command)]})
        runs = {name: daemon.wait_run(name, deadline_s=either(60, 300)) for name in PRINTERS}
    wrong = []
    for name, run in runs.items():
        log = (run.folder / "logs" / "print.1.log").read_bytes()
        whole = log.startswith(b"first-line") and log.rstrip().endswith(b"last-line")
        cut = b"bytes cut" in log or len(log) < MIB
        if not (run.status == "succeeded" and whole and cut and len(log) <= MIB + 100):
            wrong.append(f"{name}: {run.status}, {len(log)} bytes")
    return wrong


@pytest.mark.timeout(either(120, 600))
def test_what_tasks_print_is_bounded_in_memory_and_on_disk(daemon: Daemon) -> None:
    before = warm_up(daemon)
    spawner = memory_mib(daemon.spawner_pid)[0]
    forget_peak(daemon.spawner_pid)

    wrong = print_all(daemon)

    _, peak = memory_mib(daemon.pid)
    _, spawner_peak = memory_mib(daemon.spawner_pid)
    printed = FLOOD_MIB * 3 + LINELESS_MIB + 20
    report("floods", printed_mib=printed, daemon_peak_mib=peak - before, spawner_peak_mib=spawner_peak - spawner)
    assert wrong == []
    assert peak - before <= MOST_MIB
    assert spawner_peak - spawner <= MOST_MIB


def test_the_campaign_sees_a_log_without_a_cap(daemon: Daemon, tmp_path: Path) -> None:
    cap = "room = max(0, self.maximum - self.state.size)"
    daemon.settings |= patched_copy(tmp_path / "patched", "spawner/log.py", (cap, "room = len(data)"))
    warm_up(daemon)

    assert len(print_all(daemon)) >= len(PRINTERS) - 1


OUTPUTS: dict[str, tuple[str, str]] = {
    "long_text": ("head -c 30M /dev/zero | tr '\\0' x", "stdout has 31457280 bytes, more than 16777216"),
    "deep_json": ("head -c 900K /dev/zero | tr '\\0' '['", "nested too deeply"),
    "wide_json": ("printf '['; yes [], | head -c 15M; printf '1]'", "more than 1000000 values"),
    "long_file": ('head -c 100M /dev/zero > "$WIZFLOW_OUTPUT"', "over 1048576 bytes"),
    "endless_file": ('rm -f "$WIZFLOW_OUTPUT"; ln -s /dev/zero "$WIZFLOW_OUTPUT"', "$WIZFLOW_OUTPUT"),
    "pipe_file": ('rm -f "$WIZFLOW_OUTPUT"; mkfifo "$WIZFLOW_OUTPUT"', "$WIZFLOW_OUTPUT"),
    "number": ("printf 1e999", ""),
}


def take_all(daemon: Daemon) -> list[str]:
    """Run every task with an output that is none; return those that did not fail as they should."""
    for name, (command, _) in OUTPUTS.items():
        kind = {"type": "text"} if name == "long_text" else {"type": "json", "json_path": "$[0]"}
        outputs = {} if name.endswith("_file") else {"out": kind}
        daemon.drop(f"{name}.json", [shell("print", command, outputs=outputs)])
    wrong = []
    for name, (_, words) in OUTPUTS.items():
        (task,) = daemon.wait_run(name).result["tasks"]
        if words and words not in str(task["attempts"][-1]["error"]):
            wrong.append(name)
    return wrong


@pytest.mark.timeout(either(120, 300))
def test_outputs_that_are_none_fail_their_task_alone(daemon: Daemon) -> None:
    before = warm_up(daemon)

    wrong = take_all(daemon)

    peak = memory_mib(daemon.pid)[1]
    report("hostile outputs", outputs=len(OUTPUTS), peak_mib=peak - before)
    assert wrong == []
    assert peak - before <= MOST_MIB


def test_the_campaign_sees_outputs_without_a_bound(daemon: Daemon, tmp_path: Path) -> None:
    bound = ("TEXT_MAX = 1024 * 1024", "TEXT_MAX = 1 << 28")
    daemon.settings |= patched_copy(tmp_path / "patched", "executors/outputs.py", bound)
    before = warm_up(daemon)

    wrong = take_all(daemon)

    assert "long_file" in wrong
    assert memory_mib(daemon.pid)[1] - before > MOST_MIB
