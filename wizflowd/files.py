"""Whole files on disk, atomically and durably: a temporary in the same folder, fsync, rename, fsync of the folder.

Called by whatever writes files for people or programs to read. A kill or a power cut leaves the old file or the new.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from wizflowd.errors import SyncError

_LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
TEMPORARY = ".tmp-"
"""What the name of a file begins with that is not whole yet."""


def write_files(
    folder: Path, contents: Mapping[str, Iterable[bytes]], *, links: Mapping[str, str] | None = None
) -> None:
    """Write files (name to the pieces of its content) and symbolic links (name to target) of one folder; all are
    durable on return.

    Raises OSError, SyncError.
    """
    made = [(folder / f"{TEMPORARY}{name}", folder / name) for name in (*contents, *(links or {}))]
    try:
        with contextlib.ExitStack() as opened:
            descriptors = {}
            for name, pieces in contents.items():
                temporary = folder / f"{TEMPORARY}{name}"
                descriptors[temporary] = os.open(temporary, _FRESH, 0o644)
                file = opened.enter_context(open(descriptors[temporary], "wb"))
                file.writelines(pieces)
                file.flush()
            for (
                temporary,
                descriptor,
            ) in descriptors.items():  # behind all writes: the first leaves little to the others
                _sync(descriptor, temporary)
        for name, target in (links or {}).items():
            temporary = folder / f"{TEMPORARY}{name}"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
        for temporary, final in made:
            temporary.replace(final)
    except (OSError, SyncError):
        for temporary, _ in made:
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(folder)


def _sync(fd: int, path: Path) -> None:
    """Make what a descriptor stands for durable. Raises SyncError where it was lost on the way, OSError.

    After that a second fsync says that all is well, though the pages are dropped. Source: danluu.com/fsyncgate.
    """
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno not in _LOST:
            raise
        raise SyncError(f"cannot make {path} durable: {exc.strerror}", hint="look at the disk: dmesg") from exc


def sync_file(path: Path) -> None:
    """Make the content of a file durable. Raises OSError, SyncError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _sync(fd, path)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError, SyncError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(fd, folder)
    finally:
        os.close(fd)


def make_folders(folder: Path, *, within: Path | None = None) -> None:
    """Make a folder and what is missing above it, durably; `within` itself must be there. Raises OSError, SyncError."""
    for changed in add_folders(folder, within=within):
        sync_folder(changed)


def add_folders(folder: Path, *, within: Path | None = None) -> list[Path]:
    """Make a folder and what is missing above it, and return the folders that are to be synced for that to be durable.

    `within` itself must be there. Raises OSError.
    """
    missing = []
    at = folder
    while not at.is_dir():
        if at == within:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(within))
        missing.append(at)
        at = at.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
    return [path.parent for path in reversed(missing)]


def read_end(path: Path, size: int) -> str:
    """Return the last `size` bytes of a file as text, a cut line at the beginning left out; "" where there is none."""
    try:
        with path.open("rb") as file:
            cut = file.seek(0, os.SEEK_END) > size
            file.seek(-size if cut else 0, os.SEEK_END if cut else os.SEEK_SET)
            data = file.read(size)
    except OSError:
        return ""
    text = data.decode("utf-8", "replace")
    return text.partition("\n")[2] or text if cut else text
