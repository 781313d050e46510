"""Words that a shell evaluates although they are quoted: no placeholder may stand there.

In: the simple commands that `core.shell_scan` found. Out: refusals. Called by `core.shell` only. Shells evaluate a
subscript wherever they want a number or the name of a variable: each rule was seen to run the value
`a[$(touch PWNED)]` in at least one of bash 5.2, zsh 5.9 and mksh R59.
"""

import re
from collections.abc import Iterable, Iterator

from wizflowd.core.shell_words import ASSIGNMENT, MARK, PARENTHESES, Command, Refusal, Scan, Word

_SUBSCRIPT = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*)?\[[^\]\0]*+\0[^\]]*+\]\+?=")
_EVALUATED = frozenset(
    (
        *("RANDOM", "SRANDOM", "OPTIND", "HISTCMD", "SECONDS", "LINENO", "COLUMNS", "LINES", "TMOUT", "PPID", "UID"),
        *("EUID", "GID", "EGID", "SHLVL", "HISTSIZE", "SAVEHIST", "KEYTIMEOUT", "LISTMAX", "MAILCHECK", "FUNCNEST"),
        *("BASHPID", "ERRNO", "TTYIDLE", "PS1", "PS2", "PS4", "PROMPT", "PROMPT4", "PROMPT_COMMAND"),
    )
)
_DECLARING = frozenset(("declare", "typeset", "local", "export", "readonly", "integer", "float", "nameref"))
_TYPELESS = re.compile(r"[-+][rxgtlup]*")
_NAMING = frozenset(("let", "read", "unset", "getopts", "mapfile", "readarray", "vared", "zparseopts"))
_WITH_OPTIONS = frozenset(("printf", "print", "set", "wait"))
_NAMING_OPTION = re.compile(r"[-+][A-Za-z]*[vAp]")
_INTO_ARRAY = re.compile(r"-[A-Za-z]*[aA]")
_NUMBER_TESTS = frozenset(("-eq", "-ne", "-lt", "-le", "-gt", "-ge"))
_NAME_TESTS = frozenset(("-v", "-R", "-t"))
_COMPUTING_SHELLS = frozenset(("ksh", "zsh"))
_COMPUTING = frozenset(("exit", "return", "shift", "break", "continue", "repeat", "ulimit", "sched", "limit"))
_NO_NUMBERS = re.compile(r"(?:[^%*\0\1]|%%|%[-0-9.]*[sb])*")


def refusals(scan: Scan, shell_name: str) -> Iterator[Refusal]:
    """Yield where a mark would be evaluated by the shell `shell_name`, such as `bash`."""
    typed = any(_declares_a_type(*command.invocation()) for command in scan.commands)
    arrays = typed or any(map(_makes_an_array, scan.commands))
    for command in scan.commands:
        name, arguments = command.invocation()
        yield from _redirected(command)
        yield from _assigned(command, typed=typed)
        if name in _DECLARING:
            yield from _declared(arguments, arrays=arrays)
        elif name in _NAMING:
            yield from _marked(arguments, f"as a word of `{name}`, which takes variables' names or numbers")
        elif name in _WITH_OPTIONS:
            yield from _taken_for_options(name, arguments)
        elif name in ("[", "test", "[["):
            yield from _tested(arguments, computes=name == "[[" or shell_name in _COMPUTING_SHELLS)
        elif name in ("for", "select") and arguments and (typed or arguments[0].text in _EVALUATED):
            yield from _marked(arguments, f"in `{arguments[0].text}`, which the shell evaluates")
        if shell_name in _COMPUTING_SHELLS:
            yield from _computed(name, arguments, shell_name)


def _marked(words: Iterable[Word], what: str) -> Iterator[Refusal]:
    yield from (Refusal(word.start, what) for word in words if MARK in word.text)


def _redirected(command: Command) -> Iterator[Refusal]:
    for operator, word in command.targets:
        if operator in (">&", "<&") and MARK in word.text:
            yield Refusal(word.start, f"behind `{operator}`, where bash expands it twice")


def _declares_a_type(name: str, arguments: list[Word]) -> bool:
    """Whether a variable becomes a number, an array or a reference: assigning to it evaluates the value."""
    if name not in _DECLARING:
        return False
    options = [word.text for word in arguments if word.text.startswith(("-", "+"))]
    return name in ("integer", "float", "nameref") or not all(map(_TYPELESS.fullmatch, options))


def _makes_an_array(command: Command) -> bool:
    """Whether a variable becomes an array: bash evaluates `(…)` in what `declare` or `local` then gives it."""
    name, arguments = command.invocation()
    if name in ("mapfile", "readarray") or (name == "read" and any(map(_INTO_ARRAY.match, _texts(arguments)))):
        return True
    return any(ASSIGNMENT.match(text) and text.endswith(PARENTHESES) for text in _texts(command.words))


def _texts(words: list[Word]) -> list[str]:
    return [word.text for word in words]


def _assigned(command: Command, *, typed: bool) -> Iterator[Refusal]:
    for word in command.words:
        if MARK not in word.text:
            continue
        if _SUBSCRIPT.match(word.text):
            yield Refusal(word.start, "in a subscript, which the shell evaluates")
        elif match := ASSIGNMENT.match(word.text):
            if match[1] in _EVALUATED:
                yield Refusal(word.start, f"in `{match[1]}`, which the shell evaluates")
            elif typed:
                yield Refusal(word.start, "assigned in a command that declares numbers, arrays or references")


def _declared(arguments: list[Word], *, arrays: bool) -> Iterator[Refusal]:
    """Refuse all but `NAME=value`, and that too where an array may be filled: bash evaluates `(…)` in the value."""
    for word in arguments:
        if MARK in word.text and (arrays or not ASSIGNMENT.match(word.text)):
            yield Refusal(word.start, "in a declaration, other than as NAME=value")


def _taken_for_options(name: str, arguments: list[Word]) -> Iterator[Refusal]:
    """Refuse a mark where options are still looked for: `-vx[$(…)]` would be one."""
    named = False
    for word in arguments:
        is_option = word.text.startswith(("-", "+", MARK))
        if word.text == "--" or not (is_option or named):
            return
        yield from _marked([word], f"where `{name}` would take it for an option; a format or `--` must come first")
        named = bool(_NAMING_OPTION.fullmatch(word.text))


def _tested(arguments: list[Word], *, computes: bool) -> Iterator[Refusal]:
    texts = ["", *(word.text for word in arguments), ""]
    for before, word, after in zip(texts, arguments, texts[2:], strict=False):
        if MARK not in word.text:
            continue
        if before in _NAME_TESTS or before.startswith(MARK):
            yield Refusal(word.start, "where a test may want the name of a variable")
        elif computes and (before in _NUMBER_TESTS or after in _NUMBER_TESTS):
            yield Refusal(word.start, "in a number test, which the shell evaluates as arithmetic")


def _computed(name: str, arguments: list[Word], shell_name: str) -> Iterator[Refusal]:
    """Refuse what ksh and zsh compute where other shells want a plain number."""
    formats = name in ("printf", "print") and not (
        arguments and _NO_NUMBERS.fullmatch(arguments[0].text) and not arguments[0].text.startswith("-")
    )
    if name in _COMPUTING or formats:
        yield from _marked(arguments, f"as a word of `{name}`, where {shell_name} may evaluate it as arithmetic")
