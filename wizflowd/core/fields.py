"""The scalar fields of a definition: their rules (SPEC section 1) as types that the models are made of.

In: one JSON value each. Out: its one normal form (seconds, bytes, tuples). A value that breaks a rule raises
`FieldError`, which pydantic carries, with the place, to `core.messages`. Used by the models, and by whatever reads
durations and sizes.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, StrictBool, StringConstraints, WithJsonSchema

from wizflowd.core.attempt import TaskId
from wizflowd.core.placeholders import find
from wizflowd.core.values import Json, text_of, type_name

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$"
ENV_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
LINE_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
FIELD_NAME_PATTERN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # RFC 9110 section 5.6.2
CREDENTIAL_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$"

MODEL = ConfigDict(extra="forbid")
"""What every model of a definition is made with."""

LONGEST_S = 366 * 86_400.0
LARGEST_BYTES = 2**63 - 1
MAX_SHOWN = 60

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NUMBER = r"(\d{1,15}(?:\.\d{1,9})?)"
_DURATION = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?", re.ASCII)
_UNITS_S = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_SIZE = re.compile(rf"{_NUMBER}(B|KiB|MiB|GiB|TiB)?", re.ASCII)
_SIZE_UNITS = {None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_STATUS = re.compile(r"([1-5]\d\d)(?:-([1-5]\d\d))?", re.ASCII)
_MEMBER = r"[A-Za-z_][A-Za-z0-9_-]*"
_INT = r"-?\d{1,9}"
_BRACKET = (
    rf"\[(?:\*|{_INT}|(?:{_INT})?:(?:{_INT})?(?::(?:{_INT})?)?"
    r"""|'[^'\\\x00-\x1f\x7f]+'|"[^"\\\x00-\x1f\x7f]+")\]"""
)
_JSON_PATH = re.compile(rf"(?:\$|{_MEMBER}|{_BRACKET})(?:\.{_MEMBER}|{_BRACKET})*", re.ASCII)
# What jsonpath-ng takes for an operator of its own unless it is quoted.
_JSON_PATH_WORD = re.compile(r"(?:^|\.)(where|wherenot)(?=[.\[]|$)")
_URL = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)


