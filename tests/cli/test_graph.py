"""`wizflow graph`: one picture per suffix."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cli.alone import Wizflow

ETL = """
workflow_name: nightly
tasks:
  - {id: fetch, type: SHELL, command: "true", name: "fetch <the> data"}
  - {id: count, type: SHELL, command: "true", depends_on: [fetch]}
"""


@pytest.fixture
def etl(alone: Wizflow) -> Wizflow:
    Path("etl.yaml").write_text(ETL)
    return alone


def test_without_an_output_it_is_svg_on_stdout(etl: Wizflow) -> None:
    said = etl("graph", "etl.yaml")

    assert (said.status, said.err) == (0, "")
    assert ElementTree.fromstring(said.out).tag == "{http://www.w3.org/2000/svg}svg"
    assert "fetch &lt;the&gt; data" in said.out


@pytest.mark.parametrize(
    ("name", "begins"), [("x.svg", b"<svg"), ("x.PNG", b"\x89PNG"), ("x.dot", b"digraph"), ("x.mmd", b"---")]
)
def test_the_suffix_says_what_is_drawn(etl: Wizflow, name: str, begins: bytes) -> None:
    if name == "x.PNG":
        pytest.importorskip("resvg_py")

    said = etl("graph", "etl.yaml", "-o", name)

    assert (said.status, said.out, said.err) == (0, "", "")
    assert Path(name).read_bytes().lstrip().startswith(begins)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("x.gif", "cannot draw x.gif: it must end in .svg, .png, .dot or .mmd"),
        ("nodir/x.svg", "cannot write nodir/x.svg: No such file or directory"),
    ],
)
def test_what_cannot_be_drawn_or_written_is_said(etl: Wizflow, output: str, message: str) -> None:
    said = etl("graph", "etl.yaml", "-o", output)

    assert (said.status, said.err) == (2, f"{message}\n")


def test_a_definition_that_is_refused_has_no_picture(alone: Wizflow) -> None:
    Path("etl.yaml").write_text("tasks: []\n")

    said = alone("graph", "etl.yaml", "-o", "x.svg")

    assert said.status == 2
    assert said.err.startswith("etl.yaml:1:8: tasks: is empty")
    assert not Path("x.svg").exists()
