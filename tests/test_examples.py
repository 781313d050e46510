"""The examples that the README offers: each is valid, fits the schema, and is run, offline or against servers here."""

import gzip
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.cli.alone import Wizflow
from tests.servers import Answer, HttpServer, Request, SmtpSink
from tests.system.conftest import MakeDaemon, make_daemon
from tests.system.running import Finished, finished_in, wait_for
from wizflowd.core.compile import validate_definition
from wizflowd.core.loader import syntax_of

__all__ = ["make_daemon"]  # a fixture

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("[!.]*") if path.suffix in {".json", ".yaml"})
JSON = (("Content-Type", "application/json"),)


class Bench:
    """A folder of its own in which examples are run by `wizflow run`, within the test's own process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, wizflow: Wizflow) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._wizflow = wizflow

    def run(self, name: str, *, env: Mapping[str, str] | None = None, expect: int = 0, **params: object) -> Finished:
        """Run an example to its end and return its last run."""
        if not (self.folder / name).exists():
            shutil.copy(ROOT / "examples" / name, self.folder)
        for key, value in (env or {}).items():
            self._monkeypatch.setenv(key, value)
        said = self._wizflow("run", name, *(f"-p{key}={value}" for key, value in params.items()))
        assert (said.status, said.err) == (expect, ""), said
        return finished_in(self.folder / f"{Path(name).stem}.runs")[-1]

    def workspace(self, name: str) -> Path:
        return self.folder / f"{name}.runs/workspace"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, monkeypatch, Wizflow(monkeypatch, capsys))


def smtp(sink: SmtpSink) -> dict[str, str]:
    """Return the settings that lead mails to a sink."""
    return {"WIZFLOWD_SMTP__HOST": "127.0.0.1", "WIZFLOWD_SMTP__PORT": str(sink.port), "WIZFLOWD_SMTP__FROM": "w@x.org"}


def succeeded(run: Finished) -> set[str]:
    return run.named("succeeded")


# -- all of them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_valid_and_raises_no_warning(path: Path) -> None:
    warnings = validate_definition(path.read_bytes(), syntax_of(path.name), stem=path.stem)

    assert [warning.render(path.name) for warning in warnings] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_offered_in_the_readme(path: Path) -> None:
    assert f"(examples/{path.name})" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.suffix == ".yaml"], ids=lambda path: path.name)
def test_an_example_tells_editors_its_schema(path: Path) -> None:
    assert path.read_text().splitlines()[0] == "# yaml-language-server: $schema=.schema.json"


def test_the_schema_beside_the_examples_is_that_of_the_program() -> None:
    code = "import json; from wizflowd.core.schema import definition_schema as s; print(json.dumps(s()))"
    now = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert json.loads((ROOT / "examples/.schema.json").read_text()) == json.loads(now), "make schema"


def test_the_schema_accepts_every_example() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")

    done = subprocess.run(
        [program, "--schemafile", ROOT / "examples/.schema.json", *EXAMPLES], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_example_is_run_here() -> None:
    source = Path(__file__).read_text()

    assert [path.name for path in EXAMPLES if source.count(f'"{path.name}"') == 0] == []


# -- on their own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("word_count.yaml", "summary.txt"),
        ("disk_report.yaml", "report.txt"),
        ("host_report.yaml", "report.txt"),
        ("shell.json", "workspace.tar.gz"),
        ("sales_etl.yaml", "totals.json"),
        ("nightly_tests.yaml", "tests.txt"),
    ],
)
def test_an_example_without_parameters_leaves_its_result(bench: Bench, name: str, left: str) -> None:
    run = bench.run(name)

    assert run.status == "succeeded"
    assert (bench.workspace(Path(name).stem) / left).stat().st_size > 0


def test_sales_etl_sums_up_each_region_in_order(bench: Bench) -> None:
    run = bench.run("sales_etl.yaml")

    assert run.result["outputs"]["load"]["sums"] == [60.0, 61.0, 293.8]
    assert {"transform[north]", "transform[south]", "transform[west]"} <= succeeded(run)


def test_nightly_tests_run_the_matrix_and_nothing_else(bench: Bench) -> None:
    run = bench.run("nightly_tests.yaml")

    instances = {name for name in run.tasks if name.startswith("test[")}
    assert len(instances) == 6
    assert "test[shell=sh,suite=lists]" not in instances
    assert "test[shell=bash,suite=arrays]" in instances


def test_backup_keeps_the_newest(bench: Bench) -> None:
    (bench.folder / "data").mkdir()
    (bench.folder / "data/file").write_text("kept")
    archives = bench.workspace("backup") / "archives"
    archives.mkdir(parents=True)
    for day in range(1, 4):
        (archives / f"2020010{day}T000000Z.tar.gz").write_bytes(b"old")

    run = bench.run("backup.yaml", folder=bench.folder / "data", keep=2)

    assert run.status == "succeeded"
    assert len(list(archives.iterdir())) == 2
    assert (archives / "20200103T000000Z.tar.gz").exists()


def test_certificate_check_fails_when_one_is_due(bench: Bench) -> None:
    folder = bench.folder / "certificates"
    folder.mkdir()
    for name, days in (("good one", 365), ("short", 5)):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        files = ["-keyout", os.devnull, "-out", str(folder / f"{name}.pem"), "-days", str(days), "-subj", "/CN=x"]
        subprocess.run(command + files, check=True, capture_output=True)

    due = bench.run("certificate_check.yaml", folder=folder, days=30, expect=1)
    good = bench.run("certificate_check.yaml", folder=folder, days=3)

    assert due.named("failed") == {"report"}
    lines = (bench.workspace("certificate_check") / "certificates.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["good", "good"]
    assert "DUE" in due.log("report")
    assert good.status == "succeeded"


def test_release_is_the_same_archive_twice_and_is_published_when_told_to(bench: Bench) -> None:
    (bench.folder / "site").mkdir()
    (bench.folder / "site/index.html").write_text("hello")

    first = bench.run("release.yaml", version="1.4.0", folder=bench.folder / "site")
    second = bench.run("release.yaml", version="1.4.0", folder=bench.folder / "site", publish="true")

    checksums = {run.tasks["checksum"]["outputs"]["sha256"] for run in (first, second)}
    assert len(checksums) == 1
    assert first.named("skipped") == {"publish"}
    assert "params.publish is 'false'" in first.tasks["publish"]["reason"]
    published = bench.workspace("release") / "published"
    assert (published / "latest").resolve() == (published / "release-1.4.0.tar.gz").resolve()


def test_log_rotation_empties_the_large_logs_and_keeps_the_newest(bench: Bench) -> None:
    logs = bench.folder / "logs"
    logs.mkdir()
    (logs / "large.log").write_text("line\n" * 1000)
    (logs / "small.log").write_text("line\n")
    for day in range(1, 4):
        old = logs / f"large.log.2020010{day}T000000.1.gz"
        old.write_bytes(b"old")
        os.utime(old, (day, day))

    bench.run("log_rotation.yaml", folder=logs, larger_than="1k", keep=2)

    kept = sorted(path.name for path in logs.glob("*.gz"))
    assert (logs / "large.log").read_text() == ""
    assert (logs / "small.log").read_text() == "line\n"
    assert kept[0] == "large.log.20200103T000000.1.gz"
    assert len(kept) == 2
    assert gzip.decompress((logs / kept[1]).read_bytes()) == b"line\n" * 1000


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs sqlite3")
def test_database_dump_is_restored_and_compared_before_it_is_kept(bench: Bench) -> None:
    database = sqlite3.connect(bench.folder / "app.db")
    with database:
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")
        database.executemany("INSERT INTO t (name) VALUES (?)", [("it's",), ("zwölf",), (None,)])
    database.close()

    run = bench.run("database_dump.yaml", database=bench.folder / "app.db")

    (dump,) = (bench.workspace("database_dump") / "dumps").iterdir()
    assert run.status == "succeeded"
    assert "it''s" in gzip.decompress(dump.read_bytes()).decode()
    assert not (bench.workspace("database_dump") / "scratch.db").exists()


def test_cleanup_takes_down_what_was_set_up_whatever_happened(bench: Bench) -> None:
    good = bench.run("cleanup.yaml")
    bad = bench.run("cleanup.yaml", break_it="true", expect=1)

    space = bench.workspace("cleanup")
    assert good.named("skipped") == {"mend", "alarm"}
    assert bad.named("skipped") == set()
    assert sorted(path.name for path in space.iterdir()) == ["alarm.txt", "evidence.txt", "history.txt"]
    states = [line.split()[1] for line in (space / "history.txt").read_text().splitlines()]
    assert states == ["succeeded", "failed"]


# -- with servers ---------------------------------------------------------------------------------------------


def test_fetch_with_retry_asks_again(bench: Bench) -> None:
    with HttpServer(Answer(503, (("Retry-After", "0"),)), Answer(body=b"hello")) as server:
        run = bench.run("fetch_with_retry.json", url=f"{server.url}/")

    assert run.result["outputs"]["keep"] == {"copy": "page.html", "bytes": "5"}
    assert len(server.requests) == 2


def test_api_sync_reads_every_page_and_masks_the_token(bench: Bench) -> None:
    busy = [Answer(429)]

    def page(request: Request) -> Answer:
        number = int(parse_qs(urlsplit(request.target).query)["page"][0])
        if request.headers["authorization"] != "Bearer s3cret-token":
            return Answer(401)
        if number == 2 and busy:
            return busy.pop()
        items = [{"id": number * 10 + index} for index in range(2)]
        return Answer(headers=JSON, body=json.dumps({"pages": 3, "items": items}).encode())

    with HttpServer(page) as server:
        run = bench.run("api_sync.yaml", env={"SYNC_TOKEN": "s3cret-token"}, url=server.url)

    items = json.loads((bench.workspace("api_sync") / "items.json").read_text())
    assert [item["id"] for one_page in items for item in one_page] == [10, 11, 20, 21, 30, 31]
    assert len(run.tasks["fetch[2]"]["attempts"]) == 2
    assert "s3cret-token" not in json.dumps(run.result)


def test_host_health_tells_only_what_is_over_its_bound(bench: Bench) -> None:
    with HttpServer() as server:
        run = bench.run("host_health.yaml", hook=server.url, max_load=1e9, min_free_mib=10**9, max_disk=101)

    assert run.named("skipped") == {"tell_load", "tell_disk"}
    (request,) = server.requests
    assert request.json["bound"] == 10**9
    assert request.json["text"].endswith(" MiB of memory left")


def test_disk_alarm_sends_the_report_only_when_a_disk_is_full(bench: Bench) -> None:
    with SmtpSink() as sink:
        quiet = bench.run("disk_alarm.yaml", env=smtp(sink), warn_at=101)
        loud = bench.run("disk_alarm.yaml", env=smtp(sink), warn_at=0, to="ops@example.com")

    (mail,) = sink.mails
    assert quiet.named("skipped") == {"tell"}
    assert loud.status == "succeeded"
    assert mail.recipients == ("ops@example.com",)
    assert [part.get_filename() for part in mail.message.iter_attachments()] == ["disks.txt"]


def test_weekly_digest_is_sent_when_there_is_something_to_tell(bench: Bench) -> None:
    folder = bench.folder / "watched"
    folder.mkdir()
    with SmtpSink() as sink:
        nothing = bench.run("weekly_digest.yaml", env=smtp(sink), folder=folder)
        (folder / "fresh").write_text("x")
        something = bench.run("weekly_digest.yaml", env=smtp(sink), folder=folder)

    (mail,) = sink.mails
    assert nothing.named("skipped") == {"send"}
    assert something.status == "succeeded"
    # Where a line ends depends on the path; Python's parser keeps the blank of a line that begins with the text.
    assert mail.message["Subject"].strip() == f"1 files changed in {folder}"
    assert "fresh" in mail.message.get_content()  # long paths are broken into lines in what is sent


# -- with a daemon --------------------------------------------------------------------------------------------


def drop(daemon: Any, name: str) -> None:
    daemon.drop(name, (ROOT / "examples" / name).read_bytes())


def test_canary_waits_for_approval_before_it_goes_on(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    with HttpServer() as server:
        daemon.drop(
            "canary.yaml", (ROOT / "examples/canary.yaml").read_text().replace("127.0.0.1:8000", server.url[7:])
        )
        wait_for(lambda: daemon.told("task.paused", "canary/"), "the approval")
        run = daemon.status("canary")["run"]
        hosts = daemon.workspace("canary") / "hosts"
        assert [path.name for path in hosts.iterdir()] == ["web1"]
        daemon.ask("approve", run=run, task="rollout")
        finished = daemon.wait_run("canary")

    assert finished.status == "succeeded"
    assert {path.name: path.read_text() for path in hosts.iterdir()} == dict.fromkeys(
        ["web1", "web2", "web3", "web4"], "1.0.0"
    )
    assert finished.named("skipped") == {"roll_back"}


def test_canary_takes_the_old_version_back_when_the_first_host_is_not_well(bench: Bench) -> None:
    with HttpServer(Answer(500)) as server:
        text = (ROOT / "examples/canary.yaml").read_text().replace("delay: 1s", "delay: 1ms")
        (bench.folder / "canary.yaml").write_text(text)
        run = bench.run("canary.yaml", expect=1, health=server.url)

    assert run.named("failed") == {"healthy"}
    assert (bench.workspace("canary") / "hosts/web1").read_text() == "previous"


def test_customer_reports_run_one_workflow_for_each_customer(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    drop(daemon, "customer_report.yaml")
    wait_for(lambda: daemon.folder("customer_report").exists())
    drop(daemon, "customer_reports.yaml")

    run = daemon.wait_run("customer_reports")

    reports = daemon.finished("customer_report")
    assert run.status == "succeeded"
    assert [report.result["params"]["customer"] for report in reports] == ["acme", "globex", "initech"]
    assert run.tasks["each"]["outputs"]["run"] == [report.result["run"] for report in reports]
