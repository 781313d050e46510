"""The one tree of errors, and the shape of a problem in a definition. Imported by everybody, imports nothing."""

from dataclasses import dataclass


class WizflowError(Exception):
    """Something that could not be done; `str()` is one line for a person, `hint` says what would help."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a definition, before it is known where that stands in the file.

    `path` leads to the value, as keys and indexes; `at_key` points at the key instead (an unknown field);
    `text_line` counts lines, from 0, inside a text of several lines.
    """

    path: tuple[str | int, ...]
    what: str
    hint: str = ""
    at_key: bool = False
    text_line: int = 0


@dataclass(frozen=True, slots=True)
class LocatedProblem:
    """A problem with its place: line and column count from 1; both 0 where there is no position (bad encoding)."""

    line: int
    column: int
    where: str
    what: str
    hint: str = ""

    def render(self, file: str) -> str:
        """Return `file:line:col: where: what; hint` on one line, without control characters."""
        place = f"{file}:{self.line}:{self.column}:" if self.line else f"{file}:"
        text = f"{place} {self.where + ': ' if self.where else ''}{self.what}"
        return printable(f"{text}; {self.hint}" if self.hint else text)


class DefinitionError(WizflowError):
    """A definition that is refused, with all its problems in the order of the file."""

    def __init__(self, problems: tuple[LocatedProblem, ...]) -> None:
        super().__init__(f"{len(problems)} problem{'s' if len(problems) != 1 else ''} in the definition")
        self.problems = problems

    def lines(self, file: str) -> tuple[str, ...]:
        """Return one rendered line per problem; `file` as the user named it."""
        return tuple(problem.render(file) for problem in self.problems)


class ConfigError(WizflowError):
    """The configuration cannot be used."""


class StateError(WizflowError):
    """The state on disk cannot be opened, read or written."""


class StateLockedError(StateError):
    """Another process holds the state or the workflow's lock."""


class SpawnerError(WizflowError):
    """The spawner cannot be reached or does not follow its protocol."""


class ThreadError(WizflowError):
    """The host gives this process no further thread."""


class SyncError(StateError):
    """What was written may not be on the disk, and no second try can tell: the process ends, the next start writes."""


class SecretError(WizflowError):
    """A secret has no value."""


class FillError(WizflowError):
    """A value cannot stand where its placeholder stands."""


class OutputError(WizflowError):
    """A declared output cannot be had."""


class IllegalTransitionError(WizflowError):
    """An event does not fit the state: a defect in wizflowd itself."""


class RequestError(WizflowError):
    """A request by a person cannot be carried out; `code` is for programs."""

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


def printable(text: str) -> str:
    r"""Return `text` with control characters, line ends and unpaired surrogates written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
