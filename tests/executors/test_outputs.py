"""`executors.outputs`: declared outputs, `$WIZFLOW_OUTPUT` and hashes, on real files."""

import os
from pathlib import Path

import pytest

from wizflowd.core.attempt import AttemptId, Job, OutputRule
from wizflowd.core.values import Json
from wizflowd.errors import OutputError
from wizflowd.executors.outputs import TEXT_MAX, collect, hash_file, hash_sources

SECRET = "s3cret-token"


def job(folder: Path, secrets: tuple[str, ...] = (), **rules: OutputRule) -> Job:
    (folder / "ws").mkdir(exist_ok=True)
    return Job(AttemptId("r/t/1"), folder / "ws", f"{folder}/t.1.log", 1024, outputs=rules, secrets=secrets)


def from_path(json_path: str, *, required: bool = False) -> OutputRule:
    return OutputRule("json", json_path=json_path, required=required)


def written(folder: Path, text: str) -> dict[str, Json]:
    file = folder / "output"
    file.write_bytes(text.encode())
    return collect(job(folder), None, file).outputs


DOCUMENT = b'{"items": [{"id": 1}, {"id": 2}], "none": null, "a-b": {"0": true}, "empty": []}'


@pytest.mark.parametrize(
    ("json_path", "value"),
    [
        ("$", {"items": [{"id": 1}, {"id": 2}], "none": None, "a-b": {"0": True}, "empty": []}),
        ("$.items[*].id", [1, 2]),
        ("items[*].id", [1, 2]),
        ("$.items[0].id", 1),
        ("$.items[-1].id", 2),
        ("$.items[1:].id", [2]),
        ("$.items[0:1]", [{"id": 1}]),
        ("$.none", None),
        ("a-b.0", True),
        ("$['a-b']", {"0": True}),
        ("$.empty", []),
    ],
)
def test_a_json_path_gives_a_value_or_a_list_where_it_can_match_often(
    tmp_path: Path, json_path: str, value: Json
) -> None:
    collected = collect(job(tmp_path, out=from_path(json_path)), DOCUMENT, None)

    assert collected.outputs == {"out": value}
    assert collected.notes == ()


def test_a_json_path_without_a_match_is_null_and_noted(tmp_path: Path) -> None:
    collected = collect(job(tmp_path, out=from_path("$.nothing[*].here")), DOCUMENT, None)

    assert collected.outputs == {"out": None}
    assert collected.notes == ('output "out" is null: json_path $.nothing[*].here matches nothing',)


def test_a_required_json_path_without_a_match_fails_naming_the_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r'cannot take output "out": json_path \$\.x matches nothing'):
        collect(job(tmp_path, out=from_path("$.x", required=True)), DOCUMENT, None)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b"", "no text to read JSON from"),
        (b"<html>", "not JSON"),
        (b"\xff\xfe\xfa", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"[" * 150 + b"]" * 150, "nested more than 100 deep"),
        (b"[1e999]", "not finite"),
        (b"[NaN]", "not finite"),
        (b"[" + b"1" * 5000 + b"]", "not JSON"),
    ],
    ids=["empty", "html", "bytes", "bomb", "deep", "infinite", "nan", "digits"],
)
def test_what_is_not_usable_json_fails_naming_output_and_cause(tmp_path: Path, text: bytes, cause: str) -> None:
    with pytest.raises(OutputError, match=f'"out": .*{cause}'):
        collect(job(tmp_path, out=from_path("$")), text, None)


def test_a_text_output_is_stripped(tmp_path: Path) -> None:
    assert collect(job(tmp_path, out=OutputRule("text")), b"\n two words \r\n", None).outputs == {"out": "two words"}


def test_a_text_output_over_its_limit_fails(tmp_path: Path) -> None:
    rules = job(tmp_path, out=OutputRule("text"))

    assert len(str(collect(rules, b"x" * TEXT_MAX + b"\n", None).outputs["out"])) == TEXT_MAX
    with pytest.raises(OutputError, match='"out": the text has 1048577 bytes'):
        collect(rules, b"x" * (TEXT_MAX + 1), None)


