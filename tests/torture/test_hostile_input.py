"""Campaign 8: every hostile and malformed definition at once beside good ones, and the daemon killed in between.

The daemon has no network: the corpus names hosts that are none of ours.
"""

import collections
import contextlib
import csv
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.metrics.prometheus import fetch, free_port
from tests.servers import Answer, HttpServer, SmtpSink
from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, shell, tasks_alive, wait_for
from tests.torture.campaign import ROOT, either, forget_peak, memory_mib, patched_copy, report
from wizflowd.watcher.scan import identity_of

CORPUS = ROOT / "tests" / "corpus"
KINDS = ("accept", "reject", "run", "ignore", "twin")
GOOD = 20
ROUNDS = either(3, 10)
MOST_MIB = 64
WAIT_S = 180
"""The corpus has thousands of tasks, and the machine may have other work."""

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def offline(make_daemon: MakeDaemon) -> Daemon:
    """A daemon without network, that is not started; what it says of hostile files is no complaint."""
    daemon = make_daemon()
    daemon.under = ("unshare", "--net")
    daemon.may_complain = True
    return daemon


def drop_corpus(daemon: Daemon, below: str, kinds: tuple[str, ...], chance: random.Random) -> None:
    """Move the laid-out corpus into a new folder of the watched one, file by file, in any order.

    Twins come together: of two that come one after the other the first may run.
    """
    staged = daemon.home / f"staged-{below}"
    subprocess.run([sys.executable, CORPUS / "make_corpus.py", staged], check=True, capture_output=True)
    entries = [entry for kind in kinds if kind != "twin" for entry in (staged / kind).iterdir()]
    entries += [staged / "twin"] * ("twin" in kinds)
    chance.shuffle(entries)
    for parent in {entry.parent for entry in entries}:
        (daemon.workflows / below / parent.relative_to(staged)).mkdir(parents=True, exist_ok=True)
    for entry in entries:
        entry.rename(daemon.workflows / below / entry.relative_to(staged))


def drop_good(daemon: Daemon, content: str) -> None:
    for number in range(GOOD):
        daemon.drop(f"good-{number}.yaml", [shell("say", f"echo {content} >> said")])


def load_libraries(daemon: Daemon) -> None:
    """Have the daemon load, once in its life, what conditions (CEL) and the names of circles (networkx) need."""
    one, two = shell("one", "true"), shell("two", "true", "one")
    daemon.drop("condition.yaml", [one, {**two, "when": 'tasks.one.status == "succeeded"'}])
    daemon.wait_run("condition", 1, WAIT_S)
    daemon.drop("circle.yaml", [{**one, "depends_on": ["two"]}, two])
    wait_for((daemon.folder("circle") / "error.txt").exists, "the circle is refused", WAIT_S)


def wait_good(daemon: Daemon, runs: int) -> None:
    for number in range(GOOD):
        assert daemon.wait_run(f"good-{number}", runs, WAIT_S).status == "succeeded"


def hostile_round(daemon: Daemon, number: int, kinds: tuple[str, ...], chance: random.Random) -> None:
    """Drop corpus and good workflows at once, kill the daemon somewhere on the way, see the good ones run once."""
    drop_corpus(daemon, f"round-{number}", kinds, chance)
    drop_good(daemon, f"round {number}")
    enough = chance.randrange(GOOD)

    def under_way() -> bool:
        assert daemon.process.poll() is None, f"it ended with {daemon.process.returncode}:\n{daemon.log}"
        return sum(len(daemon.finished(f"good-{n}")) > number for n in range(GOOD)) >= enough

    wait_for(under_way, "the good ones are under way", WAIT_S)
    daemon.kill9()
    daemon.start()
    wait_good(daemon, number + 1)


@functools.cache
def verdicts() -> dict[str, bool]:
    """Return, by identity, whether the corpus wants a definition refused; those with a twin are left out."""
    with (CORPUS / "index.tsv").open(encoding="utf-8", newline="") as file:
        cases = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = [
        (identity, case["class"] == "reject")
        for case in cases
        if (identity := identity_of(case["file"])) and case["how"] != "daemon" and not case["needs"]
    ]
    once = collections.Counter(identity for identity, _ in found)
    return {identity: refused for identity, refused in found if once[identity] == 1}


