"""What is said to the hostile and malformed definitions of `corpus/`: every case that `wizflow validate` decides.

`corpus/README.md` says what a line of its index means.
"""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from wizflowd.core.compile import validate_definition
from wizflowd.core.loader import LoadLimits, syntax_of
from wizflowd.errors import DefinitionError

CORPUS = Path(__file__).parent / "corpus"
READ_AT_MOST = LoadLimits().bytes + 1
MOST_S = 2.0
MOST_MIB = 300

MEASURE = """
import json, sys, time
from tests.peak import peak_mib
from wizflowd.core.compile import compile_definition
from wizflowd.core.loader import LoadLimits, syntax_of
from wizflowd.errors import DefinitionError

for path in json.load(sys.stdin):
    began = time.process_time()
    with open(path, "rb") as file:
        data = file.read(LoadLimits().bytes + 1)
    try:
        compile_definition(data, syntax_of(path), stem="x")
        lines = ()
    except DefinitionError as error:
        lines = error.lines(path)
    print(json.dumps([path, time.process_time() - began, peak_mib(), len(lines)]))
"""


class Case(NamedTuple):
    """A line of the index."""

    file: str
    verdict: str
    level: str
    how: str
    code: str
    at: str
    says: str
    needs: str
    why: str


class Answer(NamedTuple):
    """What was said: lines of problems or, of a good definition, of warnings."""

    verdict: str
    lines: tuple[str, ...]


def cases(*hows: str) -> list[Case]:
    with (CORPUS / "index.tsv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    return [case for case in (Case(*line) for line in lines) if case.how in hows]


DECIDED = cases("validate", "run")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out the whole corpus, the large and the special files too."""
    folder = tmp_path_factory.mktemp("laid_out") / "corpus"
    subprocess.run([sys.executable, CORPUS / "make_corpus.py", folder], check=True, capture_output=True)
    return folder


def answer(corpus: Path, case: Case) -> Answer:
    path = corpus / case.file
    with path.open("rb") as file:
        data = file.read(READ_AT_MOST)
    try:
        warnings = validate_definition(data, syntax_of(path.name), stem=path.stem)
    except DefinitionError as error:
        return Answer("reject", error.lines(path.name))
    return Answer("accept", tuple(warning.render(path.name) for warning in warnings))


def test_the_corpus_is_whole() -> None:
    assert len(cases("validate", "run", "daemon")) == 408


@pytest.mark.parametrize("case", DECIDED, ids=lambda case: case.file)
def test_a_case_of_the_corpus_is_answered(case: Case, corpus: Path) -> None:
    said = answer(corpus, case)

    assert all(line.isprintable() for line in said.lines)
    assert all(line.startswith(f"{Path(case.file).name}:") for line in said.lines)
    assert said.verdict == case.verdict
    if said.verdict == "reject":
        assert case.says in "\n".join(said.lines)
        assert_placed(case, said.lines)


def assert_placed(case: Case, lines: tuple[str, ...]) -> None:
    prefix = re.escape(f"{Path(case.file).name}:")
    placed = {found[1] for line in lines if (found := re.match(prefix + r"(\d+):\d+: ", line))}
    if case.at == "any":
        assert placed
    elif case.at != "-":
        assert placed >= set(case.at.split(","))


def test_no_refused_file_takes_long_or_much_memory(corpus: Path) -> None:
    paths = [str(corpus / case.file) for case in DECIDED if case.verdict == "reject"]

    measured = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input=json.dumps(paths),
        capture_output=True,
        text=True,
        check=True,
        cwd=CORPUS.parents[1],
    )

    figures = [json.loads(line) for line in measured.stdout.splitlines()]
    assert [path for path, *_ in figures] == paths
    assert [figure for figure in figures if not (figure[1] < MOST_S and figure[2] < MOST_MIB and figure[3])] == []
