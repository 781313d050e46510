"""Scheduled times: cron expressions in a time zone -> moments, with the rules of SPEC section 2.11 for daylight saving.

In: an expression, a zone's name and a moment. Out: the next moments. Pure: the time zone database is read by zoneinfo.
A time that the spring change skips runs once right after it; one that the autumn change repeats runs once.
"""

import functools
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from wizflowd.errors import WizflowError

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class CalendarError(WizflowError):
    """An expression or a zone that names no times."""


_LOOK_BACK = timedelta(hours=26)
MAX_MISSED = 1000


@functools.lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo:
    """Return a time zone. Raises CalendarError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise CalendarError(f"there is no time zone {name!r}", hint="as in Europe/Berlin or UTC") from exc


def check_cron(expression: str) -> str:
    """Return an expression with its five fields. Raises CalendarError."""
    fields = ALIASES.get(expression.strip().lower(), expression)
    if len(fields.split()) != 5:
        raise CalendarError(
            f"{expression!r} is not a cron expression", hint='write five fields, "0 2 * * *", or one of @daily, @hourly'
        )
    try:
        CronSim(fields, datetime(2024, 1, 1))  # noqa: DTZ001 - wall time of whatever zone
    except CronSimError as exc:
        raise CalendarError(
            f"{expression!r} is not a cron expression: {str(exc).lower()}", hint='as in "0 2 * * *"'
        ) from exc
    return fields


def times_after(expression: str, zone: str, after: datetime) -> Iterator[datetime]:
    """Yield the scheduled moments after a moment, in UTC and in order, each once; few or none if it names no more.

    Wall times are gone through as if every day had 24 hours, and each is placed: one that does not exist at the end of
    its gap, one that exists twice at the first of both.
    """
    place = zone_of(zone)
    last = after.astimezone(UTC)
    start = last.astimezone(place).replace(tzinfo=None, fold=0)
    near = ((last + shift).astimezone(place).utcoffset() for shift in (-_LOOK_BACK, timedelta(0), _LOOK_BACK))
    if len({*near}) > 1:  # wall times before this one can be moments after it
        start -= _LOOK_BACK
    for wall in CronSim(check_cron(expression), start):
        moment = _moment(wall, place)
        if moment > last:
            last = moment
            yield moment


def next_time(schedule: Sequence[tuple[str, str, str]], after_s: float) -> float | None:
    """Return the first scheduled moment after another, as seconds since the epoch; None: there is none.

    A schedule is a row of cron expression, time zone and catch-up.
    """
    after = datetime.fromtimestamp(after_s, UTC)
    found = (next(times_after(cron, zone, after), None) for cron, zone, _ in schedule)
    return min((moment.timestamp() for moment in found if moment is not None), default=None)


def passed_times(schedule: Sequence[tuple[str, str, str]], after_s: float, until_s: float) -> list[tuple[float, str]]:
    """Return the moments that were due after one moment and until another, with their catch-up; the newest 1,000."""
    after = datetime.fromtimestamp(after_s, UTC)
    passed: dict[float, str] = {}
    for cron, zone, catch_up in schedule:
        kept: deque[float] = deque(maxlen=MAX_MISSED)
        for moment in times_after(cron, zone, after):
            if moment.timestamp() > until_s:
                break
            kept.append(moment.timestamp())
        passed |= dict.fromkeys(kept, catch_up)
    return sorted(passed.items())[-MAX_MISSED:]


def _moment(wall: datetime, place: ZoneInfo) -> datetime:
    early = wall.replace(tzinfo=place, fold=0)
    moment = early.astimezone(UTC)
    if moment.astimezone(place).replace(tzinfo=None, fold=0) == wall:
        return moment
    # The change lies between the two readings of the wall time; it is at a whole second.
    before, after = (int(each.timestamp()) for each in (wall.replace(tzinfo=place, fold=1), early))
    offset = moment.astimezone(place).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle, place).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return datetime.fromtimestamp(after, UTC)
