"""The man pages are those of the commands as they are."""

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

MAN = Path(__file__).parents[2] / "docs" / "man"


def test_the_pages_are_current() -> None:
    pages = runpy.run_path(str(MAN / "generate.py"))["pages"]()

    for name, text in pages.items():
        assert (MAN / name).read_text() == text, f"{name} is old: run `make man`"


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
@pytest.mark.parametrize("name", ["wizflow.1", "wizflowd.8"])
def test_groff_has_nothing_to_say_against_a_page(name: str) -> None:
    done = subprocess.run(["groff", "-man", "-ww", "-z", MAN / name], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
