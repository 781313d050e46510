"""`wizflow secrets keygen|encrypt|decrypt`: values for `{encrypted: ...}`; they come on stdin and leave on stdout."""

import argparse
import os
import sys
from pathlib import Path

from wizflowd.cli.source import usable_config
from wizflowd.errors import RequestError
from wizflowd.vault import Vault, new_key, open_vault


def secrets(options: argparse.Namespace) -> int:
    """Make a key, or turn a value into a token and back."""
    if options.action == "keygen":
        print(new_key())
        return 0
    vault = _vault(options.key_file, options.config)
    given = _given(options.action)
    if options.action == "encrypt":
        print(vault.encrypt(given.removesuffix("\n")))
    else:
        sys.stdout.write(vault.decrypt(given.strip()))
    return 0


def _vault(named: Path | None, config: Path | None) -> Vault:
    if named is not None:
        return open_vault(named, {})
    return open_vault(usable_config(config).secrets.key_file, os.environ)


def _given(action: str) -> str:
    """Return what stands on stdin. Raises RequestError."""
    try:
        given = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as exc:
        raise RequestError("bad_value", f"cannot {action}: what is on stdin is not UTF-8") from exc
    if not given.strip():
        hint = f"as in: wizflow secrets {action} < FILE"
        raise RequestError("bad_value", f"cannot {action}: there is nothing on stdin", hint=hint)
    return given
