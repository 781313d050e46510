"""The loader against single files: what it takes, what it refuses, where it points."""

import csv
import resource
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from wizflowd.core.loader import LoadLimits, Syntax, load, syntax_of
from wizflowd.core.values import Json
from wizflowd.errors import DefinitionError, Problem

CORPUS = Path(__file__).parent.parent / "corpus"
OURS = {
    "E_SYNTAX",
    "E_ENCODING",
    "E_CONTROL",
    "E_DUPKEY",
    "E_ALIAS",
    "E_DEPTH",
    "E_NODES",
    "E_SIZE",
    "E_TASKS",
    "E_MULTIDOC",
    "E_TAG",
    "E_EMPTY",
}
LIMITS = LoadLimits()
PROJECT = Path(__file__).parents[2]
MEASURE = """
import sys, time
from tests.peak import peak_mib
from wizflowd.core.loader import load, syntax_of
from wizflowd.errors import DefinitionError
path = sys.argv[1]
with open(path, "rb") as file:
    data = file.read(8 * 1024 * 1024 + 1)
start = time.process_time()
try:
    load(data, syntax_of(path))
    verdict = "accepted"
except DefinitionError as error:
    verdict = error.lines("F")[0]
print(time.process_time() - start, peak_mib(), verdict)
"""


def small_cases(verdict: str) -> list[dict[str, str]]:
    """Return the cases of the corpus with this class whose files lie in the repository."""
    with (CORPUS / "index.tsv").open(encoding="utf-8", newline="") as file:
        cases = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [case for case in cases if case["class"] == verdict and (CORPUS / case["file"]).is_file()]


def yaml(text: str) -> Json:
    return load(text.encode(), Syntax.YAML).value


def refusal(text: str | bytes, syntax: Syntax = Syntax.YAML, limits: LoadLimits = LIMITS) -> tuple[str, ...]:
    """Return the lines that `text` is refused with."""
    with pytest.raises(DefinitionError) as refused:
        load(text.encode() if isinstance(text, str) else text, syntax, limits)
    return refused.value.lines("F")


@pytest.mark.parametrize("case", small_cases("accept"), ids=lambda case: case["file"])
def test_a_good_file_of_the_corpus_loads(case: dict[str, str]) -> None:
    document = load((CORPUS / case["file"]).read_bytes(), syntax_of(case["file"]))

    assert isinstance(document.value, dict)
    assert document.value["tasks"]


@pytest.mark.parametrize(
    "case",
    [case for case in small_cases("reject") if (set(case["code"].split("|")) <= OURS and "escaped" not in case["why"])
     or case["code"] in ("E_DUPKEY", "E_SYNTAX")],
    ids=lambda case: case["file"],
)  # fmt: skip
def test_an_unreadable_file_of_the_corpus_is_refused_at_its_place(case: dict[str, str]) -> None:
    lines = refusal((CORPUS / case["file"]).read_bytes(), syntax_of(case["file"]))

    assert all(line.isprintable() for line in lines)
    if case["at"] == "any":
        assert any(line.split(":")[1].isdigit() for line in lines)
    elif case["at"] != "-":
        assert all(any(line.startswith(f"F:{number}:") for line in lines) for number in case["at"].split(","))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("0644", 644),
        ("0o17", 15),
        ("0x1F", 31),
        ("-12", -12),
        ("+12", 12),
        ("1_000", "1_000"),
        ("0b101", "0b101"),
        ("12:30:45", "12:30:45"),
        ("2026-11-23", "2026-11-23"),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        (".", "."),
        ("-", [None]),
        ("~", None),
        ("Null", None),
        ("nULL", "nULL"),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("False", False),
        ("'1'", "1"),
        ('"true"', "true"),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_a_scalar_means_what_yaml_1_2_says(text: str, value: Json) -> None:
    loaded = yaml(f"a:\n  {text}\n")

    assert loaded == {"a": value}
    assert isinstance(loaded, dict)
    assert type(loaded["a"]) is type(value)


