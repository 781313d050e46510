"""The spawner as a process: what it promises to a daemon over its socket."""

import base64
import os
import resource
import socket
import subprocess
import sys
import time
from functools import partial

import pytest

from tests.spawner.conftest import Make, Spawner, wait_for
from tests.spawner.trees import NAMES, is_up, living, tree
from wizflowd.spawner.identity import read_mark


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_killed_attempt_is_alive_a_second_after_the_grace(spawner: Spawner, name: str) -> None:
    for number in range(3):
        token = f"90{os.getpid()}{number}"
        spawner.spawn(f"a{number}", "/bin/sh", "-c", tree(name, token))
        wait_for(partial(is_up, name, token))
        started = time.monotonic()

        spawner.send({"op": "kill", "attempt": f"a{number}", "reason": "cancel"})
        exited = spawner.next("exited")

        assert living(token) == []
        assert time.monotonic() - started < 0.3 + 1
        assert exited["killed"]


def test_a_kill_of_one_attempt_leaves_the_others_alone(spawner: Spawner) -> None:
    token = f"91{os.getpid()}"
    spawner.spawn("a", "/bin/sh", "-c", f"(env -i setsid sleep {token}1 &) ; sleep {token}1")
    spawner.spawn("b", "/bin/sh", "-c", f"(env -i setsid sleep {token}2 &) ; sleep {token}2")
    wait_for(lambda: len(living(f"sleep\0{token}")) == 4)

    spawner.send({"op": "kill", "attempt": "a", "reason": "cancel"})
    spawner.next("exited", "a")

    assert living(f"sleep\0{token}1") == []
    assert len(living(f"sleep\0{token}2")) == 2


def test_a_patient_daemon_is_told_of_a_start_with_the_end_or_a_moment_later(spawner: Spawner) -> None:
    long = spawner.spawn("long", "/bin/sh", "-c", "sleep 60", patient=True)
    spawner.send({"op": "kill", "attempt": "long", "reason": "cancel"})
    ended = spawner.next("exited", "long")

    assert long["pid"] == ended["pid"]


def test_an_attempt_is_over_with_its_first_process_whoever_holds_its_output(spawner: Spawner) -> None:
    token = f"92{os.getpid()}"

    exited = spawner.run("a", f"echo before; sleep {token} & (setsid sleep {token} &); echo after")

    assert exited["exit_code"] == 0
    assert exited["leftovers"] == 2
    assert exited["notes"] == ["2 left-over processes ended"]
    assert living(token) == []
    assert spawner.log("a") == b"before\nafter\n"


def test_what_ends_by_itself_right_after_is_no_leftover(spawner: Spawner) -> None:
    script = "exec > >(sleep 0.03; cat > copy.txt); echo through the pipe"

    spawner.spawn("a", "bash", "-c", script)
    exited = spawner.next("exited")

    assert exited["leftovers"] == 0
    assert (spawner.folder / "copy.txt").read_text() == "through the pipe\n"


def test_all_output_is_in_the_log_in_order(spawner: Spawner) -> None:
    spawner.run("a", "i=0; while [ $i -lt 20000 ]; do echo $i; echo e$i >&2; i=$((i+1)); done")

    expected = "".join(f"{i}\ne{i}\n" for i in range(20000))
    assert spawner.log("a").decode() == expected


def test_a_task_that_prints_without_end_is_neither_killed_nor_kept(spawner: Spawner) -> None:
    exited = spawner.run("a", "head -c 300000000 /dev/zero | tr '\\0' 'x'; echo the end", log_max=100_000)

    log = spawner.log("a")
    assert exited["exit_code"] == 0
    assert exited["truncated"]
    assert len(log) < 100_100
    assert b"bytes cut" in log
    assert log.endswith(b"x" + b"the end\n")


def test_another_attempt_goes_on_beside_one_that_prints_without_end(spawner: Spawner) -> None:
    spawner.spawn("loud", "yes", log_max=10_000)

    started = time.monotonic()
    for number in range(10):
        spawner.run(f"q{number}", "echo quick")

    assert time.monotonic() - started < 5
    spawner.send({"op": "kill", "attempt": "loud", "reason": "cancel"})
    spawner.next("exited", "loud")


