import struct
import sys

import pytest

from tests.views.pictures import chain, node, picture
from wizflowd.errors import WizflowError
from wizflowd.views.graph import Picture, draw_dot, draw_mermaid, draw_png

HOSTILE = 'a"] -> x; \\ <b>&`#35;|\n}'


def test_dot_names_every_task_and_edge_with_its_sign() -> None:
    text = draw_dot(picture("ab", [("a", "b")], b="failed"))

    assert '"a" [label="✓ a\\nSHELL · succeeded"' in text
    assert '"b" [label="✗ b\\nSHELL · failed"' in text
    assert '"a" -> "b"' in text


def test_dot_keeps_a_hostile_name_inside_its_quotes() -> None:
    text = draw_dot(Picture(HOSTILE, "", (node("a", label=HOSTILE),), ()))

    assert '"✓ a\\"] -> x; \\\\ <b>&`#35;|\\\\n}\\nSHELL' in text


def test_mermaid_names_every_task_and_edge_and_classes_the_states() -> None:
    text = draw_mermaid(picture(["end", "b"], [("end", "b")], b="failed"))

    assert 'n0["✓ end<br/>SHELL · succeeded"]:::is_succeeded' in text
    assert "n0 --> n1" in text
    assert "classDef is_failed " in text


def test_mermaid_writes_a_hostile_name_as_character_codes() -> None:
    text = draw_mermaid(Picture(HOSTILE, "", (node("a", label=HOSTILE),), ()))

    label = text.split('["', 1)[1].split('"]', 1)[0].replace("<br/>", "")
    assert not set('"<>`|[]{}\\&') & set(label)
    assert "#60;b#62;" in label
    assert text.splitlines()[1] == 'title: "a\\"] -> x; \\\\ <b>&`#35;|\\\\n}"'


def test_a_png_has_the_size_asked_for() -> None:
    once, twice = (_png_size(draw_png(picture("ab", [("a", "b")]), scale=scale)) for scale in (1, 2))

    assert twice == (2 * once[0], 2 * once[1])


def test_a_png_of_a_huge_picture_is_scaled_down_rather_than_refused() -> None:
    width, height = _png_size(draw_png(chain(50), scale=40))

    assert 30_000_000 < width * height < 33_000_000


def test_without_resvg_a_png_is_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)

    with pytest.raises(WizflowError, match=r"resvg-py is not installed; pip install 'wizflowd\[graph\]'"):
        draw_png(chain(2))


def _png_size(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height
