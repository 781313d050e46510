"""What `wizflow doctor` finds: one thing, how it is, and what mends it."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`about` is what was looked at, `mend` what helps where it is not good."""

    level: Level
    about: str
    what: str
    mend: str = ""


def good(about: str, what: str) -> Finding:
    return Finding("good", about, what)


def warning(about: str, what: str, mend: str) -> Finding:
    return Finding("warning", about, what, mend)


def wrong(about: str, what: str, mend: str) -> Finding:
    return Finding("wrong", about, what, mend)
