"""Commands for a shell: checked at plan time, filled at run time so that no value becomes program text.

In: the text of a `command` and its `shell`. Out: findings for the plan and `validate`; for an attempt the program
with references to environment variables in place of the placeholders, and these variables. Called by `core.plan` and
the engine. The program never holds a value, so that a wrong guess about quoting could garble a word but not run it;
what shells evaluate although it is quoted is refused (`core.shell_rules`). Source: SPEC section 1, Placeholders.
"""

import os
import shlex
from bisect import bisect_right
from collections.abc import Collection, Iterator
from functools import lru_cache

from msgspec import Struct

from wizflowd.core import shell_rules, shell_warnings
from wizflowd.core.placeholders import Lookup, Reference, find, pieces
from wizflowd.core.shell_scan import scan
from wizflowd.core.shell_words import MARK, Context, Refusal
from wizflowd.core.values import text_of
from wizflowd.errors import FillError

_SHELLS = frozenset(("sh", "dash", "bash", "ksh", "zsh", "busybox"))
_AGREE_WITH_BASH = frozenset(("bash", "ksh", "zsh"))
_HINT = "give the value by `env` or `stdin`, or write the command as a list"
_WARNING_HINT = "give the value as an argument or by `env`, not as program text"
_MAX_ENTRY = 128 * 1024
"""Bytes of `NAME=value` and its NUL that Linux passes to a program (MAX_ARG_STRLEN)."""
_WRITTEN = {
    Context.BARE: '"${%s}"',
    Context.DOUBLE: "${%s}",
    Context.SINGLE: "'\"${%s}\"'",
    Context.ANSI: "'\"${%s}\"$'",
    Context.HEREDOC: "${%s}",
    Context.COMMENT: "${%s}",
}


class Finding(Struct, frozen=True):
    """What is wrong, or doubtful, with the placeholder at `offset` of a command."""

    offset: int
    what: str
    hint: str


def check_command(command: str, shell: str) -> tuple[Finding, ...]:
    """Return what is refused at plan time; a command without placeholders is never refused."""
    marked = _Marked.of(command)
    if not marked.references:
        return ()
    if MARK in command:
        return (Finding(command.index(MARK), "cannot run a command with a NUL byte", "take it out"),)
    name = _shell_name(shell)
    if not name:
        what = f"cannot fill a placeholder for the shell {shell!r}, whose quoting is not known"
        return (Finding(marked.references[0][0], what, f"use sh, dash, bash, ksh, zsh or busybox sh; or {_HINT}"),)
    return tuple(marked.findings(_refusals(marked.program, name), "cannot fill a placeholder", _HINT))


def warn_command(command: str) -> tuple[Finding, ...]:
    """Return where a value is filled safely and then evaluated again by what the command runs."""
    marked = _Marked.of(command)
    if not marked.references:
        return ()
    found = shell_warnings.warnings(scan(marked.program), marked.program)
    return tuple(marked.findings(found, "a placeholder", _WARNING_HINT))


def fill_command(command: str, lookup: Lookup, taken: Collection[str] = ()) -> tuple[str, dict[str, str]]:
    """Return the program, which refers to values by variables only, and these variables, none of them in `taken`.

    Raises `FillError` for a value that no environment can hold (NUL, over 128 KiB, unpaired surrogates), and for a
    command that `check_command` refuses.
    """
    marked = _Marked.of(command)
    if MARK in command:
        raise FillError("cannot run a command with a NUL byte", hint="take it out")
    if not marked.references:
        return marked.program, {}
    if finding := next(marked.findings(_refusals(marked.program, "bash"), "cannot fill a placeholder", _HINT), None):
        raise FillError(finding.what, hint=finding.hint)
    slots = scan(marked.program).slots
    names = _variable_names({reference.text: None for _, reference in marked.references}, {*taken}, command)
    variables: dict[str, str] = {}
    parts = marked.program.split(MARK)
    filled, position = [parts[0]], len(parts[0])
    for (_, reference), part in zip(marked.references, parts[1:], strict=True):
        name = names[reference.text]
        if name not in variables:
            variables[name] = _variable(name, reference, lookup)
        filled += (_WRITTEN[slots[position]] % name, part)
        position += 1 + len(part)
    return "".join(filled), variables