def test_keys_are_text_as_they_are_written() -> None:
    assert yaml("1: a\ntrue: b\nnull: c\n0644: d\n'q': e\n") == {
        "1": "a",
        "true": "b",
        "null": "c",
        "0644": "d",
        "q": "e",
    }


def test_a_merge_key_is_a_plain_key() -> None:
    assert yaml("a: &a {x: 1}\nb: {<<: *a}\n") == {"a": {"x": 1}, "b": {"<<": {"x": 1}}}


def test_a_byte_order_mark_is_skipped_and_columns_do_not_count_it() -> None:
    document = load(b"\xef\xbb\xbfa: 1\n", Syntax.YAML)

    (located,) = document.locate([Problem(("a",), "x", at_key=True)])

    assert document.value == {"a": 1}
    assert (located.line, located.column) == (1, 1)


def test_suffixes_count_in_any_letter_case() -> None:
    assert [syntax_of(path) for path in ("a/b.JSON", "x.Yaml", "é.yML")] == [Syntax.JSON, Syntax.YAML, Syntax.YAML]
    with pytest.raises(ValueError, match=r"x\.toml"):
        syntax_of("x.toml")


def test_all_duplicate_keys_are_named_at_once() -> None:
    in_yaml = refusal("a: 1\nb: {c: 1, 'c': 2}\na: 2\n")
    in_json = refusal('{"a": 1,\n "b": [{}, {"c": 1, "\\u0063": 2}],\n "a": 2}', Syntax.JSON)

    assert [line.split(": dup")[0] for line in in_yaml] == ["F:2:11: b.c", "F:3:1: a"]
    assert [line.split(": dup")[0] for line in in_json] == ["F:2:21: b[1].c", "F:3:2: a"]
    assert "line 2" in in_json[0]


def test_no_more_than_fifty_duplicates_are_named() -> None:
    assert len(refusal("{" + '"a":1,\n' * 1000 + '"b":1}', Syntax.JSON)) == 50
    assert len(refusal("a: 1\n" * 1000)) == 50


@pytest.mark.parametrize("behind", ["", "}", "]] x", ', {"\\x": 1, "\\x": 2}', ', "b', "]}],:"])
def test_duplicates_are_named_whatever_stands_behind_them(behind: str) -> None:
    lines = refusal('[{"a": 1, "a": 2}' + behind, Syntax.JSON)

    assert lines[0].startswith("F:1:11: [0].a: duplicate key")


