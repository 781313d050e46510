"""Exactly one run per change, and of each run only what changed (SPEC sections 2.1 to 2.6)."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers import SmtpSink
from tests.system.conftest import MakeDaemon
from tests.system.running import Daemon, lines_of, publish, queued_runs, shell, wait_for

CHAIN = [f"t{number}" for number in range(1, 11)]


def chain(**commands: str) -> dict[str, Any]:
    """Return ten tasks one after the other, each of which notes that it ran."""
    tasks = [
        shell(name, commands.get(name, f"echo {name} >> ran"), *CHAIN[:place][-1:]) for place, name in enumerate(CHAIN)
    ]
    return {"workflow_name": "chain", "tasks": tasks}


def test_a_second_edit_runs_only_what_changed_and_what_is_downstream(shared: Daemon) -> None:
    shared.drop("chain.json", chain())
    first = shared.wait_run("chain")
    assert first.named("succeeded") == set(CHAIN)
    assert set(first.reasons.values()) == {"never ran"}

    shared.drop("chain.json", chain(t6="echo t6 again >> ran"))
    second = shared.wait_run("chain", 2)

    reused, ran = set(CHAIN[:5]), set(CHAIN[5:])
    assert second.named("reused") == reused
    assert second.named("succeeded") == ran
    assert {name for name, action in second.actions.items() if action == "reuse"} == reused
    assert second.reasons["t1"] == "nothing changed"
    assert (second.reasons["t6"], second.reasons["t7"]) == ("command changed", "upstream t6 changed")
    assert {second.tasks[name]["reused_from"] for name in reused} == {first.result["run"]}
    assert all(second.tasks[name]["attempts"] == [] for name in reused)
    counts = Counter(second.types)
    assert (counts["wizflow.task.reused"], counts["wizflow.task.started"], counts["wizflow.task.succeeded"]) == (
        5,
        5,
        5,
    )
    started = next(event for event in second.events if event["type"] == "wizflow.run.started")
    assert (started["data"]["tasks"], started["data"]["reused"]) == (10, 5)
    assert lines_of(shared.workspace("chain") / "ran") == [*CHAIN, "t6 again", *CHAIN[6:]]


def test_going_back_to_older_content_is_a_change(shared: Daemon) -> None:
    shared.drop("chain.json", chain())
    shared.wait_run("chain")
    shared.drop("chain.json", chain(t10="echo other >> ran"))
    shared.wait_run("chain", 2)

    shared.drop("chain.json", chain())
    run = shared.wait_run("chain", 3)

    assert run.named("succeeded") == {"t10"}
    assert lines_of(shared.workspace("chain") / "ran")[10:] == ["other", "t10"]


def test_a_failed_run_is_not_repeated_before_a_change_and_then_reuses_what_succeeded(shared: Daemon) -> None:
    shared.drop("chain.json", chain(t4="exit 3"))
    assert shared.wait_run("chain").status == "failed"
    shared.drop("chain.json", json.dumps(chain(t4="exit 3"), indent=4))  # saved again, nothing else
    shared.settle()
    assert len(shared.finished("chain")) == 1

    shared.drop("chain.json", chain())
    run = shared.wait_run("chain", 2)

    assert run.named("reused") == {"t1", "t2", "t3"}
    assert run.named("succeeded") == set(CHAIN[3:])


YAML_TASKS = (
    'tasks:\n- {id: a, type: SHELL, command: "echo ran >> ran", name: A}\n- {type: SHELL, id: b, command: "true"}\n'
)


def test_touch_chmod_comments_key_order_and_moved_boxes_run_nothing(shared: Daemon) -> None:
    plain = shared.drop("plain.yaml", "description: d\n" + YAML_TASKS)
    boxes: dict[str, Any] = {
        "description": "d",
        "tasks": [shell("a", "echo ran >> ran", position={"x": 1, "y": 2}, status="PENDING")],
    }
    shared.drop("boxes.json", boxes)
    shared.wait_run("plain")
    shared.wait_run("boxes")

    os.utime(plain)
    plain.chmod(0o600)
    shared.settle()
    assert shared.told("workflow.unchanged", "plain") == []

    saves: list[tuple[str, dict[str, Any] | str]] = [
        ("plain.yaml", "# a comment\ndescription: d # and another\n" + YAML_TASKS),
        ("plain.yaml", YAML_TASKS + "\ndescription: 'd'\n"),
        (
            "plain.yaml",
            json.dumps(
                {
                    "tasks": [
                        {"command": "echo ran >> ran", "type": "shell", "name": "A", "id": "a"},
                        {"id": "b", "type": "SHELL", "command": "true", "depends_on": []},
                    ],
                    "description": "d",
                }
            ),
        ),
        ("boxes.json", {**boxes, "tasks": [{**boxes["tasks"][0], "position": {"x": 99, "y": 0}, "loading": True}]}),
        ("boxes.json", dict(reversed(boxes.items()))),
    ]
    seen: Counter[str] = Counter()
    for name, content in saves:
        shared.drop(name, content)
        stem = name.partition(".")[0]
        seen[stem] += 1
        shared.wait_told("workflow.unchanged", stem, seen[stem])
    shared.settle()

    assert len(shared.queued()) == 2
    assert lines_of(shared.workspace("plain") / "ran") == lines_of(shared.workspace("boxes") / "ran") == ["ran"]


def counting(version: int, comment: str = "") -> str:
    return f'{comment}\ntasks: [{{id: a, type: SHELL, command: "echo {version} >> ran"}}]\n'


def save_in_place(path: Path, text: str) -> None:
    path.write_text(text)


def save_by_rename(path: Path, text: str) -> None:
    publish(path, text)


def save_as_editors_do(path: Path, text: str) -> None:
    """Move the old one away and write a new one, as vim does."""
    backup = path.with_name(f"{path.name}~")
    path.rename(backup)
    path.write_text(text)
    backup.unlink()


SAVES: list[Callable[[Path, str], None]] = [save_in_place, save_by_rename, save_as_editors_do]


def save_often(daemon: Daemon, rng: random.Random, after_save: Callable[[bool], None]) -> None:
    """Save one file 200 times with five real changes in between; each change is awaited before the next.

    `after_save` is told whether it was a change.
    """
    version = 0
    path = daemon.drop("often.yaml", counting(version))
    daemon.wait_run("often")
    changes = sorted(rng.sample(range(10, 200), 5))
    for save in range(200):
        if save in changes:
            version += 1
        rng.choice(SAVES)(path, counting(version, f"# save {save}" if rng.random() < 0.5 else ""))
        after_save(save in changes)
        if save in changes:
            daemon.wait_run("often", version + 1)
    daemon.settle()


def check_six_runs(daemon: Daemon) -> None:
    assert [run.status for run in daemon.finished("often")] == ["succeeded"] * 6
    assert lines_of(daemon.workspace("often") / "ran") == ["0", "1", "2", "3", "4", "5"]


@pytest.fixture
def patient(make_daemon: MakeDaemon) -> Daemon:
    """A daemon for which a file is not gone while a save on a busy machine takes its time."""
    made = make_daemon(watch__settle="500ms")
    made.start()
    return made


def test_200_saves_with_5_changes_give_exactly_5_further_runs(patient: Daemon) -> None:
    save_often(patient, random.Random(1), lambda _: None)

    check_six_runs(patient)
    assert len(patient.queued()) == 6


def test_200_saves_with_5_changes_and_kills_of_the_daemon_give_exactly_5_further_runs(patient: Daemon) -> None:
    daemon = patient
    rng = random.Random(2)
    kills = 0

    def kill_and_launch() -> None:
        nonlocal kills
        daemon.kill9()
        daemon.launch()
        kills += 1

    def sometimes_kill(is_change: bool) -> None:
        """Kill it whenever there was something to do, and now and then when there was not."""
        if is_change or rng.random() < 0.05:
            time.sleep(rng.random() * 0.7)
            kill_and_launch()
            if rng.random() < 0.3:  # and again while it starts
                time.sleep(rng.random())
                kill_and_launch()
            daemon.wait_until_ready()

    save_often(daemon, rng, sometimes_kill)

    assert kills >= 10
    check_six_runs(daemon)
    assert daemon.stop() == 0
    assert len(queued_runs(daemon, "often")) == 6


def test_a_file_written_byte_by_byte_never_runs_early(shared: Daemon) -> None:
    text = "tasks:\n" + "".join(f"- id: t{n}\n  type: SHELL\n  command: echo {n} >> ran\n" for n in range(8))
    path = shared.workflows / "slow.yaml"
    with path.open("wb", buffering=0) as file:
        for place, byte in enumerate(text.encode()):
            file.write(bytes([byte]))
            if place % 40 == 39:  # longer than `settle`: only the open descriptor says that there is more to come
                time.sleep(0.15)
        shared.settle()
        assert shared.told("", "slow") == []

    run = shared.wait_run("slow")

    assert (run.folder / "definition.yaml").read_text() == text
    assert len(lines_of(shared.workspace("slow") / "ran")) == 8
    shared.settle()
    assert [line.what for line in shared.told("workflow.", "slow")] == ["workflow.added"]


def test_500_files_dropped_at_once_give_500_runs_that_succeed(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    drafts = daemon.home / "drafts"
    drafts.mkdir()
    names = [f"w{number:03}" for number in range(500)]
    for name in names:
        publish(drafts / f"{name}.json", {"tasks": [shell("a", f"echo {name} >> {daemon.home}/ran")]})
    daemon.start()

    for name in names:
        (drafts / f"{name}.json").rename(daemon.workflows / f"{name}.json")
    wait_for(lambda: len(list(daemon.workflows.glob("*.runs/*/events.ndjson"))) >= 500, "500 runs", 110.0)
    daemon.settle()

    assert [run.status for name in names for run in daemon.finished(name)] == ["succeeded"] * 500
    assert Counter(lines_of(daemon.home / "ran")) == Counter(names)
    assert daemon.stop() == 0
    assert len(queued_runs(daemon)) == 500


def test_a_change_of_sources_or_dotenv_runs_what_it_reaches(shared: Daemon) -> None:
    (shared.workflows / "data").mkdir()
    (shared.workflows / "data/one.csv").write_text("1\n")
    (shared.workflows / ".env.etl").write_text("LEVEL=1\n")
    tasks = [
        shell("read", "echo read >> ran", sources=["data/*.csv"]),
        shell("other", "echo other >> ran", outputs={"text": {"type": "text"}}),
        shell("after", "echo after >> ran", "read"),
    ]
    shared.drop("reads.json", tasks)
    shared.drop("env.json", {"dotenv": [".env.etl"], "tasks": [shell("a", "echo $LEVEL >> ran")]})
    shared.wait_run("reads")
    shared.wait_run("env")

    (shared.workflows / "data/one.csv").write_text("2\n")
    run = shared.wait_run("reads", 2)
    assert run.result["trigger"] == "sources"
    assert (run.named("succeeded"), run.named("reused")) == ({"read", "after"}, {"other"})
    assert run.reasons["read"] == "sources changed"

    (shared.workflows / "data/two.csv").write_text("new\n")
    assert shared.wait_run("reads", 3).named("succeeded") == {"read", "after"}

    (shared.workflows / ".env.etl").write_text("LEVEL=2\n")
    assert shared.wait_run("env", 2).result["trigger"] == "sources"
    assert lines_of(shared.workspace("env") / "ran") == ["1", "2"]


@pytest.mark.parametrize("down", [True, False], ids=["while it is down", "after a restart"])
def test_a_change_of_sources_and_dotenv_is_seen(daemon: Daemon, down: bool) -> None:
    (daemon.workflows / "one.csv").write_text("1\n")
    (daemon.workflows / ".env").write_text("LEVEL=1\n")
    daemon.drop("reads.json", [shell("read", "echo read >> ran", sources=["*.csv"])])
    daemon.drop("env.json", {"dotenv": [".env"], "tasks": [shell("a", "echo $LEVEL >> ran")]})
    daemon.wait_run("reads")
    daemon.wait_run("env")
    assert daemon.stop() == 0
    if not down:
        daemon.start()
        daemon.settle()

    (daemon.workflows / "one.csv").write_text("2\n")
    (daemon.workflows / ".env").write_text("LEVEL=2\n")
    if down:
        daemon.start()

    assert daemon.wait_run("reads", 2).result["trigger"] == "sources"
    assert daemon.wait_run("env", 2).result["trigger"] == "sources"
    daemon.settle()
    assert (len(daemon.finished("reads")), len(daemon.finished("env"))) == (2, 2)


@pytest.mark.parametrize("down", [True, False], ids=["while it is down", "while it watches"])
def test_a_definition_that_was_refused_for_its_dotenv_file_runs_when_that_comes(daemon: Daemon, down: bool) -> None:
    daemon.drop("env.json", {"dotenv": [".env"], "tasks": [shell("a", "echo {{env.LEVEL}} >> ran")]})
    error = daemon.folder("env") / "error.txt"
    wait_for(lambda: "cannot read" in error.read_text(), "the file is refused")
    (daemon.workflows / ".env").write_text("ANOTHER=1\n")
    wait_for(lambda: 'there is no variable "LEVEL"' in error.read_text(), "the reason is another")
    if down:
        assert daemon.stop() == 0

    (daemon.workflows / ".env").write_text("LEVEL=2\n")
    if down:
        daemon.start()

    daemon.wait_run("env")
    daemon.settle()
    assert lines_of(daemon.workspace("env") / "ran") == ["2"]
    assert not error.exists()


def test_an_output_file_that_is_missing_or_changed_is_made_again(shared: Daemon) -> None:
    tasks = [
        shell("make", "echo made > made; echo make >> ran", outputs={"made": {"type": "file", "path": "made"}}),
        shell("use", "cat {{made}}; echo use >> ran", "make"),
        shell("other", "echo {}"),
    ]
    shared.drop("files.json", tasks)
    shared.wait_run("files")

    (shared.workspace("files") / "made").unlink()
    shared.drop("files.json", [*tasks[:2], shell("other", "echo 2")])
    run = shared.wait_run("files", 2)

    assert run.reasons["make"] == "output file missing"
    assert run.named("succeeded") == {"make", "use", "other"}

    (shared.workspace("files") / "made").write_text("by hand\n")
    shared.drop("files.json", [*tasks[:2], shell("other", "echo 3")])
    run = shared.wait_run("files", 3)

    assert run.reasons["make"] == "output file changed"
    assert lines_of(shared.workspace("files") / "ran") == ["make", "use"] * 3


def test_an_email_is_not_sent_again_when_it_is_unchanged_in_a_run_of_a_change(make_daemon: MakeDaemon) -> None:
    def mailing(command: str, subject: str = "done") -> dict[str, Any]:
        mail = {
            "id": "tell",
            "type": "EMAIL",
            "subject": subject,
            "emailBody": "see",
            "recipients": ["ops@example.com"],
        }
        return {"tasks": [shell("make", command), {**mail, "depends_on": ["make"]}]}

    with SmtpSink() as smtp:
        config = {"host": "127.0.0.1", "port": smtp.port, "from": "wizflowd@example.com"}
        daemon = make_daemon(smtp=json.dumps(config))
        daemon.start()
        daemon.drop("mail.json", mailing("echo 1"))
        assert daemon.wait_run("mail").statuses == {"make": "succeeded", "tell": "succeeded"}
        assert len(smtp.mails) == 1

        daemon.drop("mail.json", mailing("echo 2"))
        second = daemon.wait_run("mail", 2)
        assert second.statuses == {"make": "succeeded", "tell": "reused"}
        assert second.actions["tell"] == "run"  # it was judged in its turn, by what would have been sent
        assert second.types.count("wizflow.task.reused") == 1
        assert len(smtp.mails) == 1

        daemon.drop("mail.json", mailing("echo 2", "other"))
        assert daemon.wait_run("mail", 3).statuses == {"make": "reused", "tell": "succeeded"}
        daemon.ask("trigger", workflow="mail")
        assert daemon.wait_run("mail", 4).statuses == {"make": "succeeded", "tell": "succeeded"}
        assert [mail.message["Subject"] for mail in smtp.mails] == ["done", "other", "other"]
        assert len({mail.message["Message-ID"] for mail in smtp.mails}) == 3


def test_a_definition_that_goes_with_its_dotenv_file_does_not_come_back(daemon: Daemon) -> None:
    names = [f"env{number}" for number in range(20)]
    for name in names:
        (daemon.workflows / f".{name}").write_text("LEVEL=1\n")
        daemon.drop(f"{name}.json", {"dotenv": [f".{name}"], "on_change": "record", "tasks": [shell("a", "true")]})
    wait_for(lambda: len(daemon.ask("workflows")) == len(names), "all are known")

    for name in names:
        (daemon.workflows / f".{name}").unlink()
        (daemon.workflows / f"{name}.json").unlink()
    wait_for(lambda: all(daemon.told("workflow.removed", name) for name in names), "all are removed")
    daemon.drop("last.json", [shell("a", "true")])
    daemon.wait_run("last")

    assert [known["workflow"] for known in daemon.ask("workflows")] == ["last"]
