"""Schedules: which moments an expression names, whatever the clocks are set to, and that each is acted upon once."""

import asyncio
import hashlib
import itertools
import json
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from tests.core.scenes import compiled
from tests.language.conftest import Alone
from tests.system.running import Daemon, wait_for
from wizflowd.assembly import Where, assembled
from wizflowd.config import load_config
from wizflowd.core.attempt import RunId
from wizflowd.core.calendar import passed_times, times_after
from wizflowd.core.events import Event, Now, Record, RunArchived, RunEnded, RunQueued, from_json, to_json
from wizflowd.core.observations import WorkflowId
from wizflowd.core.reconcile import Content, accepted, due_runs
from wizflowd.core.schedule import due_workflows
from wizflowd.core.state import State, apply
from wizflowd.engine.loop import Engine
from wizflowd.engine.runs import Runs

# -- an oracle that shares nothing with the calendar ------------------------------------------------------------------
# It goes through the minutes of UTC in order, reads the wall clock of the zone at each, and fires when the wall shows a
# scheduled minute for the first time, or when it jumps over one.

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
BEGIN, END = datetime(2016, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)
BLOCK = timedelta(minutes=30)
"""Within half an hour of UTC none of the zones changes its offset."""


@cache
def walls(zone: str) -> list[datetime]:
    """Return what the wall clock shows at the begin of each half hour of UTC."""
    place, count = ZoneInfo(zone), (END - BEGIN) // BLOCK
    return [(BEGIN + number * BLOCK).astimezone(place).replace(tzinfo=None, fold=0) for number in range(count)]


def numbers(text: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        begin, end = (low, high) if span == "*" else (int(first), int(last or first))
        found |= set(range(begin, end + 1, int(step or 1)))
    return found


class Expression:
    """A cron expression of numbers, lists, ranges and steps."""

    def __init__(self, text: str) -> None:
        minute, hour, day, month, weekday = text.split()
        self.minutes, self.hours = numbers(minute, 0, 59), numbers(hour, 0, 23)
        self.days, self.months = numbers(day, 1, 31), numbers(month, 1, 12)
        self.weekdays = {number % 7 for number in numbers(weekday, 0, 7)}
        self.either = not day.startswith("*") and not weekday.startswith("*")

    def names_day(self, wall: datetime) -> bool:
        day, weekday = wall.day in self.days, wall.isoweekday() % 7 in self.weekdays
        return wall.month in self.months and (day or weekday if self.either else day and weekday)

    def names(self, wall: datetime) -> bool:
        return wall.minute in self.minutes and wall.hour in self.hours and self.names_day(wall)


def oracle(text: str, zone: str, first: int = 0, last: int | None = None) -> list[datetime]:
    """Return the moments in the half hours from one number to another."""
    expression, found = Expression(text), list[datetime]()
    seen_until = walls(zone)[first]
    for number, wall in enumerate(walls(zone)[first:last], first):
        if wall.hour not in expression.hours and wall == seen_until:
            seen_until = wall + BLOCK
            continue
        begin = BEGIN + number * BLOCK
        if wall > seen_until:  # the clock has jumped ahead
            minutes = range((wall - seen_until) // timedelta(minutes=1))
            if any(expression.names(seen_until + timedelta(minutes=minute)) for minute in minutes):
                found.append(begin)
        if wall.hour in expression.hours and expression.names_day(wall):
            for minute in range(30):
                shown, moment = wall + timedelta(minutes=minute), begin + timedelta(minutes=minute)
                if shown >= seen_until and expression.names(shown) and found[-1:] != [moment]:
                    found.append(moment)
        seen_until = max(seen_until, wall + BLOCK)
    return found


SPARSE = (
    "30 2 * * *",
    "15 1,2,3 * * *",
    "0 3 13 * 5",
    "45 1 * 3,4,10,11 0",
    "10 2 28-31 3,10 *",
    "0 0 29 2 *",
)


@pytest.mark.parametrize("zone", ZONES)
def test_twenty_years_of_moments_are_those_of_the_wall_clock(zone: str) -> None:
    for text in SPARSE:
        expected = oracle(text, zone)[1:]  # what is before the first is unknown to the oracle
        found = itertools.takewhile(
            lambda moment: moment < END, times_after(text, zone, expected[0] - timedelta(minutes=1))
        )

        assert list(found) == expected, (text, zone)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("text", ["*/15 * * * *", "* 1-3 * * *", "7,37 */2 * * *", "0 * * * *"])
def test_frequent_moments_are_right_around_each_change_of_the_clock(text: str, zone: str) -> None:
    pairs = enumerate(itertools.pairwise(walls(zone)), 1)
    changes = [number for number, (before, wall) in pairs if wall - before != BLOCK]

    for number in changes:
        expected = oracle(text, zone, number - 60, number + 60)
        begin, end = (BEGIN + (number + away) * BLOCK for away in (-60, 60))
        found = times_after(text, zone, begin - timedelta(seconds=1))

        assert list(itertools.islice(found, len(expected))) == expected, (text, zone, begin)
        assert next(found) >= end

    assert len(changes) == 40


@pytest.mark.parametrize(
    ("alias", "fields"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@Daily", "0 0 * * *"),
        ("0 2 * * MON-FRI", "0 2 * * 1-5"),
        ("0 2 * JAN *", "0 2 * 1 *"),
    ],
)
def test_names_stand_for_their_fields(alias: str, fields: str) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)

    named, numbered = (list(itertools.islice(times_after(text, ZONES[0], start), 20)) for text in (alias, fields))

    assert named == numbered


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("schedule: [{cron: '61 * * * *'}]", "is not a cron expression"),
        ("schedule: [{cron: '* * * *'}]", "is not a cron expression; write five fields"),
        ("schedule: [{cron: '* * * * * *'}]", "is not a cron expression; write five fields"),
        ("schedule: [{cron: '@reboot'}]", "is not a cron expression"),
        ("schedule: [{cron: '@daily', timezone: Europe/Berlni}]", "there is no time zone 'Europe/Berlni'"),
        ("schedule: [{cron: '@daily', timezone: ../../etc/passwd}]", "there is no time zone"),
        ("schedule: [{cron: '@daily', catch_up: some}]", "schedule[0].catch_up"),
    ],
)
def test_what_names_no_times_is_refused_with_its_place(alone: Alone, text: str, what: str) -> None:
    (line,) = alone.refused(f"{text}\ntasks: [{{id: a, type: SHELL, command: 'true'}}]\n")

    assert line.startswith(f"{alone.folder / 'w.yaml'}:1:")
    assert what in line


