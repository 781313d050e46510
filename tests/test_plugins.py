"""Kinds of tasks from packages: `examples/plugin-sql`, installed as its readers would, and packages that are broken.

`docs/plugins.md` is true: it shows the package as it is, and its workflow and console blocks are done here.
"""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cli.alone import WIZFLOW, Said, environment, wizflow
from tests.system.conftest import MakeDaemon, make_daemon
from tests.system.running import Daemon, Finished, finished_in, gated, shell, wait_for
from tests.test_docs import commands

__all__ = ["make_daemon"]  # a fixture

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "examples/plugin-sql"
PAGE = (ROOT / "docs/plugins.md").read_text()
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
NASTY = """
import sys
from pydantic.dataclasses import dataclass
from wizflowd.plugins import MODEL, KindError, Line, PluginTask

@dataclass(frozen=True, slots=True, kw_only=True, config=MODEL)
class NastyTask(PluginTask):
    how: Line

class Words(str):
    def __str__(self):
        return self

class Nasty:
    task = NastyTask

    async def perform(self, call):
        call.log(f"about to {call.task.how}")
        match call.task.how:
            case "raise":
                raise ValueError("no such luck")
            case "exit":
                sys.exit(7)
            case "return":
                return {1, 2}
            case "own":
                raise KindError(Words("no text of ours"))
            case "number":
                raise KindError(5)
            case how:
                raise KindError(f"cannot {how}", hint="try another", retryable=how != "stop")
"""


def block(kind: str) -> str:
    """Return the one block of the page of this kind."""
    (text,) = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example into a folder, offline where this environment can build a wheel, and return the folder."""
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copytree(PACKAGE, folder / "source")  # a build leaves its own files there
    here = ["--no-build-isolation"] if find_spec("setuptools.command.bdist_wheel") else []
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", *here]
    subprocess.run([*pip, "--target", folder / "site", folder / "source"], check=True)
    return folder / "site"


@pytest.fixture(autouse=True)
def plugins(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that every program finds that the test starts, beside the example."""
    folder = tmp_path / "more-plugins"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{installed}:{folder}")
    return folder


def add_package(folder: Path, module: str, source: str, **entry_points: str) -> None:
    """Put a package there as an installer leaves it."""
    (folder / f"{module}.py").write_text(source)
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    lines = [f"{name} = {module}:{what}" for name, what in entry_points.items()]
    (about / "entry_points.txt").write_text("\n".join(["[wizflowd.executors]", *lines, ""]))


def run_alone(folder: Path, text: str, *options: str, expect: int = 0, **env: str) -> Finished:
    """Run a workflow to its end with `wizflow run` and return its last run."""
    (folder / "shop.yaml").write_text(text)
    said = wizflow("run", "shop.yaml", *options, cwd=folder, env=environment(**env))
    assert said.status == expect, said
    return finished_in(folder / "shop.runs")[-1]


def check(folder: Path, text: str) -> Said:
    (folder / "shop.yaml").write_text(text)
    return wizflow("validate", "shop.yaml", cwd=folder)


def sql(name: str, query: str, *needs: str, **fields: Any) -> dict[str, Any]:
    """Return an SQL task, which may write: a database that is not there is made."""
    task = {"id": name, "type": "SQL", "database": "shop.db", "query": query, "write": True, "depends_on": [*needs]}
    return {**task, "outputs": {"rows": {"type": "json"}}, **fields}