def test_a_file_output_is_its_path_as_written_and_the_hash_of_its_content(tmp_path: Path) -> None:
    rules = job(tmp_path, out=OutputRule("file", path="./a/../count.txt"))
    (tmp_path / "ws" / "a").mkdir()
    (tmp_path / "ws" / "count.txt").write_bytes(b"7")

    collected = collect(rules, None, None)

    assert collected.outputs == {"out": "./a/../count.txt"}
    assert collected.files == {"./a/../count.txt": hash_file(tmp_path / "ws" / "count.txt")}


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("absent.txt", "does not exist"),
        ("../outside.txt", "leads out"),
        ("/etc/hostname", "leads out"),
        ("link", "leads out"),
        ("loop", "does not exist|symbolic links"),
        ("fifo", "not a regular file"),
        ("nul\0byte", "null byte|null character"),
    ],
)
def test_a_file_output_that_is_absent_outside_or_no_file_fails(tmp_path: Path, path: str, cause: str) -> None:
    rules = job(tmp_path, out=OutputRule("file", path=path))
    (tmp_path / "outside.txt").write_text("x")
    (tmp_path / "ws" / "link").symlink_to("../outside.txt")
    (tmp_path / "ws" / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "ws" / "fifo")

    with pytest.raises(OutputError, match=f'"out": .*({cause})'):
        collect(rules, None, None)


def test_the_hash_of_a_folder_follows_names_and_contents_below_it(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    (folder / ".well-known").mkdir(parents=True)
    (folder / ".well-known" / "x").write_text("1")
    before = hash_file(folder)

    (folder / ".well-known" / "x").rename(folder / ".well-known" / "y")
    renamed = hash_file(folder)
    (folder / ".well-known" / "y").write_text("2")

    assert len({before, renamed, hash_file(folder)}) == 3


def test_names_written_to_the_output_file_become_outputs(tmp_path: Path) -> None:
    text = "count=3\n\nurl=https://x/?a=b<<c\nempty=\nnotes<<END\nline = 1\n\nEN D\nEND\nlast=no newline"

    assert written(tmp_path, text) == {
        "count": "3",
        "url": "https://x/?a=b<<c",
        "empty": "",
        "notes": "line = 1\n\nEN D",
        "last": "no newline",
    }


def test_an_output_file_that_was_never_written_gives_nothing(tmp_path: Path) -> None:
    assert collect(job(tmp_path), None, tmp_path / "never").outputs == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ok=1\nno sign\n", 'line 2: "no sign" is not NAME=value'),
        ("9x=1\n", "line 1: .* is not NAME=value"),
        ("a b=1\n", "line 1: .* is not NAME=value"),
        (f"{'n' * 65}=1\n", "line 1: .* is not NAME=value"),
        ("a<<END\nx\n", 'line 1: the text that begins here has no line "END"'),
        ("a<<\nx\n", "line 1: a name for the end"),
        ("a=" + "x" * TEXT_MAX, "over 1048576 bytes"),
    ],
)
def test_a_bad_line_in_the_output_file_fails_naming_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        written(tmp_path, text)


def test_an_output_file_made_a_fifo_or_a_link_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/hostname")

    for name in ("fifo", "link"):
        with pytest.raises(OutputError, match="cannot read the file named by"):
            collect(job(tmp_path), None, tmp_path / name)


def test_a_declared_output_wins_over_a_written_one_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("out=written\n")

    collected = collect(job(tmp_path, out=OutputRule("text")), b"declared", tmp_path / "output")

    assert collected.outputs == {"out": "declared"}
    assert 'output "out" is declared' in collected.notes[0]


def test_a_secret_in_an_output_is_masked_and_noted(tmp_path: Path) -> None:
    (tmp_path / "output").write_text(f"other=<{SECRET}>\n")
    rules = job(tmp_path, (SECRET,), deep=from_path("$.a"), file=OutputRule("file", path=f"{SECRET}.txt"))
    (tmp_path / "ws" / f"{SECRET}.txt").write_text("x")

    collected = collect(rules, b'{"a": ["x %s"]}' % SECRET.encode(), tmp_path / "output")

    assert SECRET not in repr(collected)
    assert collected.outputs == {"deep": ["x ***"], "file": "***.txt", "other": "<***>"}
    assert collected.notes == tuple(f'output "{n}" held a secret and was masked' for n in ("deep", "file", "other"))