def test_a_secret_that_comes_byte_by_byte_is_masked_in_log_copy_and_live_output(spawner: Spawner) -> None:
    secret = "hunter2-secret"
    code = base64.b64encode(secret.encode()).decode()
    script = f"for c in a {' '.join(secret)} b {' '.join(code)}; do printf %s $c; sleep 0.002; done; echo err >&2"
    spawner.send({"op": "listen", "on": True})

    exited = spawner.run("a", script, secrets=[secret], stdout=str(spawner.folder / "out"))

    assert spawner.log("a") == b"a***b***err\n"
    assert (spawner.folder / "out").read_bytes() == b"a***b***"
    assert exited["stdout_bytes"] == 8
    live = "".join(m["text"] for m in spawner.messages if m["op"] == "output")
    assert live == "a***b***err\n"


def test_stdout_alone_is_kept_up_to_its_bound(spawner: Spawner) -> None:
    exited = spawner.run("a", "printf 0123456789; printf abc", stdout=str(spawner.folder / "out"), stdout_max=4)

    assert (spawner.folder / "out").read_bytes() == b"0123"
    assert exited["stdout_bytes"] == 13


def test_a_known_attempt_is_answered_and_not_started_again(spawner: Spawner) -> None:
    first = spawner.spawn("a", "/bin/sh", "-c", "echo ran; while [ ! -e go ]; do sleep 0.01; done")

    again = spawner.spawn("a", "/bin/sh", "-c", "echo ran")
    (spawner.folder / "go").touch()
    exited = spawner.next("exited")
    spawner.send({"op": "spawn", "attempt": "a"})

    assert again == first
    assert spawner.next("exited") == exited
    assert spawner.log("a") == b"ran\n"


def test_an_exit_survives_a_killed_spawner_until_it_is_acknowledged(make: Make) -> None:
    first = make()
    exited = first.run("a", "exit 5")
    first.process.kill()
    first.close()

    second = make()
    found = second.hello["exits"]
    second.send({"op": "ack", "attempts": ["a"]})
    second.run("b", "true")
    second.close()
    third = make()

    assert found == [exited]
    assert [each["attempt"] for each in third.hello["exits"]] == ["b"]


def test_a_spawner_ends_what_a_killed_one_left_behind(make: Make) -> None:
    token = f"93{os.getpid()}"
    first = make()
    first.spawn("a", "/bin/sh", "-c", f"(env -i setsid sleep {token} >/dev/null 2>&1 &); exec sleep {token}")
    wait_for(lambda: len(living(f"sleep\0{token}")) == 2)
    first.process.kill()
    first.close()

    second = make()

    wait_for(lambda: not living(f"sleep\0{token}"))
    assert second.hello["attempts"] == []


def test_a_terminated_spawner_ends_its_attempts_and_records_them_as_lost(make: Make) -> None:
    token = f"94{os.getpid()}"
    first = make()
    first.spawn("a", "/bin/sh", "-c", f"trap '' TERM; sleep {token}; exit 0")
    wait_for(lambda: living(f"sleep\0{token}"))

    first.process.terminate()
    exited = first.next("exited")
    first.process.wait(10)
    second = make()

    assert exited["lost"]
    assert living(token) == []
    assert second.hello["exits"] == [exited | {"boot": ""}]


def test_an_own_spawner_waits_for_the_next_daemon_unless_the_last_one_said_good_bye(make: Make) -> None:
    first = make("--own")

    first.socket.close()  # as when its daemon is killed
    time.sleep(0.5)
    second = make("--own")
    met = second.hello["pid"]
    second.send({"op": "stop", "kill": False})
    first.process.wait(5)

    assert met == first.process.pid


def test_two_spawners_of_one_directory_are_one(spawner: Spawner, make: Make) -> None:
    second = make()

    second.process.wait(10)

    assert second.process.returncode == 3
    assert second.hello["pid"] == spawner.process.pid


def test_a_broken_line_ends_only_its_connection(spawner: Spawner) -> None:
    other = socket.socket(socket.AF_UNIX)
    other.connect(str(spawner.folder / "socket"))
    other.settimeout(10)

    other.sendall(b"nonsense\n")

    assert other.recv(10) == b""
    other.close()
    assert spawner.run("a", "true")["exit_code"] == 0