# -- each moment is acted upon once -----------------------------------------------------------------------------------

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
W = WorkflowId("w")


def content(text: str) -> Content:
    found = compiled(f"{text}\ntasks: [{{id: a, type: SHELL, command: 'true'}}]\n")
    return Content(W, "w.yaml", "stamp", found.digest, "", found.definition)


@dataclass
class Keeper:
    """A daemon's part that keeps a schedule, over kills: what is not in `records` has not happened."""

    content: Content
    now: Now
    state: State = field(default_factory=State)
    records: list[tuple[float, Event]] = field(default_factory=list)
    ids: Iterator[RunId] = field(default_factory=lambda: (RunId(f"r{n}") for n in itertools.count()))

    def commit(self, events: list[Event]) -> None:
        for event in events:
            apply(self.state, event, self.now.wall_s, self.now)
            self.records.append((self.now.wall_s, event))

    def look(self, *, dies: bool = False) -> None:
        """Do what is due now, or die just before it is durable."""
        for workflow in list(due_workflows(self.state, self.now)):
            known = self.state.workflows[workflow]
            times = passed_times(known.schedule, known.scheduled_s, self.now.wall_s)
            if not dies:
                self.commit(due_runs(self.state, self.content, times, self.now, self.ids))
        for run in list(self.state.runs.values()):
            self.commit([RunEnded(run.id, W, "cancelled"), RunArchived(run.id, W, "cancelled")])

    def kill(self) -> None:
        self.state = State()
        for at_s, event in self.records:
            apply(self.state, from_json(*to_json(event)), at_s, self.now)

    def due_until(self, begin_s: float, until_s: float) -> list[float]:
        """Return every moment that the schedule has between two others."""
        return [at_s for at_s, _ in passed_times(self.state.workflows[W].schedule, begin_s, until_s)]

    def queued(self) -> list[float]:
        return [event.scheduled_s for _, event in self.records if isinstance(event, RunQueued)]


def keeper(text: str, start: datetime = datetime(2026, 3, 27, tzinfo=UTC)) -> Keeper:
    made = Keeper(content(text), Now(start.timestamp(), 0.0, "boot"))
    made.commit([accepted(made.content, "added")])
    return made


def pass_time(made: Keeper, seconds: float) -> None:
    made.now = replace(made.now, wall_s=made.now.wall_s + seconds)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("catch_up", ["latest", "all", "none"])
