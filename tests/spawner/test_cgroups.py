"""Cgroups of version 2, where the host lets us make some."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spawner.conftest import Make, wait_for
from tests.spawner.trees import living
from wizflowd.spawner.cgroups import Cgroups, remove


def _root() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            return Path(fields[4])
    return None


@pytest.fixture
def delegated() -> Iterator[Path]:
    root = _root()
    folder = (root or Path("/nowhere")) / f"wizflowd-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no cgroup of version 2 can be made here")
    yield folder
    remove(str(folder))


@pytest.mark.root
def test_an_attempt_lives_and_ends_in_a_cgroup_of_its_own(make: Make, delegated: Path) -> None:
    token = f"96{os.getpid()}"
    spawner = make("--cgroup", str(delegated))
    spawner.spawn("a", "/bin/sh", "-c", f"trap '' TERM; (env -i setsid sleep {token} &); sleep {token}; sleep {token}")
    wait_for(lambda: len(living(f"sleep\0{token}")) == 2)

    (group,) = [entry for entry in delegated.iterdir() if entry.is_dir()]
    inside = {int(line) for line in (group / "cgroup.procs").read_text().split()}
    spawner.send({"op": "kill", "attempt": "a", "reason": "cancel"})
    spawner.next("exited")

    assert inside >= set(living(f"sleep\0{token}"))
    assert len(inside) == 3
    assert living(token) == []
    assert not group.exists()


@pytest.mark.root
def test_limits_that_the_host_cannot_keep_by_cgroup_are_kept_otherwise(delegated: Path) -> None:
    folder, rest = Cgroups(str(delegated)).make({"memory": 1 << 30, "open_files": 64})

    kept = (Path(folder) / "memory.max").exists()
    assert rest == ({"open_files": 64} if kept else {"memory": 1 << 30, "open_files": 64})
