"""The one way from the bytes of a definition to a workflow that can be planned.

In: bytes. Out: a `Compiled`, or a `DefinitionError` with every problem and its place in the file. Called for files of
the watched folder, by `wizflow run`, `plan` and `validate`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct

from wizflowd.core.attempt import TaskId
from wizflowd.core.clear_secrets import clear_secrets
from wizflowd.core.definition import Definition, ShellTask, definition_digest
from wizflowd.core.draft import Draft, Place, read_draft
from wizflowd.core.graph import CycleError, Graph, arrows, build_graph
from wizflowd.core.loader import LoadLimits, Syntax, load
from wizflowd.core.messages import MAX_PROBLEMS
from wizflowd.core.placeholders import near_misses
from wizflowd.core.references import check_references, names_of, placed, texts_of
from wizflowd.core.shell import Finding, check_command, warn_command
from wizflowd.core.surprises import surprises
from wizflowd.core.values import Json
from wizflowd.core.yaml_habits import yaml_habits
from wizflowd.errors import DefinitionError, LocatedProblem, Problem, WizflowError

ReadDotenv = Callable[[tuple[str, ...]], Mapping[str, str]]
"""Reads the files of `dotenv`, named as in the definition; raises `WizflowError`."""


_LIMITS = LoadLimits()


class Compiled(Struct, frozen=True):
    """A valid workflow with its graph; `digest` is of its canonical form."""

    definition: Definition
    graph: Graph
    digest: str


def compile_definition(
    data: bytes,
    syntax: Syntax,
    *,
    stem: str,
    limits: LoadLimits = _LIMITS,
    read_dotenv: ReadDotenv | None = None,
) -> Compiled:
    """Return the workflow of a file named `stem`; raises `DefinitionError` with all its problems.

    Without `read_dotenv`, `{{env.NAME}}` is not checked where the definition has `dotenv` files.
    """
    document = load(data, syntax, limits)
    compiled = _compile(document.value, stem, read_dotenv)
    if isinstance(compiled, Compiled):
        return compiled
    raise DefinitionError(document.locate(compiled))


def validate_definition(
    data: bytes,
    syntax: Syntax,
    *,
    stem: str,
    limits: LoadLimits = _LIMITS,
    read_dotenv: ReadDotenv | None = None,
) -> tuple[LocatedProblem, ...]:
    """Return what a person should look at in a valid definition; raises `DefinitionError` where it is none."""
    document = load(data, syntax, limits)
    compiled = _compile(document.value, stem, read_dotenv)
    if isinstance(compiled, Compiled):
        habits = yaml_habits(data, document.value) if syntax is Syntax.YAML else ()
        return document.locate(itertools.islice(itertools.chain(warnings_of(compiled), habits), MAX_PROBLEMS))
    raise DefinitionError(document.locate(compiled))


def warnings_of(compiled: Compiled) -> tuple[Problem, ...]:
    """Return what is legal but seldom meant: blanks in braces, values evaluated twice, secrets in clear, dead tasks."""
    definition = compiled.definition
    found = itertools.chain(_warnings(definition), clear_secrets(definition), surprises(definition, compiled.graph))
    return tuple(itertools.islice(found, MAX_PROBLEMS))


def _compile(tree: Json, stem: str, read_dotenv: ReadDotenv | None) -> Compiled | list[Problem]:
    draft = read_draft(tree, stem)
    problems, definition = draft.problems, draft.definition
    if definition is None:
        return problems
    dotenv = _read_dotenv(definition, read_dotenv, problems)
    names = names_of(definition, dotenv=dotenv, broken=draft.broken, unread=draft.unread)
    wrong, needs = check_references(definition, names, draft.places)
    problems += itertools.islice(itertools.chain(wrong, _refused_commands(draft, definition)), MAX_PROBLEMS)
    # A need of a task that could not be read is no part of the graph, which then only serves to find cycles.
    known = needs if not problems else {t: tuple(u for u in upstreams if u in needs) for t, upstreams in needs.items()}
    try:
        graph = build_graph(known, frozenset(TaskId(task.id) for task in definition.final_tasks))
    except CycleError as error:
        problems += _cycle_problems(error, draft)
        return problems
    return problems or Compiled(definition, graph, definition_digest(definition))


def _read_dotenv(
    definition: Definition, read_dotenv: ReadDotenv | None, problems: list[Problem]
) -> Iterable[str] | None:
    if read_dotenv is None or not definition.dotenv:
        return None
    try:
        return read_dotenv(definition.dotenv).keys()
    except WizflowError as error:
        problems.append(Problem(("dotenv",), error.message, error.hint))
        return None


def _refused_commands(draft: Draft, definition: Definition) -> Iterator[Problem]:
    for task in definition.all_tasks:
        place = draft.places[task.id]
        if isinstance(task, ShellTask) and isinstance(task.command, str) and "{{" in task.command:
            for finding in check_command(task.command, task.shell):
                yield _in_command(finding, task.command, place)


def _in_command(finding: Finding, command: str, place: Place) -> Problem:
    line = command.count("\n", 0, finding.offset)
    return Problem((*place, "command"), finding.what, finding.hint, text_line=line)


def _cycle_problems(error: CycleError, draft: Draft) -> Iterator[Problem]:
    for cycle in error.cycles:
        what = "waits for itself" if len(cycle) == 2 else "tasks wait for each other"
        yield Problem(draft.places[cycle[0]], f"{what}: {arrows(cycle)}", "break the circle: each needs the next")


def _warnings(definition: Definition) -> Iterator[Problem]:
    places = placed(definition)
    for task in definition.all_tasks:
        place = places[task.id]
        for path, text in texts_of(task):
            for written in near_misses(text):
                what = f"{written} is text, not a placeholder"
                yield Problem((*place, *path), what, "write it without blanks if a value should stand here")
        if isinstance(task, ShellTask) and isinstance(task.command, str) and "{{" in task.command:
            for finding in warn_command(task.command):
                yield _in_command(finding, task.command, place)