def test_no_moment_is_acted_upon_twice_over_kills_and_jumps_of_the_clock(catch_up: str, seed: int) -> None:
    chance = random.Random(seed)
    text = f"{{cron: '*/20 * * * *', timezone: Europe/Berlin, catch_up: {catch_up}}}"
    made = keeper(f"schedule: [{text}]")
    begin_s, furthest_s = made.now.wall_s, made.now.wall_s

    for _ in range(120):
        jump = chance.choice([10, 30, 59, 600, 1200, 1201, 3000, -30, -700, 4 * HOUR, -3 * HOUR, 0])
        pass_time(made, jump)
        furthest_s = max(furthest_s, made.now.wall_s)
        match chance.randrange(4):
            case 0:
                made.kill()
            case 1:
                made.look(dies=True)
                made.kill()
            case _:
                made.look()
    made.look()

    queued, due = made.queued(), made.due_until(begin_s, furthest_s)
    assert len(queued) == len(set(queued))
    assert set(queued) <= set(due)
    assert queued == sorted(queued)
    if catch_up == "all":
        until_s = made.state.workflows[W].scheduled_s
        assert queued == [at_s for at_s in due if at_s <= until_s]


@pytest.mark.parametrize(
    ("catch_up", "down_s", "expected"),
    [
        ("latest", 5 * HOUR, [5]),
        ("all", 5 * HOUR, [1, 2, 3, 4, 5]),
        ("none", 5 * HOUR + 300, []),
        ("none", 5 * HOUR + 30, [5]),
        ("latest", 59 * MINUTE, []),
    ],
)
def test_what_was_missed_is_made_up_for_as_the_schedule_says(catch_up: str, down_s: float, expected: list[int]) -> None:
    made = keeper(f"schedule: [{{cron: '@hourly', catch_up: {catch_up}}}]")
    begin_s = made.now.wall_s

    pass_time(made, down_s)
    made.kill()
    made.look()
    made.look()

    assert [(at_s - begin_s) / HOUR for at_s in made.queued()] == expected


def test_one_missed_of_each_schedule_with_its_own_way_to_catch_up() -> None:
    made = keeper("schedule: [{cron: '0 * * * *', catch_up: none}, {cron: '30 */2 * * *', catch_up: all}]")
    begin_s = made.now.wall_s

    pass_time(made, 5 * HOUR + 300)
    made.look()

    assert [(at_s - begin_s) / HOUR for at_s in made.queued()] == [0.5, 2.5, 4.5]


def test_a_schedule_that_is_edited_counts_from_its_edit_and_one_that_is_not_goes_on() -> None:
    made = keeper("schedule: [{cron: '@hourly', catch_up: all}]")
    begin_s = made.now.wall_s
    pass_time(made, 2 * HOUR + 60)

    made.commit([accepted(made.content, "changed")])
    made.look()
    edited = content("schedule: [{cron: '30 * * * *', catch_up: all}]")
    made.commit([accepted(edited, "changed")])
    made.look()
    pass_time(made, HOUR)
    made.look()

    assert [(at_s - begin_s) / HOUR for at_s in made.queued()] == [1, 2, 2.5]


def test_years_of_missed_minutes_are_bounded() -> None:
    made = keeper("schedule: [{cron: '*/30 * * * *', catch_up: all}]")

    pass_time(made, 90 * DAY)
    made.look()

    assert len(made.queued()) == 1000
    assert max(made.queued()) == made.state.workflows[W].scheduled_s


def test_under_forbid_one_run_is_made_up_for_and_none_while_one_runs() -> None:
    made = keeper("schedule: [{cron: '@hourly', catch_up: all}]\nconcurrency: {policy: forbid}")
    pass_time(made, 3 * HOUR)
    known = made.state.workflows[W]

    times = passed_times(known.schedule, known.scheduled_s, made.now.wall_s)
    made.commit(due_runs(made.state, made.content, times, made.now, made.ids))
    pass_time(made, HOUR)
    (passed,) = due_runs(made.state, made.content, [(made.now.wall_s, "all")], made.now, made.ids)

    assert len(made.queued()) == 1
    assert "a run is in progress and its policy is forbid" in passed.note  # type: ignore[union-attr]


# -- a whole engine, whose wall clock is the test's -------------------------------------------------------------------


class Clock:
    def __init__(self, wall: datetime) -> None:
        self.wall_s = wall.timestamp()

    def now(self) -> Now:
        return Now(self.wall_s, asyncio.get_running_loop().time(), "boot")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def lived(home: Path, clock: Clock, text: str, live: Callable[[Engine], Awaitable[None]]) -> None:
    """Let an engine live over a folder's state, with a definition in force."""
    data = f"{text}\ntasks: [{{id: a, type: SHELL, command: 'true'}}]\n".encode()
    found = compiled(data.decode())
    stamp = hashlib.sha256(data).hexdigest()
    config = load_config(None, {})
    async with assembled(config, Where(home, None, home / "state", with_parent=True)) as engine:
        engine.clock = clock
        engine.offer_definition(stamp, data)
        loop = asyncio.create_task(engine.run())
        if W not in engine.state.workflows:
            there = Content(W, "w.yaml", stamp, found.digest, "", found.definition)
            await Runs(engine).decide(lambda _: [accepted(there, "added")])
        await live(engine)
        engine.stop()
        with suppress(asyncio.CancelledError):
            await loop


