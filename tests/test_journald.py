"""Entries as they reach journald, read by the protocol's own rules."""

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from wizflowd.journald import JournalHandler, is_journal


class Journal:
    """The end of journald."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)

    def entry(self) -> dict[str, str]:
        """Return the next entry. Source of the format: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/."""
        data, files, _flags, _sender = socket.recv_fds(self.socket, 1 << 20, 1)
        for descriptor in files:
            with open(descriptor, "rb") as file:
                file.seek(0)
                data = file.read()
        fields = {}
        while data:
            name, _, rest = data.partition(b"\n")
            if b"=" in name:
                name, _, value = name.partition(b"=")
                data = rest
            else:
                size = int.from_bytes(rest[:8], "little")
                value, data = rest[8 : 8 + size], rest[8 + size + 1 :]
            fields[name.decode()] = value.decode()
        return fields


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal")
    yield made
    made.socket.close()


@pytest.fixture
def log(journal: Journal, tmp_path: Path) -> Iterator[logging.Logger]:
    handler = JournalHandler(str(tmp_path / "journal"))
    logger = logging.Logger("wizflowd.test")
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_what_comes_with_a_record_becomes_fields(journal: Journal, log: logging.Logger) -> None:
    log.info("run has to wait", extra={"run": "20261123-1", "error": "no room"})

    assert journal.entry() == {
        "RUN": "20261123-1",
        "ERROR": "no room",
        "MESSAGE": "run has to wait",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "wizflowd",
        "LOGGER": "wizflowd.test",
    }


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")]
)
def test_a_level_is_a_priority(journal: Journal, log: logging.Logger, level: str, priority: str) -> None:
    getattr(log, level)("said")

    assert journal.entry()["PRIORITY"] == priority


def test_a_value_of_several_lines_forges_no_field(journal: Journal, log: logging.Logger) -> None:
    log.info("one\nPRIORITY=0", extra={"reason": "two\nTASK=x\n"})

    entry = journal.entry()
    assert entry["MESSAGE"] == "one\nPRIORITY=0"
    assert entry["REASON"] == "two\nTASK=x\n"
    assert "TASK" not in entry


def test_a_name_that_the_journal_would_refuse_is_left_out(journal: Journal, log: logging.Logger) -> None:
    log.info("said", extra={"_pid": "1", "a=b": "2", "task": "count"})

    assert set(journal.entry()) == {"TASK", "MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "LOGGER"}


def test_an_entry_larger_than_a_datagram_arrives_whole(journal: Journal, log: logging.Logger) -> None:
    log.info("x" * 500_000)

    size = len(journal.entry()["MESSAGE"])
    assert size == 500_000


def test_without_a_journal_the_message_goes_to_stderr(
    journal: Journal, log: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "journal").unlink()

    log.error("the disk is full")

    assert "the disk is full" in capsys.readouterr().err


def test_a_journal_is_known_by_its_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as file:
        found = os.fstat(file.fileno())

        assert is_journal(file.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
        assert not is_journal(file.fileno(), {})