@lru_cache(maxsize=64)
def shell_argv(shell: str, command: str) -> tuple[str, ...]:
    """Return the argv that has `shell` (words, such as `bash -euo pipefail`) run `command`."""
    try:
        words = shlex.split(shell)
    except ValueError as exc:
        raise FillError(f"cannot read the shell {shell!r}: {exc}", hint="write it as `/bin/sh` or `bash -e`") from exc
    if not words:
        raise FillError("cannot run a command without a shell", hint="leave `shell` out for /bin/sh")
    return (*words, "-c", command)


class _Marked(Struct, frozen=True):
    """A command as the shell will read it, with a MARK for each placeholder.

    `starts` has for each stretch where it begins in the program and where in the command as written.
    """

    program: str
    references: tuple[tuple[int, Reference], ...]
    starts: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, command: str) -> "_Marked":
        parts, starts, length = [], [(0, 0)], 0
        for offset, piece in pieces(command):
            starts.append((length, offset))
            parts.append(piece if isinstance(piece, str) else MARK)
            length += len(parts[-1])
        return cls("".join(parts), find(command), tuple(starts))

    def findings(self, refusals: Iterator[Refusal], prefix: str, hint: str) -> Iterator[Finding]:
        """Yield each refusal once, placed in the command as written."""
        seen = set()
        for refusal in refusals:
            start, offset = self.starts[bisect_right(self.starts, (refusal.offset, len(self.program) * 9)) - 1]
            if refusal not in seen:
                yield Finding(offset + refusal.offset - start, f"{prefix} {refusal.what}", hint)
            seen.add(refusal)


def _refusals(program: str, shell_name: str) -> Iterator[Refusal]:
    found = scan(program)
    for refusal in found.refusals:
        given_up = not found.complete and refusal is found.refusals[-1]
        yield Refusal(refusal.offset, f"in a command with {refusal.what}") if given_up else refusal
    if shell_name not in _AGREE_WITH_BASH:
        yield from (Refusal(r.offset, f"in a command with {r.what}") for r in found.dialect)
    yield from shell_rules.refusals(found, shell_name)


def _shell_name(shell: str) -> str:
    """Return the kind of shell, such as `bash`, or nothing if it is not one whose quoting is known."""
    try:
        words = shlex.split(shell)
    except ValueError:
        return ""
    if words and os.path.basename(words[0]) == "env":
        words = words[1:]
    name = os.path.basename(words[0]) if words and "=" not in words[0] else ""
    if name == "busybox" and words[1:2] not in (["sh"], ["ash"]):
        return ""
    return name if name in _SHELLS else ""


def _variable_names(texts: dict[str, None], taken: set[str], command: str) -> dict[str, str]:
    """Return a variable for each text, which neither the environment nor the command itself knows."""
    names, number = {}, 0
    for text in texts:
        number += 1
        while (name := f"WIZFLOW_V{number}") in taken or name in command:
            number += 1
        names[text] = name
    return names


def _variable(name: str, reference: Reference, lookup: Lookup) -> str:
    value = text_of(lookup(reference))
    what = f"cannot put {{{{{reference.text}}}}} into a command"
    if "\0" in value:
        raise FillError(f"{what}: the value holds a NUL byte", hint="give it by a file or by `stdin`")
    try:
        size = len(os.fsencode(f"{name}={value}")) + 1
    except UnicodeEncodeError as exc:
        raise FillError(f"{what}: the value is not valid text", hint="mend it where it is made") from exc
    if size > _MAX_ENTRY:
        raise FillError(f"{what}: the value is over 128 KiB", hint="give it by a file or by `stdin`")
    return value