def test_a_tag_of_any_kind_is_refused() -> None:
    lines = refusal("a: !!str 1\nb: ! x\nc: !env {}\n? !k d\n: 1\n")

    assert [line.split(": ")[0] for line in lines] == ["F:1:4", "F:2:4", "F:3:4", "F:4:3"]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("{'a': 1}", "F:1:2:", "double quotes"),
        ('{"a": 1,}', "F:1:8:", "trailing comma"),
        ('{"a": [1,\n]}', "F:1:9:", "trailing comma"),
        ('{"a": 1 // x\n}', "F:1:9:", "no comments"),
        ('{"a": 1} # x', "F:1:10:", "no comments"),
        ('{"a": 0x1F}', "F:1:7:", "decimal"),
        ('{"a": 012}', "F:1:7:", "decimal"),
        ('{"a": +1}', "F:1:7:", "take the + out"),
        ('{"a": .5}', "F:1:7:", "0.5"),
        ('{"a": NaN}', "F:1:7:", "not a JSON value"),
        ('{"b": "NaN", "a": -Infinity}', "F:1:19:", "not a JSON value"),
        ('{"a": 1e999}', "F:1:7:", "too large"),
        ('{"a": ' + "1" * 501 + "}", "F:1:7:", "501 characters"),
        ('{"a": True}', "F:1:7:", "write true"),
        ('{"a": hello}', "F:1:7:", "double quotes"),
        ("{a: 1}", "F:1:2:", 'write "a"'),
        ('{"a" 1}', "F:1:6:", "colon is missing"),
        ('{"a" = 1}', "F:1:6:", "colon"),
        ('{"a": 1\n "b": 2}', "F:2:2:", "comma is missing"),
        ('{"a": [1, 2}', "F:1:12:", "comma is missing"),
        ('{"a": }', "F:1:7:", "value is missing"),
        ('{"a": "x', "F:1:7:", "not closed"),
        ('{"a": "x\n"}', "F:1:9:", "raw line end"),
        ('{"a": "x\ty"}', "F:1:9:", "raw tab"),
        ('{"a": "\\x41"}', "F:1:8:", "escape"),
        ('{"a": {', "F:1:8:", "ends too early"),
        ('{"a": 1} {', "F:1:10:", "ended before"),
        ('<<<<<<< HEAD\n{"a": 1}\n=======', "F:1:1:", "merge conflict"),
        ("\n<html><body>404", "F:2:1:", "web page"),
        ("{“a”: 1}", "F:1:2:", "typographic"),
        ('{"a": "\\u0000"}', "F:1:8:", "NUL"),
        ('{"a": "\\ud83d\\ude00 \\ud83d"}', "F:1:21:", "surrogate"),
        ('{"a": "\\\\ud83d", "b": "\\udc00"}', "F:1:24:", "surrogate"),
        ("[" * 40, "F:1:33:", "32 deep"),
        ('["[[[[\\"[[[[", ' + "[" * 33 + "]" * 34, "F:1:47:", "32 deep"),
    ],
)  # fmt: skip
def test_a_mistake_in_json_is_explained_where_it_stands(text: str, place: str, words: str) -> None:
    (line,) = refusal(text, Syntax.JSON)

    assert line.startswith(place)
    assert words in line


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a:\n\tb: 1\n", "F:2:1:", "spaces"),
        ("a: b: c\n", "F:1:5:", "quotes"),
        ("a: {{name}}\n", "F:1:4:", "{{name}}"),
        ("a: 'x\n", "F:1:4:", "not closed"),
        ("a: [1, 2\nb: 3\n", "F:2:2:", "[a, b]"),
        ("a: @x\n", "F:1:4:", "begin with @"),
        ("a: %x\n", "F:1:4:", "begin with %"),
        ('a: "\\q"\n', "F:1:5:", "escape"),
        ("- a\nb: 1\n", "F:2:1:", "indentation"),
        ("a: 1\n---\nb: 2\n", "F:2:1:", "second document"),
        ("a: *x\n", "F:1:4:", "&x"),
        ("a: &x [1, *x]\n", "F:1:11:", "inside of what it stands for"),
        ("? [a]\n: b\n", "F:1:3:", "a key must be a text"),
        ("a: &x 1\n*x : 2\n", "F:2:1:", "a key must be a text"),
        ('a: "\\0"\n', "F:1:4:", "NUL"),
        ("a: .nan\n", "F:1:4:", "not a finite number"),
        ("a: -1e999\n", "F:1:4:", "not a finite number"),
        ("a: " + "9" * 501, "F:1:4:", "501 characters"),
        ("<<<<<<< HEAD\na: 1\n=======\nb: [\n>>>>>>> x\n", "F:1:1:", "merge conflict"),
        ("a: x\u2028y\n", "F:1:5:", "U+2028"),
        ("a: x\x85y\n", "F:1:5:", "U+0085"),
        ("a: 1\r\nb: \x1b[31m\r\n", "F:2:4:", "U+001B"),
        ("%TAG ! x\n---\na: 1\n", "F:1:1:", "%TAG"),
    ],
)
def test_a_mistake_in_yaml_is_explained_where_it_stands(text: str, place: str, words: str) -> None:
    (line,) = refusal(text)

    assert line.startswith(place)
    assert words in line


