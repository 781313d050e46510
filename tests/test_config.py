"""The configuration: defaults, file, environment, options, and what is said about mistakes."""

import os
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from wizflowd import config as module
from wizflowd.config import Address, load_config
from wizflowd.core.load_limits import LoadLimits
from wizflowd.errors import ConfigError

SAMPLE = Path(__file__).parent.parent / "config/wizflowd.yaml"
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes a configuration; the working directory is another than its folder."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(module, "SYSTEM_FILE", tmp_path / "absent.yaml")

    def write_config(text: str) -> Path:
        file = tmp_path / "etc/wizflowd.yaml"
        file.write_text(text)
        return file

    return write_config


def refusal(path: Path | None, env: dict[str, str] | None = None, **overrides: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, env or {}, overrides)
    return str(caught.value).splitlines()


def test_without_file_and_environment_everything_has_its_default(write: Write, tmp_path: Path) -> None:
    config = load_config(None, {"HOME": "/home/ann", "XDG_RUNTIME_DIR": "/run/user/7"})

    assert config.workflows_dir == tmp_path / "cwd/workflows"
    assert config.state_dir == Path("/home/ann/.local/state/wizflowd")
    assert config.events_socket == Path("/run/user/7/wizflowd/events.sock")
    assert config.control_socket == Path("/run/user/7/wizflowd/control.sock")
    assert config.limits.max_tasks == max(4, 2 * len(os.sched_getaffinity(0)))
    assert config.limits.definition.load_limits() == LoadLimits()
    assert config.limits.log_max == 64 * 2**20
    assert config.shutdown.grace == 10.0
    assert config.watch.settle == 0.05
    assert config.metrics.listen == Address("127.0.0.1", 9464)
    assert config.smtp is None
    assert config.strict_modes
    assert config.owners == ()


def test_an_empty_file_and_an_empty_section_have_the_defaults(write: Write) -> None:
    defaults = load_config(None, {})

    assert load_config(write("# nothing\n"), {}) == defaults
    assert load_config(write("limits:\nmetrics: {}\nevents_socket: null\n"), {}) == defaults


def test_a_base_directory_that_is_relative_is_ignored(write: Write) -> None:
    config = load_config(None, {"HOME": "/home/ann", "XDG_STATE_HOME": "here", "XDG_RUNTIME_DIR": "there"})

    assert config.state_dir == Path("/home/ann/.local/state/wizflowd")
    assert config.events_socket.is_absolute()
    assert "there" not in config.events_socket.parts


def test_a_unit_with_a_state_directory_is_the_system_service(write: Write) -> None:
    config = load_config(None, {"INVOCATION_ID": "0123", "STATE_DIRECTORY": "/var/lib/wizflowd"})

    assert config.workflows_dir == Path("/var/lib/wizflowd/workflows")
    assert config.state_dir == Path("/var/lib/wizflowd/state")
    assert config.control_socket == Path("/run/wizflowd/control.sock")
    assert "root" in config.owners


def test_the_system_file_is_read_when_none_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYSTEM_FILE", write("limits: {max_runs: 7}\n"))

    config = load_config(None, {})

    assert config.limits.max_runs == 7
    assert config.state_dir == Path("/var/lib/wizflowd/state")


def test_the_environment_goes_before_the_file_and_options_before_both(write: Write) -> None:
    file = write("limits: {max_tasks: 1, max_runs: 1, stream_clients: 1}\n")

    env = {"WIZFLOWD_LIMITS__MAX_TASKS": "2", "WIZFLOWD_LIMITS__MAX_RUNS": "2"}
    config = load_config(file, env, {"limits.max_tasks": 3, "limits.max_runs": None})

    assert (config.limits.max_tasks, config.limits.max_runs, config.limits.stream_clients) == (3, 2, 1)


