"""Disks for the campaigns, made of files and memory: whole file systems that can be cut off, filled and thrown away.

Needs root. Nothing is left behind: a disk is unmounted at the end whatever has happened to it.
"""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.system.running import wait_for

_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
"""Nothing that is not on the disk gets there any more, not even the file system's own journal: as when power fails."""


class Disk:
    """A file system at `path`: ext4 on a loop device, or memory where `source` is `tmpfs`."""

    def __init__(self, path: Path, source: str, options: str) -> None:
        self.path = path
        self.source = source
        self._options = options
        path.mkdir(parents=True, exist_ok=True)
        self.mount()

    def mount(self) -> None:
        kind = ("-t", "tmpfs") if self.source == "tmpfs" else ()
        subprocess.run(["mount", *kind, "-o", self._options, self.source, self.path], check=True)

    def unmount(self) -> None:
        """Unmount it as soon as nobody has a file of it open. What it holds is then on its image, or lost."""
        unmount(self.path)
        if self.source != "tmpfs" and _is_attached(self.source):
            # A mount namespace that somebody made meanwhile has it still: mounted again, it would be the same one.
            self.source = shutil.copy(self.source, f"{self.source}.copy")

    def cut_power(self) -> None:
        """Let what is not durable be lost. The disk gives errors until it is unmounted and mounted again."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def remount(self, option: str) -> None:
        """Change an option of the mount: `ro`, `rw`."""
        subprocess.run(["mount", "-o", f"remount,{option}", self.path], check=True)

    @property
    def free_bytes(self) -> int:
        seen = os.statvfs(self.path)
        return seen.f_bavail * seen.f_frsize

    @property
    def free_names(self) -> int:
        return os.statvfs(self.path).f_favail

    def fill(self, *, leave: int = 0) -> Path:
        """Take the room of the disk but for `leave` bytes; return the file that has it."""
        path = self.path / "filler"
        with path.open("ab") as file:
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), file.tell(), max(1, self.free_bytes - leave))
            while self.free_bytes > leave:  # what fallocate could not find in one piece
                try:
                    os.write(file.fileno(), bytes(4096))
                except OSError:
                    break
        return path

    def close(self) -> None:
        """Take it away, lazily if somebody still sits on it."""
        while os.path.ismount(self.path):
            if not _succeeds("umount", str(self.path)):
                subprocess.run(["umount", "--lazy", self.path], check=True)


def _is_attached(image: str) -> bool:
    """Whether a loop device has an image, after a moment in which the kernel may let go of it."""
    for _ in range(20):
        if not subprocess.run(["losetup", "-j", image], capture_output=True, check=True).stdout:
            return False
        time.sleep(0.01)
    return True


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def unmount(path: Path) -> None:
    """Unmount a file system as soon as nobody has a file of it open."""
    wait_for(lambda: _succeeds("umount", str(path)), f"{path} is unmounted", 20)


@contextlib.contextmanager
def loop_disk(path: Path, size_mib: int = 64) -> Iterator[Disk]:
    """Give an ext4 of its own, on a file beside its mount point."""
    image = path.with_name(f"{path.name}.img")
    image.parent.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    disk = Disk(path, str(image), "loop")
    try:
        yield disk
    finally:
        disk.close()
        for left in image.parent.glob(f"{image.name}*"):
            left.unlink()


@contextlib.contextmanager
def memory_disk(path: Path, size_mib: int, names: int = 0) -> Iterator[Disk]:
    """Give a file system in memory; `names` bounds how many files it can hold, 0: not."""
    disk = Disk(path, "tmpfs", f"size={size_mib}m,nr_inodes={names},mode=755")
    try:
        yield disk
    finally:
        disk.close()