@pytest.mark.parametrize("text", ["", " \n", "# only\n# comments\n", "---\n", "\ufeff", "---\n...\n"])
def test_a_file_without_content_is_called_empty(text: str) -> None:
    assert "the file is empty" in refusal(text)[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x7fELF\x02", "program"),
        ("a: 1\n".encode("utf-16"), "UTF-16"),
        ("a: 1\n".encode("utf-16-be"), "UTF-16"),
        (b"a: 1\nb: caf\xe9\n", "F:2:7: byte 0xe9 at offset 11"),
    ],
)
def test_a_file_that_is_not_utf_8_is_called_what_it_is(data: bytes, words: str) -> None:
    assert words in refusal(data)[0]
    assert words in refusal(data, Syntax.JSON)[0]


@pytest.mark.parametrize(
    ("text", "syntax", "words"),
    [
        ("a: [1, 2, 3]", Syntax.YAML, "more than 4 values"),
        ('{"a": [1, 2, 3]}', Syntax.JSON, "more than 4 values"),
        ('{"a": [[[[0]]]]}', Syntax.JSON, "more than 3 deep"),
        ("a: [[[0]]]", Syntax.YAML, "more than 3 deep"),
        ("a: &x [0]\nb: [[*x]]", Syntax.YAML, "more than 3 deep"),
        ("a: &x 0\nb: [*x, *x]", Syntax.YAML, "more than 1 aliases"),
        ("tasks: [1, 2, 3]", Syntax.YAML, "more than 2 tasks"),
        ("finally: [{}, {}, {}]", Syntax.YAML, "more than 2 tasks"),
        ('{"tasks": [1, 2, 3]}', Syntax.JSON, "more than 2 tasks"),
        ("a: " + "x" * 100, Syntax.YAML, "the file has 103 bytes"),
    ],
)
def test_a_limit_is_held(text: str, syntax: Syntax, words: str) -> None:
    nodes, depth = (4, 9) if "values" in words else (9, 3)

    assert words in refusal(text, syntax, LoadLimits(bytes=100, depth=depth, nodes=nodes, aliases=1, tasks=2))[0]


@pytest.mark.parametrize(
    ("text", "syntax"), [("a: [1, 2, [3, {}]]", Syntax.YAML), ('{"a": [1, ",,[[", [3, {}]]}', Syntax.JSON)]
)
def test_what_just_fits_the_limits_loads(text: str, syntax: Syntax) -> None:
    assert load(text.encode(), syntax, LoadLimits(bytes=len(text), depth=4, nodes=7, aliases=0, tasks=0)).value


def test_what_aliases_stand_for_counts_as_if_it_were_written_out() -> None:
    fits = "a: &x [1, 2]\nb: [*x, *x]\n"  # 1 + 3 + 1 + 2 * 3

    assert load(fits.encode(), Syntax.YAML, LoadLimits(nodes=11)).value
    assert "aliases stand for" in refusal(fits, limits=LoadLimits(nodes=10))[0]
    assert "aliases stand for" in refusal(f"a: &x {'x' * 60}\nb: [*x, *x]", limits=LoadLimits(bytes=100))[0]


def test_problems_get_places_in_the_order_of_the_file() -> None:
    text = "tasks:\n  - id: a\n    comand: x\n  - {id: b, env: {A: 1}}\nx y: |\n   one\n   two\n"
    document = load(text.encode(), Syntax.YAML)

    located = document.locate(
        [
            Problem(("x y",), "text", text_line=1),
            Problem(("tasks", 1, "env", "A"), "value"),
            Problem(("tasks", 0, "comand"), "key", at_key=True),
            Problem(("tasks", 1, "command"), "missing"),
            Problem(("tasks", 7, "id"), "nowhere", at_key=True),
            Problem((), "root"),
        ]
    )

    assert [(problem.what, problem.line, problem.column) for problem in located] == [
        ("root", 1, 1),
        ("nowhere", 2, 3),
        ("key", 3, 5),
        ("missing", 4, 5),
        ("value", 4, 22),
        ("text", 7, 4),
    ]
    assert located[2].where == "tasks[0].comand"
    assert located[5].where == '["x y"]'


