"""Secrets stand in no log, result, event, error, metric, argv or database, in no shape (SPEC section 3, section 10)."""

import base64
import json
import urllib.parse
from pathlib import Path

from tests.servers import Answer, HttpServer, Request
from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, shell, tasks_alive, wizflow

BY_ENV = 'env/secret "A" & one+two'
BY_FILE = "file-secret\nits second line, too"
BY_CREDENTIAL = "credential=s3cret/value?"
BY_DOTENV = "dotenv-secret-value"
SECRETS = (BY_ENV, *BY_FILE.splitlines(), BY_CREDENTIAL, BY_DOTENV)


def shapes_of(secret: str) -> list[bytes]:
    """Return the shapes in which a secret must not be found; of base64 what all three shifts have in common."""
    raw = secret.encode()
    shapes = [raw, json.dumps(secret)[1:-1].encode(), raw.hex().encode(), urllib.parse.quote(secret, safe="").encode()]
    for shift in range(3):
        coded = base64.b64encode(b"x" * shift + raw)
        shapes.append(coded[4 if shift else 0 : -4])
    return shapes


def places_of_secrets(folder: Path) -> list[str]:
    """Return every file below a folder that holds a secret in some shape, raw bytes of the database included."""
    found = []
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        found += [f"{path}: {shape!r}" for secret in SECRETS for shape in shapes_of(secret) if shape in data]
    return found