def wrong_verdicts(daemon: Daemon, below: str) -> list[str]:
    """Return the cases of the corpus of which the daemon made something else than it should."""
    wrong = [
        identity
        for identity, refused in verdicts().items()
        if (daemon.folder(f"{below}/{identity}") / "error.txt").exists() != refused
    ]
    for twin, others in (("twin", ("twin.json", "twin.yaml")), ("twin_yml", ("twin_yml.yaml", "twin_yml.yml"))):
        path = daemon.folder(f"{below}/twin/{twin}") / "error.txt"
        said = path.read_text() if path.exists() else ""
        if daemon.finished(f"{below}/twin/{twin}") or not all(other in said for other in others):
            wrong.append(f"twin/{twin}")
    known = [workflow["workflow"] for workflow in daemon.ask("workflows")]
    return wrong + [name for name in known if name.startswith(f"{below}/ignore/")]


def eventually_wrong(daemon: Daemon, below: str) -> list[str]:
    """Return the wrong verdicts that do not come right while the daemon writes what it knows."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not wrong_verdicts(daemon, below), deadline_s=WAIT_S)
    return wrong_verdicts(daemon, below)


def cancel_all(daemon: Daemon) -> None:
    for run in daemon.ask("runs"):
        if run["status"] in ("queued", "running", "paused"):
            daemon.ask("cancel", run=run["run"])
    wait_for(lambda: not daemon.ask("status")["runs"]["active"], "all runs are cancelled", WAIT_S)


def take_away(daemon: Daemon, below: str) -> None:
    """Remove a round's folder: what is known of a workflow takes memory as long as there is one."""

    def is_forgotten() -> bool:
        shutil.rmtree(daemon.workflows / below, ignore_errors=True)  # the daemon may still write in it
        return not any(known["workflow"].startswith(f"{below}/") for known in daemon.ask("workflows"))

    wait_for(is_forgotten, f"{below} is forgotten", WAIT_S)


@pytest.mark.timeout(either(900, 3600))
def test_good_workflows_run_beside_the_whole_corpus(offline: Daemon, chance: random.Random) -> None:
    offline.start()
    drop_good(offline, "round 0")
    wait_good(offline, 1)
    load_libraries(offline)
    before, _ = memory_mib(offline.pid)
    grown, peak = [], []

    for number in range(1, ROUNDS + 1):
        forget_peak(offline.pid)
        hostile_round(offline, number, KINDS, chance)

        offline.drop(f"last-{number}.yaml", [shell("say", "true")])
        offline.wait_run(f"last-{number}", 1, WAIT_S)  # all that was dropped before has been judged
        assert eventually_wrong(offline, f"round-{number}") == []
        for case in (CORPUS / "run").iterdir():
            assert offline.wait_run(f"round-{number}/run/{case.stem}", 1, WAIT_S).status == "succeeded"
        assert list(offline.home.rglob("PWNED")) == []
        cancel_all(offline)
        with contextlib.suppress(AssertionError):  # what the cancelled runs held goes back once they are archived
            wait_for(lambda: memory_mib(offline.pid)[0] - before <= MOST_MIB, deadline_s=90)
        now, most = memory_mib(offline.pid)
        grown.append(now - before)
        peak.append(most - before)
        take_away(offline, f"round-{number}")

    report("hostile input", rounds=ROUNDS, good=f"{GOOD} of {GOOD}", grown_mib=max(grown), peak_mib=max(peak))
    assert max(grown) <= MOST_MIB


@pytest.mark.timeout(either(120, 120))
def test_the_campaign_sees_a_daemon_that_dies_of_input(offline: Daemon, tmp_path: Path, chance: random.Random) -> None:
    swallowed = "except DefinitionError as error:\n            beside"
    died = swallowed.replace("beside", "raise\n            beside")
    offline.settings |= patched_copy(tmp_path / "patched", "engine/prepare.py", (swallowed, died))
    offline.start()

    with pytest.raises(AssertionError, match="it ended with"):
        hostile_round(offline, 0, ("reject",), chance)


