"""wizflowd as a service, on a systemd that was booted for it, from the package that `make deb` built."""

import json
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.system.running import is_alive, wait_for
from tests.system_systemd.conftest import EXCHANGE, NEXT_VERSION
from tests.system_systemd.host import (
    CONTROL,
    DAEMON,
    EVENTS,
    HOME,
    SPAWNER,
    WORKFLOWS,
    Waiting,
    Workflow,
    configured,
    documentation,
    drop_in,
    entries,
    main_pid,
    restart,
    run,
    runs,
    shown,
)
from wizflowd.client import ask

pytestmark = pytest.mark.usefixtures("installed")
_CAP_LEASE = 1 << 28


def test_the_package_starts_everything_and_again_at_each_boot() -> None:
    units = [DAEMON, SPAWNER, "wizflowd-events.socket", "wizflowd-control.socket"]

    states = run("systemctl", "is-active", *units).split()
    enabled = run("systemctl", "is-enabled", *units).split()

    assert states == ["active"] * 4
    assert enabled == ["enabled", "static", "enabled", "enabled"]


def test_the_doctor_finds_nothing_wrong() -> None:
    findings = json.loads(run("wizflow", "doctor", "--json"))

    assert f"held by process {main_pid(DAEMON)}" in str(findings)
    assert f"process {main_pid(SPAWNER)} owns the tasks" in str(findings)


def test_the_status_text_says_what_goes_on() -> None:
    waiting = Waiting("status")

    wait_for(lambda: "1 workflow, 1 run active" in shown(DAEMON, "StatusText"))
    waiting.end()

    wait_for(lambda: shown(DAEMON, "StatusText") == "1 workflow, idle")


@pytest.mark.parametrize(("path", "group"), [(EVENTS, "wizflowd-events"), (CONTROL, "wizflowd-control")])
def test_a_socket_is_for_its_group_alone(path: Path, group: str) -> None:
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"

    def connects(*groups: str) -> bool:
        who = ["setpriv", "--reuid=nobody", "--regid=nogroup"]
        who += [f"--groups={','.join(groups)}"] if groups else ["--clear-groups"]
        return subprocess.run([*who, "/usr/bin/python3", "-c", connect], stderr=subprocess.DEVNULL).returncode == 0

    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert path.group() == group
    assert connects(group)
    assert not connects()
    assert not connects("wizflowd")


