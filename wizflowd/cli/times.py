"""Times as people say them. In: RFC 3339 as the daemon writes it. Out: words. Pure; called by the commands."""

from datetime import UTC, datetime

from wizflowd.views.wording import time_of

__all__ = ["ago", "between", "clock_time", "now_s", "seconds_of", "time_of"]


def now_s() -> float:
    """Return the present, in seconds since the epoch."""
    return datetime.now(UTC).timestamp()


def seconds_of(time: str) -> float:
    """Return an RFC 3339 time in seconds since the epoch."""
    return datetime.fromisoformat(time).timestamp()


def ago(time: str | None, at_s: float) -> str:
    """Return how long before `at_s` a time was, or how long after: `12 s ago`, `2 min ago`, `in 3 h`, a date."""
    if not time:
        return ""
    passed_s = at_s - seconds_of(time)
    if -1 < passed_s < 1:
        return "now"
    if abs(passed_s) >= 30 * 86400:
        return time[:10]
    amount = _rough(abs(passed_s))
    return f"{amount} ago" if passed_s > 0 else f"in {amount}"


def _rough(seconds: float) -> str:
    for size, unit in ((86400, "day"), (3600, "h"), (60, "min")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''}"
    return f"{int(seconds)} s"


def between(started: str | None, ended: str | None, at_s: float) -> float | None:
    """Return the seconds from start to end, or until `at_s` where there is no end."""
    if not started:
        return None
    return max(0.0, (seconds_of(ended) if ended else at_s) - seconds_of(started))


def clock_time(time: str) -> str:
    """Return the local time of day, with milliseconds."""
    return datetime.fromisoformat(time).astimezone().strftime("%H:%M:%S.%f")[:-3]
