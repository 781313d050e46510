"""Runs of every kind for a real daemon, and what its event stream says of them."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.servers import Answer, HttpServer, Request
from tests.system.running import Daemon, shell, wait_for
from wizflowd.client import Place, read_events

LAST = "zz-last"
Event = dict[str, Any]
Labels = tuple[str, ...]


def answer(request: Request) -> Answer:
    """Answer a RESTAPI task: well, or with 500 where the path asks for it."""
    return Answer(status=500 if "broken" in request.target else 200, body=b"{}")


def _tasks(number: int, url: str) -> dict[str, list[dict[str, Any]]]:
    """Return the tasks of each workflow in one round: every kind of end that a task can come to."""
    rest = {"type": "RESTAPI", "method": "GET"}
    flaky = f"test -e tried-{number} || {{ touch tried-{number}; exit 1; }}"
    return {
        "team/good": [shell("a", f"echo {number}"), shell("b", "true", "a"), shell("c", "true", "b")],
        "reused": [shell("a", "true"), shell("b", "true", "a"), shell("c", f"echo {number}", "b")],
        "failing": [shell("a", f"exit {number + 1}"), shell("b", "true", "a"), shell("c", "true", "b")],
        "flaky": [shell("a", flaky, retry={"limit": 2, "delay": "10ms"}), shell("b", "true", "a")],
        "hopeless": [shell("a", f"exit {number + 1}", retry={"limit": 2, "delay": "10ms"})],
        "tolerated": [shell("a", f"exit {number + 1}", continue_on_failure=True), shell("b", "true", "a")],
        "rest": [{"id": "a", "url": f"{url}/{number}", **rest}],
        "rest-broken": [{"id": "a", "url": f"{url}/broken/{number}", **rest}],
        "cancelled": [shell("a", f"sleep 6{number}"), shell("b", "true", "a")],
    }


def mixed_runs(daemon: Daemon, pause: Callable[[], None], rounds: int = 5) -> None:
    """Make ten runs and two refused definitions a round, and one run at the end; return when all have ended."""
    with HttpServer(answer) as server:
        for number in range(rounds):
            for name, tasks in _tasks(number, server.url).items():
                daemon.drop(f"{name}.yaml", tasks)
            daemon.drop("broken.yaml", {"tasks": [{"id": "a", "type": "SHELL", "comand": str(number)}]})
            daemon.drop("wrong.json", f"{{ {number}")
            daemon.wait_running("cancelled", "a")
            _cancel(daemon)
            for name in _tasks(number, server.url):
                _wait_runs(daemon, name, number + 1 if name != "team/good" else 2 * number + 1)
            daemon.ask("trigger", workflow="team/good")
            _wait_runs(daemon, "team/good", 2 * number + 2)
            pause()
    daemon.drop(f"{LAST}.yaml", [shell("a", "true")])
    _wait_runs(daemon, LAST, 1)


def _cancel(daemon: Daemon) -> None:
    def cancelled() -> bool:
        running = [run for run in daemon.ask("runs", workflow="cancelled") if run["status"] == "running"]
        for run in running:
            daemon.ask("cancel", run=run["run"])
        return bool(running)

    wait_for(cancelled, "the run to cancel is under way")


def _wait_runs(daemon: Daemon, workflow: str, count: int) -> None:
    def ended() -> bool:
        return len([run for run in daemon.ask("runs", workflow=workflow) if run["ended"]]) >= count

    wait_for(ended, f"{count} ended runs of {workflow}")


def stream_of(daemon: Daemon, last: str = LAST) -> Iterator[Event]:
    """Yield the whole event stream up to the end of the first run of a workflow."""
    for event in read_events(daemon.home / "events.sock", {}, Place(0)):
        yield event
        if event["type"] == "wizflow.run.succeeded" and event["subject"].startswith(f"{last}/"):
            return


@dataclass
class Said:
    """What a stream said, by the names and labels of SPEC section 6: nothing is shared with `Tally`."""

    # Labels stand in the order of their names: status, trigger, type, workflow.
    counts: dict[str, Counter[Labels]] = field(default_factory=dict)
    sums: dict[str, Counter[Labels]] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)

    def count(self, name: str, *labels: str) -> None:
        self.counts.setdefault(name, Counter())[labels] += 1

    def measure(self, name: str, seconds: float, *labels: str) -> None:
        self.count(f"{name}_count", *labels)
        self.sums.setdefault(f"{name}_sum", Counter())[labels] += seconds  # type: ignore[assignment]


def said_by(events: Iterator[Event]) -> Said:
    """Return what the metrics have to say after these events, from the start of the daemon on."""
    said = Said()
    for event in events:
        _, about, what = event["type"].split(".")
        data, subject = event["data"], event["subject"]
        if about == "run":
            _add_run(said, what, subject, data)
        elif about == "task":
            _add_task(said, what, subject, data)
        elif event["type"] == "wizflow.workflow.invalid":
            said.count("wizflow_definition_errors_total")
        elif event["type"] == "wizflow.daemon.started":
            said = Said(started=said.started)
    return said


def _add_run(said: Said, what: str, subject: str, data: Event) -> None:
    workflow = subject.rsplit("/", 1)[0]
    if what == "queued" and data["trigger"] == "change":
        said.changed.add(subject)
    if what == "started":
        said.started.add(subject)
    if what in ("succeeded", "failed", "cancelled"):
        said.count("wizflow_runs_total", what, data["trigger"], workflow)
        if subject in said.started:
            said.measure("wizflow_run_duration_seconds", data["duration_s"], workflow)


def _add_task(said: Said, what: str, subject: str, data: Event) -> None:
    workflow = subject.rsplit("/", 2)[0]
    kind = "RESTAPI" if workflow.startswith("rest") else "SHELL"
    if what == "reused":
        said.count("wizflow_reused_tasks_total", workflow)
    elif what == "retrying":
        said.count("wizflow_task_retries_total", workflow)
    elif what == "adopted":
        said.count("wizflow_adopted_tasks_total")
    elif what == "started":
        if data["attempt"] == 1:
            said.count("wizflow_task_wait_seconds_count")
        run = subject.rsplit("/", 1)[0]
        if run in said.changed:
            said.changed.discard(run)
            said.count("wizflow_reaction_seconds_count")
    else:
        said.count("wizflow_tasks_total", what, kind, workflow)
    if "duration_s" in data:
        said.measure("wizflow_task_duration_seconds", data["duration_s"], kind)
