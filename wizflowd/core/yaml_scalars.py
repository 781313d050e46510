"""What a plain YAML scalar stands for: the core schema of YAML 1.2 (section 10.3.2), less .inf and .nan.

Called by the YAML tree for every value without quotes.
"""

import math
import re

from wizflowd.core.load_limits import LONGEST_NUMBER
from wizflowd.core.places import shown

_FIRST = frozenset("-+.0123456789nNtTfF~")
_WORDS: dict[str, bool | None] = {"": None, "~": None}
_WORDS |= dict.fromkeys(("null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_NUMBER = re.compile(
    r"(?P<decimal>[-+]?[0-9]+)|0o(?P<octal>[0-7]+)|0x(?P<hex>[0-9a-fA-F]+)"
    r"|(?P<float>[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<endless>[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)


class BadScalarError(ValueError):
    """A number that cannot be kept; its text says why."""


def resolve(text: str) -> str | int | float | bool | None:
    """Return the value of a plain scalar; raise BadScalarError for a number that JSON could not carry."""
    if text and text[0] not in _FIRST:
        return text
    if text in _WORDS:
        return _WORDS[text]
    number = _NUMBER.fullmatch(text)
    if not number:
        return text
    if len(text) > LONGEST_NUMBER:
        raise BadScalarError(f"a number of {len(text)} characters, allowed are {LONGEST_NUMBER}")
    match number.lastgroup:
        case "decimal":
            return int(text)
        case "octal":
            return int(text[2:], 8)
        case "hex":
            return int(text[2:], 16)
        case _:
            value = float(text) if number.lastgroup == "float" else math.inf
            if math.isinf(value):
                raise BadScalarError(f"{shown(text)} is not a finite number")
            return value
