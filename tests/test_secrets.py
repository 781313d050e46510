"""Values of secrets and `.env` files: from where, up to which size, and why there is none."""

import os
from pathlib import Path

import pytest

from wizflowd.core.definition import SecretSource
from wizflowd.errors import SecretError
from wizflowd.secrets import MAX_SECRET_BYTES, read_dotenv, resolve_secrets


def resolved(source: SecretSource, env: dict[str, str] | None = None) -> tuple[str | None, str | None]:
    """Return the value, and why there is none."""
    found = resolve_secrets({"S": source}, env or {})
    assert len(found.values) + len(found.missing) == 1
    return found.values.get("S"), found.missing.get("S")


def test_a_value_comes_from_the_environment_of_the_daemon() -> None:
    assert resolved(SecretSource(env="TOKEN"), {"TOKEN": "x"}) == ("x", None)
    assert resolved(SecretSource(env="TOKEN")) == (None, "TOKEN is not in the daemon's environment")


def test_a_value_comes_from_a_file_without_its_last_line_end(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes("line\nzwölf\n\n".encode())

    assert resolved(SecretSource(file=str(tmp_path / "token"))) == ("line\nzwölf\n", None)


def test_a_value_comes_from_a_credential_of_the_unit(tmp_path: Path) -> None:
    (tmp_path / "api").write_text("s3cret\n")

    assert resolved(SecretSource(credential="api"), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == ("s3cret", None)
    assert resolved(SecretSource(credential="api")) == (
        None,
        "the daemon was given no credentials; use LoadCredential= in its unit",
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "No such file or directory"),
        ("folder", "Is a directory|not a regular file"),
        ("fifo", "not a regular file"),
        ("large", "larger than 1 MiB"),
        ("latin", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_never_waited_for(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes(MAX_SECRET_BYTES + 1))
    (tmp_path / "latin").write_bytes(b"caf\xe9")

    value, missing = resolved(SecretSource(file=str(tmp_path / name)))

    assert value is None
    assert missing is not None
    assert f"{tmp_path}/{name}: " in missing
    assert any(part in missing for part in reason.split("|"))


def test_one_that_is_missing_does_not_keep_the_others_from_being_had() -> None:
    found = resolve_secrets({"A": SecretSource(env="A"), "B": SecretSource(env="B")}, {"B": "b"})

    assert (found.values, set(found.missing)) == ({"B": "b"}, {"A"})


# -- .env files -----------------------------------------------------------------------------------------------


def test_later_files_win_and_nothing_is_interpolated(tmp_path: Path) -> None:
    (tmp_path / "a.env").write_text("# a comment\nA=1\nexport B='two words'\n\nC=\"x\\ny\"\nD=$A ${B}\nE\nF=\n")
    (tmp_path / "b.env").write_text("A=2\n")

    assert read_dotenv(tmp_path, ("a.env", "b.env")) == {
        "A": "2",
        "B": "two words",
        "C": "x\ny",
        "D": "$A ${B}",
        "F": "",
    }


def test_a_line_that_cannot_be_read_is_an_error_that_does_not_show_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\nB='hush\nC=3\n")

    with pytest.raises(SecretError, match=r"^cannot read \.env: line 2 is no NAME=value; ") as caught:
        read_dotenv(tmp_path, (".env",))

    assert "hush" not in str(caught.value)


def test_no_file_outside_of_the_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("A=1\n")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "outside")

    for name in ("../outside", "link", str(tmp_path / "outside")):
        with pytest.raises(SecretError, match="leads out of the definition's folder"):
            read_dotenv(inside, (name,))


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".env")

    with pytest.raises(SecretError, match="not a regular file"):
        read_dotenv(tmp_path, (".env",))
