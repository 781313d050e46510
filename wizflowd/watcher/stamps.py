"""Whether the stamp of a folder will show each later change in it, so that an unchanged one need not be listed again.

Called by `watcher.scan`. Each name that comes into a folder, leaves it or comes to stand for another file sets the
folder's ctime to the time of the kernel that did it; nobody can set it to another. So the stamp shows the change if

- that kernel is this one, with its clock: the file system is one of this host. A network's stamps come from other
  clocks and out of caches;
- it cannot be the stamp that was there before: the folder was at rest when it was listed, since stamps may be as coarse
  as a second and lag a tick (git's rule for a "racy" index), and the wall clock has not been set back since.

What it does not show, each walk asks for: the stamp of each definition file (written in place, by a mapping, under
another name; its mode; a mount over it) and of each folder below (a mount over it). A folder with a symbolic link in
it is listed always.
"""

import os
import re
import time
from pathlib import Path

Signature = tuple[int, int, int, int, int]

_REST_NS = 2_000_000_000
_SLACK_NS = 1_000_000_000
_OF_THIS_HOST = frozenset({"btrfs", "ext4", "f2fs", "tmpfs", "xfs"})


def signature(seen: os.stat_result) -> Signature:
    """Return what changes whenever a file's content or mode may have changed; ctime, as mtime can be set back."""
    return (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


class Stamps:
    """The rule as of one walk. `clock_ns` is what the wall clock is ahead of the time since boot."""

    def __init__(self) -> None:
        self._now_ns = time.time_ns()
        self.clock_ns = self._now_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._of_this_host: dict[int, bool] = {}

    def will_show(self, path: str, stamp: Signature | None) -> bool:
        """Return whether the folder at `path`, listed after it had this stamp, will show by it what changes later."""
        if stamp is None or self._now_ns - stamp[-1] < _REST_NS:
            return False
        device = stamp[0]
        if device not in self._of_this_host:
            self._of_this_host[device] = file_system_of(path) in _OF_THIS_HOST
        return self._of_this_host[device]

    def still_show(self, clock_ns: int) -> bool:
        """Return whether stamps from when the clock was so far ahead still do: it has not been set back since."""
        return self.clock_ns > clock_ns - _SLACK_NS


def file_system_of(path: str) -> str:
    """Return the type of the file system at `path` in the kernel's words (`ext4`, `nfs4`), empty where it is not told.

    By the mount, as the device of a subvolume of btrfs is in no list of mounts.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            (mount,) = re.findall(r"mnt_id:\s*(\d+)", Path(f"/proc/self/fdinfo/{fd}").read_text("ascii"))
        finally:
            os.close(fd)
        mounts = Path("/proc/self/mountinfo").read_bytes()
    except (OSError, ValueError):
        return ""
    found = re.search(rb"^%b .* - (\S+) " % mount.encode(), mounts, re.MULTILINE)
    return found[1].decode() if found else ""
