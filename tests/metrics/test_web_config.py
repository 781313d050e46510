"""TLS and users by Prometheus's web configuration file: served as it says, refused with line and column."""

import base64
import ssl
from pathlib import Path

import bcrypt
import pytest
import trustme

from tests.metrics.serving import Scene, get, serving
from wizflowd.errors import ConfigError
from wizflowd.metrics import read_web_config


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def home(tmp_path: Path, authority: trustme.CA) -> Path:
    """A folder with a certificate for localhost, its key, and the authority."""
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path


@pytest.fixture
def client(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def written(home: Path, text: str) -> Path:
    path = home / "web.yml"
    path.write_text(text)
    return path


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def basic(user: str, password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


TLS = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n"


async def test_a_user_with_the_password_is_let_in_and_nobody_else(home: Path) -> None:
    config = written(home, f'basic_auth_users: {{prometheus: "{hashed("open sesame")}"}}\n')

    async with serving(Scene().monitor(config)) as port:
        nobody = await get(port, "/metrics")
        wrong = await get(port, "/metrics", basic("prometheus", "guess"))
        unknown = await get(port, "/metrics", basic("admin", "open sesame"))
        right = [await get(port, "/metrics", basic("prometheus", "open sesame")) for _ in range(2)]
        probe = await get(port, "/-/healthy")

    assert [got.status for got in (nobody, wrong, unknown, probe)] == [401] * 4
    assert nobody.headers["www-authenticate"] == 'Basic realm="wizflowd"'
    assert [got.status for got in right] == [200, 200]


@pytest.mark.parametrize("value", ["Basic", "Basic !!!", "Bearer abc", "Basic " + "YQ==", "Basic //8=", "Basic AAAA"])
async def test_what_is_no_basic_auth_is_not_let_in(home: Path, value: str) -> None:
    config = written(home, f'basic_auth_users: {{prometheus: "{hashed("open sesame")}"}}\n')

    async with serving(Scene().monitor(config)) as port:
        assert (await get(port, "/metrics", f"Authorization: {value}")).status == 401


async def test_a_hash_of_htpasswd_and_a_password_over_72_bytes_are_good(home: Path) -> None:
    stored = hashed("x" * 72).replace("$2b$", "$2y$")
    config = written(home, f'basic_auth_users: {{prometheus: "{stored}"}}\n')

    async with serving(Scene().monitor(config)) as port:
        assert (await get(port, "/metrics", basic("prometheus", "x" * 80))).status == 200


async def test_tls_is_served_and_plain_text_is_not(home: Path, client: ssl.SSLContext) -> None:
    async with serving(Scene().monitor(written(home, TLS))) as port:
        secure = await get(port, "/metrics", tls=client)
        with pytest.raises((ConnectionError, EOFError)):
            await get(port, "/metrics")

    assert secure.status == 200


async def test_a_client_certificate_can_be_required(home: Path, client: ssl.SSLContext, authority: trustme.CA) -> None:
    config = written(
        home,
        "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n"
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n",
    )

    async with serving(Scene().monitor(config)) as port:
        with pytest.raises((ConnectionError, EOFError, ssl.SSLError)):
            await get(port, "/metrics", tls=client)
        authority.issue_cert("prometheus").configure_cert(client)
        known = await get(port, "/metrics", tls=client)

    assert known.status == 200


async def test_a_renewed_certificate_and_other_users_are_taken_over_by_a_reload(
    home: Path, client: ssl.SSLContext
) -> None:
    config = written(home, TLS)
    scene = Scene()
    monitor = scene.monitor(config)

    async with serving(monitor) as port:
        before = await get(port, "/metrics", tls=client)
        written(home, TLS + f'basic_auth_users: {{a: "{hashed("b")}"}}\n')
        monitor.change_settings(scene.settings(config))
        after = await get(port, "/metrics", tls=client)
        known = await get(port, "/metrics", basic("a", "b"), tls=client)

    assert [got.status for got in (before, after, known)] == [200, 401, 200]


def test_an_empty_file_asks_for_nothing(home: Path) -> None:
    access = read_web_config(written(home, "# nothing yet\n"))

    assert (access.tls, dict(access.users)) == (None, {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "basic_auth_user: {a: b}\n",
            'web.yml:1:1: basic_auth_user: unknown field; did you mean "basic_auth_users"?',
        ),
        ("basic_auth_users:\n  bob: hunter2\n", "web.yml:2:8: basic_auth_users.bob: is not a bcrypt hash; make one"),
        (
            f"basic_auth_users:\n  bob: $2b$31${'a' * 53}\n",
            "web.yml:2:8: basic_auth_users.bob: a bcrypt cost of 31 is too slow to ask for; make it 14 at most",
        ),
        ("tls_server_config:\n  cert_file: server.pem\n", 'web.yml:2:3: tls_server_config: missing field "key_file"'),
        (
            TLS.replace("server.key", "none.key"),
            "/none.key: No such file or directory",
        ),
        (
            TLS.replace("server.key", "ca.pem"),
            "web.yml:1:32: tls_server_config.cert_file: cannot use it with its key: ",
        ),
        (
            TLS.replace("}", ", client_auth_type: RequireAndVerifyClientCert}"),
            "tls_server_config: client_auth_type and client_ca_file belong together; write both or neither",
        ),
        (
            TLS.replace("}", ", client_auth_type: RequestClientCert}"),
            'tls_server_config.client_auth_type: "RequestClientCert" is not one of "NoClientCert"',
        ),
        (TLS.replace("}", ", min_version: TLS10}"), 'tls_server_config.min_version: "TLS10" is not one of "TLS12"'),
        ("- a\n", "must be a mapping"),
        ("a: [\n", "web.yml:2:1: "),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(home: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_web_config(written(home, text))

    assert told in str(refused.value)
    assert str(refused.value).startswith(f"{home}/web.yml:")
    assert "hunter2" not in str(refused.value)


def test_a_missing_file_is_named(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the web configuration .*/web\.yml: No such file"):
        read_web_config(home / "web.yml")
