"""What a person did who wrote text that is not JSON, from where the parser stopped. Called by the JSON tree only."""

import json
import re
from typing import NamedTuple

from wizflowd.core.places import shown

_CONFLICT = re.compile(r"^[ \t]*(?:<{7}|>{7})(?: |$)", re.MULTILINE)
_MARKUP = re.compile(r"\s*<(?:!doctype|html|\?xml)", re.IGNORECASE)
_NOT_BLANK = re.compile(r"\S")
_WORD = re.compile(r"[A-Za-z_$][\w$.-]*")
_OTHER_LANGUAGES = {"True": "true", "False": "false", "None": "null", "undefined": "null", "nil": "null", "~": "null"}
_BY_CHARACTER = {
    "'": ("single quotes", 'write texts and keys in double quotes: "text"'),
    "#": ("a JSON file has no comments", "take it out, or make it a .yaml file"),
    "+": ("a JSON number has no + in front", "take the + out"),
    ".": ("a JSON number needs digits before and after its point", "write 0.5, not .5"),
    "`": ("backquotes", 'write texts and keys in double quotes: "text"'),
    "“": ("typographic quotes", 'write plain double quotes: "text"'),
    "”": ("typographic quotes", 'write plain double quotes: "text"'),
    "‘": ("typographic quotes", 'write plain double quotes: "text"'),
    "=": ("an = where JSON has a colon", 'write "key": value'),
    ";": ("a semicolon", "JSON separates with commas"),
}


class Mistake(NamedTuple):
    """The offset into the text that a person should look at, what is wrong there and what would be right."""

    offset: int
    what: str
    hint: str


def mistake_of(text: str, error: json.JSONDecodeError) -> Mistake:
    """Return what is wrong with `text`, given the error of the standard library."""
    if markup := _MARKUP.match(text):
        return Mistake(markup.end() - len(markup[0].lstrip()), "this is a web page, not JSON", "download it again")
    if conflict := _CONFLICT.search(text):
        return Mistake(conflict.start(), "a merge conflict is left in the file", "keep one of the two versions")
    offset = error.pos
    if error.msg.startswith("Unterminated string"):
        return Mistake(offset, "a text that is not closed", 'put a " at its end; the file may be cut')
    if error.msg.startswith("Invalid control character"):
        return _raw_control(text, offset)
    if error.msg.startswith("Invalid \\"):
        return Mistake(offset, "an escape that JSON does not have", r"write \\ for a backslash")
    here = _NOT_BLANK.search(text, offset)
    if not here:
        return Mistake(offset, "the file ends too early", "a closing } or ] is missing; the file may be cut")
    return _by_character(text, here.start()) or _by_expectation(text, here.start(), error.msg)


def _raw_control(text: str, offset: int) -> Mistake:
    if text[offset] == "\t":
        return Mistake(offset, "a raw tab inside a text", r"write \t")
    return Mistake(offset, "a raw line end inside a text", r'write \n, or close the text with "')


def _by_character(text: str, offset: int) -> Mistake | None:
    """Return the mistake that the character at `offset` gives away."""
    character, before = text[offset], text[max(0, offset - 200) : offset].rstrip()[-1:]
    if text.startswith(("//", "/*"), offset):
        return Mistake(offset, *_BY_CHARACTER["#"])
    if (character in "}]," and before in ("[", "{", ":")) or character == before == ",":
        return Mistake(offset, f'a value is missing before "{character}"', "write it, or take the separator out")
    if character in "}]" and before == ",":
        comma = text.rindex(",", 0, offset)
        return Mistake(comma, f'a comma before "{character}"', "JSON has no trailing comma: take it out")
    if character == "," and (after := _NOT_BLANK.search(text, offset + 1)) and after[0] in "}]":
        return Mistake(offset, f'a comma before "{after[0]}"', "JSON has no trailing comma: take it out")
    if character in "xXoObB0123456789" and text[offset - 1 : offset] == "0":
        return Mistake(offset - 1, "a number that JSON does not have", "write it in decimal without leading zeros")
    if character in _BY_CHARACTER:
        return Mistake(offset, *_BY_CHARACTER[character])
    return None


def _by_expectation(text: str, offset: int, expected: str) -> Mistake:
    """Return the mistake by what the parser waited for at `offset`."""
    found = shown(text[offset])
    word = _WORD.match(text, offset)
    if word and "value" in expected:
        hint = f"write {_OTHER_LANGUAGES[word[0]]}" if word[0] in _OTHER_LANGUAGES else "put a text in double quotes"
        return Mistake(offset, f"{shown(word[0])} is not a JSON value", hint)
    if expected.startswith("Extra data"):
        return Mistake(offset, f"the definition ended before this {found}", "one file holds one { } and nothing else")
    if "',' delimiter" in expected:
        return Mistake(
            offset, f"a comma is missing before {found}", "separate with commas; a text ends at its second quote"
        )
    if "':' delimiter" in expected:
        return Mistake(offset, f"a colon is missing before {found}", 'write "key": value')
    if "property name" in expected:
        hint = f'write "{shown(word[0])}"' if word else 'write "key": value'
        return Mistake(offset, f"a key in double quotes is missing before {found}", hint)
    return Mistake(
        offset, f"{found} is not a JSON value", "write a text in double quotes, a number, true, false, null, [ ] or { }"
    )
