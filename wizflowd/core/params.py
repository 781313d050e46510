"""Values given for the parameters of a run: by a command line as text, by a request as JSON.

In: a definition and what was given. Out: every parameter with its value, defaults filled in. Raises RequestError that
names the parameter.
"""

import json
import math
from collections.abc import Mapping

from wizflowd.core.definition import Definition
from wizflowd.core.param import Param
from wizflowd.core.suggest import did_you_mean
from wizflowd.core.values import Json
from wizflowd.errors import RequestError

_DEPTH_MAX = 32  # as in a definition
_WORDS: Mapping[str, Json] = {"true": True, "false": False}


def read_param(param: Param, text: str) -> Json:
    """Return the value that a text on a command line stands for, by the parameter's type; the text if it fits none."""
    if param.type == "string":
        return text
    if param.type == "boolean":
        return _WORDS.get(text.lower(), text)
    try:
        value: Json = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


def _unrecordable(value: Json) -> str:
    """Return why a value cannot be recorded though it has the right type; empty: it can."""
    level: list[Json] = [value]
    for _ in range(_DEPTH_MAX):
        if any(isinstance(item, float) and not math.isfinite(item) for item in level):
            return "it holds a number that is not finite"
        lists = [[*item.values()] if isinstance(item, dict) else item for item in level]
        level = [child for item in lists if isinstance(item, list) for child in item]
    return f"it is nested more than {_DEPTH_MAX} deep" if level else ""


def fit_params(definition: Definition, given: Mapping[str, Json], *, as_text: bool = False) -> dict[str, Json]:
    """Return the values of all parameters; `as_text`: what was given is text of a command line."""
    values = {name: param.default for name, param in definition.params.items()}
    for name, value in given.items():
        param = definition.params.get(name)
        if param is None:
            hint = did_you_mean(name, definition.params) or (
                f"it has {', '.join(definition.params)}" if definition.params else "the workflow has none"
            )
            raise RequestError("bad_params", f"cannot run: there is no parameter {name!r}", hint=hint)
        read = read_param(param, value) if as_text and isinstance(value, str) else value
        if problem := param.problem_with(read) or _unrecordable(read):
            raise RequestError("bad_params", f"cannot run: parameter {name}: {problem}", hint=param.description)
        values[name] = read
    for name, param in definition.params.items():
        if param.required and values[name] is None:
            hint = f"give it with -p {name}=..."
            raise RequestError("bad_params", f"cannot run: parameter {name} has no value", hint=hint)
    return values
