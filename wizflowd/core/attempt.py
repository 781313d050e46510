"""One try of one task: what an executor is asked to do and what it answers.

In: a `Call`, made by the engine from a task's parameters with every placeholder filled. Out: an `Outcome`.
An executor never raises past itself; a failing task is `Failed`. Paths are absolute.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NewType

from msgspec import Struct

from wizflowd.core.values import Json

RunId = NewType("RunId", str)
TaskId = NewType("TaskId", str)
AttemptId = NewType("AttemptId", str)


def attempt_id(run: RunId, task: TaskId, number: int) -> AttemptId:
    """Return the id of an attempt, a function of run, task and number (from 1), so that it can be found again."""
    return AttemptId(f"{run}/{task}/{number}")


@dataclass(frozen=True, slots=True)
class OutputRule:
    """A declared output. `path` is for `file` and relative to the workspace; `json_path` is for `json`."""

    type: Literal["json", "file", "text"]
    path: str = ""
    json_path: str = "$"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one attempt's processes; bytes, seconds of CPU, counts. None: the daemon's own."""

    memory: int | None = None
    cpu_time: float | None = None
    open_files: int | None = None
    processes: int | None = None
    file_size: int | None = None


class Job(Struct, frozen=True, gc=False):
    """What every kind of attempt has: where it works, what it may write, what must be masked.

    `source_globs` are relative to `source_folder`; `log_path` is created at the first byte; `log_max` in bytes;
    `secrets` are values to mask in whatever is written or returned.
    """

    attempt: AttemptId
    workspace: Path
    log_path: str
    log_max: int
    outputs: Mapping[str, OutputRule] = {}
    source_folder: Path = Path()
    source_globs: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    timeout_s: float | None = None


class ShellCall(Struct, frozen=True, gc=False):
    """A local process. `scratch` is the private path that becomes `$WIZFLOW_OUTPUT` (and, with another suffix, the
    separate stdout); `env` is the whole environment; `stdin` None is `/dev/null`. `unmaskable` says why `scratch` may
    hold a secret that nobody knows any more."""

    job: Job
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    scratch: str
    stdin: str | None = None
    limits: Limits = Limits()
    grace_s: float = 10.0
    unmaskable: str = ""


class RestCall(Struct, frozen=True):
    """One HTTP exchange. `body` is sent as JSON unless it is text; None sends none. Statuses are inclusive ranges."""

    job: Job
    method: str
    url: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: Json = None
    basic: tuple[str, str] | None = None
    bearer: str | None = None
    expect_status: tuple[tuple[int, int], ...] = ((200, 299),)
    follow_redirects: bool = False
    max_response_bytes: int = 10 * 1024 * 1024
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    idempotency_key: str = ""


class EmailCall(Struct, frozen=True):
    """One message to every recipient. `last_sent` is the digest of the last message of this task where an equal one
    need not be sent again, else empty."""

    job: Job
    subject: str
    body: str
    recipients: tuple[str, ...]
    sender: str = ""
    attachments: tuple[Path, ...] = ()
    message_id: str = ""
    last_sent: str = ""


class WorkflowCall(Struct, frozen=True):
    """A run of another workflow; `wait`: its end is the end of the attempt."""

    job: Job
    workflow: str
    params: Mapping[str, Json] = {}
    wait: bool = True


class PluginCall(Struct, frozen=True):
    """An attempt of a kind that a package adds; `task` is of the kind's own model."""

    job: Job
    kind: str
    task: Any


Call = ShellCall | RestCall | EmailCall | WorkflowCall | PluginCall

Reason = Literal[
    "exit",
    "signal",
    "timeout",
    "status",
    "connection",
    "response",
    "output",
    "secret",
    "input",
    "refused",
    "lost",
    "workflow",
]


class Facts(Struct, frozen=True, gc=False):
    """What is known of an ended attempt whatever came of it. Wall times in seconds since the epoch."""

    started_s: float
    ended_s: float
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    status_code: int | None = None
    log: str | None = None
    notes: tuple[str, ...] = ()


class Succeeded(Struct, frozen=True, gc=False):
    """It did what it should. `files` maps the path of each declared file to the hash of its content; `sources` is the
    hash of the `sources` taken when it started; `mail` is the digest of what was sent."""

    facts: Facts
    outputs: Mapping[str, Json] = {}
    files: Mapping[str, str] = {}
    sources: str = ""
    mail: str = ""


class Unchanged(Struct, frozen=True):
    """Nothing had to be done: the message equals the one last sent."""

    facts: Facts


class Failed(Struct, frozen=True):
    """It did not. `retryable` False: another try cannot help. `retry_after_s`: the other side's wish."""

    facts: Facts
    reason: Reason
    message: str
    retryable: bool = True
    retry_after_s: float | None = None


class Cancelled(Struct, frozen=True):
    """It was ended on request, and nothing of it is alive."""

    facts: Facts


class Lost(Struct, frozen=True):
    """Nobody knows what came of it."""

    facts: Facts
    message: str


Outcome = Succeeded | Unchanged | Failed | Cancelled | Lost
