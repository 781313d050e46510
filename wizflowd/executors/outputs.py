"""What an attempt leaves behind: declared outputs, names written to `$WIZFLOW_OUTPUT`, hashes of files.

In: a `Job` and the text its outputs are read from (stdout alone, or the response body). Out: `Collected`, secrets
masked. Called by every executor when an attempt did what it should. All of it blocks: callers use a thread.
"""

import errno
import fnmatch
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BufferedReader
from pathlib import Path

from wizflowd.core.attempt import Job, OutputRule
from wizflowd.core.values import Json, text_of
from wizflowd.errors import OutputError
from wizflowd.spawner.masking import MASK, Masker

TEXT_MAX = 1024 * 1024  # bytes, of a `text` output and of the file named by $WIZFLOW_OUTPUT
VALUES_MAX = 1_000_000  # of JSON that outputs are read from; an empty list takes 3 bytes as text and 64 in memory
_DEPTH_MAX = 100  # what masking, hashing and writing a value can walk with any stack left to them
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Collected:
    """Outputs by name; the hash of each declared file by its path as written; warnings for a person."""

    outputs: dict[str, Json]
    files: dict[str, str]
    notes: tuple[str, ...]


def collect(job: Job, text: bytes | None, output_file: Path | None) -> Collected:
    """Take the outputs of an attempt that ended well.

    `text` is stdout alone or the response body, None when there was none to keep; `output_file` is what
    `$WIZFLOW_OUTPUT` named and need not exist. Raises OutputError, masked, naming the output and the cause.
    """
    masker = Masker(job.secrets)
    try:
        return _collect(job, _Text(text or b""), output_file, masker)
    except OutputError as error:
        # The unmasked error must not be found as this one's context.
        raise OutputError(masker.mask(error.message), hint=masker.mask(error.hint)) from None


def hash_sources(folder: Path, globs: tuple[str, ...]) -> str:
    """Return a SHA-256 over the sorted relative names and contents of what `globs` match; empty without globs.

    `**` is any depth, a folder stands for all below it, hidden names match only a pattern that begins with a dot,
    `*.runs` never matches. Nothing outside `folder` is read: a link that leads out counts by where it leads.
    Raises OutputError.
    """
    if not globs:
        return ""
    root = Path(os.path.realpath(folder))
    try:
        names = {name for pattern in globs for name in _matches(root, pattern)}
        return _hash_names(root, names)
    except (OSError, ValueError) as exc:
        raise OutputError(f"cannot hash the sources in {folder}: {_cause(exc)}") from exc


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of all names and contents below a folder. Raises OSError."""
    real = Path(os.path.realpath(path))
    if not real.is_dir():
        return _hash_bytes(real)
    return _hash_names(real, set(_names_below(real)))


def _collect(job: Job, text: "_Text", output_file: Path | None, masker: Masker) -> Collected:
    outputs: dict[str, Json] = {}
    files: dict[str, str] = {}
    notes: list[str] = []
    for name, rule in job.outputs.items():
        try:
            if rule.type == "file":
                outputs[name] = rule.path
                files[masker.mask(rule.path)] = _hash_output(job.workspace, rule.path)
            else:
                outputs[name] = text.stripped() if rule.type == "text" else _select(text.parsed, name, rule, notes)
        except (OSError, ValueError) as exc:
            raise OutputError(f'cannot take output "{name}": {_cause(exc)}') from exc
    for name, value in _read_written(output_file).items():
        if name in outputs:
            notes.append(f'output "{name}" is declared; what was written to $WIZFLOW_OUTPUT for it is not used')
        else:
            outputs[name] = value
    for name, value in outputs.items():
        outputs[name] = masker.mask_json(value)
        # Of stdout the spawner has kept the masked form.
        if outputs[name] != value or (masker and MASK.decode() in text_of(value)):
            notes.append(f'output "{name}" held a secret and was masked')
    return Collected(outputs, files, tuple(notes))


class _Text:
    """The text outputs are read from, parsed once however many of them read it. Errors are ValueErrors."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def stripped(self) -> str:
        value = self._raw.strip()
        if len(value) > TEXT_MAX:
            raise ValueError(
                f"the text has {len(value)} bytes, more than {TEXT_MAX}; write it to a file output instead"
            )
        return value.decode("utf-8", "replace").strip()

    @cached_property
    def parsed(self) -> Json:
        if not self._raw.strip():
            raise ValueError("there is no text to read JSON from")
        if sum(map(self._raw.count, (b",", b"[", b"{"))) > VALUES_MAX:
            raise ValueError(f"the JSON has more than {VALUES_MAX} values; write it to a file output instead")
        try:
            value: Json = json.loads(self._raw)
        except RecursionError as exc:
            raise ValueError("the JSON is nested too deeply") from exc
        except ValueError as exc:
            raise ValueError(f"the text is not JSON: {exc}") from exc
        return value


def _select(document: Json, name: str, rule: OutputRule, notes: list[str]) -> Json:
    find, once = _compile(rule.json_path)
    found = find(document)
    if not found:
        if rule.required:
            raise ValueError(f"json_path {rule.json_path} matches nothing")
        notes.append(f'output "{name}" is null: json_path {rule.json_path} matches nothing')
        return None
    value = found[0] if once else found
    _check(value)
    return value


