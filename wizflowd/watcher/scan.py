"""What lies in the watched folder: the walk, the rules for what is ignored, and a file's identity.

In: the folder's path. Out: a `Listing` of the regular files named like definitions, as `stat` saw them; nothing is
opened. Called by `watcher.ledger` in a thread. Names that are not UTF-8 pass through as `surrogateescape`.
"""

import contextlib
import fcntl
import functools
import os
import re
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from wizflowd.core.observations import WorkflowId
from wizflowd.errors import printable
from wizflowd.watcher.stamps import Signature, Stamps, signature

# Left out: hidden files and what editors and transfers call their temporaries (`~$a.json`, `#a.yaml`, `a.tmp.json`).
_DEFINITION = re.compile(
    r"[^.~#].*(?<!~)(?<!\.tmp)(?<!\.swp)(?<!\.part)(?<!\.partial)\.(json|ya?ml)|[^.~#]\.(json|ya?ml)",
    re.IGNORECASE | re.DOTALL,
)
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
_FS_IOC_GETVERSION = 0x80007601 | struct.calcsize("l") << 16

OnFolder = Callable[[str, os.stat_result], None]
"""Told of each folder, by relative path, before it is listed: a watch set here misses nothing that comes later."""


class Access(NamedTuple):
    """Who may do what with a file, as `os.stat_result` names it."""

    st_mode: int
    st_uid: int
    st_gid: int
    st_nlink: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file named like a definition. `path` is relative to the folder `root`; `target` is where a link leads,
    else empty.

    Of its stat it keeps what is asked for: there are thousands of these for as long as the daemon runs.
    """

    root: str
    path: str
    target: str
    signature: Signature
    access: Access

    @classmethod
    def of(cls, root: str, path: str, seen: os.stat_result, target: str = "") -> "Entry":
        access = _shared_access(seen.st_mode, seen.st_uid, seen.st_gid, seen.st_nlink)
        return cls(root, path, target, signature(seen), access)

    @property
    def real(self) -> str:
        """Its absolute path; where it is a link itself, that of its target."""
        return self.target or f"{self.root}/{self.path}"


@functools.lru_cache(maxsize=256)
def _shared_access(mode: int, uid: int, gid: int, links: int) -> Access:
    return Access(mode, uid, gid, links)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a folder held: its definition files, and the folders below to enter, by relative path.

    `stamp` is the folder's own from just before it was listed, `clock_ns` that of `Stamps`.
    """

    stamp: Signature | None
    clock_ns: int
    files: dict[str, Entry] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Listing:
    """One walk. `folders` has the root as `""`; nothing is known of what lies under an `unreadable` prefix.

    `linked`: a definition or a folder hangs on a symbolic link, so that other names matter to it too. `bare`: the
    root has no entry at all. `hollow` are folders below the root without an entry. `contents` are those of the
    folders that need not be listed again as long as they keep their stamp.
    """

    files: dict[str, Entry] = field(default_factory=dict)
    folders: dict[str, os.stat_result] = field(default_factory=dict)
    contents: dict[str, Contents] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    hollow: set[str] = field(default_factory=set)
    linked: bool = False
    bare: bool = False


@dataclass(frozen=True, slots=True)
class FolderIdentity:
    """Which folder stands at a path. The generation tells a re-created folder with a reused inode (0: unknown)."""

    device: int
    inode: int
    generation: int


def is_definition_name(name: str) -> bool:
    """Return whether a file's own name is one of a definition, good or bad; temporaries and hidden ones are not."""
    return _DEFINITION.fullmatch(name) is not None


def is_ignored_folder(name: str) -> bool:
    """Return whether a folder of this name is never entered: hidden, or results of wizflowd itself."""
    return name.startswith(".") or name.endswith(".runs")


def identity_of(path: str) -> WorkflowId | None:
    """Return the identity of a definition's relative path, or None where the path cannot be one (SPEC section 1)."""
    if not is_definition_name(path.rpartition("/")[2]):
        return None
    stem = path.rpartition(".")[0]
    parts = stem.split("/")
    if any(map(is_ignored_folder, parts[:-1])) or not all(map(_PART.fullmatch, parts)):
        return None
    return WorkflowId(stem)


def stand_in_for(path: str) -> WorkflowId:
    """Return what to call a definition whose path cannot be an identity: its printable form."""
    return WorkflowId(printable(path.rpartition(".")[0]))


def identify_folder(path: str) -> FolderIdentity:
    """Return which folder stands at `path`; OSError where there is none that can be read.

    No descriptor is kept open: it would hold up an unmount.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        seen = os.fstat(fd)
        generation = 0
        with contextlib.suppress(OSError):  # not every file system has generations
            generation = int.from_bytes(fcntl.ioctl(fd, _FS_IOC_GETVERSION, bytes(8))[:4], "little")
    finally:
        os.close(fd)
    return FolderIdentity(seen.st_dev, seen.st_ino, generation)


def walk(root: str, on_folder: OnFolder, before: Listing | None = None) -> Listing:
    """Return what lies in `root`, an absolute path; OSError where the root itself cannot be listed.

    A file that is as it was `before` keeps its very `Entry`.
    """
    return _Walk(root, on_folder, before or Listing()).run()


def entry_at(root: str, path: str) -> Entry | None:
    """Return the one entry at a relative path, or None where there is none; its folder is one that was walked."""
    full = f"{root}/{path}"
    try:
        seen = os.lstat(full)
    except OSError:
        return None
    if stat.S_ISLNK(seen.st_mode):
        target = _Target.of(os.path.realpath(root), full)
        return Entry.of(root, path, target.stat, target.real) if target and target.is_file else None
    return Entry.of(root, path, seen) if stat.S_ISREG(seen.st_mode) else None


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a symbolic link leads: to something inside the folder and outside of wizflowd's results."""

    real: str
    stat: os.stat_result

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.stat.st_mode)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.stat.st_mode)

    @classmethod
    def of(cls, real_root: str, link: str) -> "_Target | None":
        try:
            real = os.path.realpath(link)
            seen = os.stat(real)
        except OSError:
            return None
        inside = real.removeprefix(f"{real_root}/")
        if inside == real or any(part.endswith(".runs") for part in inside.split("/")):
            return None
        return cls(real, seen)