@pytest.mark.timeout(120)
def test_the_campaign_sees_a_daemon_that_keeps_what_it_read(
    offline: Daemon, tmp_path: Path, chance: random.Random
) -> None:
    begin = "        stamp = hashlib.sha256(source.data).hexdigest()\n"
    keep = begin + "        self.__dict__.setdefault('_leak', []).append(source)\n"
    offline.settings |= patched_copy(tmp_path / "patched", "engine/prepare.py", (begin, keep))
    offline.start()
    before, _ = memory_mib(offline.pid)

    drop_corpus(offline, "leaked", ("reject",), chance)

    wait_for(lambda: memory_mib(offline.pid)[0] - before > MOST_MIB, "it keeps more than the bound", WAIT_S)


READ = "            with self._quarantine.reading(stamp):\n"
KILL = (READ, f"{READ}                if b'KILLS THE PARSER' in source.data: os.kill(os.getpid(), 9)\n")
DEADLY = "# KILLS THE PARSER\ntasks: [{id: a, type: SHELL, command: echo}]\n"


def lives_until_ready(daemon: Daemon, most: int = 3) -> int:
    """Start it as systemd would until it stays; return how often it was killed, at most `most` times."""
    for killed in range(most):
        process = daemon.launch()

        def settled() -> bool:
            return process.poll() is not None or (daemon.folder("deadly") / "error.txt").exists()  # noqa: B023

        wait_for(settled)
        if process.poll() is None:
            daemon.wait_until_ready()
            return killed
        assert process.returncode == -signal.SIGKILL
    return most


def test_a_definition_that_kills_the_parser_twice_is_quarantined(offline: Daemon, tmp_path: Path) -> None:
    offline.settings |= patched_copy(tmp_path / "patched", "engine/prepare.py", KILL)
    offline.drop("deadly.yaml", DEADLY)
    drop_good(offline, "beside")

    killed = lives_until_ready(offline)

    assert killed == 2
    said = (offline.folder("deadly") / "error.txt").read_text()
    assert "deadly.yaml: quarantined: reading it ended wizflowd 2 times" in said
    wait_good(offline, 1)
    offline.drop("deadly.yaml", DEADLY.replace("KILLS", "KILLED"))
    offline.wait_run("deadly")
    report("quarantine", kills_until_quarantined=killed, good=f"{GOOD} of {GOOD}")


def test_the_campaign_sees_a_missing_quarantine(offline: Daemon, tmp_path: Path) -> None:
    offline.settings |= patched_copy(tmp_path / "patched", "engine/prepare.py", KILL)
    patched_copy(tmp_path / "patched", "engine/quarantine.py", ("MAX_KILLS = 2", "MAX_KILLS = 1000"))
    offline.drop("deadly.yaml", DEADLY)

    assert lives_until_ready(offline) == 3


TURNED = "    service.turned(status_text(engine.state)"
REFUSE = "import threading; threading.Thread.start = lambda _: (_ for _ in ()).throw(RuntimeError('no thread'))"
NO_MORE_THREADS = (TURNED, f"    if engine.ready:\n        {REFUSE}\n{TURNED}")
"""As under a fork bomb that has all processes that the host allows."""


def drop_every_kind(daemon: Daemon, url: str) -> None:
    mail = {"subject": "s", "emailBody": "m", "recipients": ["a@example.org"]}
    kinds = [shell("shell", "echo said"), {"id": "rest", "type": "RESTAPI", "method": "GET", "url": url}]
    daemon.drop("kinds.yaml", [*kinds, {"id": "email", "type": "EMAIL", **mail, "depends_on": ["shell", "rest"]}])


