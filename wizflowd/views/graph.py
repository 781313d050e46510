"""The picture of a workflow, in the formats people ask for. Called by the results (`graph.svg`) and by `wizflow graph`;
pure functions, no I/O. SVG and PNG fold large graphs; DOT and Mermaid are for other programs and hold every task."""

from collections import Counter

from wizflowd.errors import WizflowError
from wizflowd.views.lettering import shown
from wizflowd.views.palette import attention, look_of
from wizflowd.views.picture import Node, Picture
from wizflowd.views.svg import draw_svg

__all__ = ["Node", "Picture", "draw_dot", "draw_mermaid", "draw_png", "draw_svg"]

_MAX_PIXELS = 32_000_000


def draw_png(picture: Picture, scale: float = 2) -> bytes:
    """Return the picture as PNG, `scale` pixels per point, fewer where it would be past 32 million pixels."""
    try:
        import resvg_py
    except ImportError as exc:
        message = "cannot draw a PNG: resvg-py is not installed"
        raise WizflowError(message, hint="pip install 'wizflowd[graph]'") from exc

    svg = draw_svg(picture)
    width, height = _size_of(svg)
    zoom = min(scale, (_MAX_PIXELS / (width * height)) ** 0.5)
    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=zoom, background="#ffffff"))
    except ValueError as exc:
        raise WizflowError(f"cannot draw a PNG of {shown(picture.title)}: {exc}", hint="draw an SVG") from exc


def _size_of(svg: str) -> tuple[float, float]:
    _, _, width, height = svg.split('viewBox="', 1)[1].split('"', 1)[0].split()
    return float(width), float(height)


def draw_dot(picture: Picture) -> str:
    """Return the picture in the language of Graphviz."""
    lines = [
        f"digraph {_dot_text(picture.title)} {{",
        f"  graph [rankdir=LR, label={_dot_text(_heading(picture))}, labelloc=t, fontname=sans]",
        '  node [shape=box, style="rounded,filled", fillcolor=white, fontname=sans]',
    ]
    for node in picture.nodes:
        look = look_of(node.state)
        style = ', style="rounded,filled,dashed"' if look.faint else ""
        fill = f', fillcolor="{look.tint[0]}"' if look.tint else ""
        label = "\\n".join((_dot_escape(f"{look.sign} {node.label}"), _dot_escape(_details(node))))
        lines.append(f'  {_dot_text(node.id)} [label="{label}", color="{look.light}"{fill}{style}]')
    lines.extend(f"  {_dot_text(source)} -> {_dot_text(target)}" for source, target in picture.edges)
    return "\n".join([*lines, "}", ""])


def draw_mermaid(picture: Picture) -> str:
    """Return the picture as a Mermaid flow chart; nodes are numbered, since ids may be Mermaid's own words."""
    name = {node.id: f"n{i}" for i, node in enumerate(picture.nodes)}
    lines = ["---", f"title: {_yaml_text(_heading(picture))}", "---", "flowchart LR"]
    for node in picture.nodes:
        look = look_of(node.state)
        label = f"{_mermaid_escape(f'{look.sign} {node.label}')}<br/>{_mermaid_escape(_details(node))}"
        lines.append(f'  {name[node.id]}["{label}"]:::{_mermaid_class(node.state)}')
    lines.extend(f"  {name[a]} --> {name[b]}" for a, b in picture.edges if a in name and b in name)
    for state in sorted(Counter(node.state for node in picture.nodes), key=attention):
        look = look_of(state)
        fill = look.tint[0] if look.tint else "#ffffff"
        dashed = ",stroke-dasharray:4 3" if look.faint else ""
        lines.append(f"  classDef {_mermaid_class(state)} fill:{fill},stroke:{look.light},color:#1f2328{dashed}")
    return "\n".join([*lines, ""])


def _heading(picture: Picture) -> str:
    return f"{picture.title} · {picture.subtitle}" if picture.subtitle else picture.title


def _details(node: Node) -> str:
    return " · ".join(part for part in (node.kind, node.state, node.note) if part)


def _dot_escape(text: str) -> str:
    return shown(text).replace("\\", "\\\\").replace('"', '\\"')


def _dot_text(text: str) -> str:
    return f'"{_dot_escape(text)}"'


def _yaml_text(text: str) -> str:
    return '"' + shown(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _mermaid_class(state: str) -> str:
    """Return a class name; a prefix keeps it clear of Mermaid's own words."""
    return "is_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in state)


def _mermaid_escape(text: str) -> str:
    """Write everything that Mermaid, Markdown or HTML could read as its own as a character code."""
    return "".join(c if c.isalnum() or c in " ·_-.,:+=" or ord(c) > 127 else f"#{ord(c)};" for c in shown(text))
