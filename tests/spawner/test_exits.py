"""Exits outlive the spawner until they are acknowledged."""

import json
import math
from pathlib import Path

import pytest

from wizflowd.spawner.exits import FILE_NAME, ExitFile
from wizflowd.spawner.protocol import boot_id, encode


def line(attempt: str) -> bytes:
    return encode({"op": "exited", "attempt": attempt, "exit_code": 0})


def test_what_is_recorded_is_there_for_the_next(tmp_path: Path) -> None:
    ExitFile(str(tmp_path)).record({"a": line("a"), "b": line("b")})

    assert ExitFile(str(tmp_path)).pending == {"a": line("a"), "b": line("b")}


def test_what_is_acknowledged_is_forgotten_with_the_next_record(tmp_path: Path) -> None:
    exits = ExitFile(str(tmp_path))
    exits.record({"a": line("a"), "b": line("b")})

    exits.acknowledge(["a", "unknown"])
    exits.record({"c": line("c")})

    assert list(exits.pending) == ["b", "c"]
    assert list(ExitFile(str(tmp_path)).pending) == ["b", "c"]


def test_a_full_file_is_replaced_by_one_with_what_is_pending(tmp_path: Path) -> None:
    exits = ExitFile(str(tmp_path), size=500)

    for number in range(100):
        exits.record({str(number): line(str(number))})
        exits.acknowledge([str(number - 1)])

    assert (tmp_path / FILE_NAME).stat().st_size == 500
    assert list(ExitFile(str(tmp_path)).pending)[-1] == "99"
    assert exits.trouble == ""


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_record_is_none_and_harms_no_other(tmp_path: Path, cut: int) -> None:
    exits = ExitFile(str(tmp_path))
    exits.record({"a": line("a")})
    exits.record({"b": line("b")})
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    end = data.index(b"\0")
    data[end - min(cut, len(line("b"))) : end] = bytes(min(cut, len(line("b"))))
    path.write_bytes(data)

    again = ExitFile(str(tmp_path))
    again.record({"c": line("c")})

    assert list(ExitFile(str(tmp_path)).pending) in (["a", "c"], ["a", "b", "c"] if cut == 1 else ["a", "c"])


def test_when_the_disk_takes_nothing_the_exits_are_kept_in_memory(tmp_path: Path) -> None:
    exits = ExitFile(str(tmp_path), size=100)
    for path in tmp_path.iterdir():
        path.unlink()
    tmp_path.rmdir()

    exits.record({"a": line("a" * 200)})

    assert json.loads(exits.pending["a"])["exit_code"] == 0
    assert "No such file" in exits.trouble


def test_the_disk_is_waited_for_only_while_exits_are_not_acknowledged(tmp_path: Path) -> None:
    exits = ExitFile(str(tmp_path))

    exits.record({"a": line("a")})
    due = exits.sync_due
    exits.acknowledge(["a"])
    exits.sync()

    assert due < math.inf
    assert exits.sync_due == math.inf
    assert exits.trouble == ""


def test_exits_that_are_acknowledged_in_time_cost_the_others_no_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    now_s = 100.0
    monkeypatch.setattr("wizflowd.spawner.exits.os.fdatasync", synced.append)
    monkeypatch.setattr("wizflowd.spawner.exits.time.monotonic", lambda: now_s)
    exits = ExitFile(str(tmp_path))

    exits.record({"a": line("a")})
    now_s += 0.09
    exits.record({"b": line("b")})
    assert exits.sync_due == pytest.approx(100.1)
    exits.acknowledge(["a"])
    assert exits.sync_due == pytest.approx(100.19)
    exits.sync()
    assert (len(synced), exits.sync_due) == (1, math.inf)


@pytest.mark.parametrize(("boot", "is_cut_off"), [(boot_id(), False), ("another", True)])
def test_what_was_not_closed_in_good_order_is_cut_off_in_another_boot(
    tmp_path: Path, boot: str, *, is_cut_off: bool
) -> None:
    exits = ExitFile(str(tmp_path))
    exits.record({"a": encode({"attempt": "a", "boot": boot, "well": True})})
    crashed = json.loads(ExitFile(str(tmp_path)).pending["a"])

    exits.close()
    closed = json.loads(ExitFile(str(tmp_path)).pending["a"])

    assert ("cut_off" in crashed, "cut_off" in closed) == (is_cut_off, False)
    assert (crashed["well"], closed["well"]) == (not is_cut_off, True)
    assert closed["boot"] == ""
