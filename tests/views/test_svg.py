import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

from tests.views.pictures import chain, layered, node, picture
from wizflowd.views.graph import Picture, draw_svg
from wizflowd.views.lettering import cut, text_width
from wizflowd.views.palette import LOOKS

SVG = "{http://www.w3.org/2000/svg}"


def test_a_picture_is_well_formed_and_names_its_tasks_and_their_states() -> None:
    root = _parsed(
        Picture("etl", "run 1", (node("fetch", note="0.4 s"), node("count", "failed", note="exit code 7")), ())
    )

    assert root.findtext(f"{SVG}title") == "etl"
    assert root.findtext(f"{SVG}desc") == "run 1; 2 tasks; 1 failed, 1 succeeded; failed: count"
    assert _tooltips(root) == ["fetch · SHELL · succeeded · 0.4 s", "count · SHELL · failed · exit code 7"]


def test_names_that_are_markup_or_control_characters_are_text() -> None:
    hostile = '<script>alert("x")</script>&amp;\x1b[31m\x00\u202e\ud800\ufffe'
    text = draw_svg(Picture(hostile, hostile, (node("a", label=hostile, note=hostile),), ()))

    root = ElementTree.fromstring(text)

    assert root.findtext(f"{SVG}title") == '<script>alert("x")</script>&amp;\\x1b[31m\\x00\\u202e\\ud800\\ufffe'
    assert not list(root.iter(f"{SVG}script"))
    text.encode()


def test_a_picture_needs_nothing_from_elsewhere_and_has_no_ids_to_clash() -> None:
    text = draw_svg(layered(4, 4))

    assert text.count("http") == 1  # the namespace
    assert "<script" not in text
    assert " id=" not in text
    assert "prefers-color-scheme:dark" in text


def test_each_state_has_a_colour_and_a_sign_of_its_own() -> None:
    signs = {look.sign for look in LOOKS.values()}

    text = draw_svg(Picture("all", "", tuple(node(state, state) for state in LOOKS), ()))

    assert len(signs) == len(LOOKS)
    for state, look in LOOKS.items():
        assert f"wf-{state}" in text
        assert look.icon in text
        assert f"1 {state}</text>" in text


def test_an_unknown_state_is_drawn_and_cannot_become_a_class() -> None:
    text = draw_svg(Picture("odd", "", (node("a", 'x"><b>'),), ()))

    assert 'class="wf-other"' in text
    assert "1 x&quot;&gt;&lt;b&gt;</text>" in text


def test_an_edge_to_a_task_that_never_ran_is_dotted() -> None:
    text = draw_svg(picture("abc", [("a", "b"), ("a", "c")], a="failed", b="skipped"))

    assert text.count("wf-line wf-idle") == 1
    assert text.count('class="wf-line"') == 1


def test_a_chain_goes_down_where_to_the_right_it_would_be_too_wide() -> None:
    assert _size(chain(3))[0] > _size(chain(3))[1]
    assert _size(chain(12))[0] < _size(chain(12))[1]


def test_text_is_cut_to_its_width_with_an_ellipsis() -> None:
    assert cut("short", 100, 13) == "short"
    assert cut("x" * 1000, 100, 13).endswith("x…")
    assert text_width(cut("数据" * 50, 100, 13), 13) <= 100
    assert cut("👩‍👩‍👧" * 9, 60, 13).rstrip("…")[-1] != "\u200d"


@pytest.mark.parametrize("drawn", [layered(100, 10), picture([f"a_rather_long_name_{i}" * 3 for i in range(9)])])
def test_every_text_of_a_list_ends_inside_its_box(drawn: Picture) -> None:
    lists = [(group, group.find(f"{SVG}rect")) for group in _parsed(drawn).iter(f"{SVG}g")]

    for group, box in lists:
        if box is not None:
            ends = [_right_end(text) for text in group.iter(f"{SVG}text")]
            assert max(ends) <= float(box.attrib["width"])


def test_a_name_of_a_megabyte_costs_little() -> None:
    drawn = Picture("long", "x" * 1_000_000, (node("a", label="y" * 1_000_000, note="z" * 1_000_000),), ())

    assert len(draw_svg(drawn)) < 20_000


def test_a_workflow_without_tasks_still_has_a_picture() -> None:
    assert _parsed(Picture("empty", "", (), ())).findtext(f"{SVG}desc") == "0 tasks"


@pytest.mark.parametrize(
    ("large", "limit_s"),
    [(chain(1), 0.003), (layered(20, 15), 0.15), (layered(100, 100), 0.5), (layered(1_000, 100), 0.5)],
    ids=["1", "300", "10,000", "100,000"],
)
def test_a_picture_is_drawn_in_time_and_stays_small(large: Picture, limit_s: float) -> None:
    fastest_s = min(_seconds_to_draw(large) for _ in range(3))

    assert fastest_s < 2 * limit_s  # tests share their two cores
    assert len(draw_svg(large)) < 400_000


def test_drawing_imports_no_graph_library_and_no_terminal_library() -> None:
    code = (
        "import sys; from wizflowd.views.graph import *;"
        "draw_svg(Picture('t', '', (Node('a', 'a', 'SHELL', 'failed'),), ()));"
        "print({'igraph', 'networkx', 'rich', 'resvg_py'} & sys.modules.keys())"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"


def _parsed(drawn: Picture) -> ElementTree.Element:
    return ElementTree.fromstring(draw_svg(drawn))


def _tooltips(root: ElementTree.Element) -> list[str | None]:
    return [title.text for group in root.iter(f"{SVG}g") for title in group.findall(f"{SVG}title")]


def _right_end(text: ElementTree.Element) -> float:
    size = 12 if text.attrib["class"] == "wf-row" else 11
    return float(text.attrib["x"]) + (0 if "text-anchor" in text.attrib else text_width(text.text or "", size))


def _size(drawn: Picture) -> tuple[float, float]:
    root = _parsed(drawn)
    return float(root.attrib["width"]), float(root.attrib["height"])


def _seconds_to_draw(drawn: Picture) -> float:
    start_s = time.perf_counter()
    draw_svg(drawn)
    return time.perf_counter() - start_s
