"""`docs/workflows.md` is true: every YAML block does what its comment says, every console block is real.

A comment before a block of YAML says what it is: `run NAME [-p ...]`, `run NAME, which fails`, `check NAME`,
`warn NAME` or `refuse NAME`. Console blocks are run behind the blocks before them, in the same folder.
"""

import contextlib
import io
import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.alone import WIZFLOW, environment
from wizflowd.cli.main import main
from wizflowd.core.compile import validate_definition
from wizflowd.core.loader import Syntax
from wizflowd.errors import DefinitionError

PAGE = Path(__file__).parent.parent / "docs/workflows.md"
_BLOCK = re.compile(r"(?:^<!-- (?P<says>[^\n]+) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_SAYS = re.compile(
    r"(?P<verb>run|check|warn|refuse) (?P<name>\w+\.yaml)(?P<options>(?: -p \S+)*)"
    r"(?: with (?P<variable>\w+=\S+))?(?P<fails>, which fails)?"
)
_CHANGING = re.compile(r"\b\d+\.\d+( s\b|(?=  ))|\d{8}-\d{6}-[0-9a-f]{6}")


class Block(NamedTuple):
    """A block of the page, with what the comment before it says."""

    line: int
    kind: str
    says: str
    text: str


def blocks() -> list[Block]:
    page = PAGE.read_text()
    found = _BLOCK.finditer(page)
    return [Block(page.count("\n", 0, m.start()) + 1, m["kind"], m["says"] or "", m["text"]) for m in found]


BLOCKS = blocks()
TRIED = [block for block in BLOCKS if block.kind != "sh"]


def commands(text: str) -> list[tuple[str, str]]:
    """Return each command of a console block with what it prints."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    assert parts[0] == ""
    return list(zip(parts[1::2], parts[2::2], strict=True))


def plain(output: str) -> str:
    """Return an output without what differs from run to run."""
    return _CHANGING.sub("~", output)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What was wrong with each block, by its line, when all were done in order."""
    folder = tmp_path_factory.mktemp("docs")
    wrong = {}
    for block in TRIED:
        if block.kind == "yaml":
            wrong[block.line] = _do(block, folder)
        else:
            wrong[block.line] = "\n".join(filter(None, (_show(*each, folder) for each in commands(block.text))))
    return wrong


def _do(block: Block, folder: Path) -> str:
    """Return what is wrong with a workflow of the page."""
    says = _SAYS.fullmatch(block.says)
    if says is None:
        return f"not said what it is: {block.says!r}"
    (folder / says["name"]).write_text(block.text)
    fault = _fault(block.text, says["verb"])
    return fault or (_run(says, folder) if says["verb"] == "run" else "")


def _fault(text: str, verb: str) -> str:
    """Return what is wrong with what the checks say of a definition."""
    try:
        warnings = validate_definition(text.encode(), Syntax.YAML, stem="docs")
    except DefinitionError as error:
        return "" if verb == "refuse" else "\n".join(error.lines("docs.yaml"))
    told = "\n".join(warning.render("docs.yaml") for warning in warnings)
    return "" if verb != "refuse" and bool(told) == (verb == "warn") else f"{verb}: {told}"


def _run(says: re.Match[str], folder: Path) -> str:
    """Return what is wrong with how a run ended."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        patch.setenv("WIZFLOWD_CONTROL_SOCKET", "/nonexistent/control.sock")
        if says["variable"]:
            patch.setenv(*says["variable"].split("=", 1))
        status = main(["run", says["name"], *says["options"].split()])
    return "" if status == bool(says["fails"]) else f"run said {status}: {out.getvalue()}"


def _show(command: str, expected: str, folder: Path) -> str:
    """Return what a command prints where that is not what the page says."""
    env = environment(PATH=f"{WIZFLOW.parent}{os.pathsep}{os.environ['PATH']}")
    both = subprocess.STDOUT
    done = subprocess.run(["sh", "-c", command], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=both, text=True)
    return "" if plain(done.stdout) == plain(expected) else f"$ {command}\n{done.stdout}"


@pytest.mark.parametrize("block", TRIED, ids=lambda block: str(block.line))
def test_a_block_of_the_page_is_true(block: Block, done: dict[int, str]) -> None:
    assert done[block.line] == ""


def test_every_block_of_the_page_is_seen() -> None:
    assert len(BLOCKS) * 2 == len(re.findall("^```", PAGE.read_text(), re.MULTILINE))
    assert {block.kind for block in BLOCKS} == {"yaml", "console", "sh"}


def test_the_contents_lead_to_headings_that_are_there() -> None:
    page = PAGE.read_text()
    links = set(re.findall(r"\]\(#([^)]+)\)", page))
    headings = re.findall("^## (.*)", page, re.MULTILINE)

    assert links == {re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in headings}


def test_what_is_quoted_wrongly_is_noticed() -> None:
    assert plain("failed in 0.20 s") == plain("failed in 1.31 s")
    assert plain("3 tasks") != plain("4 tasks")
    assert commands("$ a\nx\ny\n$ b\n") == [("a", "x\ny\n"), ("b", "")]
