"""Text for people on stdout: tables and colour where that is a terminal, plain lines with tabs elsewhere (SPEC 7).

In: rows of cells. Out: lines, with control characters escaped and as wide as the terminal. Called by the commands.
"""

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from wizflowd.errors import printable

_CODES = {
    "bold": "1",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
    "bright_black": "90",
}
_GAP = 2
_NARROWEST = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with the style that it has on a terminal; `plain` is what stands for it elsewhere, None: the text."""

    text: str
    style: str = ""
    plain: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `sign`: only on a terminal. `flexible`: cut first where the terminal is too narrow.

    `spare`: left out where that is not enough, the last one first.
    """

    title: str
    right: bool = False
    sign: bool = False
    flexible: bool = False
    spare: bool = False


class Terminal:
    """Stdout, as it is when a command starts."""

    def __init__(self) -> None:
        self._out = sys.stdout
        self.is_one = self._out.isatty()
        self._coloured = self.is_one and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in {"", "dumb"}
        self._width = _columns() if self.is_one else 0

    def say(self, *pieces: str | Cell) -> None:
        """Write one line of pieces, at once."""
        print("".join(self.painted(_cell(piece)) for piece in pieces).rstrip(), flush=True)

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str | Cell]]) -> None:
        """Write a table; elsewhere than on a terminal its rows alone, columns apart by tabs and nothing cut."""
        cells = [[_cell(value) for value in row] for row in rows]
        if not self.is_one:
            for row in cells:
                shown = [cell for cell, column in zip(row, columns, strict=True) if not column.sign]
                print("\t".join(self.painted(cell) for cell in shown))
            return
        titles = [Cell(column.title, "bright_black") for column in columns]
        lines = [[_shown(cell) for cell in row] for row in ([titles] if any(c.title for c in columns) else []) + cells]
        kept = list(range(len(columns)))
        while True:
            fitting = [columns[place] for place in kept]
            widths = self._widths(fitting, [[line[place] for place in kept] for line in lines])
            spare = [place for place in kept if columns[place].spare]
            if not spare or sum(widths) + _GAP * (len(widths) - 1) <= self._width:
                break
            kept.remove(spare[-1])
        for line in lines:
            cut = [line[place] for place in kept]
            print((" " * _GAP).join(map(self._aligned, cut, fitting, widths)).rstrip())

    def json(self, value: Any) -> None:
        """Write a value for programs."""
        print(json.dumps(value, ensure_ascii=False, indent=1))

    def _widths(self, columns: Sequence[Column], lines: Sequence[Sequence[Cell]]) -> list[int]:
        """Return how wide each column is: as its widest cell, the flexible ones cut to what is left for them."""
        widths = [max((_width(line[place].text) for line in lines), default=0) for place in range(len(columns))]
        flexible = [place for place, column in enumerate(columns) if column.flexible]
        over = sum(widths) + _GAP * (len(columns) - 1) - self._width
        while over > 0 and flexible:
            widest = max(flexible, key=lambda place: widths[place])
            if widths[widest] <= _NARROWEST:
                break
            widths[widest] -= 1
            over -= 1
        return widths

    def _aligned(self, cell: Cell, column: Column, width: int) -> str:
        text = _fitted(cell.text, width)
        room = " " * (width - _width(text))
        painted = self.painted(Cell(text, cell.style))
        return room + painted if column.right else painted + room

    def painted(self, cell: Cell) -> str:
        """Return a cell as it is written."""
        if not self.is_one:
            return printable(cell.text if cell.plain is None else cell.plain)
        text = printable(cell.text)
        codes = ";".join(_CODES[word] for word in cell.style.split() if word in _CODES)
        return f"\x1b[{codes}m{text}\x1b[0m" if self._coloured and codes and text else text


def _columns() -> int:
    """Return how wide the terminal is: by COLUMNS, else as it says itself."""
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(sys.stdout.fileno()).columns) or 80
    except (OSError, ValueError):
        return 80


def _cell(value: str | Cell) -> Cell:
    return Cell(value) if isinstance(value, str) else value


def _shown(cell: Cell) -> Cell:
    return Cell(printable(cell.text), cell.style)


def _width(text: str) -> int:
    """Return how many columns a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _fitted(text: str, width: int) -> str:
    """Return a text, cut where it is wider than a column."""
    if _width(text) <= width:
        return text
    while text and _width(text) >= width:
        text = text[:-1]
    return f"{text}…"