class _Walk:
    """One walk through the folder. A linked folder is entered once: not under another linked one, not upwards."""

    def __init__(self, root: str, on_folder: OnFolder, before: Listing) -> None:
        self._before = before
        self._root = root
        self._real_root = os.path.realpath(root)
        self._on_folder = on_folder
        self._stamps = Stamps()
        self._listing = Listing()
        self._open: list[tuple[str, os.stat_result, bool]] = [("", os.stat(root), False)]

    def run(self) -> Listing:
        root = os.open(self._root, os.O_PATH | os.O_CLOEXEC)
        try:
            while self._open:
                self._visit(root, *self._open.pop())
        finally:
            os.close(root)
        return self._listing

    def _visit(self, root: int, folder: str, seen: os.stat_result, below_link: bool) -> None:
        self._listing.folders[folder] = seen
        self._on_folder(folder, seen)
        stamp = self._stamp_of(folder)
        held = self._look_again(root, folder, stamp) or self._look_through(folder, stamp, below_link=below_link)
        self._listing.files.update(held.files)
        for path in held.folders:
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                self._open.append((path, os.stat(path, dir_fd=root, follow_symlinks=False), below_link))

    def _stamp_of(self, folder: str) -> Signature | None:
        """Return it as of now that the folder is watched: a change before this has no hint, each after it has."""
        try:
            return signature(os.stat(f"{self._root}/{folder}"))
        except OSError:
            return None  # the reason is found where it is listed

    def _look_again(self, root: int, folder: str, stamp: Signature | None) -> Contents | None:
        """Look only at what the folder held, if by its stamp it holds the same; None where it has to be listed."""
        held = self._before.contents.get(folder)
        if held is None or held.stamp != stamp or not self._stamps.still_show(held.clock_ns):
            return None
        changed: dict[str, Entry] = {}
        try:
            for path, entry in held.files.items():  # no call more than one: this is what an idle daemon does
                seen = os.stat(path, dir_fd=root, follow_symlinks=False)
                if signature(seen) != entry.signature:
                    if not stat.S_ISREG(seen.st_mode):
                        return None
                    changed[path] = Entry.of(self._root, path, seen)
        except OSError:
            return None
        if changed:
            held = replace(held, files=held.files | changed)
        self._listing.contents[folder] = held
        return held

    def _look_through(self, folder: str, stamp: Signature | None, *, below_link: bool) -> Contents:
        """List the folder and look at all that it holds; follow the links in it."""
        held = Contents(stamp, self._stamps.clock_ns)
        links = []
        for entry in self._list(folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            known = self._before.files.get(path)
            if known is not None and _is_unchanged(entry, known):
                held.files[path] = known
            elif not is_ignored_folder(entry.name):  # no definition is called so either
                if entry.is_symlink():
                    links.append((entry, path))
                else:
                    self._look_at(entry, path, held)
        for entry, path in links:
            self._follow(entry, path, below_link=below_link)
        # Without a definition, all names may be those that an encrypted folder shows until its key comes.
        if held.files and not links and self._stamps.will_show(f"{self._root}/{folder}", stamp):
            self._listing.contents[folder] = held
        return held

    def _list(self, folder: str) -> list["os.DirEntry[str]"]:
        try:
            with os.scandir(f"{self._root}/{folder}") as entries:
                found = list(entries)
        except OSError as exc:
            if not folder:
                raise
            if not isinstance(exc, FileNotFoundError):
                self._listing.unreadable.append(f"{folder}/")
            return []
        if not found and folder:
            self._listing.hollow.add(folder)
        elif not found:
            self._listing.bare = True
        return found

    def _look_at(self, entry: "os.DirEntry[str]", path: str, held: Contents) -> None:
        with contextlib.suppress(FileNotFoundError):  # gone since it was listed
            if entry.is_dir(follow_symlinks=False):
                held.folders.append(path)
            elif _DEFINITION.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                held.files[path] = Entry.of(self._root, path, entry.stat(follow_symlinks=False))

    def _follow(self, entry: "os.DirEntry[str]", path: str, *, below_link: bool) -> None:
        named = _DEFINITION.fullmatch(entry.name) is not None
        target = _Target.of(self._real_root, entry.path)
        self._listing.linked |= named
        if target is None:
            return
        if target.is_file and named:
            self._listing.files[path] = Entry.of(self._root, path, target.stat, target.real)
        elif target.is_folder and not below_link:
            self._listing.linked = True
            here = f"{os.path.realpath(os.path.dirname(entry.path))}/"
            if not here.startswith(f"{target.real}/"):  # else it leads up, and round
                self._open.append((path, target.stat, True))


def _is_unchanged(entry: "os.DirEntry[str]", known: Entry) -> bool:
    if known.target:  # where a link leads may have changed
        return False
    try:
        return signature(entry.stat(follow_symlinks=False)) == known.signature
    except OSError:
        return False