def test_every_kind_of_value_can_come_from_the_environment(write: Write) -> None:
    env = {
        "WIZFLOWD_METRICS__LISTEN": "off",
        "WIZFLOWD_WATCH__SETTLE": "250ms",
        "WIZFLOWD_SHUTDOWN__GRACE": "5",
        "WIZFLOWD_LIMITS__LOG_MAX": "64KiB",
        "WIZFLOWD_LIMITS__DEFINITION__DEPTH": "8",
        "WIZFLOWD_STRICT_MODES": "false",
        "WIZFLOWD_OWNERS": '["ann", "@ops"]',
        "WIZFLOWD_POOLS__GPU": "2",
        "WIZFLOWD_EVENTS_GROUP": "1000",
        "WIZFLOWD_SMTP__HOST": "mail.example.com",
        "WIZFLOWD_SMTP__USERNAME": "ann",
        "WIZFLOWD_SMTP__PASSWORD": "64401",
        "WIZFLOWD_SMTP__FROM": "ann@example.com",
        "WIZFLOWD_RESULTS_DIR": "",
    }

    config = load_config(None, env)

    assert config.metrics.listen is None
    assert (config.watch.settle, config.shutdown.grace, config.limits.log_max) == (0.25, 5.0, 65536)
    assert config.limits.definition.depth == 8
    assert not config.strict_modes
    assert config.owners == ("ann", "@ops")
    assert config.pools == {"GPU": 2}
    assert config.events_group == "1000"
    assert config.results_dir is None
    assert config.smtp is not None
    assert config.smtp.password is not None
    assert config.smtp.password.get_secret_value() == "64401"
    assert config.smtp.sender == "ann@example.com"


def test_paths_begin_at_the_file_in_the_file_and_where_one_is_elsewhere(write: Write, tmp_path: Path) -> None:
    file = write("workflows_dir: flows/../w\nstate_dir: ~/state\nsecrets: {key_file: key}\n")

    env = {"HOME": "/home/ann", "WIZFLOWD_METRICS__WEB_CONFIG": "web.yml"}
    config = load_config(file, env, {"results_dir": Path("r")})

    assert config.workflows_dir == tmp_path / "etc/w"
    assert config.state_dir == Path("/home/ann/state")
    assert config.secrets.key_file == tmp_path / "etc/key"
    assert config.metrics.web_config == tmp_path / "cwd/web.yml"
    assert config.results_dir == tmp_path / "cwd/r"


@pytest.mark.parametrize(
    ("smtp", "expected"),
    [
        ("{host: mail.example.com}", ("starttls", 587)),
        ("{host: mail.example.com, tls: tls}", ("tls", 465)),
        ("{host: mail.example.com, tls: none}", ("none", 25)),
        ("{host: localhost}", ("none", 25)),
        ("{host: 127.0.0.1, port: 2525}", ("none", 2525)),
        ("{host: 127.example.com}", ("starttls", 587)),
    ],
)
def test_mail_is_encrypted_unless_it_stays_on_the_host(write: Write, smtp: str, expected: tuple[str, int]) -> None:
    config = load_config(write(f"smtp: {smtp}\n"), {})

    assert config.smtp is not None
    assert (config.smtp.tls, config.smtp.port) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("off", None),
        ("0.0.0.0:9000", Address("0.0.0.0", 9000)),
        ("localhost:0", Address("localhost", 0)),
        ("'[::1]:9464'", Address("::1", 9464)),
    ],
)
def test_an_address_is_read(write: Write, text: str, expected: Address | None) -> None:
    assert load_config(write(f"metrics: {{listen: {text}}}\n"), {}).metrics.listen == expected


@pytest.mark.parametrize("text", ["9464", "':9464'", "'::1:9464'", "host:65536", "host:-1", "'host:'", "true", "[]"])
def test_what_is_no_address_is_refused(write: Write, text: str) -> None:
    [line] = refusal(write(f"metrics: {{listen: {text}}}\n"))

    assert "wizflowd.yaml:1:" in line
    assert "metrics.listen" in line
    assert "address" in line


def test_all_mistakes_are_told_at_once_each_with_its_place(write: Write) -> None:
    file = write("limits:\n  max_taks: 3\n  log_max: 5 bananas\nwatch: {backend: magic}\nworkflow_dir: x\n")

    lines = refusal(file)

    assert len(lines) == 4
    assert lines[0].startswith(f"{file}:2:3: limits.max_taks: ")
    assert "max_tasks" in lines[0]
    assert lines[1].startswith(f"{file}:3:12: limits.log_max: ")
    assert lines[2].startswith(f"{file}:4:18: watch.backend: ")
    assert "inotify" in lines[2]
    assert lines[3].startswith(f"{file}:5:1: workflow_dir: ")
    assert "workflows_dir" in lines[3]