async def test_a_whole_engine_runs_each_moment_once_whatever_the_clock_does(tmp_path: Path) -> None:
    clock = Clock(datetime(2026, 10, 24, 22, 0, 30, tzinfo=UTC))  # the night before the autumn change in Berlin
    text = "schedule: [{cron: '30 2 * * *', timezone: Europe/Berlin}]"
    told: list[RunQueued] = []
    seen: list[float | None] = []

    async def hours_pass(engine: Engine) -> None:
        class Listener:
            def told(self, records: Sequence[Record]) -> None:
                told.extend(record.event for record in records if isinstance(record.event, RunQueued))

        engine.sinks.append(Listener())
        for step_s in (HOUR, HOUR, HOUR, -HOUR, HOUR, HOUR, HOUR):
            clock.wall_s += step_s
            engine.inbox.wake()
            await until(lambda: (engine.state.workflows[W].next_s or 0) > clock.wall_s)
            await until(lambda: not engine.state.runs)
        seen.append(engine.state.workflows[W].next_s)

    await lived(tmp_path, clock, text, hours_pass)
    clock.wall_s -= 4 * HOUR  # set back while it is down
    await lived(tmp_path, clock, text, hours_pass)

    moment = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
    following = datetime(2026, 10, 26, 1, 30, tzinfo=UTC).timestamp()
    assert [(run.trigger, run.scheduled_s) for run in told] == [("schedule", moment)]
    assert seen == [following, following]


# -- what is shown ----------------------------------------------------------------------------------------------------

SCHEDULED = "schedule: [{cron: '0 2 * * *', timezone: Europe/Berlin}, {cron: '0 0 1 1 *'}]\n"
TASK = "tasks: [{id: a, type: SHELL, command: 'true'}]\n"


def test_plan_says_when_it_runs_next_only_where_there_is_a_schedule(alone: Alone) -> None:
    scheduled = alone.wizflow("plan", alone.write(SCHEDULED + TASK))
    as_json = json.loads(alone.wizflow("plan", "--json", alone.write(SCHEDULED + TASK)).out)
    plain = alone.wizflow("plan", alone.write(TASK))
    plain_json = json.loads(alone.wizflow("plan", "--json", alone.write(TASK)).out)

    berlin = datetime.fromisoformat(as_json["next"]).astimezone(ZoneInfo("Europe/Berlin"))
    assert (berlin.hour, berlin.minute) in {(2, 0), (1, 0), (3, 0)}
    moments = [as_json["next"], *as_json["then"]]
    assert len(moments) == 3
    assert moments == sorted({*moments})
    assert f"next: {', '.join(moments)}" in scheduled.out.splitlines()
    assert "next" not in plain.out
    assert "next" not in plain_json


def test_a_daemon_records_a_scheduled_file_says_when_it_is_due_and_runs_it_on_request(shared: Daemon) -> None:
    shared.drop("w.yaml", SCHEDULED + TASK)
    status = wait_for(lambda: shared.status("w"))

    assert status["note"] == "recorded, not run (it has a schedule)"
    assert datetime.fromisoformat(status["next"]) > datetime.now(UTC)
    shared.ask("trigger", workflow="w")
    assert shared.wait_run("w").result["trigger"] == "manual"


def test_a_scheduled_file_that_also_runs_on_change(shared: Daemon) -> None:
    shared.drop("w.yaml", SCHEDULED + "on_change: run\n" + TASK)

    assert shared.wait_run("w").result["trigger"] == "change"
    assert wait_for(lambda: shared.status("w"))["next"] is not None


def test_a_schedule_whose_parameter_has_no_value_is_passed_over_and_said_so() -> None:
    made = keeper("schedule: [{cron: '@hourly'}]\nparams: {day: {type: string, required: true}}")
    pass_time(made, HOUR)
    known = made.state.workflows[W]

    (passed,) = due_runs(
        made.state, made.content, passed_times(known.schedule, known.scheduled_s, made.now.wall_s), made.now, made.ids
    )

    assert "parameter day has no value" in passed.note  # type: ignore[union-attr]


def test_counts_of_the_oracle_are_plausible() -> None:
    daily = oracle("30 2 * * *", ZONES[0])

    assert len(daily) == 7305  # days in twenty years, five of them leap years