def test_a_place_in_json_counts_characters_and_lines() -> None:
    text = '{"é\\"]": [{},\r\n {"b": "x", "cé": {"d": [1, 2]}}]}'
    document = load(text.encode(), Syntax.JSON)

    located = document.locate(
        [
            Problem(('é"]', 1, "cé", "d", 1), "value"),
            Problem(('é"]', 1, "cé"), "key", at_key=True),
            Problem(('é"]', 0, "gone"), "parent"),
        ]
    )

    assert [(problem.what, problem.line, problem.column) for problem in located] == [
        ("parent", 1, 11),
        ("key", 2, 13),
        ("value", 2, 29),
    ]


def test_a_path_is_printable_and_not_endless() -> None:
    document = load(b"a: 1\n", Syntax.YAML)

    (located,) = document.locate([Problem(("a\n\x1b[31m" * 1000,), "x")])

    assert located.where.isprintable()
    assert len(located.where) < 100


class Made(NamedTuple):
    """A large file: head, then unit so many times (%d is its number), then tail."""

    name: str
    head: str
    unit: str
    times: int
    tail: str = ""

    def measured(self, folder: Path) -> tuple[float, float, str]:
        """Return the CPU seconds and the peak memory in MiB of a process that loads the file, and its verdict."""
        path = folder / self.name
        units = (self.unit.replace("%d", str(n)) for n in range(self.times))
        path.write_text(self.head + ("".join(units) if "%d" in self.unit else self.unit * self.times) + self.tail)
        command = [sys.executable, "-c", MEASURE, str(path)]
        cpu_s, mebibytes, verdict = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60, cwd=PROJECT
        ).stdout.split(maxsplit=2)
        return float(cpu_s), float(mebibytes), verdict.strip()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Made("brackets.json", "", "[", 4_000_000), "F:1:33:"),
        (Made("brackets.yaml", "", "[", 1_000_000), "nested more than 32 deep"),
        (Made("closed.json", "", "[", 3_900_000, "]" * 3_900_000), "F:1:33:"),
        (Made("quotes.json", '["', '\\"', 3_900_000), "not closed"),
        (Made("scalars.json", "[", "0,", 3_000_000, "0]"), "more than 1000000 values"),
        (Made("empties.json", "[", "{},", 2_000_000, "0]"), "more than 1000000 values"),
        (Made("keys.json", "{", '"a":1,\n', 300_000, '"b":1}'), "duplicate key"),
        (Made("nodes.yaml", "a: [", "[],a,b,c,", 600_000, "]"), "more than 1000000 values"),
        (Made("tasks.yaml", "tasks:\n", "- {id: t%d, type: SHELL, command: a}\n", 101_000), "more than 100000 tasks"),
        (Made("flow.yaml", "tasks: [", "{id: t%d},", 101_000, "]"), "more than 100000 tasks"),
        (
            Made("indented.yaml", "a: 1\n" + "# " * 9000 + "\ntasks: # all\n\n", "   - id: t%d\n", 101_000, "b: 2\n"),
            "F:3:1: tasks",
        ),
        (Made("string.yaml", 'a: &x "', "x" * 1000, 7_000, '"\nb: [*x, *x]'), "aliases stand for"),
    ],
    ids=lambda value: value.name if isinstance(value, Made) else "",
)
def test_a_huge_file_is_refused_in_little_time_and_memory(tmp_path: Path, made: Made, words: str) -> None:
    cpu_s, mebibytes, verdict = made.measured(tmp_path)

    assert words in verdict
    assert cpu_s < 1.5
    assert mebibytes < 200


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    steps = [f"x{n}: &x{n} {{<<: [{','.join([f'*x{n - 1}'] * 9)}]}}" for n in range(1, 10)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    lines = refusal("\n".join(["x0: &x0 {k: 1}", *steps]))

    assert "aliases stand for" in lines[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024
