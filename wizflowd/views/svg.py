"""A picture as SVG: self-contained, light and dark, no scripts. Called by `views.graph`; pure.

Cells come from `views.fold`, places from `views.layout`. Nothing has an id, so that several pictures can
stand inside one page.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from wizflowd.views.fold import Cell, Folded, fold
from wizflowd.views.layout import Box, Gaps, Layout, lay_out
from wizflowd.views.lettering import cut, markup, text_width
from wizflowd.views.palette import attention, look_of
from wizflowd.views.picture import Node, Picture
from wizflowd.views.sheet import classes_of, style_sheet

_MARGIN = 28.0
_CARD_HEIGHT = 46.0
_CARD_WIDTHS = (124.0, 252.0)
_TEXT_AT = 37.0
_ROW_HEIGHT = 25.0
_ROW_WIDTHS = (130.0, 240.0)
_ROW_SIDES = 46.0
_LIST_PADDING = 8.0
_LIST_TITLE = 24.0
_LIST_WIDTH = 1120.0
_LABEL, _SMALL, _TITLE = 13.0, 11.0, 19.0
_BOLD = 1.09
_ARROW = 7.0
_SPOKEN = 300
"""Characters of a text that tooltips and descriptions give in full."""
_VIEW = (1280.0, 1000.0)
"""What a picture should fit into: the direction of the flow is chosen so that it shrinks the least."""


@dataclass(frozen=True, slots=True)
class _Form:
    """The outer size of a cell and, for a list, how its rows stand."""

    width: float
    height: float
    rows: int = 1
    column_width: float = 0.0


def draw_svg(picture: Picture) -> str:
    """Return the picture as an SVG document. Raises `WizflowError` for a graph with a circle."""
    folded = fold(picture)
    forms = _forms(folded.cells)
    downward = _flows_down(folded, forms)
    boxes = [
        Box(c.rank, f.height if downward else f.width, f.width if downward else f.height)
        for c, f in zip(folded.cells, forms, strict=True)
    ]
    layout = lay_out(boxes, folded.edges, Gaps(34, 24, 22) if downward else Gaps(52, 16, 16))
    graph_width, graph_height = (layout.across, layout.along) if downward else (layout.along, layout.across)
    legend = _legend(picture.nodes)
    header, header_width, top = _header(picture, legend, graph_width)
    width = max(graph_width, header_width) + 2 * _MARGIN
    height = top + graph_height + _MARGIN
    left = (width - graph_width) / 2 if downward else _MARGIN
    body = [*_edges(folded, layout, boxes, downward=downward)]
    for cell, form, (along, across) in zip(folded.cells, forms, layout.centres, strict=True):
        x, y = (across, along) if downward else (along, across)
        body.extend(_cell(cell, form, x - form.width / 2, y - form.height / 2))
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="wf" role="img" {size}>',
        f"<title>{markup(picture.title[:_SPOKEN])}</title><desc>{markup(_description(picture, folded, legend))}</desc>",
        f"<style>{style_sheet(state for state, _ in legend)}</style>",
        '<rect class="wf-bg" width="100%" height="100%" rx="12"/>',
        *header,
        f'<g transform="translate({left:.1f} {top:.1f})">',
        *body,
        "</g></svg>\n",
    ]
    return "".join(parts)


def _forms(cells: Sequence[Cell]) -> list[_Form]:
    """Measure every cell; single tasks all get the width of the widest."""
    single = [cell.nodes[0] for cell in cells if not _is_list(cell)]
    widest = max(map(_card_width, single), default=0.0)
    return [_list_form(cell) if _is_list(cell) else _Form(widest, _CARD_HEIGHT) for cell in cells]


def _is_list(cell: Cell) -> bool:
    return bool(len(cell.nodes) != 1 or cell.hidden or cell.title)


def _card_width(node: Node) -> float:
    text = max(text_width(node.label, _LABEL * _BOLD), text_width(_second_line(node), _SMALL))
    return min(max(_TEXT_AT + text + 14, _CARD_WIDTHS[0]), _CARD_WIDTHS[1])


def _second_line(node: Node) -> str:
    return f"{node.kind} · {node.note}" if node.note else node.kind


def _list_form(cell: Cell) -> _Form:
    labels = max((text_width(node.label, 12) for node in cell.nodes), default=0.0)
    notes = max((text_width(node.note, _SMALL) + 8 * bool(node.note) for node in cell.nodes), default=0.0)
    more = max((text_width(_more(*hidden), _SMALL) for hidden in cell.hidden), default=0.0)
    column = min(max(_ROW_SIDES + 1 + max(labels + notes, more), _ROW_WIDTHS[0]), _ROW_WIDTHS[1])
    count = len(cell.nodes) + len(cell.hidden)
    columns = int(_LIST_WIDTH / column) if cell.title else max(1, round(sqrt(count * _ROW_HEIGHT * 1.4 / column)))
    rows = ceil(count / min(columns, count))
    columns = ceil(count / rows)
    height = rows * _ROW_HEIGHT + 2 * _LIST_PADDING + _LIST_TITLE * bool(cell.title)
    return _Form(columns * column + 2 * _LIST_PADDING, height, rows, column)


def _flows_down(folded: Folded, forms: Sequence[_Form]) -> bool:
    """Tell whether the flow goes down rather than to the right: stretches of ranks do, as wide lists read best so."""
    if any(cell.title for cell in folded.cells):
        return True
    widths: dict[int, list[float]] = {}
    heights: dict[int, list[float]] = {}
    for cell, form in zip(folded.cells, forms, strict=True):
        widths.setdefault(cell.rank, []).append(form.width)
        heights.setdefault(cell.rank, []).append(form.height)
    right = sum(max(w) + 64 for w in widths.values()), max((sum(h) + 16 * len(h) for h in heights.values()), default=0)
    down = max((sum(w) + 24 * len(w) for w in widths.values()), default=0), sum(max(h) + 42 for h in heights.values())
    return _shrink(*right) > 1.3 * max(1.0, _shrink(*down))


def _shrink(width: float, height: float) -> float:
    return max(width / _VIEW[0], height / _VIEW[1])


def _legend(nodes: Sequence[Node]) -> list[tuple[str, str]]:
    """Return (state, text) for each state that is there, in the order of attention."""
    counts = Counter(node.state for node in nodes)
    return [(state, f"{counts[state]:,} {state}") for state in sorted(counts, key=attention)]


def _header(picture: Picture, legend: list[tuple[str, str]], graph_width: float) -> tuple[list[str], float, float]:
    """Return the parts of the header, its width and where the graph starts below it."""
    room = max(graph_width, 420.0)
    title = cut(picture.title, room, _TITLE * _BOLD)
    subtitle = cut(picture.subtitle, room, 12)
    parts = [f'<text class="wf-title" x="{_MARGIN}" y="42">{markup(title)}</text>']
    y = 42.0
    if subtitle:
        y += 20
        parts.append(f'<text class="wf-small" x="{_MARGIN}" y="{y:.0f}">{markup(subtitle)}</text>')
    y += 26
    x = _MARGIN
    widest = max(text_width(title, _TITLE * _BOLD), text_width(subtitle, _SMALL))
    for state, text in legend:
        step = 22 + text_width(text, _SMALL) + 14
        if x > _MARGIN and x + step > _MARGIN + room:
            x, y = _MARGIN, y + 22
        parts.append(f'<g class="{classes_of(state)}">{_icon(state, x + 7, y - 4, 0.85)}')
        parts.append(f'<text class="wf-small" x="{x + 19:.1f}" y="{y:.0f}">{markup(text)}</text></g>')
        x += step
        widest = max(widest, x - _MARGIN)
    return parts, widest, y + 26


def _icon(state: str, x: float, y: float, scale: float = 1.0) -> str:
    icon = look_of(state).icon
    path = f'<path class="wf-icon" d="{icon}"/>' if icon else ""
    return f'<g transform="translate({x:.1f} {y:.1f}) scale({scale})"><circle class="wf-disc" r="8"/>{path}</g>'


def _cell(cell: Cell, form: _Form, x: float, y: float) -> Iterator[str]:
    if not _is_list(cell):
        yield _card(cell.nodes[0], form, x, y)
        return
    yield f'<g transform="translate({x:.1f} {y:.1f})">'
    yield f'<rect class="wf-card" width="{form.width:.1f}" height="{form.height}" rx="10"/>'
    top = _LIST_PADDING
    if cell.title:
        count = len(cell.nodes) + sum(count for _, count in cell.hidden)
        yield f'<text class="wf-small" x="{_LIST_PADDING + 6}" y="21">{cell.title} · {_tasks(count)}</text>'
        top += _LIST_TITLE
    for i, node in enumerate(cell.nodes):
        yield _row(node, *_row_place(i, form, top), form.column_width)
    for i, (state, count) in enumerate(cell.hidden, start=len(cell.nodes)):
        at_x, at_y = _row_place(i, form, top)
        yield f'<g class="{classes_of(state)}">{_icon(state, at_x + 14, at_y + 12.5, 0.8)}'
        more = cut(_more(state, count), form.column_width - _ROW_SIDES, _SMALL)
        yield f'<text class="wf-small" x="{at_x + 28:.1f}" y="{at_y + 16.5:.1f}">{markup(more)}</text></g>'
    yield "</g>"


def _more(state: str, count: int) -> str:
    return f"+ {count:,} more {state}"


def _row_place(i: int, form: _Form, top: float) -> tuple[float, float]:
    """Return the corner of a row; the rows go down the columns."""
    column, row = divmod(i, form.rows)
    return _LIST_PADDING + column * form.column_width, top + row * _ROW_HEIGHT


def _card(node: Node, form: _Form, x: float, y: float) -> str:
    room = form.width - _TEXT_AT - 10
    kind = markup(cut(node.kind, room, _SMALL))
    left = room - text_width(node.kind + " · ", _SMALL)
    note = f' · <tspan class="wf-note">{markup(cut(node.note, left, _SMALL))}</tspan>' if node.note else ""
    return (
        f'<g class="{classes_of(node.state)}" transform="translate({x:.1f} {y:.1f})"><title>{_tooltip(node)}</title>'
        f'<rect class="wf-card" width="{form.width:.1f}" height="{form.height}" rx="9"/>{_icon(node.state, 20, 23)}'
        f'<text class="wf-label" x="{_TEXT_AT}" y="20">{markup(cut(node.label, room, _LABEL * _BOLD))}</text>'
        f'<text class="wf-small" x="{_TEXT_AT}" y="35.5">{kind}{note}</text></g>'
    )


def _row(node: Node, x: float, y: float, width: float) -> str:
    room = width - _ROW_SIDES
    note = cut(node.note, max(room / 2, room - text_width(node.label, 12) - 8), _SMALL)
    label = cut(node.label, room - text_width(note, _SMALL) - 8 * bool(note), 12)
    place = f'text-anchor="end" x="{x + width - 12:.1f}" y="{y + 16.5:.1f}"'
    aside = f'<text class="wf-small wf-note" {place}>{markup(note)}</text>' if note else ""
    return (
        f'<g class="{classes_of(node.state)}"><title>{_tooltip(node)}</title>{_icon(node.state, x + 14, y + 12.5, 0.8)}'
        f'<text class="wf-row" x="{x + 28:.1f}" y="{y + 16.5:.1f}">{markup(label)}</text>{aside}</g>'
    )


def _tasks(count: int) -> str:
    return f"{count:,} task{'' if count == 1 else 's'}"


def _tooltip(node: Node) -> str:
    name = node.label if node.label == node.id else f"{node.label} ({node.id})"
    return markup(" · ".join(part[:_SPOKEN] for part in (name, node.kind, node.state, node.note) if part))


def _edges(folded: Folded, layout: Layout, boxes: Sequence[Box], *, downward: bool) -> Iterator[str]:
    """Draw the edges, then one arrow head at each box that has any; those to tasks that never ran are dotted."""
    headed = set()
    for (source, target), lanes in zip(folded.edges, layout.lanes, strict=True):
        headed.add(target)
        idle = " wf-idle" if all(look_of(n.state).faint for n in folded.cells[target].nodes) else ""
        start = layout.centres[source][0] + boxes[source].along / 2
        end = layout.centres[target][0] - boxes[target].along / 2 - _ARROW + 1
        path = _path(start, end, lanes, layout.bands[boxes[source].rank : boxes[target].rank + 1], downward=downward)
        yield f'<path class="wf-line{idle}" d="{path}"/>'
    for target in sorted(headed):
        along = layout.centres[target][0] - boxes[target].along / 2
        across = layout.centres[target][1]
        corners = ((along - _ARROW, across - 4.2), (along - 1, across), (along - _ARROW, across + 4.2))
        yield f'<path class="wf-head" d="M{"L".join(_point(*corner, downward=downward) for corner in corners)}Z"/>'


def _path(
    start: float, end: float, lanes: Sequence[float], bands: Sequence[tuple[float, float]], *, downward: bool
) -> str:
    """Go straight through the ranks, in the lanes, and swing from one to the next in the gaps between them."""
    parts = [f"M{_point(start, lanes[0], downward=downward)}"]
    along = start
    for i in range(1, len(lanes)):
        leave = bands[i - 1][1]
        reach = min(bands[i][0], end) if i == len(lanes) - 1 else bands[i][0]
        if leave > along:
            parts.append(f"L{_point(leave, lanes[i - 1], downward=downward)}")
        middle = (leave + reach) / 2
        curve = ((middle, lanes[i - 1]), (middle, lanes[i]), (reach, lanes[i]))
        parts.append("C" + " ".join(_point(*point, downward=downward) for point in curve))
        along = reach
    if end > along:
        parts.append(f"L{_point(end, lanes[-1], downward=downward)}")
    return "".join(parts)


def _point(along: float, across: float, *, downward: bool) -> str:
    x, y = (across, along) if downward else (along, across)
    return f"{x:.1f} {y:.1f}"


def _description(picture: Picture, folded: Folded, legend: Sequence[tuple[str, str]]) -> str:
    """Say in words what the picture shows."""
    failed = [node.label for node in picture.nodes if node.state == "failed"]
    parts = [picture.subtitle[:_SPOKEN], _tasks(len(picture.nodes)), ", ".join(text for _, text in legend)]
    if failed:
        parts.append(
            "failed: "
            + ", ".join(label[:_SPOKEN] for label in failed[:20])
            + (f" and {len(failed) - 20:,} more" if failed[20:] else "")
        )
    if folded.implied:
        parts.append(f"{folded.implied} dependencies that follow from others are not drawn")
    return "; ".join(part for part in parts if part)
