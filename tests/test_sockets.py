"""Unix sockets: who may connect, deep folders, and what is never removed."""

import grp
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from wizflowd.errors import StateError
from wizflowd.sockets import listen, may_connect, reachable

GROUP = "daemon"
AS_NOBODY = """
import os, socket, sys
path, groups = sys.argv[1], [int(group) for group in sys.argv[2:]]
os.setgroups(groups)
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
with socket.socket(socket.AF_UNIX) as peer:
    peer.connect(path)
    sys.stdin.read()
"""


def connect(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    with reachable(path) as name:
        peer.connect(name)
    return peer


def test_a_socket_is_for_its_user_alone_or_for_a_group(tmp_path: Path) -> None:
    with closing(listen(tmp_path / "a.sock", None)), closing(listen(tmp_path / "b.sock", GROUP)):
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.sock", "b.sock")]

        assert modes == [0o600, 0o660]
        assert (tmp_path / "b.sock").stat().st_gid == grp.getgrnam(GROUP).gr_gid


def test_a_folder_may_be_deeper_than_an_address_is_long(tmp_path: Path) -> None:
    path = tmp_path / ("deep" * 20) / ("deeper" * 20) / "control.sock"

    with closing(listen(path, None)) as listener, closing(connect(path)), listener.accept()[0] as accepted:
        assert may_connect(accepted, None)


def test_a_socket_left_by_a_kill_is_taken_over_and_one_that_is_served_is_not(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with closing(listen(path, None)), pytest.raises(StateError, match="somebody else does"):
        listen(path, None)

    with closing(listen(path, None)), closing(connect(path)):
        pass


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(StateError, match="no socket"):
        listen(tmp_path / "notes.txt", None)

    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_group_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="the group wizards: there is none; groupadd wizards"):
        listen(tmp_path / "a.sock", "wizards")


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StateError, match=r"cannot listen on .*/file/a\.sock: (Not a directory|File exists)"):
        listen(tmp_path / "file" / "a.sock", None)


@pytest.fixture
def public(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    """A socket whose file everybody may connect to, so that only `may_connect` decides."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    path = Path(f"/tmp/wizflowd-test-{os.getpid()}.sock")
    with closing(listen(path, None)) as listener:
        listener.setblocking(True)
        path.chmod(0o666)
        yield path, listener
    path.unlink()


def may_nobody_connect(public: tuple[Path, socket.socket], groups: list[int], group: str | None) -> bool:
    path, listener = public
    command = [sys.executable, "-c", AS_NOBODY, str(path), *map(str, groups)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as peer:
        assert peer.stdin is not None
        with listener.accept()[0] as accepted:
            allowed = may_connect(accepted, group)
        peer.stdin.close()
    return allowed


@pytest.mark.root
def test_somebody_else_may_connect_only_as_a_member_of_the_group(public: tuple[Path, socket.socket]) -> None:
    member = grp.getgrnam(GROUP).gr_gid

    assert not may_nobody_connect(public, [], None)
    assert not may_nobody_connect(public, [member], None)
    assert not may_nobody_connect(public, [], GROUP)
    assert not may_nobody_connect(public, [member], "wizards")
    assert may_nobody_connect(public, [12345, member], GROUP)
    assert not may_nobody_connect(public, [*range(10000, 10400), member], GROUP)  # but in no database
    assert may_nobody_connect(public, [], grp.getgrgid(65534).gr_name)
