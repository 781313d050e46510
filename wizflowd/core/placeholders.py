r"""Placeholders: where `{{…}}` stands in a text, and texts and JSON values with the values put in, once.

In: texts of a definition, and a `Lookup` that knows the values. Out: references (for the plan) or filled texts (for
an attempt). Called by `core.plan` and the engine; `core.shell` fills commands. Source: SPEC section 1, Placeholders.

`\{{name}}` is the literal `{{name}}`; whatever has not the shape of a placeholder is left alone to the byte, also a
backslash before it.
"""

import re
from collections.abc import Callable, Iterator
from urllib.parse import quote, urlsplit

from msgspec import Struct

from wizflowd.core.values import Json, text_of, type_name
from wizflowd.errors import FillError

# Possessive quantifiers: a text of nothing but openings is read once (corpus: braces_open_20k.yaml).
_NAME = r"[A-Za-z_][A-Za-z0-9_-]*+"
_SHAPE = rf"(?:tasks\.[A-Za-z0-9][A-Za-z0-9_-]*+|{_NAME})(?:\.{_NAME}|\[[0-9]{{1,9}}\])*+"
_PLACEHOLDER = re.compile(rf"(\\)?\{{\{{({_SHAPE})\}}\}}")
_NEAR_MISS = re.compile(rf"(?<!\\)\{{\{{(?:[ \t]++{_SHAPE}[ \t]*+|{_SHAPE}[ \t]++)\}}\}}")
_STEP = re.compile(r"[^.\[\]]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_TAB = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class Reference(Struct, frozen=True):
    """What stands between the braces: `items[0].id` is `text`, `("items", 0, "id")` its `steps`."""

    text: str
    steps: tuple[str | int, ...]


Lookup = Callable[[Reference], Json]
"""Gives the value of a reference, or raises `FillError`."""


def pieces(text: str) -> Iterator[tuple[int, str | Reference]]:
    """Yield the offset and content of each stretch: a reference, or literal text with its escapes undone."""
    position = 0
    for match in _PLACEHOLDER.finditer(text) if "{{" in text else ():
        if position < match.start():
            yield position, text[position : match.start()]
        yield match.start(), match[0][1:] if match[1] else _reference(match[2])
        position = match.end()
    if position < len(text):
        yield position, text[position:]


def find(text: str) -> tuple[tuple[int, Reference], ...]:
    """Return the placeholders in `text` with their offsets, in order."""
    if "{{" not in text:
        return ()
    return tuple((offset, piece) for offset, piece in pieces(text) if isinstance(piece, Reference))


def near_misses(text: str) -> tuple[str, ...]:
    """Return what would be a placeholder without the blanks in its braces, as written: `{{ name }}`."""
    return tuple(match[0] for match in _NEAR_MISS.finditer(text)) if "{{" in text else ()


def walk(value: Json, steps: tuple[str | int, ...], reference: Reference) -> Json:
    """Return what `steps` lead to inside `value`; a step that leads nowhere is a `FillError` that names both."""
    for step in steps:
        match value, step:
            case dict(), str() if step in value:
                value = value[step]
            case list(), int() if step < len(value):
                value = value[step]
            case _:
                raise FillError(
                    f"cannot fill {{{{{reference.text}}}}}: {_missing(value, step)}",
                    hint="look at the value that the earlier task gave",
                )
    return value


def fill_text(text: str, lookup: Lookup) -> str:
    """Return `text` with each placeholder as the text of its value."""
    return "".join(p if isinstance(p, str) else text_of(lookup(p)) for _, p in pieces(text))


def fill_value(value: Json, lookup: Lookup) -> Json:
    """Return a JSON value with its strings filled; one that is a single placeholder takes the value's own type.

    Keys are left alone.
    """
    match value:
        case str():
            parts = [piece for _, piece in pieces(value)]
            if len(parts) == 1 and isinstance(parts[0], Reference):
                return lookup(parts[0])
            return fill_text(value, lookup)
        case list():
            return [fill_value(item, lookup) for item in value]
        case dict():
            return {key: fill_value(item, lookup) for key, item in value.items()}
        case _:
            return value


def fill_url(text: str, lookup: Lookup) -> str:
    """Return a URL with its values percent-encoded; a placeholder that begins the URL is taken as it is.

    Raises `FillError` unless the result is http or https with a host and without control characters. Messages show
    the URL as written, never the values: they may be secret.
    """
    filled = []
    for offset, piece in pieces(text):
        if isinstance(piece, str):
            filled.append(piece)
            continue
        value = text_of(lookup(piece))
        if _CONTROL.search(value) and offset == 0:
            raise FillError(f"cannot fill {{{{{piece.text}}}}} into the URL {text!r}: it holds control characters")
        filled.append(value if offset == 0 else quote(value, safe="", errors="surrogatepass"))
    url = "".join(filled)
    if fault := _url_fault(url):
        raise FillError(f"cannot use the URL {text!r}: {fault}", hint="write http://HOST/… or https://HOST/…")
    return url


def fill_header(text: str, lookup: Lookup) -> str:
    """Return a header's value with its placeholders filled; control characters but tab are a `FillError`."""
    for _, piece in pieces(text):
        if isinstance(piece, Reference) and _CONTROL_BUT_TAB.search(text_of(lookup(piece))):
            raise FillError(
                f"cannot fill {{{{{piece.text}}}}} into a header: it holds a line end or another control character",
                hint="strip the value in the task that gives it",
            )
    filled = fill_text(text, lookup)
    if _CONTROL_BUT_TAB.search(filled):
        raise FillError(f"cannot send the header {text!r}: it holds control characters")
    return filled


def _reference(text: str) -> Reference:
    steps: list[str | int] = []
    for match in _STEP.finditer(text):
        is_index = match.start() > 0 and text[match.start() - 1] == "["
        steps.append(int(match[0]) if is_index else match[0])
    return Reference(text, tuple(steps))


def _missing(value: Json, step: str | int) -> str:
    match value, step:
        case dict(), str():
            return f"there is no field {step!r}"
        case list(), int():
            return f"there is no item [{step}] in a list of {len(value)}"
        case _:
            wanted = f"field {step!r}" if isinstance(step, str) else f"item [{step}]"
            return f"a {type_name(value)} has no {wanted}"


def _url_fault(url: str) -> str:
    """Return why no request can go to `url`, or nothing."""
    if _CONTROL.search(url):
        return "it holds control characters"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "its host or port cannot be read"
    if parts.scheme not in ("http", "https"):
        return "it is neither http nor https"
    return "" if host else "it has no host"
