"""The `sources` and `dotenv` files beside a definition: which they are, their fingerprint, and when it changed.

In: the relative patterns of a definition. Out: one digest of names and contents, and `CompanionsSeen`. Called by
the watcher in a thread at each walk, and by the engine. Source: SPEC sections 1 (Paths) and 2.5.
"""

import errno
import fnmatch
import glob
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wizflowd.core.observations import CompanionsSeen, WorkflowId
from wizflowd.core.values import Json, digest
from wizflowd.watcher.settle import MIN_QUIET_S
from wizflowd.watcher.stamps import Signature, signature


@dataclass(frozen=True, slots=True)
class _Companion:
    """One file as asked for. `found` is its signature, or the word for why there is none: `missing`, `outside` ..."""

    kind: str
    name: str
    path: str
    found: Signature | str


@dataclass(slots=True)
class Followed:
    """What to look at for one workflow. `digest` is the one acted upon; None takes the present as told."""

    definition_path: str
    sources: tuple[str, ...]
    dotenv: tuple[str, ...]
    digest: str | None
    settled: list[_Companion] | None = None
    waiting: list[_Companion] | None = None
    since_s: float = 0.0


def companions_digest(folder: Path, definition_path: str, sources: tuple[str, ...], dotenv: tuple[str, ...]) -> str:
    """Return the fingerprint of a definition's companion files by name and content, 64 hexadecimal digits.

    Patterns are relative to the folder of `definition_path` (itself relative to `folder`). A missing file, one that
    cannot be read and one that leads out count as such; a folder counts as the files below it.
    """
    return _digest_of(_companions(folder / os.path.dirname(definition_path), sources, dotenv))


class Companions:
    """The companion files of all workflows that have some, and what was last told of them."""

    def __init__(self, folder: Path, quiet_s: float) -> None:
        self._folder = folder
        self._quiet_s = max(quiet_s, MIN_QUIET_S)
        self._followed: dict[WorkflowId, Followed] = {}

    def __bool__(self) -> bool:
        return bool(self._followed)

    def follow(self, workflow: WorkflowId, followed: Followed) -> None:
        """Look at these from here on instead of those before."""
        if followed.sources or followed.dotenv:
            self._followed[workflow] = followed
        else:
            self.forget(workflow)

    def forget(self, workflow: WorkflowId) -> None:
        """Look at none for this workflow."""
        self._followed.pop(workflow, None)

    def look(self, now_s: float) -> tuple[list[CompanionsSeen], float]:
        """Return what changed and has been quiet since, and when to look again, in monotonic time.

        Runs in a thread while `follow` is called from the loop: what was replaced meanwhile is not told.
        """
        seen: list[CompanionsSeen] = []
        again: list[float] = []
        for workflow, followed in list(self._followed.items()):
            before = followed.digest
            base = self._folder / os.path.dirname(followed.definition_path)
            present = _companions(base, followed.sources, followed.dotenv)
            if present == followed.settled:
                followed.waiting = None
                continue
            if present != followed.waiting:
                followed.waiting, followed.since_s = present, now_s
            if before is not None and now_s - followed.since_s < self._quiet_s:
                again.append(followed.since_s + self._quiet_s)
                continue
            followed.digest = _digest_of(present)
            followed.settled, followed.waiting = present, None
            if before not in (None, followed.digest) and self._followed.get(workflow) is followed:
                seen.append(CompanionsSeen(workflow, followed.digest))
        return seen, min(again, default=float("inf"))


def _companions(base: Path, sources: tuple[str, ...], dotenv: tuple[str, ...]) -> list[_Companion]:
    root = os.path.realpath(base)
    found = [_look_at(root, "dotenv", name) for name in dotenv]
    for pattern in sources:
        names = sorted(set(_expand(root, pattern)))
        found += [_look_at(root, "sources", name) for name in names]
        if not names:
            found.append(_Companion("sources", pattern, "", "missing"))
    return found


def _look_at(root: str, kind: str, name: str) -> _Companion:
    try:
        real = os.path.realpath(os.path.join(root, name))
        if not real.startswith(f"{root}/") or ".." in name.split("/"):
            return _Companion(kind, name, "", "outside")
        seen = os.stat(real)
    except (OSError, ValueError) as exc:
        return _Companion(kind, name, "", _word_for(exc))
    if not stat.S_ISREG(seen.st_mode):
        return _Companion(kind, name, "", "not a file")
    return _Companion(kind, name, real, signature(seen))


def _digest_of(companions: list[_Companion]) -> str:
    parts: list[Json] = [[c.kind, c.name, _content_of(c)] for c in companions]
    return digest(parts)


def _content_of(companion: _Companion) -> str:
    if isinstance(companion.found, str):
        return companion.found
    try:
        fd = os.open(companion.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return "not a file"
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        return _word_for(exc)


def _word_for(exc: OSError | ValueError) -> str:
    if isinstance(exc, ValueError) or exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return "missing"
    return "unreadable"


def _expand(root: str, pattern: str) -> Iterator[str]:
    """Yield the relative names of the files that match, depth first; results of wizflowd are never entered.

    As in a shell `*` does not match a leading dot; `**` goes down real folders. (`glob` follows links round and
    round, and reads all of `*.runs/` before one can leave it out.)
    """
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if pattern.startswith("/") or ".." in parts:
        yield pattern
    elif parts:
        yield from _match(root, "", parts)


def _match(root: str, folder: str, parts: list[str]) -> Iterator[str]:
    part, rest = parts[0], parts[1:]
    if part == "**":
        if rest:
            yield from _match(root, folder, rest)
        for name in _names(root, folder):
            path = f"{folder}{name}"
            if os.path.isdir(f"{root}/{path}") and not os.path.islink(f"{root}/{path}"):
                if not name.startswith("."):
                    yield from _match(root, f"{path}/", parts)
            elif not rest and not name.startswith("."):
                yield path
        return
    if glob.has_magic(part):
        hidden = part.startswith(".")
        names = [name for name in fnmatch.filter(_names(root, folder), part) if hidden or not name.startswith(".")]
    else:
        names = [part] if not part.endswith(".runs") and os.path.lexists(f"{root}/{folder}{part}") else []
    for name in names:
        path = f"{folder}{name}"
        is_folder = os.path.isdir(f"{root}/{path}")
        if rest and is_folder:
            yield from _match(root, f"{path}/", rest)
        elif not rest and is_folder:
            yield from _match(root, f"{path}/", ["**"])
        elif not rest:
            yield path


def _names(root: str, folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(f"{root}/{folder}") if not name.endswith(".runs"))
    except OSError:
        return []
