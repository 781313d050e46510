"""`wizflow graph`: the picture of a workflow as SVG, PNG, Graphviz or Mermaid text."""

import argparse
import sys

from wizflowd.cli.source import absolute, compile_file, read_source, usable_config
from wizflowd.core.compile import Compiled
from wizflowd.errors import RequestError
from wizflowd.views.graph import Node, Picture, draw_dot, draw_mermaid, draw_png, draw_svg


def graph(options: argparse.Namespace) -> int:
    """Draw the workflow to a file, by its suffix, or as SVG on stdout."""
    config = usable_config(options.config)
    data = read_source(options.file, config.limits.definition.load_limits())
    picture = _picture(compile_file(absolute(options.file), data, config))
    suffix = options.output.suffix.lower() if options.output else ".svg"
    match suffix:
        case ".svg":
            drawn = draw_svg(picture).encode()
        case ".png":
            drawn = draw_png(picture)
        case ".dot":
            drawn = draw_dot(picture).encode()
        case ".mmd":
            drawn = draw_mermaid(picture).encode()
        case _:
            raise RequestError("bad_output", f"cannot draw {options.output}: it must end in .svg, .png, .dot or .mmd")
    if options.output is None:
        sys.stdout.buffer.write(drawn)
        return 0
    try:
        options.output.write_bytes(drawn)
    except OSError as exc:
        raise RequestError("bad_output", f"cannot write {options.output}: {exc.strerror}") from exc
    return 0


def _picture(compiled: Compiled) -> Picture:
    definition, graph = compiled.definition, compiled.graph
    nodes = tuple(
        Node(task.id, task.name or task.id, task.type, "planned", "", graph.level[task.id]) for task in definition.tasks
    )
    edges = tuple((need, task) for task, needs in graph.needs.items() for need in needs)
    return Picture(definition.workflow_name, definition.description, nodes, edges)