def database(folder: Path) -> sqlite3.Connection:
    """Return the database in a workspace, made with one row in its one table where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "shop.db")
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t AS SELECT 1 AS n")
    return connection


# -- the page -------------------------------------------------------------------------------------------------


def test_the_page_shows_the_package_as_it_is() -> None:
    assert block("python") == (PACKAGE / "wizflowd_sql/__init__.py").read_text()
    assert block("toml") == (PACKAGE / "pyproject.toml").read_text()


def test_the_workflow_of_the_page_runs(tmp_path: Path) -> None:
    run = run_alone(tmp_path, block("yaml"), NICKNAME="annabell")

    assert run.status == "succeeded"
    assert run.tasks["large"]["outputs"] == {"count": 120, "rows": [{"customer": "***", "total": 120}]}
    assert run.log("large") == "1 rows\n"
    assert run.log("tell") == '[{"customer":"***","total":120}] is 120\n'


def test_what_the_page_says_of_mistakes_is_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(block("yaml"))
    ((command, expected),) = commands(block("console"))

    said = subprocess.run(
        ["sh", "-c", command.replace("wizflow", str(WIZFLOW))],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )

    assert said.stderr == expected


# -- a definition ---------------------------------------------------------------------------------------------


def test_the_fields_of_a_kind_are_in_the_schema() -> None:
    schema = json.loads(wizflow("schema").out)

    task = schema["$defs"]["SqlTask"]
    assert {"$ref": "#/$defs/SqlTask"} in schema["$defs"]["Task"]["oneOf"]
    assert task["properties"]["query"]["description"].startswith("One statement")
    assert task["properties"]["retry"]["description"]
    assert {"database", "query"} <= set(task["required"])
    assert "secret" not in task["properties"]


def test_a_value_that_a_field_does_not_take_is_refused_where_it_stands(tmp_path: Path) -> None:
    text = "tasks:\n- id: a\n  type: sql\n  database: ''\n  query: select 1\n  write: yes\n"

    said = check(tmp_path, text)

    assert said.status == 2
    assert said.errors == [
        "shop.yaml:4:13: tasks[0].database: is empty",
        'shop.yaml:6:10: tasks[0].write: must be true or false, not "yes"; write true',
    ]


def test_a_placeholder_in_a_field_is_checked_and_is_a_dependency(tmp_path: Path) -> None:
    tasks = [
        shell("a", "echo 7", outputs={"n": {"type": "text"}}),
        sql("b", "select ?", parameters=["{{tasks.a.outputs.n}}"]),
    ]

    run = run_alone(tmp_path, json.dumps({"tasks": tasks}))
    wrong = check(tmp_path, json.dumps({"tasks": [sql("b", "select ?", parameters=["{{n}}"])]}))

    assert run.plan["tasks"][1]["needs"] == ["a"]
    assert wrong.status == 2
    assert "tasks[0].parameters[0]" in wrong.err


def test_what_is_filled_in_is_checked_as_well(tmp_path: Path) -> None:
    head = "secrets: {EMPTY: {env: EMPTY}}\n"
    text = head + "tasks: [{id: a, type: SQL, database: '{{secrets.EMPTY}}', query: select 1}]"

    run = run_alone(tmp_path, text, expect=1, EMPTY=" ")

    assert "cannot use what was filled into database: is empty" in run.tasks["a"]["attempts"][0]["error"]


# -- attempts -------------------------------------------------------------------------------------------------


def test_a_query_cannot_write_unless_it_says_so(tmp_path: Path) -> None:
    database(tmp_path / "shop.runs/workspace").close()

    run = run_alone(tmp_path, json.dumps({"tasks": [sql("a", "DELETE FROM t", write=False)]}), expect=1)

    (attempt,) = run.tasks["a"]["attempts"]
    assert "attempt to write a readonly database" in attempt["error"]


def test_a_secret_shows_nowhere(tmp_path: Path) -> None:
    tasks = [
        sql("a", "select ? as name", parameters=["{{secrets.S}}"]),
        sql("b", "select nothing where '{{secrets.S}}'"),
    ]

    run = run_alone(tmp_path, json.dumps({"secrets": {"S": {"env": "S"}}, "tasks": tasks}), expect=1, S="correct-horse")

    assert run.tasks["a"]["outputs"] == {"rows": [{"name": "***"}]}
    told = [path for path in run.folder.rglob("*") if path.is_file() and "correct-horse" in path.read_text()]
    assert told == []


def test_what_is_read_is_read_again_and_what_is_written_is_not(tmp_path: Path) -> None:
    tasks = [
        sql("book", "CREATE TABLE IF NOT EXISTS t AS SELECT 1"),
        sql("look", "SELECT * FROM t", "book", write=False),
        sql("keep", "SELECT count(*) FROM t", "book", write=False, cache="always"),
    ]
    run_alone(tmp_path, json.dumps({"tasks": tasks}))

    again = run_alone(tmp_path, json.dumps({"tasks": tasks}), "--incremental")
    tasks[0]["query"] += " AS n"
    changed = run_alone(tmp_path, json.dumps({"tasks": tasks}), "--incremental")

    reasons = {task["id"]: task["reason"] for task in again.plan["tasks"]}
    assert reasons == {"book": "nothing changed", "look": "it is done anew each time", "keep": "nothing changed"}
    assert {task["id"]: task["reason"] for task in changed.plan["tasks"]}["book"] == "query changed"


def test_a_timeout_ends_the_statement(tmp_path: Path) -> None:
    with database(tmp_path / "shop.runs/workspace") as connection:
        tasks = [sql("a", f"INSERT INTO t {ENDLESS}", timeout="200ms")]

        run = run_alone(tmp_path, json.dumps({"tasks": tasks}), expect=1)

        assert connection.execute("INSERT INTO t VALUES (2)").rowcount == 1  # nobody holds its lock
    connection.close()
    (attempt,) = run.tasks["a"]["attempts"]
    assert attempt["error"] == "timed out after 0.2 s"


# -- with a daemon --------------------------------------------------------------------------------------------


def test_a_daemon_runs_a_kind_and_its_metrics_and_events_name_it(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.drop("shop.yaml", [sql("a", "select 1 as n")])

    run = daemon.wait_run("shop")

    assert run.tasks["a"]["outputs"] == {"rows": [{"n": 1}]}
    assert "wizflow.task.succeeded" in run.types


def test_statements_without_an_end_hold_up_nobody_else(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(limits__max_tasks="64")
    daemon.start()
    names = [f"s{number}" for number in range(min(32, (os.cpu_count() or 1) + 4))]  # as many as asyncio has threads
    database(daemon.workspace("endless")).close()
    daemon.drop("endless.yaml", [sql(name, ENDLESS, write=False) for name in names])
    run = daemon.wait_running("endless", *names)

    daemon.drop("other.yaml", [shell("a", "true")])

    assert daemon.wait_run("other", 1, 30).status == "succeeded"
    daemon.ask("cancel", run=run)
    assert daemon.wait_run("endless").status == "cancelled"


def test_a_cancelled_statement_is_over(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    connection = database(daemon.workspace("shop"))
    daemon.drop("shop.yaml", [sql("a", f"INSERT INTO t {ENDLESS}")])
    run = daemon.wait_running("shop", "a")

    daemon.ask("cancel", run=run)
    finished = daemon.wait_run("shop")

    assert finished.status == "cancelled"
    with connection:
        assert connection.execute("INSERT INTO t VALUES (2)").rowcount == 1
    connection.close()


def test_what_may_be_repeated_is_and_what_may_not_is_told_as_unknown(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    database(daemon.workspace("shop")).close()
    tasks = [sql("look", ENDLESS, write=False), sql("book", f"INSERT INTO t {ENDLESS}")]
    daemon.drop("shop.yaml", tasks)
    run = daemon.wait_running("shop", "look", "book")

    daemon.kill9()
    daemon.start()
    wait_for(lambda: len(daemon.told("task.started", f"shop/{run}/look")) == 2, "the second attempt")
    daemon.ask("cancel", run=run)
    finished = daemon.wait_run("shop")

    look, book = finished.tasks["look"], finished.tasks["book"]
    assert [attempt["attempt"] for attempt in look["attempts"]] == [1, 2]
    assert book["status"] == "failed"
    assert book["attempts"][0]["error"] == "outcome unknown: wizflowd ended while it ran"


def test_a_run_whose_kind_has_gone_fails_and_says_so(make_daemon: MakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = make_daemon()
    daemon.may_complain = True
    daemon.start()
    daemon.drop("shop.yaml", [sql("look", ENDLESS)])
    daemon.wait_running("shop", "look")

    daemon.kill9()
    monkeypatch.delenv("PYTHONPATH")
    daemon.start()
    wait_for(lambda: daemon.told("run.failed", "shop/"), "the end of the run")

    assert daemon.told("run.failed", "shop/")[0].fields["reason"] == "its definition can no longer be read"


# -- packages that are broken ---------------------------------------------------------------------------------

DEFECT = "cannot perform the attempt, a defect in the package that adds NASTY: "
RAISED = {
    "raise": [f"{DEFECT}ValueError: no such luck"] * 2,
    "exit": [f"{DEFECT}RuntimeError: it would end the daemon (exit status 7)"] * 2,
    "return": [f"{DEFECT}TypeError: Object of type set is not JSON serializable"] * 2,
    "own": ["no text of ours"] * 2,
    "number": ["5"] * 2,
    "fail": ["cannot fail; try another"] * 2,
    "stop": ["cannot stop; try another"],
}


def test_what_a_kind_raises_fails_its_attempt_alone(plugins: Path, make_daemon: MakeDaemon) -> None:
    add_package(plugins, "nasty", NASTY, NASTY="Nasty")
    daemon = make_daemon()
    daemon.may_complain = True
    daemon.start()
    gate = daemon.home / "gate"
    nasty = [{"id": how, "type": "NASTY", "how": how, "retry": {"limit": 1, "delay": 0}} for how in RAISED]
    daemon.drop("shop.yaml", [*nasty, shell("beside", gated(gate))])

    wait_for(lambda: len(daemon.told("task.failed", "shop/")) == len(RAISED), "the failures")
    gate.touch()
    run = daemon.wait_run("shop")

    assert run.named("succeeded") == {"beside"}
    assert {how: [attempt["error"] for attempt in run.tasks[how]["attempts"]] for how in RAISED} == RAISED
    assert run.log("raise", 2) == "about to raise\n"


DECORATOR = "@dataclass(frozen=True, kw_only=True, config=MODEL)"
MODEL = f"""
from pydantic.dataclasses import dataclass
from wizflowd.plugins import MODEL, PluginTask
{DECORATOR}
class OddTask(PluginTask):
    what: int = 0
