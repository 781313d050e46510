"""What the daemon tells systemd, and the sockets that it takes: with a manager's socket and systemd's own activator."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wizflowd.core.observations import WorkflowId
from wizflowd.core.state import State, Workflow
from wizflowd.service import Service, status_text, take_sockets


class Manager:
    """The end of systemd: what was told to it."""

    def __init__(self, address: str) -> None:
        self.address = address.replace("\0", "@")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def told(self) -> list[str]:
        """Return the datagrams that have come since the last time."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"\0wizflowd-test-{os.getpid()}")
    yield made
    made.close()


def environment(manager: Manager, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.address, **more}


async def test_ready_is_told_once_and_then_the_status(manager: Manager) -> None:
    service = Service(environment(manager))

    for ready in (False, True, True):
        service.turned("1 workflow, idle", ready=ready)
    told = manager.told()
    async with asyncio.timeout(5):
        while not told[-1].startswith("STATUS="):
            await asyncio.sleep(0)
            told += manager.told()

    assert told.count("READY=1") == 1
    assert told[-1] == "STATUS=1 workflow, idle"


async def test_a_status_that_changes_often_is_told_once_in_a_while(manager: Manager) -> None:
    service = Service(environment(manager))

    for number in range(1000):
        service.turned(f"{number} workflows", ready=True)
        await asyncio.sleep(0)

    assert len([line for line in manager.told() if line.startswith("STATUS=")]) < 3


async def test_the_watchdog_is_pinged_by_turns_and_never_by_the_clock(manager: Manager) -> None:
    service = Service(environment(manager, WATCHDOG_USEC="40000", WATCHDOG_PID=str(os.getpid())))
    woken = asyncio.Event()
    beat = asyncio.create_task(service.keep_turning(woken.set))

    await asyncio.wait_for(woken.wait(), 5)
    hanging = manager.told()
    service.turned("idle", ready=True)

    assert "WATCHDOG=1" not in hanging
    assert "WATCHDOG=1" in manager.told()
    beat.cancel()


async def test_a_watchdog_of_another_process_is_not_ours(manager: Manager) -> None:
    service = Service(environment(manager, WATCHDOG_USEC="40000", WATCHDOG_PID="1"))

    await asyncio.wait_for(service.keep_turning(lambda: None), 5)
    service.turned("idle", ready=True)

    assert "WATCHDOG=1" not in manager.told()


async def test_a_long_first_scan_asks_for_more_time(manager: Manager) -> None:
    service = Service(environment(manager))

    service.turned("0 workflows", ready=False)

    assert manager.told() == ["EXTEND_TIMEOUT_USEC=120000000"]


async def test_a_reload_is_told_with_its_time(manager: Manager) -> None:
    service = Service(environment(manager))
    service.turned("", ready=True)
    manager.told()

    service.reloading()
    service.reloaded()

    first, second = manager.told()
    assert first.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert second == "READY=1"


async def test_a_reload_before_the_start_is_over_says_nothing(manager: Manager) -> None:
    service = Service(environment(manager))

    service.reloading()
    service.reloaded()

    assert manager.told() == []


async def test_a_manager_that_is_gone_harms_nobody(manager: Manager) -> None:
    service = Service(environment(manager))
    manager.close()

    service.stopping()


def test_children_do_not_inherit_the_variables(manager: Manager) -> None:
    env = environment(manager, WATCHDOG_USEC="1", WATCHDOG_PID="1", LISTEN_FDS="1", LISTEN_PID="1", PATH="/bin")

    Service(env)
    take_sockets(env)

    assert env == {"PATH": "/bin"}


def test_the_status_counts_in_words() -> None:
    state = State({WorkflowId(name): Workflow(WorkflowId(name), f"{name}.yaml") for name in ("a", "b", "c")})

    idle = status_text(state)
    state.unavailable = "not mounted"

    assert idle == "3 workflows, idle"
    assert status_text(state) == "3 workflows, idle, the folder is unavailable: not mounted"


def test_sockets_are_found_by_name_and_not_inherited(tmp_path: Path) -> None:
    program = (
        "import os; from wizflowd.service import take_sockets; "
        "print({name: (s.getsockname(), s.get_inheritable(), s.getblocking())"
        " for name, s in take_sockets(os.environ).items()})"
    )
    paths = [str(tmp_path / name) for name in ("e.sock", "c.sock")]
    command = ["systemd-socket-activate", "--fdname=events:control", "-l", paths[0], "-l", paths[1]]
    activator = subprocess.Popen([*command, sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)

    with socket.socket(socket.AF_UNIX) as client:
        while client.connect_ex(paths[1]) != 0:
            assert activator.poll() is None
        said, _ = activator.communicate(timeout=30)

    assert eval(said) == {"events": (paths[0], False, False), "control": (paths[1], False, False)}
