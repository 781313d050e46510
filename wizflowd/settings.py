"""What can be configured: the keys of SPEC section 8 with their defaults, as one frozen `Config`.

In: plain values, gathered by `wizflowd.config`. Out: a `Config` that the daemon and the commands read.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, SecretStr, StringConstraints, model_validator
from pydantic.dataclasses import dataclass

from wizflowd.core.fields import (
    ID_PATTERN,
    AnyJson,
    Count,
    Delay,
    Duration,
    FieldError,
    FilledLine,
    Flag,
    Size,
    count_between,
    filled_line,
    shown,
)
from wizflowd.core.load_limits import LoadLimits

_SECTION = ConfigDict(extra="forbid")
_MIB = 1024 * 1024
_DEFINITION = LoadLimits()
_LOOPBACK = re.compile(r"localhost|::1|127(\.\d{1,3}){3}", re.ASCII)
_SMTP_PORTS = {"starttls": 587, "tls": 465, "none": 25}


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where a TCP service listens; an IPv6 host stands without its brackets."""

    host: str
    port: int


def address(value: object) -> Address | None:
    """Return `HOST:PORT` or `[HOST]:PORT` as an `Address`, `off` as None; raise FieldError for all else."""
    if value is None or isinstance(value, Address):
        return value
    if value == "off":
        return None
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        raise FieldError(f"{shown(value)} is not an address", 'write HOST:PORT, as in 127.0.0.1:9464, or "off"')
    if ":" in bare and bare == host:
        raise FieldError(f"{shown(value)} is not an address", f"an IPv6 address stands in brackets: [{host}]:{port}")
    return Address(bare, int(port))


def _password(value: object) -> object:
    if isinstance(value, str | SecretStr):
        return value
    raise FieldError("must be text", "put it in quotes")  # and is not shown


def _file(value: object) -> object:
    return value if isinstance(value, Path) else filled_line(value)


File = Annotated[Path, BeforeValidator(_file)]
Label = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Port = Annotated[int, BeforeValidator(count_between(1, 65535))]
Password = Annotated[SecretStr, BeforeValidator(_password)]


@dataclass(frozen=True, slots=True, kw_only=True, config=_SECTION)
class Metrics:
    """Where Prometheus asks; `listen` None: nowhere."""

    listen: Annotated[Address | None, BeforeValidator(address)] = Address("127.0.0.1", 9464)
    max_workflows: Count = 2000
    web_config: File | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=_SECTION)
class Watch:
    """How the folder is watched; seconds."""

    backend: Literal["auto", "inotify", "watchfiles", "polling"] = "auto"
    settle: Delay = 0.05
    rescan: Duration = 60.0
    first_scan: Literal["run", "record"] = "run"


@dataclass(frozen=True, slots=True, kw_only=True, config=_SECTION)
class DefinitionLimits:
    """What a definition may be; over it, it is refused before a tree is built."""

    bytes: Size = _DEFINITION.bytes
    depth: Annotated[int, BeforeValidator(count_between(1, 256))] = _DEFINITION.depth
    nodes: Count = _DEFINITION.nodes
    aliases: Annotated[int, BeforeValidator(count_between(0, 10**9))] = _DEFINITION.aliases
    tasks: Count = _DEFINITION.tasks

    def load_limits(self) -> LoadLimits:
        """Return them as the loader takes them."""
        return LoadLimits(**dataclasses.asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True, config=_SECTION)
class Limits:
    """Bounds of the whole daemon: counts, and bytes for `log_max` and `disk_low_water`."""

    max_tasks: Count = Field(default_factory=lambda: max(4, 2 * len(os.sched_getaffinity(0))))
    max_runs: Count = 100
    stream_clients: Count = 64
    definition: DefinitionLimits = DefinitionLimits()
    log_max: Size = 64 * _MIB
    disk_low_water: Size = 256 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True, config=_SECTION)
class Shutdown:
    """What a clean stop does: seconds between SIGTERM and SIGKILL, and the fate of running tasks."""

    grace: Duration = 10.0
    tasks: Literal["leave", "kill"] = "leave"


@dataclass(frozen=True, slots=True, kw_only=True, config=_SECTION)
class Retention:
    """How much of each workflow's finished runs is kept; None: no bound."""

    runs: Count | None = 50
    days: Count | None = 30
    bytes: Size | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=_SECTION)
class Secrets:
    """Where the key for encrypted values lies."""

    key_file: File | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=_SECTION)
class Smtp:
    """The mail server of EMAIL tasks. `tls` is `none` only by name, or by default on loopback."""

    host: FilledLine
    tls: Literal["starttls", "tls", "none"]
    port: Port
    username: FilledLine | None = None
    password: Password | None = None
    sender: FilledLine | None = Field(None, alias="from")

    @model_validator(mode="before")
    @classmethod
    def _tls_and_port(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        host = str(value.get("host", ""))
        local = _LOOPBACK.fullmatch(host) is not None
        tls = value.get("tls", "none" if local else "starttls")
        return {"tls": tls, "port": _SMTP_PORTS.get(str(tls), 587), **value}

    @model_validator(mode="after")
    def _both_or_neither(self) -> "Smtp":
        if (self.username is None) != (self.password is None):
            raise FieldError("username and password belong together", "write both or neither")
        return self


@dataclass(frozen=True, slots=True, kw_only=True, config=_SECTION)
class Log:
    """What the daemon tells of itself; `auto`: the journal's fields under systemd, else text."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True, config=_SECTION)
class Config:
    """All of it. Paths are absolute. `owners` empty: root, the daemon's user and the folder's owner."""

    workflows_dir: File
    results_dir: File | None = None
    state_dir: File
    events_socket: File
    control_socket: File
    events_group: FilledLine | None = None
    control_group: FilledLine | None = None
    metrics: Metrics = Metrics()
    watch: Watch = Watch()
    spawner: Literal["auto", "unit", "own"] = "auto"
    pools: Mapping[Label, Count] = Field(default_factory=dict)
    limits: Limits = Limits()
    shutdown: Shutdown = Shutdown()
    retention: Retention = Retention()
    secrets: Secrets = Secrets()
    smtp: Smtp | None = None
    executors: Mapping[Label, Mapping[str, AnyJson]] = Field(default_factory=dict)
    strict_modes: Flag = True
    owners: tuple[FilledLine, ...] = ()
    log: Log = Log()
