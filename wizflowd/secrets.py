"""Values of secrets, from where a definition says they are: a systemd credential, the environment, a file, or the
definition itself, encrypted.

Called by the engine before each attempt; values are held no longer than that. Nothing here is logged or recorded.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from dotenv.parser import parse_stream

from wizflowd.core.definition import SecretSource
from wizflowd.errors import SecretError
from wizflowd.vault import open_vault

MAX_SECRET_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Secrets:
    """`values` by name; `missing` says why a name has none."""

    values: Mapping[str, str]
    missing: Mapping[str, str]


NO_SECRETS = Secrets({}, {})


def resolve_secrets(
    sources: Mapping[str, SecretSource], env: Mapping[str, str], key_file: Path | None = None
) -> Secrets:
    """Return the values of all secrets of a definition.

    `env` is that of the daemon, `key_file` holds the keys of encrypted ones.
    """
    values: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, source in sources.items():
        try:
            values[name] = _resolve(source, env, key_file)
        except SecretError as error:
            missing[name] = str(error)
    return Secrets(values, missing)


def _resolve(source: SecretSource, env: Mapping[str, str], key_file: Path | None) -> str:
    if source.env is not None:
        if source.env not in env:
            raise SecretError(f"{source.env} is not in the daemon's environment")
        return env[source.env]
    if source.credential is not None:
        folder = env.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            raise SecretError("the daemon was given no credentials", hint="use LoadCredential= in its unit")
        return _read(Path(folder) / source.credential)
    if source.file is not None:
        return _read(Path(source.file))
    if source.encrypted is not None:
        return open_vault(key_file, env).decrypt(source.encrypted)
    raise SecretError("it has no source")


def _read(path: Path) -> str:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SecretError(f"cannot read {path}: it is not a regular file")
            data = file.read(MAX_SECRET_BYTES + 1)
    except OSError as exc:
        raise SecretError(f"cannot read {path}: {exc.strerror}") from exc
    if len(data) > MAX_SECRET_BYTES:
        raise SecretError(f"cannot use {path}: it is larger than 1 MiB")
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError as exc:
        raise SecretError(f"cannot use {path}: it is not UTF-8") from exc


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would hold up whoever opens it


def read_dotenv(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Return the values of `.env` files of a folder, later ones winning. Raises SecretError naming the file."""
    values: dict[str, str] = {}
    base = os.path.realpath(folder)
    for name in names:
        path = Path(os.path.realpath(folder / name))
        if not path.is_relative_to(base):
            raise SecretError(f"cannot read {name}: it leads out of the definition's folder")
        for binding in parse_stream(StringIO(_read(path))):
            if binding.error:
                line = binding.original.line
                raise SecretError(f"cannot read {name}: line {line} is no NAME=value", hint="quote what is special")
            if binding.key is not None and binding.value is not None:
                values[binding.key] = binding.value
    return values
