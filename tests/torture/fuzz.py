"""The program that atheris drives: `fuzz.py TARGET [libFuzzer's options] [folder of seeds]`. Started by `test_fuzz`.

`loader`: no bytes raise anything but DefinitionError, and what is accepted can be planned. `filler`: a value changes
nothing of a command but its variables, and in a text stands as it is.
"""

import importlib
import sys
from typing import Any

atheris: Any = importlib.import_module("atheris")  # not everywhere to be had: `test_fuzz` asks first

with atheris.instrument_imports(include=["wizflowd.core"]):
    from wizflowd.core.attempt import TaskId
    from wizflowd.core.compile import compile_definition, validate_definition
    from wizflowd.core.loader import Syntax
    from wizflowd.core.observations import WorkflowId
    from wizflowd.core.placeholders import Reference, fill_header, fill_text, fill_url, find
    from wizflowd.core.plan import Disk, Surroundings, make_plan, plan_lines
    from wizflowd.core.shell import check_command, fill_command, warn_command
    from wizflowd.errors import DefinitionError, FillError

SENTINEL = "SENTINEL0"


def loader(data: bytes) -> None:
    """Compile as either syntax."""
    for syntax in Syntax:
        try:
            compiled = compile_definition(data, syntax, stem="x")
        except DefinitionError as error:
            if not all(line.isprintable() for line in error.lines("x")):
                raise AssertionError("a line that is not printable") from None
            continue
        validate_definition(data, syntax, stem="x")
        plan = make_plan(WorkflowId("x"), compiled, Surroundings(), {}, Disk())
        if {TaskId(task.id) for task in compiled.definition.all_tasks} != plan.tasks.keys():
            raise AssertionError("a plan without all tasks")
        plan_lines(plan, compiled.definition)


def filler(data: bytes) -> None:
    """Fill one text with a harmless value and with a hostile one."""
    given = atheris.FuzzedDataProvider(data)
    value = given.ConsumeUnicodeNoSurrogates(40)
    text = given.ConsumeUnicodeNoSurrogates(400).replace(SENTINEL, "")
    _fill_as_command(text, value)
    if SENTINEL not in text and value:
        harmless, hostile = fill_text(text, lambda _: SENTINEL), fill_text(text, lambda _: value)
        if hostile != harmless.replace(SENTINEL, value):
            raise AssertionError("a value was not filled as it is")
    for fill in (fill_header, fill_url):
        try:
            filled = fill(text, lambda _: value)
        except FillError:
            continue
        if find(text) and any(c in filled for c in "\r\n\0"):
            raise AssertionError("a line end in a header or URL")


def _fill_as_command(text: str, value: str) -> None:
    warn_command(text)
    if check_command(text, "bash"):
        return

    def hostile(_: Reference) -> str:
        return value

    try:
        program, _ = fill_command(text, lambda _: SENTINEL)
        same, variables = fill_command(text, hostile)
    except FillError:
        return
    if program != same or any(found != value for found in variables.values()):
        raise AssertionError("a value became program text")


if __name__ == "__main__":
    target = {"loader": loader, "filler": filler}[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
