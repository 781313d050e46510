"""The daemon's lines about itself: one a record, as text or JSON, and no way to forge one."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from wizflowd.core.attempt import Facts, RunId, TaskId
from wizflowd.core.events import DefinitionRejected, Event, Record, SpawnerJoined, TaskFailed, TaskSucceeded
from wizflowd.core.events import Sequence as EventSequence
from wizflowd.core.observations import WorkflowId
from wizflowd.logs import LogSink, set_up_logging

ETL = WorkflowId("team/etl")
FACTS = Facts(1.0, 2.5, pid=7, exit_code=3, log="count.1.log")
FAILED = TaskFailed(RunId("r1"), ETL, TaskId("count"), 1, FACTS, "exit", "exit code 3\nnot a new line")


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    found = logging.getLogger("wizflowd")
    before = (found.handlers[:], found.level, found.propagate)
    yield found
    found.handlers[:], level, found.propagate = before
    found.setLevel(level)


def told(style: str, *events: Event, level: str = "info") -> list[str]:
    out = io.StringIO()
    set_up_logging(level, style, out)  # type: ignore[arg-type]
    for number, event in enumerate(events, 1):
        LogSink().told([Record(number, EventSequence(number), 1.0, event)])
    return out.getvalue().splitlines()


def test_a_record_is_one_line_of_text_with_its_subject_and_facts() -> None:
    (line,) = told("text", FAILED)

    assert " warning task.failed team/etl/r1/count " in line
    assert "exit_code=3" in line
    assert 'message_="exit code 3\\nnot a new line"' in line
    assert line.isprintable()


def test_a_record_is_one_json_object() -> None:
    (line,) = told("json", FAILED)

    found = json.loads(line)
    assert (found["level"], found["message"]) == ("warning", "task.failed team/etl/r1/count")
    assert found["time"].endswith("Z")
    assert (found["exit_code"], found["duration_s"]) == (3, 1.5)
    assert found["message_"] == "exit code 3\nnot a new line"


def test_a_text_stands_in_quotes_where_it_could_be_taken_for_several(logger: logging.Logger) -> None:
    out = io.StringIO()
    set_up_logging("info", "text", out)

    logger.info("done", extra={"path": "/a b", "forged": "x=1", "plain": "/etc/x", "none": None, "empty": ""})

    assert out.getvalue().rstrip().endswith('done path="/a b" forged="x=1" plain=/etc/x none=null empty=""')


def test_outputs_are_not_told() -> None:
    (line,) = told("json", TaskSucceeded(RunId("r1"), ETL, TaskId("count"), 1, FACTS, {"o": "much"}, key="k"))

    assert "much" not in line


def test_each_problem_of_a_refused_definition_has_a_line_of_its_own() -> None:
    lines = told("text", DefinitionRejected(ETL, "team/etl.yaml", "s", ("etl.yaml:1:1: one", "etl.yaml:2:1: two")))

    assert len(lines) == 3
    assert [line.split(" warning ")[1].strip() for line in lines[1:]] == ["etl.yaml:1:1: one", "etl.yaml:2:1: two"]


def test_a_stream_that_takes_nothing_stops_nobody() -> None:
    out = io.StringIO()
    set_up_logging("info", "text", out)
    out.close()

    LogSink().told([Record(1, EventSequence(1), 1.0, FAILED)])

    assert out.closed


def test_the_records_of_a_commit_are_told_in_order() -> None:
    out = io.StringIO()
    set_up_logging("info", "text", out)

    done = TaskSucceeded(RunId("r1"), ETL, TaskId("fetch"), 1, FACTS)
    LogSink().told([Record(1, EventSequence(1), 1.0, done), Record(2, EventSequence(2), 1.0, FAILED)])

    assert [line.split()[2] for line in out.getvalue().splitlines()] == ["task.succeeded", "task.failed"]


def test_what_is_not_public_is_not_told() -> None:
    assert told("text", SpawnerJoined("sp")) == []


def test_below_the_level_nothing_is_told() -> None:
    assert len(told("text", FAILED, TaskSucceeded(RunId("r"), ETL, TaskId("t"), 1, FACTS), level="warning")) == 1


def test_a_message_cannot_forge_a_line_and_an_error_keeps_its_traceback(logger: logging.Logger) -> None:
    out = io.StringIO()
    set_up_logging("info", "text", out)

    logger.info("read\nfalse", extra={"path": "a\x1b[2J"})
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("failed")

    first, second, *rest = out.getvalue().splitlines()
    assert first.endswith("read\\nfalse path=a\\x1b[2J")
    assert second.endswith("failed")
    assert rest[-1] == "ValueError: bad"
