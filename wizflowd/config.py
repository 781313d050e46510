"""The configuration: file, then environment, then options over the defaults, checked as a whole.

In: a YAML file, `WIZFLOWD_...` variables, options by dotted key. Out: one frozen `Config` with absolute paths.
Called by the commands when they start, and by the daemon on SIGHUP. Keys and defaults: SPEC section 8.
"""

import json
import os
import pwd
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr, TypeAdapter, ValidationError

from wizflowd.core.fields import FieldError
from wizflowd.core.loader import Document, Syntax, load
from wizflowd.core.suggest import did_you_mean
from wizflowd.errors import ConfigError, DefinitionError, Problem, printable
from wizflowd.settings import Address, Config

__all__ = ["Address", "Config", "load_config"]

SYSTEM_FILE = Path("/etc/wizflowd/wizflowd.yaml")
SYSTEM_STATE = Path("/var/lib/wizflowd")
SYSTEM_RUNTIME = Path("/run/wizflowd")
PREFIX = "WIZFLOWD_"

Key = tuple[str, ...]


def _parts(kind: Any) -> Iterator[Any]:
    yield kind
    if isinstance(kind, UnionType) or get_origin(kind) in {Union, Annotated}:
        for part in get_args(kind):
            yield from _parts(part)


def _settings(model: Any, above: Key = ()) -> Iterator[tuple[Key, tuple[Any, ...]]]:
    for name, info in model.__pydantic_fields__.items():
        key, parts = (*above, info.alias or name), tuple(_parts(info.annotation))
        yield key, parts
        for part in parts:
            if hasattr(part, "__pydantic_fields__"):
                yield from _settings(part, key)


_ADAPTER = TypeAdapter(Config)
_TYPES: Mapping[Key, tuple[Any, ...]] = MappingProxyType(dict(_settings(Config)))
_SECTIONS = frozenset(key[:-1] for key in _TYPES)
_NAMES = tuple("__".join(key).upper() for key in _TYPES)


def _is(key: Key, *types: object) -> bool:
    """Return whether the type of a key is one of `types`, or one of them is a part of it: of `X | None`, X."""
    return any(part in types or get_origin(part) in types for part in _TYPES.get(key, ()))


@dataclass(frozen=True, slots=True)
class _Override:
    """A value over the file's; `label` is the variable or option by the name that a person knows."""

    key: Key
    value: object
    label: str


def load_config(
    path: Path | None, env: Mapping[str, str], overrides: Mapping[str, object] = MappingProxyType({})
) -> Config:
    """Return the configuration; raise ConfigError with one line for each problem.

    `path` None: `/etc/wizflowd/wizflowd.yaml` where that exists, else the defaults. `overrides` go by dotted key,
    `{"metrics.listen": "off"}`; None overrides nothing. Relative paths begin at the file's folder; those of variables
    and overrides at the working directory.
    """
    file = path or (SYSTEM_FILE if SYSTEM_FILE.exists() else None)
    document = _read(file) if file else None
    above, lines = _from_env(env)
    above += [_Override(tuple(key.split(".")), value, key) for key, value in overrides.items() if value is not None]
    tree = _tree(document, file)
    home = Path(env.get("HOME") or Path.home())
    if file:
        _root_paths(tree, file.parent.absolute(), home)
    for override in above:
        _put(tree, override)
    _root_paths(tree, Path.cwd(), home)
    _drop_empty(tree)
    for key, value in _default_places(tree, file, env, home).items():
        if tree.get(key) in (None, []):
            tree[key] = value
    try:
        config = _ADAPTER.validate_python(tree)
    except ValidationError as error:
        from wizflowd.core.messages import problems_of  # costs the models of all tasks

        lines += _lines(problems_of(error.errors(include_url=False), Config), above, document, file)
    if lines:
        raise ConfigError("\n".join(lines))
    return config


def _read(file: Path) -> Document | None:
    """Return the document of a file, or None when it holds nothing but comments."""
    try:
        data = file.read_bytes()
        empty = all(line.lstrip()[:1] in {b"", b"#"} for line in data.splitlines())
        return None if empty else load(data, Syntax.YAML)
    except OSError as error:
        hint = "name another with --config" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}", hint=hint) from error
    except DefinitionError as error:
        raise ConfigError("\n".join(error.lines(str(file)))) from error


def _tree(document: Document | None, file: Path | None) -> dict[str, Any]:
    """Return the values of a document as a tree of one's own, in which nothing is shared."""
    if document is None:
        return {}
    if not isinstance(document.value, dict):
        raise ConfigError(f"cannot use the configuration {file}: it is not a mapping", hint="write `key: value` lines")
    return json.loads(json.dumps(document.value))  # type: ignore[no-any-return]


def _from_env(env: Mapping[str, str]) -> tuple[list[_Override], list[str]]:
    """Return what the variables set, and a line for each that cannot be read; an empty one is left out."""
    found, lines = [], []
    for name in sorted(env):
        if not name.startswith(PREFIX) or not env[name]:
            continue
        try:
            key = _key_of(name)
            found.append(_Override(key, _value(key, env[name]), name))
        except FieldError as error:
            lines.append(_line(name, error.what, error.hint))
    return found, lines


