"""Whole files on disk, atomically and durably: a temporary in the same folder, fsync, rename, fsync of the folder.

Called by whatever writes files for people or programs to read. A kill or a power cut leaves the old file or the new.
"""

import contextlib
import errno
import io
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from wizflowd.errors import SyncError, WizflowError

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work on files that pauses before each wait for the disk, done by `complete` or, with others, by `complete_all`."""
_LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
TEMPORARY = ".tmp-"
"""What the name of a file begins with that is not whole yet."""


def complete(work: Steps[T]) -> T:
    """Do a work by itself and return what it returns. Raises what it raises."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def complete_all(works: Sequence[Steps[T]]) -> list[T | OSError | WizflowError]:
    """Do several works and return what each returned, or raised: none waits for the disk before all have come so far.

    What is on its way to the disk together costs little more than the first of it.
    """
    ends: dict[int, T | OSError | WizflowError] = {}
    while len(ends) < len(works):
        for number, work in enumerate(works):
            if number in ends:
                continue
            try:
                next(work)
            except StopIteration as end:
                ends[number] = end.value
            except (OSError, WizflowError) as error:
                ends[number] = error
    return [ends[number] for number in range(len(works))]


def side_by_side(*works: Steps[None]) -> Steps[None]:
    """Return one work of several that wait for the disk together. Raises what the first of them raises."""
    left = [*works]
    try:
        while left := [work for work in left if _goes_on(work)]:
            yield
    finally:
        for work in works:
            work.close()


def _goes_on(work: Steps[None]) -> bool:
    try:
        next(work)
    except StopIteration:
        return False
    return True


def write_files(
    folder: Path, contents: Mapping[str, Iterable[bytes]], *, links: Mapping[str, str] | None = None
) -> Steps[None]:
    """Write files (name to the pieces of its content) and symbolic links (name to target) of one folder; all are
    durable in the end.

    Raises OSError, SyncError.
    """
    yield from replace_files(folder, contents, links=links)
    yield
    sync_folder(folder)


def replace_files(
    folder: Path, contents: Mapping[str, Iterable[bytes]], *, links: Mapping[str, str] | None = None
) -> Steps[None]:
    """Write files and links of one folder; after a power cut each is the old one or the new one, whole.

    Raises OSError, SyncError.
    """
    made = [(f"{folder}/{TEMPORARY}{name}", f"{folder}/{name}") for name in (*contents, *(links or {}))]
    try:
        with contextlib.ExitStack() as opened:
            descriptors = {}
            for name, pieces in contents.items():
                temporary = f"{folder}/{TEMPORARY}{name}"
                descriptors[temporary] = os.open(temporary, _FRESH, 0o644)
                file = opened.enter_context(open(descriptors[temporary], "wb", io.DEFAULT_BUFFER_SIZE))
                file.writelines(pieces)
                file.flush()
                _begin_writing(descriptors[temporary])
            if descriptors:
                yield
            for temporary, descriptor in descriptors.items():
                _sync(descriptor, temporary)
        for name, target in (links or {}).items():
            temporary = f"{folder}/{TEMPORARY}{name}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            os.symlink(target, temporary)
        for temporary, final in made:
            os.replace(temporary, final)
    except (OSError, SyncError):
        for temporary, _ in made:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        raise


def _begin_writing(fd: int) -> None:
    """Have the kernel begin to write a file, and not wait: one sync of the disk's journal is then enough for many.

    Else each file gets its place on the disk in its own fsync, and each takes a turn of the journal. sync_file_range(2)
    would say it plainly, but Python has no call for it. Source: mm/fadvise.c of Linux.
    """
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _sync(fd: int, path: Path | str) -> None:
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
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _sync(fd, path)
    finally:
        os.close(fd)


def sync_files(paths: Iterable[Path]) -> Steps[None]:
    """Make the contents of files durable. Raises OSError, SyncError."""
    for path in (paths := [*paths]):  # any number: none is kept open
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _begin_writing(fd)
        finally:
            os.close(fd)
    yield
    for path in paths:
        sync_file(path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError, SyncError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(fd, folder)
    finally:
        os.close(fd)


def sync_folders(folders: Iterable[Path]) -> None:
    """Make the names in several folders durable. Raises OSError, SyncError."""
    for folder in folders:
        sync_folder(folder)


def make_folders(folder: Path, *, within: Path | None = None) -> None:
    """Make a folder and what is missing above it, durably; `within` itself must be there. Raises OSError, SyncError."""
    sync_folders(add_folders(folder, within=within))


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
