"""Campaign 10: what is secret shows up nowhere, however it is encoded and wherever it is cut."""

import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Answer, HttpServer, SmtpSink
from tests.servers import Request as HttpRequest
from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, shell
from tests.torture import secret_printer
from tests.torture.campaign import patched_copy, report
from tests.torture.secret_printer import encodings

SECRETS = {
    "PLAIN": "hunter2-and-more",
    "SHORT": "aB3$x9",
    "QUOTES": 'it\'s "so" <quoted> & `more`',
    "SHELL": "$(id);${HOME}|&&\\x",
    "UNICODE": "pässwörd-日本語-🔑",
    "PERCENT": "100%25+a/b=c?d#e",
    "BLANKS": "../../leads out with\ttab",
    "REPEATS": "abababababababab",
    "BASE64": "dGhpcyBpcyBzZWNyZXQ=",
    "LONG": "".join(f"{number:03x}~" for number in range(60)),
    "LINES": "-----BEGIN KEY-----\nMIIBVgIBADANBgkqhkiG9w0BAQEF\nAASCAUAwggE8AgEAAkEAq7BFUpkG\n-----END KEY-----",
    "JSON": '{"user": "svc", "pass": "S3cr\\u00e9t/x"}',
}
PASSWORD = "smtp-Passw0rd/for=one+server"
NEEDLES = {
    (name, kind): needle
    for name, secret in {**SECRETS, "SMTP": PASSWORD}.items()
    for kind, _, needle in encodings(secret)
}
HELD_BY_ALL = ("PATH", "HOME", "USER", "SHELL", "LANG", "TZ", "TMPDIR")

pytestmark = pytest.mark.slow


@pytest.fixture
def daemon(make_daemon: MakeDaemon, tmp_path: Path) -> Daemon:
    """A daemon that is not started; its secrets come from its environment, from credentials and from files."""
    outside = tmp_path / "outside"
    outside.mkdir()
    daemon = make_daemon(tmp_path / "home")
    daemon.settings["CREDENTIALS_DIRECTORY"] = str(outside)
    for name, secret in SECRETS.items():
        (outside / name.lower()).write_text(f"{secret}\n")
        daemon.settings[f"TORTURE_{name}"] = secret
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        daemon.metrics = f"127.0.0.1:{probe.getsockname()[1]}"
    return daemon


def sources(tmp_path: Path) -> dict[str, Any]:
    """Return the `secrets` of a definition: a third of each source."""
    kinds: list[Callable[[str], dict[str, str]]] = [
        lambda name: {"env": f"TORTURE_{name}"},
        lambda name: {"credential": name.lower()},
        lambda name: {"file": str(tmp_path / "outside" / name.lower())},
    ]
    return {name: kinds[number % 3](name) for number, name in enumerate(SECRETS)}


def hits_in(data: bytes, where: str) -> list[str]:
    return [f"{name} as {kind} in {where}" for (name, kind), needle in NEEDLES.items() if needle in data]


def hits_below(folder: Path) -> tuple[list[str], int]:
    """Return what is found in the names and bytes of all files, and how many files there were."""
    found, count = [], 0
    for path in folder.rglob("*"):
        found += hits_in(os.fsencode(path), "a name")
        if path.is_file() and not path.is_symlink():
            found += hits_in(path.read_bytes(), str(path.relative_to(folder)))
            count += 1
    return found, count


