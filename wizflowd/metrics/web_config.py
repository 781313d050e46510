"""Who may ask for metrics, and how: Prometheus's web configuration file -> TLS and users.

Source of the keys: https://prometheus.io/docs/prometheus/latest/configuration/https/ . What is not served here is
refused, not ignored. Read by the daemon at start and on a reload; `server` asks `Access.admits` for each request.
"""

import asyncio
import base64
import binascii
import hashlib
import re
import secrets
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import bcrypt
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from wizflowd.core.fields import FieldError, FilledLine
from wizflowd.core.loader import Document, Syntax, load
from wizflowd.errors import ConfigError, DefinitionError, Problem

_SECTION = ConfigDict(extra="forbid")
_BCRYPT = re.compile(r"\$2[abxy]?\$(\d\d)\$[./A-Za-z0-9]{53}")
_MAX_COST = 14
_BCRYPT_BYTES = 72
"""What bcrypt looks at of a password; Prometheus cuts there too."""
_REMEMBERED = 100
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_CLIENTS = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}


def _hash(value: object) -> str:
    match = _BCRYPT.fullmatch(value) if isinstance(value, str) else None
    if not isinstance(value, str) or match is None:  # and is not shown: it may be a password
        raise FieldError("is not a bcrypt hash", "make one with `htpasswd -nBC 10 NAME`")
    if int(match[1]) > _MAX_COST:
        raise FieldError(f"a bcrypt cost of {match[1]} is too slow to ask for", f"make it {_MAX_COST} at most")
    return value


@pydantic_dataclass(frozen=True, slots=True, kw_only=True, config=_SECTION)
class TlsServer:
    """The keys of `tls_server_config`. Paths begin at the file's folder."""

    cert_file: FilledLine
    key_file: FilledLine
    client_auth_type: Literal["NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"] = "NoClientCert"
    client_ca_file: FilledLine | None = None
    min_version: Literal["TLS12", "TLS13"] = "TLS12"
    max_version: Literal["TLS12", "TLS13"] = "TLS13"


@pydantic_dataclass(frozen=True, slots=True, kw_only=True, config=_SECTION)
class WebConfig:
    """The file. `basic_auth_users`: the bcrypt hash of each user's password."""

    tls_server_config: TlsServer | None = None
    basic_auth_users: Mapping[FilledLine, Annotated[str, BeforeValidator(_hash)]] = Field(default_factory=dict)


@dataclass(slots=True)
class Access:
    """What a web configuration comes to; empty: everybody, without TLS."""

    tls: ssl.SSLContext | None = None
    users: Mapping[str, str] = field(default_factory=dict)
    _known: dict[bytes, None] = field(default_factory=dict)
    _salt: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def admits(self, authorization: str) -> bool:
        """Return whether the value of an Authorization header names a user and the password.

        A check is slow by design: one at a time, in a thread, and what was right is remembered as a keyed hash.
        """
        if not self.users:
            return True
        user, password = _credentials(authorization)
        known = hashlib.blake2b(f"{user}:{password}".encode(), key=self._salt).digest()
        if known in self._known:
            return True
        # An unknown user is checked as long as a known one, so that nobody learns by the clock who exists.
        stored = self.users.get(user, next(iter(self.users.values())))
        async with self._turn:
            right = await asyncio.to_thread(bcrypt.checkpw, password.encode()[:_BCRYPT_BYTES], stored.encode())
        if not right or user not in self.users:
            return False
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[known] = None
        return True


def _credentials(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode() if scheme.lower() == "basic" else ""
    except (binascii.Error, ValueError):
        text = ""
    user, _, password = text.partition(":")
    return user, password


def read_web_config(file: Path | None) -> Access:
    """Return what a web configuration file allows; raise ConfigError with one line for each problem."""
    if file is None:
        return Access()
    try:
        data = file.read_bytes()
        if all(line.lstrip()[:1] in {b"", b"#"} for line in data.splitlines()):
            return Access()
        document = load(data, Syntax.YAML)
        config = TypeAdapter(WebConfig).validate_python(document.value)
    except OSError as error:
        raise ConfigError(f"cannot read the web configuration {file}: {error.strerror}") from error
    except DefinitionError as error:
        raise ConfigError("\n".join(error.lines(str(file)))) from error
    except ValidationError as error:
        from wizflowd.core.messages import problems_of  # costs the models of all tasks

        raise _refusal(file, document, *problems_of(error.errors(), WebConfig)) from error
    if config.tls_server_config is None:
        return Access(None, config.basic_auth_users)
    problems = list(_tls_problems(config.tls_server_config, file.parent))
    if problems:
        raise _refusal(file, document, *problems)
    return Access(_context(config.tls_server_config, file.parent), config.basic_auth_users)


def _refusal(file: Path, document: Document, *problems: Problem) -> ConfigError:
    return ConfigError("\n".join(problem.render(str(file)) for problem in document.locate(problems)))


def _tls_problems(tls: TlsServer, home: Path) -> Iterator[Problem]:
    section = "tls_server_config"
    if (tls.client_ca_file is None) != (tls.client_auth_type == "NoClientCert"):
        yield Problem((section,), "client_auth_type and client_ca_file belong together", "write both or neither")
    if _VERSIONS[tls.min_version] > _VERSIONS[tls.max_version]:
        yield Problem((section, "min_version"), "is above max_version")
    unread = list(_unreadable(tls, home))
    yield from unread
    if unread:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(home / tls.cert_file, home / tls.key_file, password=_no_passphrase)
    except ssl.SSLError as error:
        hint = "both files are PEM, the key without a passphrase"
        yield Problem((section, "cert_file"), f"cannot use it with its key: {_reason(error)}", hint)
    try:
        if tls.client_ca_file is not None:
            context.load_verify_locations(home / tls.client_ca_file)
    except ssl.SSLError as error:
        yield Problem((section, "client_ca_file"), f"cannot use it: {_reason(error)}", "it is a PEM file")


def _unreadable(tls: TlsServer, home: Path) -> Iterator[Problem]:
    """Yield the files that cannot be read: the ssl module does not say which."""
    for name in ("cert_file", "key_file", "client_ca_file"):
        file = getattr(tls, name)
        try:
            if file is not None:
                (home / file).read_bytes()
        except OSError as error:
            yield Problem(("tls_server_config", name), f"cannot read {home / file}: {error.strerror}")


def _no_passphrase() -> str:
    """OpenSSL would ask on the terminal, and wait."""
    return ""


def _reason(error: ssl.SSLError) -> str:
    return error.reason or str(error)


def _context(tls: TlsServer, home: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = _VERSIONS[tls.min_version], _VERSIONS[tls.max_version]
    context.load_cert_chain(home / tls.cert_file, home / tls.key_file, password=_no_passphrase)
    context.verify_mode = _CLIENTS[tls.client_auth_type]
    if tls.client_ca_file is not None:
        context.load_verify_locations(home / tls.client_ca_file)
    return context
