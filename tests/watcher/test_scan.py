"""Names, identities, and what the walk enters."""

import os
from pathlib import Path

import pytest

from wizflowd.watcher import identity_of, is_definition_name
from wizflowd.watcher.scan import Listing, walk


def look(folder: Path, before: Listing | None = None) -> Listing:
    return walk(str(folder), lambda _path, _seen: None, before)


@pytest.mark.parametrize(
    ("path", "identity"),
    [
        ("etl.yaml", "etl"),
        ("team/etl.YML", "team/etl"),
        ("a.b c-d_e.json", "a.b c-d_e"),
        ("x.json", "x"),
        ("a" * 64 + ".json", "a" * 64),
        ("a" * 65 + ".json", None),
        ("-x.json", None),
        ("team!/etl.json", None),
        ("etl.runs/definition.yaml", None),
        (".git/etl.yaml", None),
        ("caf\udce9.yaml", None),
        ("x\n.yaml", None),
        ("etl.txt", None),
    ],
)
def test_an_identity_is_the_path_without_the_suffix(path: str, identity: str | None) -> None:
    assert identity_of(path) == identity


@pytest.mark.parametrize("name", [".x.json", "x.json~", "#x.json", "~$x.json", "x~.json", "x.tmp.yaml", ".json", "x"])
def test_temporaries_are_no_definitions(name: str) -> None:
    assert not is_definition_name(name)


def test_a_linked_folder_is_entered_once_and_never_upwards(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/etl.yaml").touch()
    (tmp_path / "real/deep/up").symlink_to(tmp_path / "real")
    (tmp_path / "alias").symlink_to("real")
    (tmp_path / "out").symlink_to("/usr")

    listing = look(tmp_path)

    assert set(listing.files) == {"real/etl.yaml", "alias/etl.yaml"}
    assert listing.linked


def test_an_unchanged_file_keeps_its_entry_and_a_changed_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "same.yaml").touch()
    (tmp_path / "other.yaml").touch()
    before = look(tmp_path)

    os.utime(tmp_path / "other.yaml", ns=(1, 1))
    after = look(tmp_path, before)

    assert after.files["same.yaml"] is before.files["same.yaml"]
    assert after.files["other.yaml"] is not before.files["other.yaml"]
