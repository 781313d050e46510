"""Placeholders in what a command evaluates again: legal, out of our hands, and worth a warning.

In: what `core.shell_scan` found. Out: findings for `wizflow validate`. Called by `core.shell` only.
"""

import re
from collections.abc import Iterator

from wizflowd.core.shell_words import ASSIGNMENT, MARK, Command, Refusal, Scan, Word

_SHELLS = frozenset(("sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "fish", "eval", "ssh", "su", "runuser"))
_RUNNERS = _SHELLS | {"trap", "alias", "compgen", "complete", "watch", "parallel"}
_READERS = _SHELLS | {"source", ".", "at", "batch"}
_WITH_PROGRAM = frozenset(("awk", "gawk", "mawk", "nawk", "sed", "jq"))
_INTERPRETER = re.compile(r"python[0-9.]*|perl|ruby|node|php|lua")
_PROGRAM_OPTION = re.compile(r"-[A-Za-z]*[cer]")
_VALUE_OPTIONS = frozenset(("-v", "-F", "-f", "--arg", "--argjson"))
_NUMBER_TESTS = frozenset(("-eq", "-ne", "-lt", "-le", "-gt", "-ge"))
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def warnings(scan: Scan, program: str) -> Iterator[Refusal]:
    """Yield the marks that are evaluated again: by a shell, ssh, awk, or arithmetic on a variable."""
    for command in scan.commands:
        name, arguments = command.invocation()
        base = _basename(name)
        yield from _run_again(base, arguments)
        yield from _program_text(base, arguments)
        yield from _fed(base, command)
    yield from _computed(scan, program)


def _run_again(base: str, arguments: list[Word]) -> Iterator[Refusal]:
    """Warn of the words behind a shell or the like, also where that is itself an argument (`xargs sh -c`)."""
    runner = base if base in _RUNNERS else ""
    for word in arguments:
        if runner and MARK in word.text:
            yield Refusal(word.start, f"given to `{runner}`, which may evaluate it again")
        elif not runner and _basename(word.text) in _SHELLS:
            runner = _basename(word.text)


def _program_text(base: str, arguments: list[Word]) -> Iterator[Refusal]:
    """Warn of the program of awk, sed, python and the like."""
    first = base in _WITH_PROGRAM
    if not (first or _INTERPRETER.fullmatch(base)):
        return
    before = ""
    for word in arguments:
        is_value = before in _VALUE_OPTIONS
        is_program = _PROGRAM_OPTION.fullmatch(before) or (first and not word.text.startswith("-"))
        if is_program and not is_value:
            first = False
            if MARK in word.text:
                yield Refusal(word.start, f"in the program text of `{base}`")
        before = word.text


def _fed(base: str, command: Command) -> Iterator[Refusal]:
    """Warn of a here-document or here-string that is a program."""
    if base in _READERS or _INTERPRETER.fullmatch(base):
        strings = [word.start for operator, word in command.targets if operator == "<<<" and MARK in word.text]
        for offset in (*command.fed, *strings):
            yield Refusal(offset, f"in what `{base}` reads and may evaluate")


def _computed(scan: Scan, program: str) -> Iterator[Refusal]:
    """Warn of a variable that takes a value and stands where bash evaluates `a[$(…)]` in it, such as `$((n))`."""
    evaluated = {name for start, stop in scan.arithmetic for name in _IDENTIFIER.findall(program, start, stop)}
    for command in scan.commands:
        for word in _evaluated_words(command):
            evaluated.update(_IDENTIFIER.findall(program, word.start, word.stop))
    for command in scan.commands:
        for offset, variable in _given(command, program):
            if variable in evaluated:
                yield Refusal(offset, f"in `{variable}`, which the shell evaluates again")


def _evaluated_words(command: Command) -> Iterator[Word]:
    name, arguments = command.invocation()
    if name == "let":
        yield from arguments
    for i, word in enumerate(arguments):
        if word.text in _NUMBER_TESTS:
            yield from arguments[max(0, i - 1) : i + 2 : 2]
    yield from (word for operator, word in command.targets if operator in (">&", "<&"))


def _given(command: Command, program: str) -> Iterator[tuple[int, str]]:
    """Yield the variables that a command gives a placeholder, or the output of a command with one."""
    name, arguments = command.invocation()
    for word in command.words:
        match = ASSIGNMENT.match(word.text)
        if match and MARK in program[word.start : word.stop]:
            yield word.start, match[1]
    words = [*arguments, *(word for _, word in command.targets)]
    if name in ("for", "select", "read") and (command.fed or any(MARK in program[w.start : w.stop] for w in words)):
        yield from ((word.start, word.text) for word in arguments)


def _basename(text: str) -> str:
    return text.rpartition("/")[2]
