"""What was told of each definition, and what is to be told after a look. In: walks and named paths. Out: a `Look`.

Called by the `Watcher`, always from its one thread; this is the one place that compares what is with what was told.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from wizflowd.core.observations import (
    FolderAvailable,
    FolderObservation,
    FolderUnavailable,
    ScanDone,
    Source,
    SourceGone,
    SourceRefused,
    SourceSeen,
    WorkflowId,
)
from wizflowd.errors import printable
from wizflowd.watcher import scan
from wizflowd.watcher.modes import Modes
from wizflowd.watcher.root import Root
from wizflowd.watcher.scan import Entry, Listing
from wizflowd.watcher.settle import MIN_QUIET_S, Unsettled, read_settled
from wizflowd.watcher.stamps import Signature

log = logging.getLogger(__name__)

_RECHECK_S = 0.03
_WAIT_S = 0.005
_WAIT_MAX_S = 1.0
_RETRY_S = 1.0
_REPLACED_QUIET_S = 1.0
_BYTES_PER_LOOK = 4 * 1024 * 1024
_NAME_RULE = (
    "the name cannot be an identity; rename it: each part begins with a letter or digit, goes on with letters,"
    " digits, '.', '_', '-' and blanks, and has at most 64 of them"
)


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """How to watch. `max_bytes` is the limit on a definition; `owners` are user names and `"@group"`s."""

    backend: Literal["auto", "inotify", "watchfiles", "polling"] = "auto"
    settle_s: float = 0.05
    rescan_s: float = 60.0
    max_bytes: int = 8 * 1024 * 1024
    strict_modes: bool = True
    owners: tuple[str, ...] = ()
    folder_owner_trusted: bool = True


@dataclass(frozen=True, slots=True)
class Known:
    """What was last told of a definition, also in an earlier life. `content_sha`: SHA-256 of `Source.data`, in hex."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    content_sha: str


@dataclass(slots=True)
class Look:
    """What one look came to. Times are monotonic: when to look again at what is unsettled, when to walk again."""

    observations: list[FolderObservation] = field(default_factory=list)
    peek_s: float = float("inf")
    walk_s: float = float("inf")


