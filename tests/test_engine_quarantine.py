"""Files whose reading killed the daemon: read twice, then no more until they change."""

import subprocess
import sys
from pathlib import Path

import pytest

from wizflowd.engine.quarantine import Quarantine, QuarantinedError

DIE_WHILE_READING = """
import os, sys
from pathlib import Path
from wizflowd.engine.quarantine import Quarantine

with Quarantine(Path(sys.argv[1])).reading("stamp"):
    os.kill(os.getpid(), 9)
"""


def die(folder: Path) -> int:
    return subprocess.run([sys.executable, "-c", DIE_WHILE_READING, folder], capture_output=True).returncode


def test_a_file_that_killed_its_reader_twice_is_not_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "reading"
    assert (die(folder), die(folder)) == (-9, -9)

    message = r"quarantined: reading it ended wizflowd 2 times; .*/reading/stamp and restart"
    with pytest.raises(QuarantinedError, match=message), Quarantine(folder).reading("stamp"):
        pytest.fail("it was read")

    assert die(folder) == 1
    with Quarantine(folder).reading("another stamp"):
        pass


def test_one_kill_may_have_had_another_cause(tmp_path: Path) -> None:
    die(tmp_path)

    with Quarantine(tmp_path).reading("stamp"):
        pass

    assert list(tmp_path.iterdir()) == []


def test_a_reading_that_raises_is_no_kill(tmp_path: Path) -> None:
    for _ in range(5):
        with pytest.raises(ValueError, match="bad"), Quarantine(tmp_path).reading("stamp"):
            raise ValueError("bad")


def test_a_mark_that_a_kill_left_empty_counts_once(tmp_path: Path) -> None:
    (tmp_path / "stamp").write_text("")
    (tmp_path / "other").write_text("?")

    for name in ("stamp", "other"):
        with Quarantine(tmp_path).reading(name):
            pass


def test_a_mark_that_cannot_be_made_is_no_reason_to_refuse_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with Quarantine(tmp_path / "file" / "reading").reading("stamp"):
        pass