def give_secrets(daemon: Daemon, tmp_path: Path) -> None:
    """Let the daemon have the three sources, outside of its own folders."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "token").write_text(BY_FILE + "\n")
    (outside / "api").write_text(BY_CREDENTIAL)
    daemon.settings |= {"TEST_SECRET": BY_ENV, "CREDENTIALS_DIRECTORY": str(outside)}
    daemon.workflows.joinpath(".env.secret").write_text(f"FROM_DOTENV='{BY_DOTENV}'\n")


def secret_workflow(tmp_path: Path, url: str, *, failing: bool = False) -> dict[str, object]:
    sources = {
        "ENV": {"env": "TEST_SECRET"},
        "FILE": {"file": str(tmp_path / "outside/token")},
        "CREDENTIAL": {"credential": "api"},
    }
    show = "\n".join(
        [
            "echo {{secrets.ENV}} {{secrets.FILE}} '{{secrets.CREDENTIAL}}' $FROM_DOTENV",
            "printf %s {{secrets.ENV}} | base64; printf x%s {{secrets.CREDENTIAL}} | base64 -w0; echo",
            "printf %s {{secrets.FILE}} | od -An -tx1 -v | tr -d ' \\n'; echo",
            "echo {{secrets.CREDENTIAL}} >&2",
            # in two writes, the second after a while
            "printf 'credential=s3c'; sleep 0.3; echo 'ret/value?'",
            *(["exit 1"] if failing else []),
        ]
    )
    call = {
        "id": "call",
        "type": "RESTAPI",
        "method": "POST",
        "url": f"{url}/{{{{secrets.CREDENTIAL}}}}",
        "headers": {"X-Token": "{{secrets.ENV}}"},
        "auth": {"bearer": "{{secrets.CREDENTIAL}}"},
        "body": {"token": "{{secrets.FILE}}", "both": "{{secrets.ENV}} and {{env.FROM_DOTENV}}"},
        "outputs": {"echoed": {"type": "json", "json_path": "$"}},
    }
    return {
        "secrets": sources,
        "dotenv": [".env.secret"],
        "tasks": [
            shell("show", show),
            shell("give", "echo {{secrets.ENV}}", outputs={"text": {"type": "text"}}),
            shell("take", "printf '%s' {{text}} > taken", "give"),
            shell("named", 'printf "%s=%s\\n" token {{secrets.CREDENTIAL}} >> "$WIZFLOW_OUTPUT"'),
            shell("argv", 'tr "\\0" "\\n" < /proc/$$/cmdline; : {{secrets.CREDENTIAL}}'),
            call,
        ],
    }


def test_secrets_of_every_source_are_masked_everywhere(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon(tmp_path / "daemon")
    give_secrets(daemon, tmp_path)

    def echo(request: Request) -> Answer:
        body = json.dumps({"body": request.json, "token": request.headers["x-token"], "target": request.target})
        return Answer(headers=(("Content-Type", "application/json"),), body=body.encode())

    daemon.start()
    with HttpServer(echo) as server:
        daemon.drop("secret.json", secret_workflow(tmp_path, server.url))
        run = daemon.wait_run("secret")

    assert run.status == "succeeded"
    (request,) = server.requests  # the other side got the real values
    assert request.headers["x-token"] == BY_ENV
    assert request.headers["authorization"] == f"Bearer {BY_CREDENTIAL}"
    assert request.json == {"token": BY_FILE, "both": f"{BY_ENV} and {BY_DOTENV}"}
    assert urllib.parse.unquote(request.target) == f"/{BY_CREDENTIAL}"

    assert run.log("show").splitlines()[0] == "*** *** *** ***"
    assert run.log("show").splitlines()[-1] == "***"  # came in two pieces
    assert run.tasks["give"]["outputs"] == {"text": "***"}
    assert (daemon.workspace("secret") / "taken").read_text() == "***"
    assert run.tasks["call"]["outputs"]["echoed"]["body"] == {"token": "***", "both": "*** and ***"}
    assert run.tasks["named"]["outputs"] == {"token": "***"}
    notes = [note for attempt in run.tasks["give"]["attempts"] for note in attempt["notes"]]
    assert any("text" in note for note in notes), notes  # a warning names the output
    assert daemon.stop() == 0
    (daemon.workflows / ".env.secret").unlink()
    assert places_of_secrets(daemon.home) == []


def test_secrets_of_failing_tasks_and_of_a_crash_are_masked(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon(tmp_path / "daemon")
    give_secrets(daemon, tmp_path)

    def refuse(request: Request) -> Answer:
        text = f"no such token: {request.headers['x-token']} {request.headers['authorization']} {request.target}"
        return Answer(status=403, body=text.encode())

    daemon.start()
    with HttpServer(refuse) as server:
        workflow = secret_workflow(tmp_path, server.url, failing=True)
        workflow["tasks"] += [shell("long", "echo {{secrets.ENV}}; sleep 2; echo {{secrets.FILE}}")]  # type: ignore[operator]
        daemon.drop("secret.json", workflow)
        daemon.wait_begun("secret", "long")
        daemon.wait_told("task.failed", "secret/", 2)
        daemon.kill9()
        daemon.start()
        run = daemon.wait_run("secret")

    assert run.named("failed") == {"show", "call"}
    assert "***" in run.tasks["call"]["attempts"][-1]["error"]
    assert run.log("long") == "***\n***\n"
    assert daemon.stop() == 0
    (daemon.workflows / ".env.secret").unlink()
    assert places_of_secrets(daemon.home) == []


def test_the_search_for_secrets_finds_one_that_is_there(tmp_path: Path) -> None:
    for number, shape in enumerate(shapes_of(BY_CREDENTIAL)):
        (tmp_path / f"file-{number}").write_bytes(b"before " + shape + b" after")

    assert len({place.partition(": ")[0] for place in places_of_secrets(tmp_path)}) == len(shapes_of(BY_CREDENTIAL))


def test_a_secret_without_a_value_fails_what_uses_it_and_says_which(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.drop(
        "w.json",
        {
            "secrets": {"GONE": {"env": "TEST_NOT_SET"}},
            "tasks": [shell("uses", ": {{secrets.GONE}}"), shell("b", "true")],
        },
    )

    run = daemon.wait_run("w")

    assert run.statuses == {"uses": "failed", "b": "succeeded"}
    assert "GONE" in run.tasks["uses"]["reason"]
    assert "TEST_NOT_SET" in run.tasks["uses"]["reason"]
    assert tasks_alive(daemon.home) == []


def test_wizflow_run_masks_what_it_shows(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    tasks = [shell("show", "echo {{secrets.ENV}}; exit 1")]
    (home / "w.json").write_text(json.dumps({"secrets": {"ENV": {"env": "TEST_SECRET"}}, "tasks": tasks}))

    done = wizflow(home, "run", "w.json", env={"TEST_SECRET": BY_ENV})

    assert done.returncode == 1
    assert "***" in done.stdout  # the end of the log is shown
    assert BY_ENV not in done.stdout + done.stderr
    assert places_of_secrets(home) == []
