"""Local Unix sockets: listening with rights for a group, and who is at the other end.

Called by the control socket and the event stream. A path may be longer than the 107 bytes of an address.
"""

import errno
import grp
import os
import pwd
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wizflowd.errors import StateError

_SO_PEERGROUPS = 59
_MAX_GROUPS = 256
"""As many as fit into what Python asks the kernel for; whoever has more is looked up in the group database."""


def listen(path: Path, group: str | None) -> socket.socket:
    """Return a listening socket at `path`, for this user and the members of `group`. Raises StateError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_served(path):
            raise StateError(f"cannot listen on {path}: somebody else does")
        if path.exists() and not path.is_socket():
            raise StateError(f"cannot listen on {path}: there is a file that is no socket")
        path.unlink(missing_ok=True)
        with reachable(path) as name:
            listener.bind(name)
        if group is not None:
            os.chown(path, -1, _id_of(group))
        path.chmod(0o600 if group is None else 0o660)
        listener.listen(128)
    except OSError as exc:
        listener.close()
        raise StateError(f"cannot listen on {path}: {exc.strerror}") from exc
    except StateError:
        listener.close()
        raise
    return listener


def _id_of(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as exc:
        raise StateError(f"cannot listen for the group {group}: there is none", hint=f"groupadd {group}") from exc


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            with reachable(path) as name:
                probe.connect(name)
        except OSError:
            return False
        return True


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Give a name for a socket that fits into its address, however deep its folder is. Raises OSError."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def may_connect(peer: socket.socket, group: str | None) -> bool:
    """Return whether the other end is root, this user, or a member of `group` by any of its groups."""
    _, uid, gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid in (0, os.getuid()):
        return True
    if group is None:
        return False
    try:
        wanted = grp.getgrnam(group).gr_gid
    except KeyError:
        return False
    return wanted in (gid, *_further_groups(peer, uid, gid))


def user_of(peer: socket.socket) -> str:
    """Return the name of the user at the other end, or its number where it has none."""
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def has_hung_up(peer: socket.socket) -> bool:
    """Return whether the other end is closed, and has not only shut down its sending side."""
    poll = select.poll()
    poll.register(peer, 0)  # POLLHUP is told unasked
    return bool(poll.poll(0))


def _further_groups(peer: socket.socket, uid: int, gid: int) -> Sequence[int]:
    try:
        raw = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError as exc:
        if exc.errno != errno.ERANGE:
            raise
        try:
            return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
        except KeyError:
            return ()
    return struct.unpack(f"{len(raw) // 4}i", raw)