class FieldError(ValueError):
    """A value breaks a rule: `what` is wrong, `hint` would be right, `below` leads from the value to the place."""

    def __init__(self, what: str, hint: str = "", below: tuple[str | int, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.below = below


def shown(value: object) -> str:
    """Return a value as a message quotes it: short whatever its size, text in double quotes."""
    match value:
        case str():
            return f'"{value}"' if len(value) <= MAX_SHOWN else f'"{value[:MAX_SHOWN]}..."'
        case bool() | None:
            return text_of(value) or "null"
        case int() if value.bit_length() > 200:  # int() to text is quadratic, and refused over 4,300 digits
            return "a number of more than 60 digits"
        case int() | float():
            return repr(value)
        case _:
            return f"a {type_name(value)}"


def is_number(value: object) -> bool:
    """Return whether a JSON value is a number: in Python a boolean is an int as well."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def duration(value: object) -> float:
    """Return seconds from 0 to 366 days, of a number of seconds or text such as `250ms`, `90s`, `1h30m`."""
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and 0 < len(value) <= MAX_SHOWN:
        if match := _DURATION.fullmatch(value):
            seconds = sum(float(n) * unit for n, unit in zip(match.groups(), _UNITS_S, strict=True) if n is not None)
        elif re.fullmatch(_NUMBER, value, re.ASCII):
            seconds = float(value)
    if seconds is None:
        hint = 'write "90s", "5m", "1h30m", "250ms" or a number of seconds'
        raise FieldError(f"{shown(value)} is not a duration", hint)
    if not 0 <= seconds <= LONGEST_S:  # false for NaN as well
        raise FieldError(f"the duration {shown(value)} is out of range", "it is at most 366 days, and never negative")
    return float(seconds)


def positive_duration(value: object) -> float:
    """Return seconds above 0, up to 366 days."""
    seconds = duration(value)
    if seconds == 0:
        raise FieldError(f"the duration {shown(value)} is out of range", "it must be above 0")
    return seconds


def size(value: object) -> int:
    """Return bytes, at least 1, of a number or text such as `64KiB`, `10MiB`, `2GiB`."""
    count: float | None = None
    if isinstance(value, str) and len(value) <= MAX_SHOWN and (match := _SIZE.fullmatch(value)):
        count = float(match[1]) * _SIZE_UNITS[match[2]]
    elif isinstance(value, int) and not isinstance(value, bool):
        count = value
    if count is None:
        raise FieldError(f"{shown(value)} is not a size", 'write a number of bytes, or "64KiB", "10MiB", "2GiB"')
    if not 1 <= count <= LARGEST_BYTES:
        raise FieldError(f"the size {shown(value)} is out of range", "it must be at least 1 byte")
    return int(count)


def number_between(low: float, high: float) -> Callable[[object], float]:
    """Return a check for a number from `low` to `high`, both included."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise FieldError(f"must be a number, not {shown(value)}")
        if not low <= value <= high:
            raise FieldError(f"{shown(value)} is out of range", f"it must be from {low:,} to {high:,}")
        return value

    return check


def count_between(low: int, high: int) -> Callable[[object], int]:
    """Return a check for a whole number from `low` to `high`, both included."""
    bounded = number_between(low, high)

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise FieldError(f"must be a whole number, not {shown(value)}")
        return int(bounded(value))

    return check


def text(value: object) -> str:
    """Return text as it is, and numbers and booleans as their text; nothing else is text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float) and not (isinstance(value, int) and value.bit_length() > 200):
        return text_of(value)
    raise FieldError(f"must be text, not {shown(value)}", 'write "" for an empty text' if value is None else "")


def filled(value: object) -> str:
    """Return text that is more than blanks."""
    if not isinstance(value, str):
        raise FieldError(f"must be text, not {shown(value)}", "put it in quotes" if is_number(value) else "")
    if not value.strip():
        raise FieldError("is empty")
    return value


def one_line(value: object) -> str:
    """Return text (numbers as their text) without control characters, escaped or not."""
    line = text(value)
    if _CONTROL.search(line):
        raise FieldError(f"a control character in {shown(line)}", "it must be one line of printable text")
    return line


def filled_line(value: object) -> str:
    """Return a line that is not blank."""
    return one_line(filled(value))


def relative_path(value: object) -> str:
    """Return a path whose text does not lead out of its folder; what is filled in is checked at run time."""
    path = filled_line(value)
    if path.startswith("/"):
        raise FieldError(f"the path {shown(path)} is absolute", "write it relative to the folder")
    if ".." in path.split("/"):
        raise FieldError(f"the path {shown(path)} may lead out of its folder", 'write it without ".."')
    return path


def json_path(value: object) -> str:
    """Return a JSONPath of members, indexes, slices and `[*]`: all of it is also understood by jsonpath-ng."""
    path = filled(value)
    if len(path) > 1_000 or not _JSON_PATH.fullmatch(path):
        reason = "has a filter" if "[?" in path else "looks at every depth" if ".." in path else "is not a JSONPath"
        raise FieldError(
            f"{shown(path)} {reason}",
            "members, indexes, slices and [*] can be used: $.items[*].id, $.rows[0], $['a name'][1:3]",
        )
    if word := _JSON_PATH_WORD.search(path):
        raise FieldError(f"{shown(path)} uses the word {word[1]}", f"write ['{word[1]}']")
    return path


def method(value: object) -> str:
    """Return an HTTP method in capitals."""
    name = filled(value)
    if len(name) > 32 or not re.fullmatch(FIELD_NAME_PATTERN, name):
        raise FieldError(f"{shown(name)} is not a method", "write GET, POST, PUT, PATCH, DELETE or HEAD")
    return name.upper()


def url(value: object) -> str:
    """Return an http or https URL with a host; one that begins with a placeholder is checked when it is filled."""
    address = filled(value)
    if _CONTROL.search(address) or " " in address:
        raise FieldError(f"a blank or control character in the URL {shown(address)}", "write %20 for a blank")
    if any(offset == 0 for offset, _ in find(address)):
        return address
    match = _URL.match(address)
    if match is None:
        raise FieldError(f"{shown(address)} is not a URL", "write it from the beginning: https://host/path")
    host = match[1].rpartition("@")[2]
    if not host or host.startswith(":"):
        raise FieldError(f"the URL {shown(address)} names no host", "write https://host/path")
    if "{{" not in host and not re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:\s\\]+)(?::\d{0,5})?", host):
        raise FieldError(f"the URL {shown(address)} has no valid host and port", "write https://host:8443/path")
    return address


def statuses(value: object) -> tuple[tuple[int, int], ...]:
    """Return inclusive ranges of status codes, of a list of numbers and texts such as `"300-399"`."""
    hint = 'write a list of numbers and ranges: [200, "300-399"]'
    if not isinstance(value, list | tuple) or not value:
        raise FieldError(f"must be a list of statuses, not {shown(value)}", hint)
    ranges = []
    for index, item in enumerate(value):
        low, high = _status_range(item)
        if not 100 <= low <= high <= 599:
            raise FieldError(f"{shown(item)} is not a status", hint, below=(index,))
        ranges.append((low, high))
    return tuple(ranges)


def _status_range(item: object) -> tuple[int, int]:
    match item:
        case bool():
            return 0, 0
        case int():
            return item, item
        case (int(low), int(high)):  # the normal form itself
            return low, high
        case str() if found := _STATUS.fullmatch(item):
            return int(found[1]), int(found[2] or found[1])
        case _:
            return 0, 0


def command(value: object) -> str | tuple[str, ...]:
    """Return text for the shell, or the words of an argv."""
    if isinstance(value, str):
        return filled(value)
    if not isinstance(value, list | tuple):
        raise FieldError(
            f"must be text or a list of texts, not {shown(value)}", "put it in quotes" if is_number(value) else ""
        )
    if not value:
        raise FieldError("is an empty list", "name the program first")
    words = []
    for index, item in enumerate(value):
        if not isinstance(item, bool | int | float | str):
            raise FieldError(f"must be text, not {shown(item)}", below=(index,))
        words.append(text(item))
    if not words[0].strip():
        raise FieldError("names no program", below=(0,))
    return tuple(words)


def shell(value: object) -> str:
    """Return a shell with its options, as in `bash -euo pipefail`."""
    line = filled_line(value)
    try:
        shlex.split(line)
    except ValueError:
        raise FieldError(f"a quote in {shown(line)} is not closed") from None
    return line


def _schema(**schema: Json) -> WithJsonSchema:
    return WithJsonSchema(dict(schema))


_DURATION_SCHEMA: dict[str, Json] = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": LONGEST_S},
        {"type": "string", "pattern": r"^(\d+(\.\d+)?(d|h|m|s|ms)?)+$"},
    ],
    "examples": ["250ms", "90s", "5m", "1h30m", 30],
}
_PATH = {"type": "string", "minLength": 1, "pattern": "^[^/]"}
_SCALAR: list[Json] = ["string", "number", "boolean"]

Id = Annotated[TaskId, StringConstraints(pattern=ID_PATTERN)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
EnvName = Annotated[str, StringConstraints(pattern=ENV_PATTERN)]
HeaderName = Annotated[str, StringConstraints(pattern=FIELD_NAME_PATTERN)]
CredentialName = Annotated[str, StringConstraints(pattern=CREDENTIAL_PATTERN)]
Line = Annotated[str, StringConstraints(pattern=LINE_PATTERN)]
Text = Annotated[str, BeforeValidator(text), _schema(type=_SCALAR)]
TextLine = Annotated[str, BeforeValidator(one_line), _schema(type=_SCALAR, pattern=LINE_PATTERN)]
FilledLine = Annotated[str, BeforeValidator(filled_line), _schema(type="string", minLength=1, pattern=LINE_PATTERN)]
Duration = Annotated[float, BeforeValidator(positive_duration), WithJsonSchema(_DURATION_SCHEMA)]
Delay = Annotated[float, BeforeValidator(duration), WithJsonSchema(_DURATION_SCHEMA)]
Size = Annotated[
    int,
    BeforeValidator(size),
    _schema(
        anyOf=[
            {"type": "integer", "minimum": 1},
            {"type": "string", "pattern": r"^\d+(\.\d+)?(B|KiB|MiB|GiB|TiB)?$"},
        ],
        examples=["64KiB", "10MiB", 1048576],
    ),
]
Shell = Annotated[str, BeforeValidator(shell), _schema(type="string", examples=["/bin/sh", "bash -euo pipefail"])]
RelativePath = Annotated[str, BeforeValidator(relative_path), WithJsonSchema(_PATH)]
JsonPath = Annotated[
    str,
    BeforeValidator(json_path),
    _schema(type="string", pattern=f"^{_JSON_PATH.pattern}$", examples=["$", "$.items[*].id", "$.rows[0]"]),
]
Method = Annotated[
    str,
    BeforeValidator(method),
    _schema(type="string", pattern=FIELD_NAME_PATTERN, examples=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]),
]
Url = Annotated[
    str,
    BeforeValidator(url),
    _schema(
        type="string", pattern=r"^([Hh][Tt]{2}[Pp][Ss]?://[^/?#\s]|\{\{)\S*$", examples=["https://api.example.com/"]
    ),
]
Statuses = Annotated[
    tuple[tuple[int, int], ...],
    BeforeValidator(statuses),
    _schema(
        default=["200-299"],
        type="array",
        minItems=1,
        items={"anyOf": [{"type": "integer", "minimum": 100, "maximum": 599}, {"type": "string"}]},
        examples=[[200, "300-399"]],
    ),
]
Command = Annotated[
    str | tuple[str, ...],
    BeforeValidator(command),
    _schema(anyOf=[{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": _SCALAR}, "minItems": 1}]),
]
Status = Annotated[int, BeforeValidator(count_between(100, 599)), _schema(type="integer", minimum=100, maximum=599)]
ExitCode = Annotated[int, BeforeValidator(count_between(0, 255)), _schema(type="integer", minimum=0, maximum=255)]
Count = Annotated[int, BeforeValidator(count_between(1, 10**9)), _schema(type="integer", minimum=1, maximum=10**9)]
Flag = StrictBool
AnyJson = Annotated[Any, WithJsonSchema({})]


_NOTHING: Mapping[str, Any] = MappingProxyType({})


def nothing() -> Mapping[str, Any]:
    """Return the one empty mapping that every field left out shares: six new ones a task are 25 MiB of 100,000."""
    return _NOTHING
