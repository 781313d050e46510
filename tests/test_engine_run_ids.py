"""The ids of runs."""

import re

from wizflowd.engine.run_ids import RunIds

AT_S = 1_795_403_112.9  # 2026-11-23T03:05:12.9Z


def test_an_id_tells_the_second_in_utc() -> None:
    assert re.fullmatch(r"20261123-030512-[0-9a-f]{6}", RunIds().next(AT_S))


def test_no_two_ids_of_one_second_are_equal() -> None:
    ids = RunIds()
    assert len({ids.next(AT_S) for _ in range(20_000)}) == 20_000  # drawn one by one, some ten pairs would be


def test_the_numbers_go_round_at_the_end() -> None:
    ids = RunIds(0xFFFFFE)
    assert [ids.next(AT_S)[-6:] for _ in range(3)] == ["ffffff", "000000", "000001"]


def test_another_process_begins_elsewhere() -> None:
    assert len({RunIds().next(AT_S) for _ in range(10)}) > 5
