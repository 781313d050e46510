"""Campaign 8, second half: fuzzers on the loader and the filling of placeholders; definitions made from the schema."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.torture.campaign import ROOT, either, patched_copy, report
from wizflowd.core.compile import compile_definition
from wizflowd.core.loader import Syntax
from wizflowd.core.observations import WorkflowId
from wizflowd.core.plan import Disk, Surroundings, make_plan
from wizflowd.core.schema import definition_schema
from wizflowd.errors import DefinitionError

CORPUS = ROOT / "tests" / "corpus"
SECONDS = either(30, 600)
EXAMPLES = either(150, 20_000)
SEED_BYTES = 20_000

pytestmark = pytest.mark.slow


def fuzz(target: str, seeds: Path, work: Path, patched: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run one fuzzer on copies of small files until its time is over, or until it has found something."""
    pytest.importorskip("atheris")
    work.mkdir()
    for number, path in enumerate(path for path in sorted(seeds.rglob("*")) if path.is_file()):
        if path.stat().st_size < SEED_BYTES:
            (work / str(number)).write_bytes(path.read_bytes())
    return subprocess.run(
        [
            *(sys.executable, ROOT / "tests" / "torture" / "fuzz.py", target),
            *(f"-max_total_time={SECONDS}", f"-max_len={SEED_BYTES}", "-timeout=20", "-rss_limit_mb=1024"),
            *("-print_final_stats=1", f"-artifact_prefix={work}/found-", str(work)),
        ],
        env={**os.environ, **patched},
        capture_output=True,
        text=True,
        errors="replace",
        cwd=work,
    )


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("target", ["loader", "filler"])
def test_a_fuzzer_finds_nothing(target: str, tmp_path: Path) -> None:
    done = fuzz(target, CORPUS, tmp_path / "work", {})

    assert done.returncode == 0, done.stderr[-3000:]
    (runs,) = re.findall(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)
    report(f"fuzz {target}", seconds=SECONDS, executions=int(runs), crashes=0)


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize(
    ("target", "module", "guard", "gone", "sees"),
    [
        ("loader", "core/compile.py", "except CycleError as error", "except ZeroDivisionError as error", "CycleError"),
        (
            "filler",
            "core/shell.py",
            "filled += (_WRITTEN[slots[position]] % name, part)",
            "filled += (variables[name], part)",
            "a value became program text",
        ),
    ],
)
def test_a_fuzzer_finds_a_guard_that_is_gone(
    target: str, module: str, guard: str, gone: str, sees: str, tmp_path: Path
) -> None:
    patched = patched_copy(tmp_path / "patched", module, (guard, gone))

    done = fuzz(target, CORPUS, tmp_path / "work", patched)

    assert done.returncode != 0
    assert sees in done.stderr + done.stdout


DAMAGE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def compiles(tree: object) -> bool:
    """Compile a tree and plan it; return whether it is accepted. Raises what is neither."""
    try:
        compiled = compile_definition(json.dumps(tree).encode(), Syntax.JSON, stem="x")
    except DefinitionError as error:
        lines = error.lines("x.json")
    else:
        plan = make_plan(WorkflowId("x"), compiled, Surroundings(), {}, Disk())
        assert {task.id for task in compiled.definition.all_tasks} == plan.tasks.keys()
        return True
    assert lines
    assert all(line.isprintable() for line in lines)
    return False


SCHEMA: dict[str, Any] = definition_schema()
NAMES = st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h"])
TEXTS = st.sampled_from(
    [
        *("x", "y", "z", "5s", "GET", "http://127.0.0.1/"),
        "echo {{params.a}} '{{b.c}}'",
        "{{tasks.a.outputs.b}}",
        "{{secrets.a}}",
        "\\{{a}}",
        "$(({{env.a}}))",
        "5s",
        "GET",
    ]
)


DAMAGED = st.sampled_from([False] * 100 + [True])
OFTEN = {
    "method": st.sampled_from(["GET", "POST"]),
    "url": st.sampled_from(["http://127.0.0.1/", "https://127.0.0.1/{{params.a}}"]),
    "recipients": st.just(["a@example.org"]),
    "depends_on": st.lists(NAMES, max_size=1),
}
"""What the schema says less of than the loader asks for."""


@st.composite
def made_from(draw: st.DrawFn, schema: dict[str, Any], depth: int = 0) -> Any:
    """Make a value of a schema; now and then something else stands in its place."""
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if draw(DAMAGED):
        return draw(DAMAGE)
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return draw(made_from(draw(st.sampled_from(schema[choice])), depth))
    if "const" in schema or "enum" in schema:
        return draw(st.sampled_from(schema.get("enum") or [schema["const"]]))
    kind = schema.get("type", "string")
    match draw(st.sampled_from(kind)) if isinstance(kind, list) else kind:
        case "object":
            return draw(_mapping(schema, depth + 1))
        case "array":
            items = made_from(schema.get("items", {"type": "string"}), depth + 1)
            return draw(st.lists(items, min_size=schema.get("minItems", 0), max_size=3 if depth else 6))
        case "integer" | "number":
            return draw(st.integers(schema.get("minimum", 0), schema.get("maximum", 100)))
        case "boolean":
            return draw(st.booleans())
        case "null":
            return None
        case _:
            return draw(_text(schema))


def _text(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    if "pattern" not in schema:
        return TEXTS | st.text(max_size=8)
    own = st.from_regex(re.compile(schema["pattern"], re.ASCII), fullmatch=True)
    return NAMES if schema["pattern"].startswith("^[A-Za-z") else own


@st.composite
def _mapping(draw: st.DrawFn, schema: dict[str, Any], depth: int) -> dict[str, Any]:
    found = {}
    for name, described in schema.get("properties", {}).items():
        if name in schema.get("required", ()) or draw(st.sampled_from([False] * (depth + 4) + [True])):
            as_usual = name in OFTEN and not draw(DAMAGED)
            found[name] = draw(OFTEN[name] if as_usual else made_from(described, depth))
    for described in schema.get("patternProperties", {}).values():
        found |= draw(st.dictionaries(NAMES, made_from(described, depth), max_size=2))
    return found


@pytest.mark.timeout(either(400, 3600))
def test_definitions_made_from_the_schema_are_planned_or_refused() -> None:
    seen = {True: 0, False: 0}

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(tree=made_from(SCHEMA))
    def each(tree: object) -> None:
        seen[compiles(tree)] += 1

    each()

    report("definitions from the schema", accepted=seen[True], refused=seen[False])
    assert seen[True] > EXAMPLES // 50


def test_the_schema_test_sees_a_guard_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wizflowd.core.compile._refused_commands", lambda *_: 1 / 0)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(tree=made_from(SCHEMA))
    def each(tree: object) -> None:
        compiles(tree)

    with pytest.raises(ZeroDivisionError):
        each()
