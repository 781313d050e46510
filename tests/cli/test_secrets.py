"""`wizflow secrets`, and what runs with `{encrypted: ...}`: the value arrives, and is masked wherever it would show."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.cli.alone import environment, wizflow
from tests.system.conftest import MakeDaemon, make_daemon
from tests.system.running import shell
from wizflowd.vault import Vault, new_key

__all__ = ["make_daemon"]  # a fixture

SECRET = "correct horse/battery+staple"
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()


def keygen(folder: Path, name: str = "keys") -> Path:
    """Make a file with a new key, which nobody else may read."""
    path = folder / name
    path.write_text(f"{new_key()}\n")
    path.chmod(0o600)
    return path


def encrypted(keys: Path, text: str = SECRET) -> str:
    return Vault(keys.read_text()).encrypt(text)


def workflow(token: str) -> str:
    show = [
        shell("show", "echo {{secrets.PASS}}; printf '%s' {{secrets.PASS}} | base64; exit 0"),
        shell("check", f"test \"$(printf %s {{{{secrets.PASS}}}} | sha256sum)\" = '{DIGEST}  -'"),
        shell("give", "printf '%s' {{secrets.PASS}}", outputs={"given": {"type": "text"}}),
    ]
    return json.dumps({"secrets": {"PASS": {"encrypted": token}}, "tasks": show})


def places_of(text: str, folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if text.encode() in path.read_bytes()]


def test_what_is_encrypted_with_a_new_key_is_decrypted_to_the_byte(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(wizflow("secrets", "keygen").out)
    keys.chmod(0o600)
    text = "zwölf\ntwo lines\n"

    token = wizflow("secrets", "encrypt", "--key-file", keys, input=f"{text}\n")
    said = wizflow("secrets", "decrypt", "--key-file", keys, input=token.out)

    assert (token.status, token.err, len(token.out.splitlines())) == (0, "", 1)
    assert (said.status, said.out, said.err) == (0, text, "")


def test_keys_are_changed_by_putting_a_new_one_on_top(tmp_path: Path) -> None:
    old, new = keygen(tmp_path, "old"), keygen(tmp_path, "new")
    token = encrypted(old)
    both = tmp_path / "both"
    both.write_text(new.read_text() + old.read_text())
    both.chmod(0o600)

    text = wizflow("secrets", "decrypt", "--key-file", both, input=token).out
    renewed = wizflow("secrets", "encrypt", "--key-file", both, input=text).out

    assert text == SECRET
    assert Vault(new.read_text()).decrypt(renewed.strip()) == SECRET


def test_a_token_of_another_key_ends_with_1_and_one_line(tmp_path: Path) -> None:
    token = encrypted(keygen(tmp_path, "one"))

    said = wizflow("secrets", "decrypt", "--key-file", keygen(tmp_path, "two"), input=token)

    assert (said.status, said.out) == (1, "")
    assert said.errors[0].startswith("the token cannot be decrypted with any of the keys; keep the key it was")


def test_a_key_file_that_others_may_read_is_refused_with_the_chmod_that_mends_it(tmp_path: Path) -> None:
    keys = keygen(tmp_path)
    keys.chmod(0o644)

    said = wizflow("secrets", "encrypt", "--key-file", keys, input=SECRET)

    assert (said.status, said.out) == (1, "")
    assert said.errors == [f"cannot use the keys in {keys}: others may read or change it; chmod 600 {keys}"]


def test_without_a_key_it_says_where_one_would_be(tmp_path: Path) -> None:
    config = tmp_path / "wizflowd.yaml"
    config.write_text("{}")

    said = wizflow("--config", config, "secrets", "encrypt", input=SECRET)

    assert (said.status, said.out) == (1, "")
    assert "set secrets.key_file, or give the credential wizflowd_key" in said.err


@pytest.mark.parametrize("given", ["", "\n"])
def test_nothing_on_stdin_is_a_mistake(tmp_path: Path, given: str) -> None:
    said = wizflow("secrets", "encrypt", "--key-file", keygen(tmp_path), input=given)

    assert (said.status, said.out) == (2, "")
    assert said.errors == ["cannot encrypt: there is nothing on stdin; as in: wizflow secrets encrypt < FILE"]


def test_keys_are_those_of_the_configuration(tmp_path: Path) -> None:
    keys = keygen(tmp_path)
    config = tmp_path / "wizflowd.yaml"
    config.write_text(f"secrets: {{key_file: {keys}}}")

    said = wizflow("--config", config, "secrets", "decrypt", input=encrypted(keys))

    assert said.out == SECRET


def test_wizflow_run_decrypts_by_the_key_file_and_masks(tmp_path: Path) -> None:
    keys = keygen(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "w.json").write_text(workflow(encrypted(keys)))

    said = wizflow("run", "w.json", cwd=home, env=environment(WIZFLOWD_SECRETS__KEY_FILE=str(keys)))

    assert (said.status, said.err) == (0, "")
    assert (home / "w.runs/latest/logs/show.1.log").read_text() == "***\n***\n"
    assert places_of(SECRET, home) == []


def test_wizflow_run_without_the_right_key_fails_the_task_and_says_why(tmp_path: Path) -> None:
    token = encrypted(keygen(tmp_path, "one"))
    (tmp_path / "w.json").write_text(workflow(token))

    env = environment(WIZFLOWD_SECRETS__KEY_FILE=str(keygen(tmp_path, "two")))
    said = wizflow("run", "w.json", cwd=tmp_path, env=env)

    assert said.status == 1
    assert "PASS" in said.out
    assert "the token cannot be decrypted with any of the keys" in said.out


@pytest.mark.parametrize("by", ["key_file", "credential"])
def test_a_daemon_decrypts_and_masks_everywhere(make_daemon: MakeDaemon, tmp_path: Path, by: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    keys = keygen(outside, "wizflowd_key")
    daemon = make_daemon(tmp_path / "daemon")
    daemon.settings |= (
        {"WIZFLOWD_SECRETS__KEY_FILE": str(keys)} if by == "key_file" else {"CREDENTIALS_DIRECTORY": str(outside)}
    )

    daemon.start()
    daemon.drop("w.json", workflow(encrypted(keys)))
    run = daemon.wait_run("w")

    assert run.status == "succeeded"
    assert run.log("show") == "***\n***\n"
    assert run.tasks["give"]["outputs"] == {"given": "***"}
    assert daemon.stop() == 0
    assert places_of(SECRET, daemon.home) == []
