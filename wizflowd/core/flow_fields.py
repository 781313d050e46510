"""Fields that steer when and how often a task runs: conditions, schedules, matrix and items, priority.

In: values of a definition. Out: checked values; FieldError says what is wrong. Used by the models.
"""

from typing import Annotated

from pydantic import BeforeValidator, StringConstraints, WithJsonSchema

from wizflowd.core.calendar import CalendarError, check_cron, zone_of
from wizflowd.core.conditions import ConditionError, read_condition
from wizflowd.core.fields import AnyJson, FieldError, count_between, filled, filled_line, shown
from wizflowd.core.placeholders import find
from wizflowd.core.values import Json

WORKFLOW_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}(/[A-Za-z0-9][A-Za-z0-9._ -]{0,63})*$"


def condition(value: object) -> str:
    """Return the text of a condition."""
    expression = filled(value)
    try:
        read_condition(expression)
    except ConditionError as error:
        raise FieldError(error.message, error.hint) from None
    return expression


def cron(value: object) -> str:
    """Return a cron expression."""
    expression = filled_line(value)
    try:
        check_cron(expression)
    except CalendarError as error:
        raise FieldError(error.message, error.hint) from None
    return expression


def zone(value: object) -> str:
    """Return the name of a time zone."""
    name = filled_line(value)
    try:
        zone_of(name)
    except CalendarError as error:
        raise FieldError(error.message, error.hint) from None
    return name


def axis(value: object) -> tuple[Json, ...]:
    """Return the values of one axis of a matrix."""
    if not isinstance(value, list | tuple):
        raise FieldError(f"must be a list of values, not {shown(value)}", "as in os: [linux, bsd]")
    return tuple(value)


def items(value: object) -> str | tuple[Json, ...]:
    """Return a list of items, or the one placeholder that stands for it."""
    if isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(value, str):
        found = find(value)
        if len(found) == 1 and value == f"{{{{{found[0][1].text}}}}}":
            return value
    raise FieldError(f"must be a list, or one placeholder, not {shown(value)}", 'as in "{{tasks.list.outputs.items}}"')


Condition = Annotated[
    str,
    BeforeValidator(condition),
    WithJsonSchema({"type": "string", "examples": ["params.day != 'today'", "tasks.fetch.outputs.items.size() > 0"]}),
]
Cron = Annotated[
    str,
    BeforeValidator(cron),
    WithJsonSchema(
        {"type": "string", "pattern": r"^\s*(@[A-Za-z]+|\S+(\s+\S+){4})\s*$", "examples": ["0 2 * * *", "@daily"]}
    ),
]
Zone = Annotated[str, BeforeValidator(zone), WithJsonSchema({"type": "string", "examples": ["Europe/Berlin"]})]
Axis = Annotated[tuple[AnyJson, ...], BeforeValidator(axis), WithJsonSchema({"type": "array"})]
Items = Annotated[
    str | tuple[AnyJson, ...],
    BeforeValidator(items),
    WithJsonSchema({"anyOf": [{"type": "array"}, {"type": "string", "examples": ["{{tasks.list.outputs.items}}"]}]}),
]
Priority = Annotated[
    int,
    BeforeValidator(count_between(-1000, 1000)),
    WithJsonSchema({"type": "integer", "minimum": -1000, "maximum": 1000}),
]
WorkflowName = Annotated[str, StringConstraints(pattern=WORKFLOW_PATTERN)]
