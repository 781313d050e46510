"""The watched folder itself: whether it is there, trusted, and still the one that it was. In: walks. Out: `Listing`s.

A folder that vanished, was unmounted or was replaced is no removal of its files (SPEC section 2.8). Called by
`watcher.ledger` in its thread.
"""

import time

from wizflowd.watcher import scan
from wizflowd.watcher.modes import Modes
from wizflowd.watcher.scan import FolderIdentity, Listing, OnFolder


class Root:
    """One path at which a folder is expected. `modes` None: whoever may write it is trusted."""

    def __init__(self, path: str, modes: Modes | None) -> None:
        self.path = path
        self._modes = modes
        self._identity: FolderIdentity | None = None
        self.trust_changed = True
        """Set when other users and groups are trusted than before, and at first; the ledger clears it."""
        self.replaced_s = float("-inf")
        """When another folder came to stand here, in monotonic time."""

    def walk(self, on_folder: OnFolder, before: Listing, held: int) -> Listing | str:
        """Return what is there, or why nothing may be concluded; `held` is how many definitions are known of."""
        try:
            listing, identity = self._walk_at_rest(on_folder, before)
            problem = self._distrust() or self._doubt(listing, identity, held)
        except OSError as exc:
            return f"{self.path}: cannot be read: {exc.strerror or exc}; mount it, or create it"
        if problem:
            return problem
        if self._identity not in (None, identity):
            self.replaced_s = time.monotonic()
        self._identity = identity
        _keep_what_was_mounted(listing, before)
        return listing

    def _walk_at_rest(self, on_folder: OnFolder, before: Listing) -> tuple[Listing, FolderIdentity]:
        """Walk, and once more if another folder came to stand here meanwhile."""
        while True:
            identity = scan.identify_folder(self.path)
            listing = scan.walk(self.path, on_folder, before)
            if scan.identify_folder(self.path) == identity:
                return listing, identity

    def _distrust(self) -> str:
        if self._modes is None:
            return ""
        self.trust_changed |= self._modes.refresh()
        return "; ".join(f"{self.path}: {problem}" for problem in self._modes.folder_problems())

    def _doubt(self, listing: Listing, identity: FolderIdentity, held: int) -> str:
        if not held or listing.files:
            return ""
        if self._identity is None and listing.bare:
            mend = "mount it, or put any file into it if that is right"
            return f"{self.path}: is empty, though it held {held} definitions; {mend}"
        if self._identity not in (None, identity):
            return f"{self.path}: is another folder than before and holds no definition; mount it, or fill it"
        return ""


def _keep_what_was_mounted(listing: Listing, before: Listing) -> None:
    """Take a folder below that is on another device than before, and empty, for one that cannot be read."""
    for folder in listing.hollow & before.folders.keys():
        if listing.folders[folder].st_dev != before.folders[folder].st_dev:
            listing.unreadable.append(f"{folder}/")
            listing.folders[folder] = before.folders[folder]