def test_a_secret_in_an_error_is_masked(tmp_path: Path) -> None:
    rules = job(tmp_path, (SECRET,), out=OutputRule("file", path=f"{SECRET}.txt"))

    with pytest.raises(OutputError, match=r"\*\*\*\.txt does not exist") as caught:
        collect(rules, None, None)

    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def tree(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


@pytest.mark.parametrize(
    ("globs", "touched", "counts"),
    [
        (("src/*.py",), "src/a.py", True),
        (("src/*.py",), "src/deep/b.py", False),
        (("src/**/*.py",), "src/a.py", True),
        (("src/**/*.py",), "src/deep/er/c.py", True),
        (("**/*",), "src/deep/er/c.py", True),
        (("src",), "src/deep/b.py", True),
        (("src/**",), "src/deep/b.py", True),
        (("./src/",), "src/deep/b.py", True),
        (("*",), "src/deep/b.py", True),
        (("src/*.txt", "top.txt"), "top.txt", True),
        (("*.txt",), "top.txt", True),
        (("**/*",), "src/.hidden", False),
        (("src/.*",), "src/.hidden", True),
        (("**/*",), "etl.runs/x/log.py", False),
        (("**",), "src/etl.runs/log.py", False),
        (("etl.runs/x/log.py",), "etl.runs/x/log.py", False),
        (("none*",), "top.txt", False),
    ],
)
def test_the_hash_of_sources_follows_the_content_of_what_the_globs_match(
    tmp_path: Path, globs: tuple[str, ...], touched: str, counts: bool
) -> None:
    tree(tmp_path, "src/a.py", "src/deep/b.py", "src/deep/er/c.py", "src/.hidden", "top.txt")
    tree(tmp_path, "etl.runs/x/log.py", "src/etl.runs/log.py")
    before = hash_sources(tmp_path, globs)

    (tmp_path / touched).write_text("changed")

    assert (hash_sources(tmp_path, globs) != before) is counts


def test_a_matching_name_that_comes_goes_or_changes_changes_the_hash_of_sources(tmp_path: Path) -> None:
    tree(tmp_path, "a.py")
    hashes = [hash_sources(tmp_path, ("*.py",))]
    tree(tmp_path, "b.py")
    hashes.append(hash_sources(tmp_path, ("*.py",)))
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    hashes.append(hash_sources(tmp_path, ("*.py",)))

    assert len(set(hashes)) == 3


def test_without_globs_there_is_no_hash_of_sources(tmp_path: Path) -> None:
    assert hash_sources(tmp_path, ()) == ""


def test_sources_outside_the_folder_are_never_read(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    tree(tmp_path, "out/secret.txt")
    (inside / "file").symlink_to("../out/secret.txt")
    (inside / "folder").symlink_to("../out")
    before = hash_sources(inside, ("**/*", "folder/*"))

    (tmp_path / "out" / "secret.txt").write_text("changed")
    same = hash_sources(inside, ("**/*", "folder/*"))
    (inside / "file").unlink()
    (inside / "file").symlink_to("../out/other.txt")

    assert same == before
    assert hash_sources(inside, ("**/*",)) != before


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "a/../../*"])
def test_a_glob_that_leads_out_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(OutputError, match="leads out of the folder"):
        hash_sources(tmp_path, (pattern,))


def test_a_fifo_among_the_sources_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    assert hash_sources(tmp_path, ("*",)) == hash_sources(tmp_path, ("none",))


def test_a_deep_tree_is_walked_once(tmp_path: Path) -> None:
    tree(tmp_path, "/".join("d" * 40) + "/x.py")

    assert hash_sources(tmp_path, ("**/*", "**/**/*")) == hash_sources(tmp_path, ("**/*.py",))
