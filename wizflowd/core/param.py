"""A parameter of a workflow: its type, its bounds, and what is wrong with a value for it.

In: the entries of `params`. Read by whoever takes values for a run (a trigger, `wizflow run -p`).
"""

import functools
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

from wizflowd.core.fields import MODEL, AnyJson, FieldError, Flag, Text, is_number, shown
from wizflowd.core.values import Json

ParamType = Literal["string", "integer", "number", "boolean", "list", "object"]


@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class Param:
    """A parameter of a run."""

    type: ParamType = "string"
    """Left out: the type of the default, or of the values it may have."""
    default: AnyJson = None
    """null: there is none."""
    required: Flag = False
    """Without a default, a dropped file then waits until somebody gives the value."""
    enum: tuple[Any, ...] | None = None
    """The only values it may have."""
    pattern: str | None = None
    """A regular expression that is found in every value; without look-around and back-references."""
    description: Text = ""
    """For people who give a value."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "Param":
        if self.pattern is not None:
            if self.type != "string":
                raise FieldError(f"a param of type {self.type} has no pattern", "write type: string", ("pattern",))
            try:
                _matcher(self.pattern)
            except SchemaError:
                hint = "look-around and back-references cannot be used"
                raise FieldError(f"{shown(self.pattern)} is not a regular expression", hint, ("pattern",)) from None
        if self.enum == ():
            raise FieldError("is an empty list", "name at least one value", ("enum",))
        for index, choice in enumerate(self.enum or ()):
            if not _is_of_type(choice, self.type):
                raise FieldError(f"{shown(choice)} is not of type {self.type}", below=("enum", index))
        if self.default is not None and (problem := self.problem_with(self.default)):
            raise FieldError(problem, below=("default",))
        return self

    def problem_with(self, value: Json) -> str:
        """Return what is wrong with a value for this param; empty: nothing is."""
        if not _is_of_type(value, self.type):
            return f"{shown(value)} is not of type {self.type}"
        if self.enum is not None and value not in self.enum:
            return f"{shown(value)} is not one of {', '.join(shown(choice) for choice in self.enum[:20])}"
        if self.pattern is not None:
            try:
                _matcher(self.pattern).validate_python(value)
            except ValidationError:
                return f"{shown(value)} does not match the pattern {shown(self.pattern)}"
        return ""


def _long_form(value: object) -> object:
    """Return `{default: value}` for the short form, with the type told by what is there."""
    if isinstance(value, Param):
        return value
    form = value if isinstance(value, dict) else {"default": value}
    if "type" in form:
        return form
    example = form.get("default")
    if example is None and isinstance(choices := form.get("enum"), list) and choices:
        example = choices[0]
    return {**form, "type": _type_of(example)}


ParamEntry = Annotated[Param, BeforeValidator(_long_form)]


@functools.lru_cache(maxsize=256)
def _matcher(pattern: str) -> SchemaValidator:
    # Rust's regular expressions are linear in time; with Python's a pattern in a dropped file could stop the daemon.
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def _type_of(value: object) -> ParamType:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case list():
            return "list"
        case dict():
            return "object"
        case _:
            return "string"


def _is_of_type(value: object, kind: ParamType) -> bool:
    return (_type_of(value) == kind and value is not None) or (kind == "number" and is_number(value))
