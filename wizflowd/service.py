"""wizflowd as a service of systemd: what it tells the manager, and the sockets that it is handed.

In: the variables that systemd sets, the engine after each of its turns. Out: datagrams to `$NOTIFY_SOCKET`, listening
sockets by name. Called by the daemon; started by anybody else than systemd, all of it does nothing. Both protocols are
promises of systemd that need no library: sd_notify(3), sd_listen_fds(3).
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping

from wizflowd.core.state import State

log = logging.getLogger(__name__)
_FIRST_DESCRIPTOR = 3
_SEND_WITHIN_S = 1.0
_TELL_EVERY_S = 1.0
_START_WITHIN_S = 120


class Service:
    """Tells systemd how the daemon is. Takes its variables out of `env`, so that no child takes them for its own."""

    def __init__(self, env: MutableMapping[str, str]) -> None:
        self._address = env.pop("NOTIFY_SOCKET", "")
        own = env.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        period_us = env.pop("WATCHDOG_USEC", "")
        self._watchdog_s = int(period_us) / 1e6 if own and self._address and period_us.isdecimal() else 0.0
        self._ready = False
        self._status = self._told_status = ""
        self._pinged_s = self._told_s = 0.0
        self._later: asyncio.TimerHandle | None = None

    def turned(self, status: str, *, ready: bool) -> None:
        """Take note of a turn of the engine: it lives. `ready`: it saw its folder, or knows that it cannot."""
        if not self._address:
            return
        if ready and not self._ready:
            self._ready = True
            self._notify("READY=1")
        self._ping()
        self._status = status
        if status != self._told_status and self._later is None:
            wait_s = max(0.0, self._told_s + _TELL_EVERY_S - time.monotonic())
            self._later = asyncio.get_running_loop().call_later(wait_s, self._tell_status)

    async def keep_turning(self, wake: Callable[[], None]) -> None:
        """Have the engine turn while it is idle. The wake is no sign of life: the turn that follows it is."""
        while self._watchdog_s:
            await asyncio.sleep(self._watchdog_s / 4)
            wake()

    def reloading(self) -> None:
        """Say that the configuration is being read again; end it with `reloaded`."""
        if self._ready:
            self._notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Say that the configuration was read, taken over or not."""
        if self._ready:
            self._notify("READY=1")

    def stopping(self) -> None:
        """Say that the daemon is about to end."""
        if self._later is not None:
            self._later.cancel()
        self._notify("STOPPING=1", "STATUS=stopping")

    def _ping(self) -> None:
        now_s = time.monotonic()
        if now_s < self._pinged_s + self._watchdog_s / 8:
            return
        self._pinged_s = now_s
        if not self._ready:  # a first scan may take its time, as long as the engine turns
            self._notify(f"EXTEND_TIMEOUT_USEC={_START_WITHIN_S * 1_000_000}")
        if self._watchdog_s:
            self._notify("WATCHDOG=1")

    def _tell_status(self) -> None:
        self._later = None
        self._told_s, self._told_status = time.monotonic(), self._status
        self._notify(f"STATUS={self._status}")

    def _notify(self, *lines: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
                manager.settimeout(_SEND_WITHIN_S)
                manager.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("cannot tell systemd", extra={"told": lines[0], "error": str(error)})


def status_text(state: State) -> str:
    """Return the state in a line: `3 workflows, 1 run active, 2 queued`."""
    active, queued = len(state.active), len(state.queued)
    parts = [_count(len(state.workflows), "workflow")]
    parts.append(f"{_count(active, 'run')} active" if active else "idle" if not queued else "no run active")
    if queued:
        parts.append(f"{queued} queued")
    if state.unavailable:
        parts.append(f"the folder is unavailable: {state.unavailable}")
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def take_sockets(env: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """Return the listening sockets that systemd handed down, by their `FileDescriptorName=`."""
    pid, count, names = (env.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    sockets: dict[str, socket.socket] = {}
    for descriptor, name in zip(
        range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)), names.split(":"), strict=True
    ):
        os.set_inheritable(descriptor, False)
        sockets[name] = socket.socket(fileno=descriptor)
        sockets[name].setblocking(False)
    return sockets