@dataclass(slots=True)
class _Track:
    """One identity: what was told (`known`, read under the stat `told`), and what it is waiting for."""

    known: Known | None = None
    told: Signature | None = None
    recheck_s: float | None = None
    waiting: Signature | None = None
    since_s: float = 0.0
    wait_s: float = _WAIT_S
    refused: str = ""
    absent_s: float | None = None

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing can change for it before its file does."""
        waits = self.waiting or self.refused or self.recheck_s is not None or self.absent_s is not None
        return self.told is not None and not waits


class Ledger:
    """The definitions of one folder. `folder` is absolute; `known` is from an earlier life."""

    def __init__(self, folder: str, settings: WatchSettings, known: Mapping[WorkflowId, Known]) -> None:
        self._folder = folder
        self._settings = settings
        modes = Modes(folder, settings.owners, folder_owner_trusted=settings.folder_owner_trusted)
        self._modes = modes if settings.strict_modes else None
        self._root = Root(folder, self._modes)
        self._tracks = {workflow: _Track(known=one) for workflow, one in known.items()}
        self._listing = Listing()
        self._by_identity: dict[WorkflowId, list[str]] = {}
        self._due: dict[WorkflowId, float] = {}
        self._restless: set[WorkflowId] = set(known)
        self._problem: str | None = None
        self._budget = 0

    @property
    def available(self) -> bool:
        """Whether the last walk found the folder, and one to conclude from."""
        return self._problem == ""

    @property
    def linked(self) -> bool:
        """Whether something hangs on symbolic links, so that other names matter too."""
        return self._listing.linked

    @property
    def folders(self) -> Collection[str]:
        """The folders of the last walk, relative."""
        return self._listing.folders.keys()

    def walk(self, on_folder: scan.OnFolder, overflow: Callable[[], bool]) -> Look:
        """Walk the whole folder and return what there is to tell; `overflow` is asked once it has been walked."""
        look = Look()
        found = self._root.walk(on_folder, self._listing, len(self._tracks))
        problem = found if isinstance(found, str) else ""
        if problem != self._problem:
            look.observations.append(FolderUnavailable(printable(problem)) if problem else FolderAvailable())
        self._problem = problem
        if isinstance(found, str):
            self._due.clear()
            for workflow in self._restless & self._tracks.keys():
                self._tracks[workflow].absent_s = None
            look.walk_s = time.monotonic() + _RETRY_S
            return look
        self._budget = _BYTES_PER_LOOK
        for workflow in self._take_over(found):
            self._judge(workflow, look, walked=True)
        look.peek_s = min(self._due.values(), default=look.peek_s)
        look.observations.append(ScanDone(frozenset(self._tracks), overflow()))
        return look

    def peek(self, paths: Collection[str]) -> Look:
        """Look at these paths and at what is due, without a walk; nothing is concluded to be gone."""
        look = Look()
        if not self.available:
            return look
        now_s = time.monotonic()
        self._budget = _BYTES_PER_LOOK
        due = {workflow: None for workflow, due_s in self._due.items() if due_s <= now_s}
        hinted = {self._refresh(path): None for path in paths if self._was_walked(path)}
        for workflow in hinted | due:
            if workflow in due:
                if self._budget <= 0 and workflow not in hinted:
                    break  # it stays due, and all after it: the next look begins with them
                for path in [*self._by_identity.get(workflow, ())]:
                    if self._was_walked(path):
                        self._refresh(path)
            self._judge(workflow, look, walked=False)
        look.peek_s = min(self._due.values(), default=look.peek_s)
        return look

    def _was_walked(self, path: str) -> bool:
        return path.rpartition("/")[0] in self._listing.folders

    def _take_over(self, listing: Listing) -> set[WorkflowId]:
        """Make this walk the present one, and return whom it may make a difference to."""
        before, self._listing = self._listing, listing
        changed = [path for path, entry in listing.files.items() if before.files.get(path) is not entry]
        if changed or len(before.files) != len(listing.files):
            changed += before.files.keys() - listing.files.keys()
        touched = {self._file_under(path) for path in changed}
        everybody = self._root.trust_changed or any(
            _access(seen) != _access(before.folders[folder])
            for folder, seen in listing.folders.items()
            if folder in before.folders
        )
        self._root.trust_changed = False
        return {*self._by_identity, *self._tracks} if everybody else touched | self._restless

    def _file_under(self, path: str) -> WorkflowId:
        """Put a path to its identity, or take it away, as the listing has it; return the identity."""
        workflow = scan.identity_of(path) or scan.stand_in_for(path)
        paths = self._by_identity.setdefault(workflow, [])
        if path in self._listing.files:
            if path not in paths:
                paths.append(path)
        else:
            if path in paths:
                paths.remove(path)
            if not paths:
                del self._by_identity[workflow]
        return workflow

    def _refresh(self, path: str) -> WorkflowId:
        entry = scan.entry_at(self._folder, path)
        if entry is None:
            self._listing.files.pop(path, None)
        elif entry != self._listing.files.get(path):  # else it stays the very one that the next walk compares with
            self._listing.files[path] = entry
        return self._file_under(path)

    def _judge(self, workflow: WorkflowId, look: Look, *, walked: bool) -> None:
        self._due.pop(workflow, None)
        self._compare(workflow, look, walked=walked)
        track = self._tracks.get(workflow)
        if track is None or (workflow in self._by_identity and track.is_at_rest):
            self._restless.discard(workflow)
        else:
            self._restless.add(workflow)

    def _compare(self, workflow: WorkflowId, look: Look, *, walked: bool) -> None:
        """Compare one identity with what was told of it."""
        paths = self._by_identity.get(workflow, ())
        track = self._tracks.get(workflow)
        if not paths:
            if track is not None:
                self._judge_absent(workflow, track, look, walked=walked)
            return
        if track is None:
            track = self._tracks[workflow] = _Track()
        track.absent_s = None
        problems = self._problems(paths)
        if problems:
            self._refuse(workflow, track, problems, look)
            return
        entry = self._listing.files[paths[0]]
        found = entry.signature
        if found == track.told and track.recheck_s is None and track.known and entry.path == track.known.path:
            track.waiting = None
            return
        try:
            self._judge_content(workflow, track, entry, look)
        except OSError as exc:
            problem = (
                f"{entry.path}: cannot be read: {exc.strerror or exc}; chmod u+r, or chown it to the user of wizflowd"
            )
            self._refuse(workflow, track, (problem,), look)

    def _judge_absent(self, workflow: WorkflowId, track: _Track, look: Look, *, walked: bool) -> None:
        now_s = time.monotonic()
        path = track.known.path if track.known else f"{workflow}.yaml"
        if path.startswith(tuple(self._listing.unreadable)):
            track.absent_s = None
            return
        if track.absent_s is None:
            track.absent_s = now_s
            if track.known is None and not track.refused:  # never told: nobody will miss it
                del self._tracks[workflow]
                return
        gone_s = max(
            track.absent_s + max(self._settings.settle_s, MIN_QUIET_S), self._root.replaced_s + _REPLACED_QUIET_S
        )
        if walked and track.absent_s < now_s and now_s >= gone_s:
            del self._tracks[workflow]
            look.observations.append(SourceGone(workflow))
        else:
            look.walk_s = min(look.walk_s, gone_s)

    def _problems(self, paths: Collection[str]) -> tuple[str, ...]:
        names = sorted(map(printable, paths))
        if len(names) > 1:
            return tuple(
                f'{name}: has the same identity "{os.path.splitext(name)[0]}" as'
                f" {' and '.join(other for other in names if other != name)}; rename or remove one of them"
                for name in names
            )
        problems: list[str] = []
        for path in paths:
            if scan.identity_of(path) is None:
                problems.append(f"{names[0]}: {_NAME_RULE}")
            if self._modes is not None:
                found = self._modes.file_problems(self._listing.files[path])
                problems += [f"{names[0]}: {problem}" for problem in found]
        return tuple(problems)

    def _refuse(self, workflow: WorkflowId, track: _Track, problems: tuple[str, ...], look: Look) -> None:
        paths = tuple(sorted(map(printable, self._by_identity[workflow])))
        stamp = hashlib.sha256("\n".join((*paths, *problems)).encode("utf-8", "surrogatepass")).hexdigest()
        track.known, track.told, track.recheck_s, track.waiting = None, None, None, None
        if stamp != track.refused:
            track.refused = stamp
            look.observations.append(SourceRefused(workflow, paths, problems, stamp))

    def _judge_content(self, workflow: WorkflowId, track: _Track, entry: Entry, look: Look) -> None:
        """Tell the content once it is settled, if it is another than was told; else say when to look again."""
        found = entry.signature
        _, inode, size, mtime_ns, _ = found
        known = track.known
        if known and track.told is None and track.waiting is None:
            as_known = (known.path, known.size, known.mtime_ns, known.inode)
            if as_known == (entry.path, size, mtime_ns, inode):
                track.told = found
                return
        now_s = time.monotonic()
        if found == track.told and track.recheck_s is not None and now_s < track.recheck_s:
            self._due[workflow] = track.recheck_s
            return
        if found != track.waiting:
            track.waiting, track.since_s, track.wait_s = found, now_s, _WAIT_S
        quiet_s = now_s - track.since_s
        if found != track.told and quiet_s < self._settings.settle_s:
            self._due[workflow] = track.since_s + self._settings.settle_s
            return
        if self._budget <= 0:
            self._due[workflow] = now_s
            return
        data = read_settled(entry, quiet_s=quiet_s, max_bytes=self._settings.max_bytes)
        if isinstance(data, bytes):
            self._budget -= len(data)
            self._tell(workflow, track, entry, data, look)
        else:
            self._due[workflow] = self._again_at(track, data, now_s)

    def _again_at(self, track: _Track, why: Unsettled, now_s: float) -> float:
        match why:
            case Unsettled.EARLY:
                return track.since_s + MIN_QUIET_S
            case Unsettled.CHANGED | Unsettled.BUSY:  # closing it is a hint, but not every backend hears that
                track.since_s = now_s
                track.wait_s = min(2 * track.wait_s, _WAIT_MAX_S)
                return now_s + max(track.wait_s, self._settings.settle_s)

    def _tell(self, workflow: WorkflowId, track: _Track, entry: Entry, data: bytes, look: Look) -> None:
        now_s = time.monotonic()
        _, inode, size, mtime_ns, _ = entry.signature
        before = track.known
        sha = hashlib.sha256(data).hexdigest()
        if before is not None and before.content_sha == sha:
            sha = before.content_sha  # the one that the state has too
        # Within one tick of the kernel's clock a later write of the same size leaves the same stat: read once more.
        fresh = track.told != entry.signature and now_s - track.since_s < _RECHECK_S
        track.recheck_s = now_s + _RECHECK_S if fresh else None
        if fresh:
            self._due[workflow] = now_s + _RECHECK_S
        track.known = Known(entry.path, size, mtime_ns, inode, sha)
        track.told, track.waiting, track.refused = entry.signature, None, ""
        if before is None or (before.path, before.content_sha) != (entry.path, sha):
            source = Source(workflow, entry.path, data, size, mtime_ns, inode, now_s)
            look.observations.append(SourceSeen(source))


def _access(seen: os.stat_result) -> tuple[int, int, int]:
    return (seen.st_mode, seen.st_uid, seen.st_gid)
