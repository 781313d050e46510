"""Encrypted values in definitions: Fernet tokens, made by `wizflow secrets encrypt`, opened by the daemon.

In: a file of keys, one a line: the first encrypts, all decrypt, so that a key is rotated by putting a new one on top.
Out: tokens and texts. Raises SecretError. The `cryptography` library does the work and is imported when it is needed.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from wizflowd.errors import SecretError

CREDENTIAL = "wizflowd_key"
"""The systemd credential that holds the keys, before `secrets.key_file` of the configuration."""
MAX_KEY_BYTES = 64 * 1024


def new_key() -> str:
    """Return a new key as text."""
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


class Vault:
    """Encrypts and decrypts with the keys of a file."""

    def __init__(self, keys: str) -> None:
        """Take keys, one a line; what begins with # is passed over. Raises SecretError."""
        from cryptography.fernet import Fernet, MultiFernet

        lines = [line.strip() for line in keys.splitlines()]
        try:
            self._fernet = MultiFernet([Fernet(line) for line in lines if line and not line.startswith("#")])
        except ValueError as exc:
            raise SecretError("the keys cannot be used", hint="make one with `wizflow secrets keygen`") from exc

    def encrypt(self, text: str) -> str:
        """Return the token of a text."""
        return self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, token: str) -> str:
        """Return the text of a token. Raises SecretError."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(token.encode()).decode()
        except (InvalidToken, UnicodeError) as exc:
            hint = "keep the key it was encrypted with among them, below the one in use"
            raise SecretError("the token cannot be decrypted with any of the keys", hint=hint) from exc


def open_vault(key_file: Path | None, env: Mapping[str, str]) -> Vault:
    """Return the vault of the credential, or of the key file. Raises SecretError."""
    if "CREDENTIALS_DIRECTORY" in env:
        credential = Path(env["CREDENTIALS_DIRECTORY"]) / CREDENTIAL
        if credential.exists():
            return Vault(_read(credential))
    if key_file is not None:
        return Vault(_read(key_file, private=True))
    raise SecretError(
        "there is no key for encrypted values", hint=f"set secrets.key_file, or give the credential {CREDENTIAL}"
    )


def _read(path: Path, *, private: bool = False) -> str:
    """Return the text of a file of keys; `private`: nobody else may read it, which systemd sees to for credentials."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise SecretError(f"cannot use the keys in {path}: it is not a regular file")
            if private and (mend := _mend(found)):
                raise SecretError(f"cannot use the keys in {path}: others may read or change it", hint=f"{mend} {path}")
            return file.read(MAX_KEY_BYTES).decode()
    except OSError as exc:
        raise SecretError(f"cannot read the keys in {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SecretError(f"cannot use the keys in {path}: it is not text") from exc


def _mend(found: os.stat_result) -> str:
    """Return the command that closes a file to others; empty: it is closed.

    A group may read a file of another user: that is how a service gets at a file of root's.
    """
    if found.st_uid == os.geteuid():
        return "chmod 600" if found.st_mode & 0o077 else ""
    return "chmod 640" if found.st_mode & 0o027 else ""


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would hold up whoever opens it
