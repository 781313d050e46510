"""Certificates, jobs and a report that can be awaited, for the executors' tests."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from msgspec.structs import replace

from wizflowd.core.attempt import AttemptId, Job, Outcome


class Reports:
    """Outcomes as an executor told them; `wait` gives the one of an attempt. A second one is an error."""

    def __init__(self) -> None:
        self.outcomes: dict[AttemptId, Outcome] = {}
        self._news = asyncio.Event()

    def __call__(self, attempt: AttemptId, outcome: Outcome) -> None:
        assert attempt not in self.outcomes, f"{attempt} was reported twice"
        self.outcomes[attempt] = outcome
        self._news.set()

    async def wait(self, attempt: str = "r/t/1") -> Outcome:
        async with asyncio.timeout(10):
            while AttemptId(attempt) not in self.outcomes:
                self._news.clear()
                await self._news.wait()
        return self.outcomes[AttemptId(attempt)]


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    workspace = tmp_path / "workspace"
    workspace.mkdir()

    def make(**fields: Any) -> Job:
        job = Job(AttemptId("r/t/1"), workspace, f"{tmp_path}/t.1.log", 1024 * 1024)
        return replace(job, **fields)

    return make


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path
