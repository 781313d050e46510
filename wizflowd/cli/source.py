"""A definition file named on a command line: its bytes, its definition, and the daemon that may watch it.

Shared by the commands that take a file.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from wizflowd.cli.reach import sockets
from wizflowd.client import ask
from wizflowd.config import Config, load_config
from wizflowd.core.compile import Compiled, compile_definition
from wizflowd.core.load_limits import LoadLimits
from wizflowd.core.loader import syntax_of
from wizflowd.errors import ConfigError, RequestError
from wizflowd.secrets import read_dotenv


def read_source(file: str, limits: LoadLimits) -> bytes:
    """Return the bytes of a file, at most one more than may be loaded. Raises RequestError."""
    path = Path(file)
    try:
        if not path.is_file():
            reason = "it is not a regular file" if path.exists() else "there is no such file"
            raise RequestError("not_found", f"cannot read {file}: {reason}")
        if path.suffix.lower() not in {".json", ".yaml", ".yml"}:
            raise RequestError("not_found", f"cannot read {file}: a workflow file ends in .yaml, .yml or .json")
        with path.open("rb") as opened:
            return opened.read(limits.bytes + 1)
    except OSError as exc:
        raise RequestError("not_found", f"cannot read {file}: {exc.strerror}") from exc
    except ValueError as exc:  # NUL
        raise RequestError("not_found", f"cannot read {file}: {exc}") from exc


def absolute(file: str) -> Path:
    """Return the absolute path of a file, its links not followed: its name is the workflow's."""
    return Path(os.path.abspath(file))


def compile_file(path: Path, data: bytes, config: Config) -> Compiled:
    """Return the definition of a file. Raises DefinitionError."""
    return compile_definition(
        data,
        syntax_of(path.name),
        stem=path.stem,
        limits=config.limits.definition.load_limits(),
        read_dotenv=lambda names: read_dotenv(path.parent, names),
    )


def usable_config(path: Path | None) -> Config:
    """Return the configuration; the system's own that cannot be used here counts as none. Raises ConfigError."""
    try:
        return load_config(path, os.environ)
    except ConfigError:
        if path is not None:
            raise
        return load_config(Path(os.devnull), os.environ)


def ask_if_running(options: argparse.Namespace, request: dict[str, Any]) -> Any:
    """Return a daemon's answer, or None where none can be asked. Raises RequestError as answered."""
    for path in sockets(options, "control"):
        try:
            return ask(path, request)
        except OSError:
            continue
        except RequestError as error:
            if error.code != "forbidden":
                raise
    return None


def watching_daemon(options: argparse.Namespace, path: Path) -> str | None:
    """Return the identity under which a running daemon watches a file (absolute path), or None."""
    status = ask_if_running(options, {"op": "status"})
    if status is None:
        return None
    home = os.path.realpath(status["workflows_dir"])
    found = os.path.join(os.path.realpath(path.parent), path.name)
    if not found.startswith(home + os.sep):
        return None
    return os.path.splitext(os.path.relpath(found, home))[0]
