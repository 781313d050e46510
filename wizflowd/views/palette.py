"""How each state of a task looks: its sign, its colours and its icon. Used by the pictures and by the progress lines,
so that one state looks the same everywhere. A state is never told by colour alone."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """`icon` is an SVG path on a disc of radius 8 round the origin; an `open` disc is an outline (nothing happened
    yet); `faint` cards recede; `tint` is the card's (fill, stroke), light then dark. `terminal` is a style of rich."""

    sign: str
    light: str
    dark: str
    terminal: str
    icon: str = ""
    open: bool = False
    faint: bool = False
    tint: tuple[str, str, str, str] | None = None


LOOKS: dict[str, Look] = {
    "failed": Look(
        "✗", "#cf222e", "#ff7b72", "bold red", "M-3 -3L3 3M3 -3L-3 3", tint=("#fff1f0", "#e5534b", "#2d1517", "#f85149")
    ),
    "tolerated": Look(
        "!", "#9a6700", "#e3b341", "yellow", "M0 -4V.8M0 3.6V3.7", tint=("#fff8e1", "#d4a72c", "#272014", "#9e7a26")
    ),
    "running": Look(
        "▶", "#0969da", "#58a6ff", "blue", "M-1.6 -3L3 0L-1.6 3Z", tint=("#eef6ff", "#54a0f0", "#0f2036", "#388bfd")
    ),
    "retrying": Look(
        "↻",
        "#bc4c00",
        "#f0883e",
        "yellow",
        "M3.2 -1.9A3.8 3.8 0 1 0 3.7 1.2M3.7 -4.3V-1.6H1",
        tint=("#fff4ea", "#e38b4f", "#2a1a0e", "#bd6528"),
    ),
    "paused": Look(
        "‖", "#8250df", "#bc8cff", "magenta", "M-1.9 -3V3M1.9 -3V3", tint=("#f8f2ff", "#b188ee", "#20162f", "#8957e5")
    ),
    "succeeded": Look("✓", "#1a7f37", "#3fb950", "green", "M-3.6 .3L-1.1 2.8L3.6 -2.6"),
    "reused": Look("=", "#0e7490", "#39c5cf", "cyan", "M-3.2 -1.7H3.2M-3.2 1.7H3.2"),
    "skipped": Look(
        "↷", "#6e7781", "#8b949e", "bright_black", "M-3.8 1.6C-2.6 -3 1.8 -3 3 .6M3.6 -2.4L3 .9L-.2 .2", faint=True
    ),
    "cancelled": Look("⊘", "#57606a", "#9aa3ad", "bright_black", "M-3.4 3.4L3.4 -3.4", faint=True),
    "pending": Look("○", "#7d8590", "#7d8590", "bright_black", open=True),
    "planned": Look("◇", "#0969da", "#58a6ff", "blue", "M0 -2.6L2.6 0L0 2.6L-2.6 0Z", open=True),
}
"""In the order of attention: what a person should see first comes first."""

_UNKNOWN = Look("?", "#57606a", "#9aa3ad", "default", "M0 -2V2", open=True)


def look_of(state: str) -> Look:
    """Return the look of a state, a plain one where it is not known."""
    return LOOKS.get(state, _UNKNOWN)


def attention(state: str) -> int:
    """Return the place of a state in the order of attention, from 0 (a failure)."""
    return _ORDER.get(state, len(_ORDER))


_ORDER = {state: place for place, state in enumerate(LOOKS)}
