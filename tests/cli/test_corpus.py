"""The corpus of hostile definitions through the program: exit codes, names as given, bounds, and harmless when run.

`tests/test_corpus.py` judges each message; here it is what a person or a script gets. See `corpus/README.md`.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.alone import Wizflow, environment
from tests.test_corpus import CORPUS, DECIDED, MOST_MIB, MOST_S, Case

PROJECT = Path(__file__).parents[2]
MEASURE = """
import sys, time
from wizflowd.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as left:
    status = left.code
from tests.peak import peak_mib
print(status, time.process_time(), peak_mib())
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("laid_out") / "corpus"
    subprocess.run([sys.executable, CORPUS / "make_corpus.py", folder], check=True, capture_output=True)
    return folder


def expected_status(case: Case) -> int:
    return 0 if case.verdict == "accept" else 2


def test_validate_answers_every_case_by_its_exit_code_and_the_name_as_given(
    alone: Wizflow, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = []
    for case in DECIDED:
        path = corpus / case.file
        monkeypatch.chdir(path.parent)
        said = alone("validate", "--", path.name)
        named = all(line.removeprefix("warning: ").startswith(f"{path.name}:") for line in said.errors)
        clean = all(line.isprintable() for line in (*said.errors, *said.out.splitlines()))
        if said.status != expected_status(case) or not named or not clean or (said.status and not said.errors):
            wrong.append((case.file, said))

    assert wrong == []
    assert not list(corpus.rglob("PWNED"))


def test_refused_files_cost_little_with_the_start_of_the_program(corpus: Path) -> None:
    refused = sorted((corpus / case.file for case in DECIDED if case.verdict == "reject"), key=by_size)
    largest, others = refused[-6:], random.Random(5).sample(refused[:-6], 4)

    dear = []
    for path in (*largest, *others):
        status, seconds, mib = cost_of("validate", "--", path.name, cwd=path.parent)
        if status != 2 or seconds > MOST_S or mib > MOST_MIB:
            dear.append((path.name, status, seconds, mib))

    assert dear == []


def by_size(path: Path) -> int:
    return path.stat().st_size


def cost_of(*arguments: str, cwd: Path) -> tuple[int, float, float]:
    """Run the program; return its exit status, seconds of CPU and MiB of memory."""
    env = {**environment(), "PYTHONPATH": str(PROJECT)}
    said = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], cwd=cwd, env=env, check=True, capture_output=True, text=True
    )
    status, seconds, mib = said.stdout.split()[-3:]
    return int(status), float(seconds), float(mib)


@pytest.mark.parametrize("case", [case for case in DECIDED if case.how == "run"], ids=lambda case: case.file)
def test_a_case_that_is_run_succeeds_and_makes_nothing_called_pwned(
    alone: Wizflow, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    path = tmp_path / Path(case.file).name
    path.write_bytes((corpus / case.file).read_bytes())

    said = alone("run", "--", path.name)

    assert said.status == expected_status(case), said
    if said.status == 0:
        found = json.loads((tmp_path / f"{path.stem}.runs/latest/result.json").read_text())
        assert found["status"] == "succeeded"
    assert not list(tmp_path.rglob("PWNED"))