def _key_of(name: str) -> Key:
    """Return the key that a variable means; below `pools` and `executors` its letters keep their case."""
    parts = name.removeprefix(PREFIX).split("__")
    for length in range(len(parts), 0, -1):
        key = tuple(part.lower() for part in parts[:length])
        if key in _TYPES and (length == len(parts) or _is(key, Mapping)):
            return (*key, *parts[length:])
    hint = did_you_mean(name.removeprefix(PREFIX), _NAMES)
    raise FieldError("unknown setting", hint.replace('"', f'"{PREFIX}', 1))


def _value(key: Key, text: str) -> object:
    """Return a variable's text as the value it stands for: text where text is wanted, else JSON where it is JSON."""
    if _is(key, str, Path, SecretStr, Literal):
        return text
    try:
        return json.loads(text)
    except ValueError:
        if key in _SECTIONS or _is(key, Mapping, tuple):
            raise FieldError("is not JSON", 'write ["a", "b"] or {"a": 1}') from None
        return text


def _put(tree: dict[str, Any], override: _Override) -> None:
    for part in override.key[:-1]:
        if tree.get(part) is None:
            tree[part] = {}
        tree = tree[part]
        if not isinstance(tree, dict):  # the file is wrong there, and is told so
            return
    tree[override.key[-1]] = override.value


def _holder(tree: dict[str, Any], key: Key) -> dict[str, Any]:
    """Return the mapping in which `key` stands, or an empty one."""
    below: Any = tree
    for part in key[:-1]:
        below = below.get(part)
        if not isinstance(below, dict):
            return {}
    return below  # type: ignore[no-any-return]


def _root_paths(tree: dict[str, Any], base: Path, home: Path) -> None:
    """Make the paths in `tree` absolute: `~/` begins at `home`, what is relative at `base`."""
    for key in _TYPES:
        holder = _holder(tree, key)
        value = holder.get(key[-1])
        if value and isinstance(value, str | Path) and _is(key, Path):
            text = os.fspath(value)
            holder[key[-1]] = os.path.normpath(home / text[2:] if text.startswith("~/") else base / text)


def _drop_empty(tree: dict[str, Any]) -> None:
    """Remove keys without a value (`limits:` and nothing below) where none has no meaning of its own."""
    for key in _TYPES:
        holder = _holder(tree, key)
        if holder.get(key[-1], holder) is None and not _is(key, NoneType):
            del holder[key[-1]]


def _default_places(tree: Mapping[str, Any], file: Path | None, env: Mapping[str, str], home: Path) -> dict[str, Any]:
    """Return what depends on who runs where: the system service, or somebody in a terminal or session."""
    state_directory = env.get("STATE_DIRECTORY", "") if env.get("INVOCATION_ID") else ""
    places: dict[str, Any] = {}
    if file == SYSTEM_FILE or state_directory.startswith(f"{SYSTEM_STATE.parent}/"):
        workflows, state, runtime = SYSTEM_STATE / "workflows", SYSTEM_STATE / "state", SYSTEM_RUNTIME
        places["owners"] = sorted({"root", pwd.getpwuid(os.geteuid()).pw_name})
    else:
        workflows = Path.cwd() / "workflows"
        state = _xdg(env, "XDG_STATE_HOME") or home / ".local/state/wizflowd"
        runtime = _xdg(env, "XDG_RUNTIME_DIR") or _runtime_dir(Path(str(tree.get("state_dir", state))))
    places |= {
        "workflows_dir": workflows,
        "state_dir": state,
        "events_socket": runtime / "events.sock",
        "control_socket": runtime / "control.sock",
    }
    return places


def _xdg(env: Mapping[str, str], name: str) -> Path | None:
    """Return our folder in a base directory; a relative one is to be ignored (XDG Base Directory Specification)."""
    base = Path(env.get(name, ""))
    return base / "wizflowd" if base.is_absolute() else None


def _runtime_dir(state: Path) -> Path:
    """Return where sockets go without XDG_RUNTIME_DIR (sudo, cron): where the commands look, else `state`."""
    if os.geteuid() == 0:
        return SYSTEM_RUNTIME
    session = Path(f"/run/user/{os.geteuid()}")
    return session / "wizflowd" if session.is_dir() else state


def _lines(
    problems: Iterable[Problem], above: Sequence[_Override], document: Document | None, file: Path | None
) -> list[str]:
    """Return each problem with its place: line and column of the file, or the variable or option that set the value."""
    lines, in_file = [], []
    for problem in problems:
        override = next((o for o in reversed(above) if problem.path[: len(o.key)] == o.key), None)
        if document is not None and override is None:
            in_file.append(problem)
            continue
        below = ".".join(str(part) for part in problem.path[len(override.key) if override else 0 :])
        where = ": ".join(filter(None, (override.label if override else "", below)))
        lines.append(_line(where, problem.what, problem.hint))
    located = document.locate(in_file) if document is not None else ()
    return [*(problem.render(str(file)) for problem in located), *lines]


def _line(where: str, what: str, hint: str) -> str:
    return printable(f"{where}: {what}" + (f"; {hint}" if hint else ""))