def test_a_mistake_from_outside_the_file_names_where_it_came_from(write: Write) -> None:
    env = {
        "WIZFLOWD_LIMITS__MAX_TASKS": "many",
        "WIZFLOWD_LIMIT__MAX_RUNS": "3",
        "WIZFLOWD_POOLS": "gpu=2",
        "WIZFLOWD_METRICS__LISTEN": "off",
    }

    lines = refusal(write("limits: {max_tasks: 4}\n"), env, **{"metrics.listen": "nowhere"})

    assert len(lines) == 4
    assert lines[0].startswith("WIZFLOWD_LIMIT__MAX_RUNS: ")
    assert "WIZFLOWD_LIMITS__MAX_RUNS" in lines[0]
    assert any(line.startswith("WIZFLOWD_LIMITS__MAX_TASKS: ") and "many" in line for line in lines)
    assert any(line.startswith("WIZFLOWD_POOLS: ") for line in lines)
    assert any(line.startswith("metrics.listen: ") and "nowhere" in line for line in lines)


def test_a_right_variable_mends_what_is_wrong_in_the_file(write: Write) -> None:
    file = write("limits: {max_tasks: none}\n")

    assert load_config(file, {"WIZFLOWD_LIMITS__MAX_TASKS": "9"}).limits.max_tasks == 9


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("limits: 5", "limits"),
        ("limits: {max_tasks: 0}", "limits.max_tasks"),
        ("limits: {max_tasks: true}", "limits.max_tasks"),
        ("strict_modes: 'no'", "strict_modes"),
        ("shutdown: {grace: 0s}", "shutdown.grace"),
        ("pools: {'a b': 1}", "pools"),
        ("smtp: {port: 25}", "smtp"),
        ("smtp: {host: h, tls: [x]}", "smtp.tls"),
        ("smtp: {host: h, username: ann}", "smtp"),
        ("owners: root", "owners"),
        ("workflows_dir: [a]", "workflows_dir"),
        ("workflows_dir: ''", "workflows_dir"),
        ("[]", "mapping"),
        ("a: 1\na: 2", "a"),
        ("on: {", "wizflowd.yaml"),
    ],
)
def test_a_wrong_value_is_refused(write: Write, text: str, says: str) -> None:
    [line] = refusal(write(text + "\n"))

    assert says in line


def test_a_file_that_is_not_there_is_named(write: Write, tmp_path: Path) -> None:
    [line] = refusal(tmp_path / "nowhere.yaml")

    assert str(tmp_path / "nowhere.yaml") in line
    assert "--config" in line


@pytest.mark.parametrize("wrong", ["[918273645]", "918273645", "{a: 918273645}"])
def test_a_password_that_is_no_text_is_not_shown(write: Write, wrong: str) -> None:
    [line] = refusal(write(f"smtp: {{host: h, username: u, password: {wrong}}}\n"))

    assert "smtp.password" in line
    assert "918273645" not in line


def test_a_password_is_in_no_picture_of_the_configuration(write: Write) -> None:
    config = load_config(write("smtp: {host: h, username: u, password: hunter2hunter2}\n"), {})

    assert "hunter2" not in repr(config)


def test_a_variable_below_what_is_no_mapping_leaves_the_mistake_to_the_file(write: Write) -> None:
    file = write("limits: 5\n")

    assert refusal(file, {"WIZFLOWD_LIMITS__MAX_TASKS": "9"}) == [f"{file}:1:9: limits: must be a mapping, not 5"]


def test_the_configuration_cannot_be_changed(write: Write) -> None:
    config = load_config(None, {})

    with pytest.raises(FrozenInstanceError):
        config.limits.max_runs = 5  # type: ignore[misc]


def test_the_sample_holds_every_key_with_its_default(write: Write) -> None:
    text = SAMPLE.read_text()

    sample = load_config(SAMPLE, {})

    system = load_config(None, {"INVOCATION_ID": "0123", "STATE_DIRECTORY": "/var/lib/wizflowd"})
    assert replace(sample, owners=system.owners) == system
    for key in module._TYPES:
        assert re.search(rf"^[# ]*{key[-1]}:", text, re.MULTILINE), f"{'.'.join(key)} is not in the sample"


def test_the_mail_server_of_the_sample_is_valid(write: Write) -> None:
    commented = re.search(r"^#   smtp:\n(?:#     .*\n)+", SAMPLE.read_text(), re.MULTILINE)

    assert commented is not None
    text = re.sub(r"^#   ", "", commented[0], flags=re.MULTILINE).replace("password: null", "password: p")
    config = load_config(write(text), {})

    assert config.smtp is not None
    assert config.smtp.password is not None
    for key in module._TYPES:
        assert key[0] != "smtp" or len(key) == 1 or f"  {key[1]}:" in text