"""
ODD = f"{MODEL}\nclass Kind:\n    task = OddTask\n    async def perform(self, call): ...\n"
BROKEN = {
    "IMPORTS": ("import nothing_of_that_name\n", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    "EXITS": ("raise SystemExit(3)\n", "SystemExit: 3"),
    "EMPTY": (MODEL, "AttributeError: module 'odd_empty' has no attribute 'Kind'"),
    "Small": (ODD, "its name must be of capital letters and digits"),
    "SHELL": (ODD, "there is one of that name"),
    "OPEN": (ODD.replace("config=MODEL", "config={'extra': 'allow'}"), "OddTask must stand below @dataclass("),
    "BARE": (ODD.replace(DECORATOR, ""), "its model OddTask must stand below @dataclass("),
    "STRANGE": (ODD.replace("(PluginTask)", ""), "its model OddTask is no subclass of PluginTask"),
    "SAME": (ODD.replace("OddTask", "ShellTask"), "its model is called ShellTask, and there is one of that name"),
    "SYNC": (ODD.replace("async ", ""), "its perform() must be `async def`"),
    "NOSCHEMA": (ODD.replace("what: int = 0", "what: type = int"), "PydanticInvalidForJsonSchema"),
}


def test_packages_that_cannot_be_used_are_named_and_stop_nobody(plugins: Path, tmp_path: Path) -> None:
    for name, (source, _) in BROKEN.items():
        add_package(plugins, f"odd_{name.lower()}", source, **{name: "Kind"})

    doctor = wizflow("doctor", "--json", env=environment(XDG_STATE_HOME=str(tmp_path)))
    schema = wizflow("schema")
    run = run_alone(tmp_path, json.dumps({"tasks": [sql("a", "select 1"), shell("b", "true")]}))

    found = [finding for finding in json.loads(doctor.out) if finding["about"] == "kinds of tasks"]
    told = {finding["what"].partition(" ")[0]: finding["what"] for finding in found if finding["level"] == "wrong"}
    assert {name: why in told[name] for name, (_, why) in BROKEN.items()} == dict.fromkeys(BROKEN, True)
    assert len(told) == len(BROKEN)
    assert found[-1]["what"] == "SHELL, RESTAPI, EMAIL, WORKFLOW, SQL"
    assert [why in schema.err for _, why in BROKEN.values()] == [True] * len(BROKEN)
    assert "SqlTask" in json.loads(schema.out)["$defs"]
    assert run.status == "succeeded"


def test_a_file_that_uses_a_broken_kind_is_told_why(plugins: Path, tmp_path: Path, make_daemon: MakeDaemon) -> None:
    add_package(plugins, "odd", "import nothing_of_that_name\n", ODD="Kind")
    daemon = make_daemon()
    daemon.start()
    daemon.drop("odd.yaml", [{"id": "a", "type": "odd"}])
    daemon.drop("good.yaml", [sql("a", "select 1")])

    daemon.wait_run("good")
    wait_for((daemon.folder("odd") / "error.txt").exists, "the refusal")

    refused = (daemon.folder("odd") / "error.txt").read_text()
    assert 'tasks[0].type: "odd" is not a type of task; mend the package that adds it' in refused
    assert "No module named 'nothing_of_that_name'" in refused
    assert kind_warnings(daemon) == ["ODD"]


def kind_warnings(daemon: Daemon) -> list[str]:
    lines = [json.loads(line) for line in daemon.log.splitlines()]
    return [line["kind"] for line in lines if line["message"] == "cannot use a kind of tasks"]
