"""Text for pictures: how wide it is about, cut to a width, safe in markup. Called by the drawing of `views`.

No font is at hand when a picture is made, so widths err on the wide side (DejaVu Sans, the widest usual one).
"""

import html
import unicodedata
from functools import lru_cache

from wizflowd.errors import printable

_MEASURED = 1_000
"""More characters than fit any box: the rest need not be measured."""
_JOINERS = "\u200c\u200d"
_NARROW = frozenset("iljtfrI.,:;'|!()[]{}-/ \u2026·")
_WIDE = frozenset("mwMW@%\u2014")


def shown(text: str) -> str:
    """Return `text` as it may be shown: control characters escaped, the joiners inside emoji and scripts kept."""
    if text.isprintable():
        return text
    return "".join(c if c in _JOINERS else printable(c) for c in text)


def markup(text: str) -> str:
    """Return `text` for the content or an attribute of XML."""
    return html.escape(shown(text))


@lru_cache(maxsize=2048)
def _advance(char: str) -> float:
    if char in _JOINERS or unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me"}:
        return 0.0
    if unicodedata.east_asian_width(char) in {"W", "F"} or ord(char) > 0x1F000:
        return 1.2 if ord(char) > 0x1F000 else 1.0
    if char in _NARROW:
        return 0.38
    if char in _WIDE:
        return 0.98
    return 0.72 if char.isupper() else 0.63


def text_width(text: str, size: float) -> float:
    """Return about how many pixels `text` takes at a font size in pixels; of a very long one, its beginning."""
    return size * sum(map(_advance, text[:_MEASURED]))


def cut(text: str, width: float, size: float) -> str:
    """Return `text` as it may be shown, cut with an ellipsis so that it takes at most `width` pixels."""
    text = shown(text[: _MEASURED + 1])
    if len(text) * size * 1.2 <= width or text_width(text, size) <= width:
        return text
    left = width - text_width("…", size)
    for place, char in enumerate(text):
        left -= size * _advance(char)
        if left < 0:
            return text[:place].rstrip(_JOINERS + " ") + "…"
    return text
