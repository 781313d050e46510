"""Warnings of `wizflow validate` on secrets that stand in a definition in clear."""

import pytest

from wizflowd.core.compile import validate_definition
from wizflowd.core.loader import Syntax

SHELL = "tasks: [{id: a, type: SHELL, command: 'true'%s}]"
REST = """
secrets: {S: {env: S}}
tasks: [{id: a, type: RESTAPI, method: POST, url: "https://example.com/", %s}]
"""


def warned(text: str) -> list[tuple[int, str]]:
    """Return the line and the path of each warning that tells of a secret."""
    problems = validate_definition(text.encode(), Syntax.YAML, stem="etl")
    assert all(problem.what.startswith("a secret in clear") for problem in problems)
    assert "hunter2" not in "".join(problem.render("etl.yaml") for problem in problems)
    return [(problem.line, problem.where) for problem in problems]


@pytest.mark.parametrize(
    "name", ["PASSWORD", "DB_PASSWORD", "api_key", "apiKey", "AWS_SECRET_ACCESS_KEY", "GitHubToken"]
)
def test_a_variable_or_param_that_is_named_like_a_secret_holds_none(name: str) -> None:
    in_env = f"env: {{{name}: hunter2x}}\n" + SHELL % f", env: {{{name}: hunter2x}}"
    in_params = f"params: {{{name}: hunter2x, p: {{default: 1}}}}\n" + SHELL % ""

    assert warned(in_env) == [(1, f"env.{name}"), (2, f"tasks[0].env.{name}")]
    assert warned(in_params) == [(1, f"params.{name}")]


@pytest.mark.parametrize(
    "entry",
    [
        'TOKEN: "{{secrets.S}}"',
        'TOKEN: "{{params.p}}"',
        "TOKEN: ''",
        "TOKEN: false",
        "TOKEN: /run/secrets/token",
        "TOKEN: https://login.example.com/token",
        "TOKEN: $OUTER",
        "TOKEN_FILE: abcdefgh",
        "MAX_TOKENS: 4096x",
        "SECRET_NAME: database",
        "PASSWORD_LENGTH: sixteen",
        "MONKEY: hunter2x",
    ],
)
def test_what_says_where_a_secret_is_or_how_long_is_none(entry: str) -> None:
    assert warned(f"secrets: {{S: {{env: S}}}}\nparams: {{p: x}}\n{SHELL % f', env: {{{entry}}}'}") == []


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("headers: {Authorization: Bearer hunter2x}", "headers.Authorization"),
        ("headers: {X-Api-Key: hunter2x}", "headers.X-Api-Key"),
        ("query: {access_token: hunter2x}", "query.access_token"),
        ("body: {user: {password: hunter2x}}", "body.user.password"),
        ("body: {list: [{clientSecret: hunter2x}]}", "body.list[0].clientSecret"),
        ("auth: {bearer: hunter2x}", "auth.bearer"),
        ("auth: {basic: {username: u, password: hunter2x}}", "auth.basic.password"),
    ],
)
def test_a_call_holds_no_secret(field: str, place: str) -> None:
    assert warned(REST % field) == [(3, f"tasks[0].{place}")]


@pytest.mark.parametrize(
    "field",
    [
        'headers: {Authorization: "Bearer {{secrets.S}}"}',
        'headers: {Authorization: "{{secrets.S}}", Accept: application/json}',
        'auth: {basic: {username: u, password: "{{secrets.S}}"}}',
        'auth: {bearer: "{{secrets.S}}"}',
        'query: {token: "{{secrets.S}}", page_token: ""}',
        "body: {tokens: [abcdefgh], password_hint: hunterxx}",
        "body: {token: 12345}",
    ],
)
def test_a_call_that_names_its_secret_is_good(field: str) -> None:
    assert warned(REST % field) == []


@pytest.mark.parametrize(
    "text",
    [
        "git clone https://bot:hunter2@git.example.com/x.git",
        "psql postgres://app:hunter2@db/app",
        "curl -H 'Authorization: Bearer hunter2hunter2' https://example.com/",
    ],
)
def test_a_login_within_a_command_is_told(text: str) -> None:
    assert warned(f'tasks:\n- id: a\n  type: SHELL\n  command: "{text}"\n') == [(4, "tasks[0].command")]


@pytest.mark.parametrize(
    "text",
    [
        "curl https://bot:$PASSWORD@example.com/",
        "curl https://bot:{{secrets.S}}@example.com/",
        "curl -H 'Authorization: Bearer {{secrets.S}}' http://127.0.0.1:8000/a@b",
        "echo https://example.com/x:y@z and a:b@c",
    ],
)
def test_a_login_that_is_filled_in_is_good(text: str) -> None:
    assert warned(f'secrets: {{S: {{env: S}}}}\ntasks:\n- id: a\n  type: SHELL\n  command: "{text}"\n') == []


def test_a_url_with_a_token_in_its_query_is_told() -> None:
    text = 'tasks: [{id: a, type: RESTAPI, method: GET, url: "https://example.com/?api_key=hunter2x&page=1"}]'

    assert warned(text) == [(1, "tasks[0].url")]
    assert warned(text.replace("hunter2x", "{{run.id}}")) == []