def hello() -> dict[str, Any]:
    """Return the data of the first line of the event stream."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(EVENTS))
        first = json.loads(client.makefile().readline())
    assert first["type"] == "wizflow.hello"
    data: dict[str, Any] = first["data"]
    return data


def test_events_come_over_the_socket_of_systemd() -> None:
    assert hello()["newest"] > 0


def test_a_connection_starts_a_stopped_daemon() -> None:
    run("systemctl", "stop", DAEMON)
    stopped = shown(DAEMON, "ActiveState")

    answer = ask(CONTROL, {"op": "status"})

    assert stopped == "inactive"
    assert answer
    wait_for(lambda: shown(DAEMON, "ActiveState") == "active")


def test_a_restart_keeps_the_tasks() -> None:
    waiting = Waiting("restarted")
    before = main_pid(DAEMON)

    restart(DAEMON)

    assert main_pid(DAEMON) != before
    assert is_alive(waiting.pid)
    waiting.end()
    assert waiting.result()["status"] == "succeeded"
    assert [attempt["attempt"] for attempt in waiting.result()["tasks"][0]["attempts"]] == [1]


def test_a_daemon_that_hangs_is_ended_by_the_watchdog_and_its_tasks_are_adopted() -> None:
    with drop_in(DAEMON, "WatchdogSec=2"):
        waiting = Waiting("hung")
        before = main_pid(DAEMON)

        os.kill(before, signal.SIGSTOP)

        wait_for(lambda: main_pid(DAEMON) not in (0, before) and shown(DAEMON, "ActiveState") == "active")
        assert is_alive(waiting.pid)
        waiting.end()
        result = waiting.result()
    assert result["status"] == "succeeded"
    assert len(result["tasks"][0]["attempts"]) == 1
    assert [entry["TASK"] for entry in entries(f"RUN={result['run']}", "EVENT=wizflow.task.adopted")] == ["wait"]
    assert "watchdog" in " ".join(str(entry["MESSAGE"]) for entry in entries(f"UNIT={DAEMON}")).lower()


def test_a_daemon_that_is_idle_is_not_ended_by_the_watchdog() -> None:
    with drop_in(DAEMON, "WatchdogSec=0.4"):
        before, since_us = main_pid(DAEMON), int(shown(DAEMON, "WatchdogTimestampMonotonic"))

        wait_for(lambda: int(shown(DAEMON, "WatchdogTimestampMonotonic")) > since_us + 2_000_000)

        assert main_pid(DAEMON) == before


def test_stopping_the_spawner_ends_the_tasks_as_lost() -> None:
    waiting = Waiting("lost", on_lost="fail")

    run("systemctl", "stop", SPAWNER)

    assert not is_alive(waiting.pid)
    run("systemctl", "start", SPAWNER)
    assert waiting.result()["status"] == "failed"
    assert "outcome unknown" in waiting.result()["tasks"][0]["reason"]


def test_a_killed_spawner_comes_back_and_its_tasks_are_run_again() -> None:
    waiting = Waiting("killed")

    os.kill(main_pid(SPAWNER), signal.SIGKILL)

    wait_for(lambda: not is_alive(waiting.pid))
    waiting.end()
    assert waiting.result()["status"] == "succeeded"
    assert len(waiting.result()["tasks"][0]["attempts"]) == 2


def test_a_reload_takes_over_the_configuration() -> None:
    pid = main_pid(DAEMON)

    with configured("limits: {max_tasks: 1}\n"):
        first = Waiting("first")
        second = Workflow("second", {"id": "go", "type": "SHELL", "command": "true"})
        wait_for((second.runs / "status.json").exists)
        started_meanwhile = (second.runs / "latest").exists()

    assert second.result()["status"] == "succeeded"
    assert not started_meanwhile
    assert not (first.runs / "latest/result.json").exists()
    first.end()
    assert first.result()["status"] == "succeeded"
    assert main_pid(DAEMON) == pid


def test_a_bad_configuration_changes_nothing_and_is_told_as_an_error() -> None:
    pid = main_pid(DAEMON)

    with configured("limits: {max_task: 1}\n"):
        wait_for(lambda: any("max_tasks" in entry["MESSAGE"] for entry in entries(f"_PID={pid}", "PRIORITY=3")))
        wait_for(lambda: shown(DAEMON, "ActiveState") == "active")

    assert main_pid(DAEMON) == pid


def test_a_credential_reaches_the_task_and_nothing_else() -> None:
    token = Path("/etc/wizflowd/token")
    token.write_text("s3cret-of-the-host")
    token.chmod(0o600)
    command = 'printf "%s" "$TOKEN" | wc -c; echo "$TOKEN"'
    task = {"id": "use", "type": "SHELL", "command": command, "env": {"TOKEN": "{{secrets.TOKEN}}"}}

    with drop_in(DAEMON, f"LoadCredential=api_token:{token}"):
        workflow = Workflow("credential", task, secrets={"TOKEN": {"credential": "api_token"}})
        result = workflow.result()

    assert result["status"] == "succeeded"
    assert workflow.log("use").split() == ["18", "***"]
    assert subprocess.run(["grep", "-r", "s3cret-of", HOME, "/run/log/journal"]).returncode == 1


def test_the_daemon_is_in_its_sandbox() -> None:
    pid = main_pid(DAEMON)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())

    def can(*command: str) -> bool:
        return subprocess.run(["nsenter", "-t", str(pid), "-m", *command], capture_output=True).returncode == 0

    assert run("id", "-u", "wizflowd").strip() == status["Uid"].split()[0]
    assert int(status["CapEff"], 16) == _CAP_LEASE
    assert status["NoNewPrivs"] == "1"
    assert can("touch", f"{HOME}/workflows/.probe")
    assert not can("touch", "/usr/probe")
    assert not can("touch", "/etc/wizflowd/probe")
    assert run("nsenter", "-t", str(pid), "-m", "ls", "-A", "/root", "/home").split() == ["/home:", "/root:"]


def test_a_request_works_in_the_sandbox() -> None:
    ready = {"id": "ready", "type": "RESTAPI", "method": "GET", "url": "http://127.0.0.1:9464/-/ready"}

    result = Workflow("sandboxed", ready).result()

    assert result["status"] == "succeeded"
    assert result["tasks"][0]["attempts"][0]["status_code"] == 200


def test_a_restored_backup_knows_what_ran_before_it() -> None:
    task = {"id": "go", "type": "SHELL", "command": "true"}
    before = Workflow("before_the_backup", task)
    kept = before.result()["run"]
    epoch = hello()["epoch"]
    run("sh", "-ec", documentation("wizflow backup").replace("$(date +%F)", "test"))
    after = Workflow("after_the_backup", task)
    after.result()

    run("sh", "-ec", documentation("systemctl stop").replace("BACKUP", str(HOME / "backup-test.db")))

    wait_for(lambda: len(after.folders()) == 2)
    assert [folder.name for folder in before.folders()] == [kept] == runs("before_the_backup")
    assert hello()["epoch"] != epoch


def test_a_folder_that_an_operator_has_changed_stays_so_at_a_boot_and_an_upgrade() -> None:
    WORKFLOWS.chmod(0o700)

    run("systemd-tmpfiles", "--create", "wizflowd.conf")
    restart(DAEMON)

    mode = stat.S_IMODE(WORKFLOWS.stat().st_mode)
    WORKFLOWS.chmod(0o750)
    assert mode == 0o700


def test_a_task_runs_as_the_user_of_the_service_in_a_cgroup_of_its_own() -> None:
    command = "id -un; id -Gn; echo $HOME $SHELL; tail -n 1 /proc/self/cgroup"
    workflow = Workflow("who", {"id": "who", "type": "SHELL", "command": command})

    assert workflow.result()["status"] == "succeeded"

    user, groups, places, cgroup = workflow.log("who").splitlines()
    assert (user, groups, places) == ("wizflowd", "wizflowd", f"{HOME} /bin/sh")
    assert cgroup.startswith(f"0::/system.slice/{SPAWNER}/attempt-")


def test_the_documented_drop_in_gives_tasks_setuid_programs_back() -> None:
    lines = documentation("# sudo and other setuid programs").split("[Service]\n")[1]
    task = {"id": "look", "type": "SHELL", "command": "grep NoNewPrivs /proc/self/status"}

    caged = Workflow("caged", task)
    caged.result()
    with drop_in(SPAWNER, *lines.splitlines()):
        freed = Workflow("freed", task)
        freed.result()

    assert caged.log("look").split() == ["NoNewPrivs:", "1"]
    assert freed.log("look").split() == ["NoNewPrivs:", "0"]


def test_the_journal_finds_what_a_run_and_a_task_did() -> None:
    workflow = Workflow("broken", {"id": "break", "type": "SHELL", "command": "exit 3"})
    run_id = workflow.result()["run"]

    wait_for(lambda: entries(f"RUN={run_id}", "EVENT=wizflow.run.failed"))

    (failed,) = entries(f"RUN={run_id}", "TASK=break", "EVENT=wizflow.task.failed")
    assert failed["WORKFLOW"] == "broken"
    assert failed["PRIORITY"] == "4"
    assert failed["EXIT_CODE"] == "3"
    assert failed["SYSLOG_IDENTIFIER"] == "wizflowd"
    assert failed["_SYSTEMD_UNIT"] == DAEMON


def test_an_upgrade_goes_on_under_a_running_task() -> None:
    waiting = Waiting("upgraded")
    daemon, spawner = main_pid(DAEMON), main_pid(SPAWNER)

    run("apt-get", "install", "-y", "-q", EXCHANGE / "next.deb")

    assert run("dpkg-query", "-W", "-f", "${Version}", "wizflowd") == NEXT_VERSION
    assert main_pid(DAEMON) not in (0, daemon)
    assert main_pid(SPAWNER) == spawner
    counted = len(waiting.counted())
    wait_for(lambda: len(waiting.counted()) > counted)
    waiting.end(7)
    (attempt,) = waiting.result()["tasks"][0]["attempts"]
    assert (attempt["pid"], attempt["exit_code"]) == (waiting.pid, 7)
    assert waiting.counted() == list(range(1, len(waiting.counted()) + 1))


def test_a_removal_ends_everything_and_leaves_the_results() -> None:
    ended = Workflow("kept", {"id": "go", "type": "SHELL", "command": "true"}).result()
    waiting = Waiting("removed")

    run("apt-get", "purge", "-y", "-q", "wizflowd")

    assert not is_alive(waiting.pid)
    assert shown(DAEMON, "ActiveState") == "inactive"
    assert not Path("/opt/wizflowd/bin/wizflowd").exists()
    assert not Path("/etc/systemd/system/multi-user.target.wants/wizflowd.service").is_symlink()
    assert (HOME / "workflows/kept.runs" / ended["run"] / "result.json").exists()
