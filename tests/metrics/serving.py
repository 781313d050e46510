"""A monitor that serves a small state on loopback, and the plainest of HTTP clients."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from wizflowd.core.observations import WorkflowId
from wizflowd.core.state import State, Workflow
from wizflowd.engine.archive import state_of_workflow
from wizflowd.metrics import Monitor, Subject
from wizflowd.settings import Address, Metrics


@dataclass
class StreamNumbers:
    """What the event stream counts."""

    clients: int = 3
    lagged: int = 1


@dataclass
class Scene:
    """What is watched, to be changed by a test."""

    state: State = field(default_factory=State)
    stream: StreamNumbers = field(default_factory=StreamNumbers)
    unready: str = ""
    folders: tuple[Path, ...] = ()
    types: dict[str, str] = field(default_factory=dict)

    def add_workflows(self, count: int) -> None:
        """Have so many workflows whose last run failed."""
        for number in range(count):
            name = WorkflowId(f"team/etl-{number}")
            self.state.workflows[name] = Workflow(name, f"{name}.yaml", last_status="failed")

    def monitor(self, web_config: Path | None = None, max_workflows: int = 2000, port: int = 0) -> Monitor:
        subject = Subject(
            self.state,
            lambda _, task: self.types.get(task, "SHELL"),
            state_of_workflow,
            self.stream,
            lambda: self.unready,
            self.folders,
        )
        return Monitor(self.settings(web_config, max_workflows, port), subject)

    def settings(self, web_config: Path | None = None, max_workflows: int = 2000, port: int = 0) -> Metrics:
        return Metrics(listen=Address("127.0.0.1", port), web_config=web_config, max_workflows=max_workflows)


@asynccontextmanager
async def serving(monitor: Monitor) -> AsyncIterator[int]:
    """Give the port on which a monitor serves."""
    monitor.open()
    running = asyncio.create_task(monitor.run())
    try:
        yield monitor.server.address.port
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@dataclass(frozen=True)
class Got:
    """An answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


async def read_answer(reader: asyncio.StreamReader, *, has_body: bool = True) -> Got:
    """Read one answer. Raises asyncio.IncompleteReadError where none comes."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"])) if has_body else b""
    return Got(int(first.split()[1]), headers, body)


async def get(port: int, path: str, *headers: str, method: str = "GET", tls: ssl.SSLContext | None = None) -> Got:
    """Ask once, on a connection of its own."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls else None
    )
    try:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        return await read_answer(reader, has_body=method != "HEAD")
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
