"""Encrypted values: keys, their rotation, and where the keys come from."""

import os
from pathlib import Path

import pytest

from wizflowd.core.definition import SecretSource
from wizflowd.errors import SecretError
from wizflowd.secrets import resolve_secrets
from wizflowd.vault import CREDENTIAL, Vault, new_key, open_vault

OLD, NEW, OTHER = new_key(), new_key(), new_key()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"{OLD}\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("text", ["s3cret", "", "zwölf\nlines\n", "x" * 100_000, "\x00\U0001f511"])
def test_a_token_gives_its_text_back_and_never_shows_it(text: str) -> None:
    vault = Vault(OLD)

    token = vault.encrypt(text)

    assert vault.decrypt(token) == text
    assert token.isascii()
    assert not text or text not in token
    assert vault.encrypt(text) != token  # nobody sees that two values are the same


def test_a_new_key_on_top_encrypts_and_the_old_one_still_decrypts() -> None:
    before = Vault(OLD).encrypt("s3cret")

    both = Vault(f"# since March\n{NEW}\n\n# until March\n{OLD}\n")

    assert both.decrypt(before) == "s3cret"
    assert Vault(NEW).decrypt(both.encrypt("s3cret")) == "s3cret"
    with pytest.raises(SecretError, match="cannot be decrypted"):
        Vault(OLD).decrypt(both.encrypt("s3cret"))


@pytest.mark.parametrize(
    "spoil", [lambda t: t[:-10], lambda t: t[:20] + "A" + t[21:], lambda _: "", lambda _: "ünclear"]
)
def test_a_token_of_another_key_or_a_changed_one_is_refused(spoil: object) -> None:
    token = Vault(OLD).encrypt("s3cret")
    assert callable(spoil)

    with pytest.raises(SecretError, match="the token cannot be decrypted with any of the keys") as caught:
        Vault(OTHER).decrypt(token)
    with pytest.raises(SecretError, match="cannot be decrypted"):
        Vault(OLD).decrypt(spoil(token))

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("keys", ["", "# nothing\n", "abc", pytest.param("ü" + OLD[1:], id="umlaut")])
def test_what_is_no_key_is_refused_without_being_shown(keys: str) -> None:
    with pytest.raises(SecretError, match="wizflow secrets keygen") as caught:
        Vault(keys)

    assert OLD[:20] not in str(caught.value)


def test_the_credential_comes_before_the_key_file(tmp_path: Path, key_file: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    env = {"CREDENTIALS_DIRECTORY": str(credentials)}
    token = Vault(OLD).encrypt("s3cret")

    assert open_vault(key_file, env).decrypt(token) == "s3cret"  # there is no such credential
    (credentials / CREDENTIAL).write_text(NEW)
    with pytest.raises(SecretError):
        open_vault(key_file, env).decrypt(token)
    assert open_vault(None, env).decrypt(Vault(NEW).encrypt("other")) == "other"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_key_file_that_others_may_read_is_refused_with_the_command_that_mends_it(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)

    with pytest.raises(SecretError) as caught:
        open_vault(key_file, {})

    assert str(caught.value) == f"cannot use the keys in {key_file}: others may read or change it; chmod 600 {key_file}"
    key_file.chmod(0o600)
    open_vault(key_file, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_file_of_root_may_be_read_by_the_group_of_the_daemon(key_file: Path) -> None:
    os.chown(key_file, 65534, -1)
    for mode, mend in ((0o640, ""), (0o660, "chmod 640"), (0o644, "chmod 640")):
        key_file.chmod(mode)
        if mend:
            with pytest.raises(SecretError, match=f"{mend} {key_file}"):
                open_vault(key_file, {})
        else:
            open_vault(key_file, {})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "No such file or directory"),
        ("folder", "Is a directory"),
        ("fifo", "not a regular file"),
        ("latin", "not text"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_named_and_never_waited_for(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "latin").chmod(0o600)

    with pytest.raises(SecretError) as caught:
        open_vault(tmp_path / name, {})

    assert f"{tmp_path}/{name}: " in str(caught.value)
    assert reason in str(caught.value)


def test_a_secret_of_a_definition_is_decrypted_with_the_keys_of_the_daemon(key_file: Path) -> None:
    source = SecretSource(encrypted=Vault(OLD).encrypt("s3cret"))

    assert resolve_secrets({"S": source}, {}, key_file).values == {"S": "s3cret"}
    assert resolve_secrets({"S": source}, {}).missing == {
        "S": f"there is no key for encrypted values; set secrets.key_file, or give the credential {CREDENTIAL}"
    }
