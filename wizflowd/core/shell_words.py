"""What the scan of a shell program comes to: its commands, their words, and where each placeholder stands.

Made by `core.shell_scan`, read by `core.shell`, `core.shell_rules` and `core.shell_warnings`.
"""

import re
from enum import Enum, auto

from msgspec import Struct

MARK = "\0"
"""Stands for one placeholder; NUL can be in no program."""
OPAQUE = "\1"
"""Stands in a word's text for what is known only when the program runs, such as `$x`."""
PARENTHESES = "()"
"""Stands in a word's text for an array's or a pattern's parentheses and all that is in them."""
ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:\[[^\]]*\])?\+?=")
"""Matches the head of `name=value` and `name[subscript]=value`."""

_PREFIXES = frozenset(("command", "builtin", "exec", "noglob", "nocorrect", "-"))


class Context(Enum):
    """The quoting in which a placeholder stands."""

    BARE = auto()
    DOUBLE = auto()
    SINGLE = auto()
    ANSI = auto()
    HEREDOC = auto()
    COMMENT = auto()


class Refusal(Struct, frozen=True):
    """Why the placeholder at `offset` (or, from the scanner giving up, any at all) cannot be filled."""

    offset: int
    what: str


class Word(Struct, frozen=True):
    """A word with its quotes removed, MARK and OPAQUE in it; it stands at `start:stop` of the program."""

    text: str
    start: int
    stop: int
    quoted: bool


class Command(Struct, frozen=True):
    """A simple command: its words (assignments too), its redirections, and the marks in its here-documents."""

    words: list[Word] = []
    targets: list[tuple[str, Word]] = []
    fed: list[int] = []

    def invocation(self) -> tuple[str, list[Word]]:
        """Return the name of what is run and its arguments, without assignments and words such as `command`."""
        at = 0
        while at < len(self.words) and ASSIGNMENT.match(self.words[at].text):
            at += 1
        while at < len(self.words) and self.words[at].text in _PREFIXES:
            at += 1
            while at < len(self.words) and self.words[at].text.startswith("-"):
                at += 1
        return (self.words[at].text, self.words[at + 1 :]) if at < len(self.words) else ("", [])


class Scan(Struct, frozen=True):
    """What was found. `arithmetic` are stretches of the program that shells evaluate as numbers; `dialect` are the
    places where `sh` need not agree with bash about what is quoted."""

    slots: dict[int, Context] = {}
    commands: list[Command] = []
    refusals: list[Refusal] = []
    arithmetic: list[tuple[int, int]] = []
    dialect: list[Refusal] = []
    complete: bool = True