@lru_cache(maxsize=1024)
def _compile(json_path: str) -> tuple[Callable[[Json], list[Json]], bool]:
    """Return what finds all matches of the path, and whether there can be one at most."""
    from jsonpath_ng.exceptions import JSONPathError  # costs 36 ms: only for tasks with such an output
    from jsonpath_ng.jsonpath import Child, Fields, Index, JSONPath, Root
    from jsonpath_ng.parser import parse

    def single(path: JSONPath) -> bool:
        match path:
            case Root():
                return True
            case Child():
                return single(path.left) and single(path.right)
            case Fields():
                return len(path.fields) == 1 and path.fields[0] != "*"
            case Index():
                return len(path.indices) == 1
            case _:
                return False

    try:
        path = parse(json_path)
    except JSONPathError as exc:
        raise ValueError(f"json_path {json_path} cannot be read: {exc}") from exc
    return lambda document: [match.value for match in path.find(document)], single(path)


def _check(value: Json) -> None:
    """Refuse what JSON text cannot say again: numbers that are not finite, depth without bound."""
    level: list[Json] = [value]
    for _ in range(_DEPTH_MAX):
        if any(isinstance(item, float) and not math.isfinite(item) for item in level):
            raise ValueError("it holds a number that is not finite")
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEPTH_MAX} deep")


def _children(value: Json) -> list[Json]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _hash_output(workspace: Path, path: str) -> str:
    root = Path(os.path.realpath(workspace))
    real = Path(os.path.realpath(root / path))
    if not real.is_relative_to(root):
        raise ValueError(f"{path} leads out of the workspace")
    if not real.exists():
        raise ValueError(f"{path} does not exist in the workspace")
    return hash_file(real)


def _read_written(output_file: Path | None) -> dict[str, Json]:
    """Return what a task wrote to `$WIZFLOW_OUTPUT`: `NAME=value` lines and `NAME<<END … END` blocks; the last wins."""
    if output_file is None:
        return {}
    try:
        with open_regular(output_file) as file:
            raw = file.read(TEXT_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise OutputError(f"cannot read the file named by $WIZFLOW_OUTPUT: {_cause(exc)}") from exc
    if len(raw) > TEXT_MAX:
        raise OutputError(f"cannot take what was written to $WIZFLOW_OUTPUT: it is over {TEXT_MAX} bytes")
    lines = enumerate(raw.decode("utf-8", "replace").split("\n"), start=1)
    written: dict[str, Json] = {}
    for number, line in lines:
        if not line.strip():
            continue
        name, sign, rest = _split(line)
        if not _NAME.fullmatch(name) or not sign:
            raise _bad_line(number, f'"{line[:40]}" is not NAME=value or NAME<<END')
        written[name] = rest if sign == "=" else _read_block(lines, number, rest)
    return written


def _split(line: str) -> tuple[str, str, str]:
    """Split at `=` or `<<`, whichever comes first."""
    sign = "<<" if "<<" in line.partition("=")[0] else "="
    return line.partition(sign)


def _read_block(lines: Iterator[tuple[int, str]], start: int, end: str) -> str:
    if not end.strip():
        raise _bad_line(start, "a name for the end of the text is missing after <<")
    block: list[str] = []
    for _, line in lines:
        if line.rstrip("\r") == end.rstrip("\r"):
            return "\n".join(block)
        block.append(line)
    raise _bad_line(start, f'the text that begins here has no line "{end}" to end it')


def _bad_line(number: int, what: str) -> OutputError:
    return OutputError(f"cannot take what was written to $WIZFLOW_OUTPUT: line {number}: {what}")


def _matches(root: Path, pattern: str) -> Iterator[str]:
    """Give the names, relative to `root`, of the files that match; lists only the folders it must."""
    segments = tuple(segment for segment in pattern.split("/") if segment not in {"", "."})
    if pattern.startswith("/") or ".." in segments:
        raise ValueError(f"{pattern} leads out of the folder")
    pending = [("", segments)]
    seen = set()  # without it `**/*` would walk a tree again from each of its folders
    while pending:
        step = pending.pop()
        if step in seen:
            continue
        seen.add(step)
        below, (head, *rest) = step[0], step[1] or ("**", "*")
        if head == "**":
            pending.append((below, tuple(rest)))
        for entry in _entries(root / below):
            name = f"{below}/{entry.name}" if below else entry.name
            if head == "**":
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    pending.append((name, (head, *rest)))
            elif not _fits(entry.name, head):
                continue
            elif entry.is_dir() and _inside(root, entry.path):
                pending.append((name, tuple(rest)))
            elif not rest and (entry.is_file() or entry.is_symlink()):
                yield name


def _fits(name: str, segment: str) -> bool:
    hidden = name.startswith(".") and not segment.startswith(".")
    return not hidden and fnmatch.fnmatchcase(name, segment)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.endswith(".runs")]
    except (FileNotFoundError, NotADirectoryError):  # went away between two looks
        return []


def _names_below(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in (*names, *links):
            yield str((Path(folder) / name).relative_to(root))


def _hash_names(root: Path, names: set[str]) -> str:
    whole = hashlib.sha256()
    for name in sorted(names):
        try:
            content = _hash_bytes(root / name) if _inside(root, root / name) else os.path.realpath(root / name)
        except (FileNotFoundError, IsADirectoryError):
            continue
        whole.update(f"{name}\0{content}\0".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _hash_bytes(path: Path) -> str:
    with open_regular(Path(os.path.realpath(path))) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inside(root: Path, path: str | Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(root)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; anything else is refused, and a FIFO does not block."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(fd, "rb")
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
    raise OSError(errno.EINVAL, "is not a regular file", str(path))


def _cause(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror
    return str(exc)
