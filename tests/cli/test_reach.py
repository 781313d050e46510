"""Where the daemon is looked for: option, variable, configuration, system, session."""

from argparse import Namespace
from pathlib import Path

import pytest

from wizflowd.cli import reach
from wizflowd.cli.reach import sockets

SESSION = "/run/user/1234"


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WIZFLOWD_CONTROL_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", SESSION)
    monkeypatch.setattr(reach, "SYSTEM_FILE", tmp_path / "system.yaml")


def asked(config: Path | None = None, socket: str | None = None) -> list[str]:
    return list(map(str, sockets(Namespace(config=config, control_socket=socket), "control")))


def test_an_option_goes_before_a_variable_and_both_before_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIZFLOWD_CONTROL_SOCKET", "/variable.sock")

    assert asked(socket="/option.sock") == ["/option.sock"]
    assert asked() == ["/variable.sock"]


def test_without_both_the_system_is_asked_before_the_session() -> None:
    assert asked()[:2] == ["/run/wizflowd/control.sock", f"{SESSION}/wizflowd/control.sock"]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("control_socket: /plain/c.sock  # where\n", "/plain/c.sock"),
        ("control_socket: '/quoted/c.sock'\n", "/quoted/c.sock"),
        ("{control_socket: /flow/c.sock}\n", "/flow/c.sock"),
        ("# control_socket: /no.sock\nevents_socket: /e.sock\n", "/run/wizflowd/control.sock"),
    ],
)
def test_the_configuration_of_the_system_is_followed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, first: str
) -> None:
    (tmp_path / "system.yaml").write_text(text)
    monkeypatch.setattr("wizflowd.config.SYSTEM_FILE", tmp_path / "system.yaml")

    assert asked()[0] == first


def test_a_configuration_that_is_named_says_where_even_by_its_defaults(tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text("state_dir: state\n")

    assert asked(config)[0] == f"{SESSION}/wizflowd/control.sock"
