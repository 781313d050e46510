"""Secrets that stand in a definition in clear: what is named like one, and logins within texts.

In: a valid definition. Out: warnings as problems, for `core.compile`; none shows the secret. Names decide, so that a
warning can always be understood; what a value looks like is not guessed at.
"""

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl

from wizflowd.core.definition import Definition
from wizflowd.core.placeholders import find
from wizflowd.core.references import field_of, placed, texts_of
from wizflowd.errors import Problem

Path = tuple[str | int, ...]

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NOUNS = frozenset(
    ("password", "passwd", "passphrase", "pwd", "secret", "token", "apikey", "accesskey", "privatekey", "secretkey")
)
_SCHEMES = frozenset(("bearer", "basic", "token"))
_FREE_NAMES = frozenset(("env", "inputs", "query", "headers", "params"))
"""Fields below which people choose the names."""
_ELSEWHERE = ("/", "./", "~/", "file:", "http://", "https://")
"""How a text begins that says where the secret is."""
_NO_SECRET = re.compile(r"true|false|null|none|\d{1,5}|\*+|.{0,3}", re.IGNORECASE)
_LONGEST_TEXT = 64 * 1024
_BETTER = "declare it in secrets, and write {{secrets.NAME}}"
_USER_INFO = re.compile(
    r"(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,20}+://[^\s/:@'\"{}$<>]*+:[^\s/:@'\"{}$<>]++@", re.IGNORECASE
)
_AUTHORIZATION = re.compile(r"\bauthorization:\s*+(?:bearer|basic|token)\s++[a-z0-9._~+/=-]{8}", re.IGNORECASE)


def clear_secrets(definition: Definition) -> Iterator[Problem]:
    """Yield a warning for each secret in clear, in the order of the file's parts."""
    for name, param in definition.params.items():
        if isinstance(param.default, str) and (_is_secret(name, param.default) or _holds_login(param.default)):
            hint = "leave the default out (required: true), or make it one of secrets"
            yield _warning(("params", name), hint)
    for name, text in definition.env.items():
        yield from _in_text(("env", name), text)
    places = placed(definition)
    for task in definition.all_tasks:
        for path, text in texts_of(task):
            place = (*places[task.id], *path)
            yield from _literal(place, text) if field_of(path) in task.secret else _in_text(place, text)


def _literal(path: Path, text: str) -> Iterator[Problem]:
    if _is_literal(text):
        yield _warning(path, _BETTER)


def _in_text(path: Path, text: str) -> Iterator[Problem]:
    name = str(path[-1])
    if path[-2:-1] == ("headers",) and name.lower() in ("authorization", "proxy-authorization"):
        scheme, _, login = text.partition(" ")
        found = _is_literal(login if scheme.lower() in _SCHEMES else text)
    else:
        chosen = path[-2] in _FREE_NAMES or "body" in path[:-1]
        found = (chosen and _is_secret(name, text)) or _holds_login(text)
    if found:
        yield _warning(path, _BETTER)


def _warning(path: Path, hint: str) -> Problem:
    return Problem(path, "a secret in clear: whoever reads this file can read it", hint)


def _is_secret(name: str, text: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    return not _NOUNS.isdisjoint((*words[-1:], "".join(words[-2:]))) and _is_literal(text)


def _is_literal(text: str) -> bool:
    """Return whether a text could be a secret itself, rather than say where it is."""
    bare = text.strip()
    return not ("$" in bare or find(bare) or bare.startswith(_ELSEWHERE) or _NO_SECRET.fullmatch(bare))


def _holds_login(text: str) -> bool:
    text = text[:_LONGEST_TEXT]
    if _AUTHORIZATION.search(text) or ("://" in text and _USER_INFO.search(text)):
        return True
    address, _, query = text.partition("?")
    if not address.lower().startswith(("http://", "https://")) or " " in text:
        return False
    return any(_is_secret(name, value) for name, value in parse_qsl(query))