def test_a_daemon_that_gets_no_more_threads_goes_on(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon()
    daemon.settings |= patched_copy(tmp_path / "patched", "daemon.py", NO_MORE_THREADS)
    daemon.metrics = f"127.0.0.1:{free_port()}"
    with HttpServer(Answer(body=b"hello")) as server, SmtpSink() as sink:
        daemon.settings["WIZFLOWD_SMTP"] = json.dumps(
            {"host": "localhost", "port": sink.port, "tls": "none", "from": "a@example.org"}
        )
        daemon.start()
        drop_every_kind(daemon, f"http://localhost:{server.port}/")

        ended = daemon.wait_run("kinds")
        page = fetch(f"http://{daemon.metrics}/metrics")

    assert ended.named("succeeded") == {"shell", "rest", "email"}
    assert "wizflow_disk_free_bytes" in page
    assert daemon.stop() == 0


def test_the_campaign_sees_a_daemon_that_starts_its_threads_late(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon()
    daemon.may_complain = True
    daemon.settings |= patched_copy(tmp_path / "patched", "daemon.py", NO_MORE_THREADS)
    patched_copy(tmp_path / "patched", "threads.py", ("pool.submit(all_there.wait)", "pass"))

    daemon.start()
    drop_every_kind(daemon, "http://localhost:1/")

    wait_for(lambda: daemon.process.poll() is not None, "it ends")
    assert daemon.process.returncode == 1
    assert "RuntimeError: no thread" in daemon.log


@contextmanager
def caged(processes: int, memory: int) -> Iterator[tuple[str, ...]]:
    """Give a command that starts another in control groups (version 1) with limits; afterwards none of it is left."""
    controllers = [Path("/sys/fs/cgroup") / name / f"wizflow-torture-{os.getpid()}" for name in ("pids", "memory")]
    for folder in controllers:
        try:
            folder.mkdir()
        except OSError as error:
            pytest.skip(f"no {folder.parent} to put limits on processes: {error.strerror}")
    (controllers[0] / "pids.max").write_text(str(processes))
    (controllers[1] / "memory.limit_in_bytes").write_text(str(memory))
    enter = "; ".join(f"echo $$ > {folder}/cgroup.procs" for folder in controllers)
    try:
        yield ("sh", "-c", f'{enter}; exec "$@"', "sh")
    finally:
        wait_for(lambda: _kill_all(controllers[0] / "cgroup.procs"), "the cage is empty")
        for folder in controllers:
            folder.rmdir()


def _kill_all(members: Path) -> bool:
    pids = [int(line) for line in members.read_text().split()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return not pids


@pytest.mark.timeout(180)
def test_good_definitions_that_misbehave_harm_only_themselves(make_daemon: MakeDaemon) -> None:
    with caged(400, 2 << 30) as cage:
        daemon = make_daemon(limits__log_max="1MiB", shutdown__grace="1s")
        daemon.under = cage
        daemon.may_complain = True
        daemon.start()
        flood, escaping = (CORPUS / "manners" / name for name in ("log_flood.yaml", "escape_group.yaml"))
        daemon.drop(flood.name, flood.read_bytes())  # beside a bomb neither of the two may find a process to begin with
        ends = {flood.stem: daemon.wait_run(flood.stem).status}
        others = [path for path in (CORPUS / "manners").iterdir() if path not in (flood, escaping)]
        for path in others:
            daemon.drop(path.name, path.read_bytes())
        bomb = shell("bomb", "f() { f | f & }; f; sleep 60", shell="bash")
        daemon.drop("bomb.yaml", [bomb])
        run = daemon.wait_running("bomb", "bomb")
        daemon.ask("cancel", run=run)

        ends |= {name: daemon.wait_run(name).status for name in (*(path.stem for path in others), "bomb")}
        daemon.drop(escaping.name, escaping.read_bytes())
        daemon.ask("cancel", run=daemon.wait_running(escaping.stem, "a"))
        ends[escaping.stem] = daemon.wait_run(escaping.stem).status
        daemon.drop("good.yaml", [shell("a", "true")])
        good = daemon.wait_run("good").status
        logged = (daemon.finished("log_flood")[0].folder / "logs" / "a.1.log").stat().st_size
        left = len(tasks_alive(daemon.home))
        rss, _ = memory_mib(daemon.pid)
        spawner, _ = memory_mib(daemon.spawner_pid)
        daemon.close()

    report("bad manners", left_alive=left, flood_log_bytes=logged, daemon_mib=rss, spawner_mib=spawner, good=good)
    assert ends.pop("log_flood") == "succeeded"
    assert ends.pop("kills_itself") == "failed"
    assert ends.pop("escape_group") == "cancelled"
    assert ends.pop("bomb") in ("cancelled", "failed")  # out of processes, it may end by itself before it is cancelled
    assert set(ends.values()) <= {"succeeded", "failed"}
    assert good == "succeeded"
    assert left == 0
    assert logged <= (1 << 20) + 200
