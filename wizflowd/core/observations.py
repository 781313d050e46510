"""What reaches the engine from the folder: told by the watcher, decided upon by `core.reconcile`."""

from typing import NewType

from msgspec import Struct

WorkflowId = NewType("WorkflowId", str)
"""A workflow's identity: its path relative to the watched folder without the suffix, `team/etl`."""


class Source(Struct, frozen=True):
    """A settled definition file as it was read, once.

    `path` is relative to the folder, with its suffix; `data` holds at most one byte more than the limit on a
    definition's size; `settled_s` is the monotonic time at which it was found settled.
    """

    workflow: WorkflowId
    path: str
    data: bytes
    size: int
    mtime_ns: int
    inode: int
    settled_s: float


class SourceSeen(Struct, frozen=True):
    """A file with content that was not told before (or told before the start of the process)."""

    source: Source


class SourceRefused(Struct, frozen=True):
    """Files that may not be taken, whatever they hold: a bad name, two with one identity, loose permissions.

    `problems` are lines for a person, each with the mend; `stamp` changes when the cause may have changed.
    """

    workflow: WorkflowId
    paths: tuple[str, ...]
    problems: tuple[str, ...]
    stamp: str


class SourceGone(Struct, frozen=True):
    """A file that was absent in two scans at least `settle` apart."""

    workflow: WorkflowId


class CompanionsSeen(Struct, frozen=True):
    """The `sources` and `dotenv` files of a workflow have another content than last told."""

    workflow: WorkflowId
    digest: str


class FolderUnavailable(Struct, frozen=True):
    """The watched folder is gone, unmounted or unreadable; nothing is concluded about its files."""

    reason: str


class FolderAvailable(Struct, frozen=True):
    """The watched folder is there (again)."""


class ScanDone(Struct, frozen=True):
    """A scan has told everything it found; `present` are the identities in the folder."""

    present: frozenset[WorkflowId]
    overflow: bool


FolderObservation = (
    SourceSeen | SourceRefused | SourceGone | CompanionsSeen | FolderUnavailable | FolderAvailable | ScanDone
)