def test_the_spawners_memory_is_closed_to_its_own_user(spawner: Spawner) -> None:
    program = f"open('/proc/{spawner.process.pid}/mem', 'rb')"
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", sys.executable, "-c", program]

    done = subprocess.run(drop, capture_output=True, text=True)

    assert "PermissionError" in done.stderr


def test_every_attempt_wears_a_mark_of_its_own(spawner: Spawner) -> None:
    marks = [spawner.spawn(name, "sleep", "60") for name in ("a", "b")]

    assert [read_mark(each["pid"]) for each in marks] == [each["mark"] for each in marks]
    assert marks[0]["mark"] != marks[1]["mark"]
    assert read_mark(os.getpid()) == 0


def test_a_spawner_that_re_executes_itself_loses_nothing(spawner: Spawner) -> None:
    secret = "hunter2-secret"
    script = "echo $$; printf 'a hunter2'; touch up; while [ ! -e go ]; do sleep 0.01; done; echo -secret b; exit 4"
    started = spawner.spawn("a", "/bin/sh", "-c", script, secrets=[secret], stdout=str(spawner.folder / "out"))
    spawner.run("b", "exit 6")
    wait_for((spawner.folder / "up").exists)
    mark_before = spawner.spawn("c", "sleep", "0.2", timeout_s=60)["mark"]

    hello = spawner.ask({"op": "reexec"}, "hello")
    mark_after = spawner.spawn("d", "sleep", "0.2")["mark"]
    (spawner.folder / "go").touch()

    assert spawner.next("exited", "a")["exit_code"] == 4
    assert spawner.log("a").decode() == (spawner.folder / "out").read_text() == f"{started['pid']}\na *** b\n"
    assert hello["pid"] == spawner.process.pid
    assert {each["attempt"] for each in hello["attempts"]} == {"a", "c"}
    assert [each["exit_code"] for each in hello["exits"]] == [6]
    assert mark_after == mark_before - 1
    assert spawner.next("exited", "c")["exit_code"] == 0


def test_a_re_executed_spawner_ends_what_it_is_told_to_end(spawner: Spawner) -> None:
    token = f"95{os.getpid()}"
    spawner.spawn("a", "/bin/sh", "-c", f"trap '' TERM; (env -i setsid sleep {token} &); sleep {token}; sleep {token}")
    wait_for(lambda: len(living(f"sleep\0{token}")) == 2)

    spawner.ask({"op": "reexec"}, "hello")
    spawner.send({"op": "kill", "attempt": "a", "reason": "cancel"})

    assert spawner.next("exited")["signal"] == 9
    assert living(token) == []


@pytest.mark.root  # to look at the descriptors of a process whose memory holds secrets
def test_an_attempt_leaves_no_descriptor_open_however_it_ends(spawner: Spawner) -> None:
    pid = spawner.process.pid
    before = len(os.listdir(f"/proc/{pid}/fd"))
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    for good, stdout in (("one pipe", None), ("two pipes", str(spawner.folder / "stdout"))):
        assert spawner.run(good, "echo well", stdout=stdout)["exit_code"] == 0
        assert spawner.ask(spawner.request("absent", "/nowhere", stdout=stdout), "refused")["kind"] == "not_found"
        assert spawner.ask(spawner.request("bad", "cat", stdin="\ud800", stdout=stdout), "refused")["kind"] == "other"
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (before + 3, hard))  # room for one pipe and half of another
        cramped = spawner.request("cramped", "cat", stdin="one", stdout=str(spawner.folder / "stdout"))
        assert "too many open files" in spawner.ask(cramped, "refused")["message"].lower()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))

    assert len(os.listdir(f"/proc/{pid}/fd")) == before


def test_a_text_that_has_no_bytes_is_refused_and_what_runs_goes_on(spawner: Spawner) -> None:
    spawner.spawn("a", "sleep", "60")
    request = {"op": "spawn", "attempt": "b", "argv": ["cat"], "env": {}, "cwd": "/", "stdin": "half a pair: \ud800"}

    refused = spawner.ask(request, "refused")

    assert refused["attempt"] == "b"
    assert refused["message"].startswith("cannot start cat: ")
    spawner.send({"op": "kill", "attempt": "a", "reason": "cancel"})
    assert spawner.next("exited", "a")["killed"]
