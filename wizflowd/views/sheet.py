"""The style sheet of a picture: what has a colour has a class, in a light and a dark form. Called by `views.svg`.

Classes start with `wf-`, so that a picture can stand inside a page. The light part keeps to the CSS that resvg knows.
"""

from collections.abc import Iterable

from wizflowd.views.palette import LOOKS, look_of

_STYLE = """
.wf text{font-family:ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
.wf-bg{fill:#f6f8fa}.wf-card{fill:#fff;stroke:#d1d9e0}.wf-label{fill:#1f2328;font-size:13px;font-weight:600}
.wf-small{fill:#59636e;font-size:11px}.wf-title{fill:#1f2328;font-size:19px;font-weight:600}
.wf-row{fill:#1f2328;font-size:12px}.wf-line{fill:none;stroke:#9aa4af;stroke-width:1.5}
.wf-head{fill:#9aa4af}.wf-idle{stroke-dasharray:2 4;stroke-linecap:round}
.wf-icon{fill:none;stroke:#fff;stroke-width:1.7;stroke-linecap:round;stroke-linejoin:round}
.wf-faint .wf-card{stroke-dasharray:4 3}
.wf-faint .wf-label,.wf-faint .wf-row{fill:#59636e}
"""
_STYLE_DARK = """
.wf-bg{fill:#0d1117}.wf-card{fill:#171c24;stroke:#343b45}.wf-label,.wf-title,.wf-row{fill:#e6edf3}
.wf-small{fill:#9198a1}.wf-line{stroke:#5b6570}.wf-head{fill:#5b6570}.wf-icon{stroke:#0d1117}
.wf-faint .wf-label,.wf-faint .wf-row{fill:#9198a1}
"""


def style_sheet(states: Iterable[str]) -> str:
    """Return the style sheet with the states that are there."""
    light, dark = [_STYLE], [_STYLE_DARK]
    for state in dict.fromkeys(state if state in LOOKS else "other" for state in states):
        look = look_of(state)
        for sheet, colour, tint in (
            (light, look.light, look.tint and look.tint[:2]),
            (dark, look.dark, look.tint and look.tint[2:]),
        ):
            disc = f"fill:none;stroke:{colour};stroke-width:1.6" if look.open else f"fill:{colour}"
            sheet.append(f".wf-{state} .wf-disc{{{disc}}}")
            if look.open:
                sheet.append(f".wf-{state} .wf-icon{{stroke:{colour}}}")
            if tint:
                sheet.append(
                    f".wf-{state} .wf-card{{fill:{tint[0]};stroke:{tint[1]}}}.wf-{state} .wf-note{{fill:{colour}}}"
                )
    return "".join(light) + "@media (prefers-color-scheme:dark){" + "".join(dark) + "}"


def classes_of(state: str) -> str:
    """Return the classes of what shows a state."""
    name = state if state in LOOKS else "other"
    return f"wf-{name} wf-faint" if look_of(state).faint else f"wf-{name}"