class Witness:
    """What is to be seen from outside while tasks run: the event stream with output, and the arguments of processes."""

    def __init__(self, daemon: Daemon) -> None:
        self.stream = bytearray()
        self.arguments: set[bytes] = set()
        self._home = os.fsencode(daemon.home)
        self._ended = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(daemon.home / "events.sock"))
        self._socket.sendall(json.dumps({"since": 0, "output": True}).encode() + b"\n")
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._look)]

    def _read(self) -> None:
        while data := self._socket.recv(1 << 16):
            self.stream += data

    def _look(self) -> None:
        while not self._ended.wait(0.005):
            for entry in Path("/proc").iterdir():
                if entry.name.isdecimal():
                    try:
                        self.arguments.add((entry / "cmdline").read_bytes())
                    except OSError:
                        continue

    @contextmanager
    def watching(self) -> Iterator["Witness"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            self._socket.shutdown(socket.SHUT_RDWR)
            for thread in self._threads:
                thread.join()
            self._socket.close()


def print_everything(daemon: Daemon, tmp_path: Path) -> tuple[list[str], dict[str, int]]:
    """Have a task for each secret print it in every way; return every hit, and figures. The daemon is down then."""
    daemon.start()
    printer = [sys.executable, "-I", "-S", secret_printer.__file__]
    outputs = {"all": {"type": "text"}}
    tasks = [shell(name, [*printer, name], env={name: f"{{{{secrets.{name}}}}}"}, outputs=outputs) for name in SECRETS]
    tasks.append(shell("tell", "printf '%s' {{secrets.PLAIN}}; printf 'x={{secrets.QUOTES}}\\n' >> $WIZFLOW_OUTPUT"))
    with Witness(daemon).watching() as witness:
        daemon.drop("print.json", {"secrets": sources(tmp_path), "tasks": tasks})
        run = daemon.wait_run("print")
        metrics = urllib.request.urlopen(f"http://{daemon.metrics}/metrics").read()
    for name, secret in SECRETS.items():
        log = run.log(name)
        printed = sum(len(text) + 1 for _, text, _ in encodings(secret))
        assert f"printed {printed}\n" in log
    assert b"wizflow_tasks_total" in metrics
    assert b"wizflow.task.output" in witness.stream
    alive, _ = hits_below(daemon.home)  # with the journal's WAL
    daemon.kill9()
    down, files = hits_below(daemon.home)
    seen = [
        *hits_in(bytes(witness.stream), "the stream"),
        *hits_in(metrics, "the metrics"),
        *(hit for argv in witness.arguments for hit in hits_in(argv, "arguments")),
    ]
    lines = sum(sum(len(text) + 1 for _, text, _ in encodings(secret)) for secret in SECRETS.values())
    hits = sorted({*alive, *down, *seen})
    return hits, {"secrets": len(SECRETS), "needles": len(NEEDLES), "cuts": lines, "files": files}


@pytest.mark.timeout(240)
def test_no_encoding_and_no_cut_gets_a_secret_out(daemon: Daemon, tmp_path: Path) -> None:
    hits, figures = print_everything(daemon, tmp_path)

    report("secrets", **figures, hits=len(hits))
    assert hits == []


@pytest.mark.timeout(240)
def test_the_campaign_sees_a_masker_that_holds_nothing_back(daemon: Daemon, tmp_path: Path) -> None:
    hold = "return self._release(buffer, self._hold_from(buffer))"
    gone = "return self._release(buffer, len(buffer))"
    daemon.settings |= patched_copy(tmp_path / "patched", "spawner/masking.py", (hold, gone))

    hits, _ = print_everything(daemon, tmp_path)

    assert hits != []


def echo(request: HttpRequest) -> Answer:
    """Answer with an error that repeats all that was sent."""
    said = f"{request.method} {request.target} {dict(request.headers)} {request.body!r}"
    return Answer(500, headers=(("X-Echo", request.headers.get("authorization", "")),), body=said.encode())


SECRET = "{{secrets.QUOTES}}"


def failing_tasks(port: int) -> list[dict[str, Any]]:
    """Return tasks that fail in every way with a secret in hand."""
    rest = {"type": "RESTAPI", "method": "POST"}
    mail = {"type": "EMAIL", "subject": "s", "emailBody": SECRET, "recipients": ["ops@example.org"]}
    basic = {"username": "{{secrets.PLAIN}}", "password": "{{secrets.SHELL}}"}
    told = {"query": {"q": SECRET}, "headers": {"X": "{{secrets.PLAIN}}"}, "body": {"b": SECRET}}
    url = f"http://127.0.0.1:{port}"
    return [
        shell("stderr", f"echo {SECRET} >&2; exit 3"),
        shell("cwd", "true", working_dir=SECRET),
        shell("cwd_out", "true", working_dir="{{secrets.BLANKS}}"),
        shell("output", "true", outputs={"out": {"type": "file", "path": f"x{SECRET}"}}),
        shell("output_out", "true", outputs={"out": {"type": "file", "path": "x/{{secrets.BLANKS}}"}}),
        shell("not_json", f"printf %s {SECRET}", outputs={"out": {"type": "json", "json_path": "$.a"}}),
        shell("bad_line", f"printf '%s' {SECRET} > $WIZFLOW_OUTPUT"),
        shell("shell_error", "set -x; : {{secrets.SHELL}}; no-such-command-{{secrets.PLAIN}}", shell="bash"),
        shell("long_env", "true", env={"BIG": SECRET + "x" * 140_000}),
        {"id": "echo", **rest, "url": f"{url}/{SECRET}", **told},
        {"id": "basic", **rest, "url": url, "auth": {"basic": basic}},
        {"id": "bearer", **rest, "url": url, "auth": {"bearer": "{{secrets.JSON}}"}},
        {"id": "bad_header", **rest, "url": url, "headers": {"X": "{{secrets.LINES}}"}},
        {"id": "bad_url", **rest, "url": f"{SECRET}"},
        {"id": "bad_host", **rest, "url": "http://{{secrets.PLAIN}}.invalid/"},
        {"id": "refused", **rest, "url": "http://127.0.0.1:1/{{secrets.UNICODE}}"},
        {"id": "mail", **mail},
        {"id": "mail_to", **mail, "recipients": [SECRET]},
        {"id": "mail_subject", **mail, "subject": "{{secrets.LINES}}"},
        {"id": "attach", **mail, "attachments": [SECRET]},
        {"id": "attach_out", **mail, "attachments": ["{{secrets.BLANKS}}"]},
    ]


def fail_everything(daemon: Daemon, tmp_path: Path) -> tuple[list[str], set[str], dict[str, int]]:
    """Have every task fail; return every hit, the tasks that did not fail, and figures. The daemon is down then."""
    with HttpServer(echo) as server, SmtpSink(login=("svc", "another")) as sink:
        smtp = {
            "host": "127.0.0.1",
            "port": sink.port,
            "username": "svc",
            "password": PASSWORD,
            "from": "a@example.org",
        }
        daemon.settings["WIZFLOWD_SMTP"] = json.dumps(smtp)
        daemon.start()
        tasks = failing_tasks(server.port)
        with Witness(daemon).watching() as witness:
            daemon.drop("fail.json", {"secrets": sources(tmp_path), "tasks": tasks})
            run = daemon.wait_run("fail")
    daemon.kill9()
    hits, files = hits_below(daemon.home)
    hits += hits_in(bytes(witness.stream), "the stream")
    return hits, run.named("succeeded"), {"tasks": len(tasks), "files": files}


def test_no_error_message_shows_a_secret(daemon: Daemon, tmp_path: Path) -> None:
    hits, succeeded, figures = fail_everything(daemon, tmp_path)

    report("secrets in errors", **figures, hits=len(hits))
    assert succeeded <= {"not_json"}
    assert hits == []


def test_the_campaign_sees_errors_that_are_not_masked(daemon: Daemon, tmp_path: Path) -> None:
    masked = "message = Masker(job.secrets).mask(str(error))"
    daemon.settings |= patched_copy(tmp_path / "patched", "executors/inprocess.py", (masked, "message = str(error)"))

    hits, _, _ = fail_everything(daemon, tmp_path)

    assert hits != []


WITHOUT_PTRACE = ("setpriv", "--bounding-set=-sys_ptrace,-perfmon,-sys_admin")
"""Starts a program of our own user that may look into processes of that user only if they let it."""


def readable(pid: int) -> list[str]:
    """Return which private files of a process another process of the same user can read."""
    names = ("environ", "maps", "mem", "fd/0")
    tests = [f"head -c 1 /proc/{pid}/{name} >/dev/null 2>&1 && echo {name}" for name in names if name != "mem"]
    opens = f"exec 2>/dev/null; ( exec 3</proc/{pid}/mem ) && echo mem"
    done = subprocess.run([*WITHOUT_PTRACE, "sh", "-c", "; ".join([*tests, opens])], capture_output=True, text=True)
    return done.stdout.split()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give up a capability")
def test_peers_cannot_look_into_daemon_and_spawner(daemon: Daemon) -> None:
    daemon.under = WITHOUT_PTRACE
    daemon.start()

    seen = {"daemon": readable(daemon.pid), "spawner": readable(daemon.spawner_pid)}

    report("memory of daemon and spawner", **{who: ",".join(files) or "closed" for who, files in seen.items()})
    assert seen == {"daemon": [], "spawner": []}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give up a capability")
def test_the_campaign_sees_a_daemon_that_peers_can_look_into(daemon: Daemon, tmp_path: Path) -> None:
    call = "    keep_memory_private()\n"
    daemon.settings |= patched_copy(tmp_path / "patched", "daemon.py", (call, ""))
    daemon.under = WITHOUT_PTRACE
    daemon.start()

    assert "environ" in readable(daemon.pid)


def names_in_env(daemon: Daemon) -> set[str]:
    """Return the names in the environment of a task of which the definition says nothing."""
    daemon.start()
    daemon.drop("env.json", [shell("show", "env -0 | cut -z -d= -f1 | tr '\\0' '\\n' > names")])
    daemon.wait_run("env")
    return set((daemon.workspace("env") / "names").read_text().split())


def is_allowed(name: str) -> bool:
    return name in HELD_BY_ALL or name.startswith(("LC_", "WIZFLOW_")) or name in ("PWD", "OLDPWD", "SHLVL", "_")


def test_a_task_gets_the_environment_of_the_list_and_nothing_else(daemon: Daemon) -> None:
    found = names_in_env(daemon)

    report("environment of a task", names=len(found), not_on_the_list=len([n for n in found if not is_allowed(n)]))
    assert [name for name in found if not is_allowed(name)] == []


def test_the_campaign_sees_an_environment_that_is_passed_on(daemon: Daemon, tmp_path: Path) -> None:
    guard = 'if name in _OUTER_ENV or name.startswith("LC_")'
    daemon.settings |= patched_copy(tmp_path / "patched", "core/calls.py", (guard, "if name"))

    assert not all(map(is_allowed, names_in_env(daemon)))
