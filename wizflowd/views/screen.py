"""`wizflow top`: a live screen in the terminal, with workflows, running tasks, and the output of the one looked at.

In: a `Source` of the daemon's answers and events, made by the command. Out: a Textual application. Everything shown is
escaped: names and output come from strangers.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Protocol

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import DataTable, Footer, Header, RichLog, Static

from wizflowd.errors import RequestError, printable
from wizflowd.views.palette import LOOKS

RECONNECT_S = 1.0
LOG_LINES = 2000
NAME_WIDTH = 22
"""A name is cut to so many letters, so that one that is long does not push the states out of sight."""
_UNDER_WAY = ("running", "retrying", "paused")


class Source(Protocol):
    """The daemon, as the screen needs it."""

    async def ask(self, request: Mapping[str, Any]) -> Any:
        """Return a control answer. Raises RequestError, OSError."""

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield events from here on, live output among them. Ends or raises OSError when the daemon goes."""


@dataclass(slots=True)
class _Task:
    """A task under way. `since_s` is wall time."""

    workflow: str
    run: str
    task: str
    attempt: int
    state: str
    since_s: float

    @property
    def key(self) -> str:
        return f"{self.run}/{self.task}"


class TopScreen(App[None]):
    """Workflows on the left, tasks under way on the right, output below."""

    TITLE = "wizflow top"
    CSS = """
    #tables { height: 3fr; }
    #workflows { width: 1fr; height: 100%; border: round $primary; }
    #tasks { width: 1fr; height: 100%; border: round $primary; }
    #output { height: 2fr; border: round $primary; }
    #status { height: 1; padding: 0 1; color: $text-muted; }
    DataTable, RichLog { scrollbar-size: 1 1; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("tab", "focus_next", "Next", show=False),
        Binding("c", "cancel", "Cancel"),
        Binding("r", "retry", "Retry"),
        Binding("t", "trigger", "Trigger"),
        Binding("p", "pause", "Pause/resume"),
        Binding("f", "follow", "Follow"),
        Binding("a", "approve", "Approve"),
    ]

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._workflows: dict[str, dict[str, Any]] = {}
        self._tasks: dict[str, _Task] = {}
        self._followed = ""

    def compose(self) -> ComposeResult:
        yield Header(show_clock=True, icon="")
        with Vertical():
            with Horizontal(id="tables"):
                yield DataTable(id="workflows", cursor_type="row", zebra_stripes=True)
                yield DataTable(id="tasks", cursor_type="row", zebra_stripes=True)
            yield RichLog(id="output", max_lines=LOG_LINES, wrap=True, markup=False)
            yield Static(id="status", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        workflows, tasks = self._table("workflows"), self._table("tasks")
        workflows.border_title, tasks.border_title = "Workflows", "Tasks under way"
        self.query_one("#output", RichLog).border_title = "Output"
        for name, width in (("workflow", None), ("state", 10), ("last run", 12)):
            workflows.add_column(name, key=name, width=width)
        for name, width in (("task", None), ("state", 10), ("for", 9), ("try", 3), ("workflow", None)):
            tasks.add_column(name, key=name, width=width)
        workflows.focus()
        self.set_interval(1.0, self._tick)
        self._watch()

    def _table(self, name: str) -> DataTable[Text]:
        return self.query_one(f"#{name}", DataTable)

    @work(exclusive=True)
    async def _watch(self) -> None:
        """Follow the daemon for ever; begin anew whenever it comes back."""
        while True:
            try:
                events = self._source.events()
                await anext(events, None)  # the hello: what happens from here on is told
                await self._load()
                self._say("connected")
                async for event in events:
                    self._take(event)
                self._say("the daemon has gone, waiting for it")
            except (OSError, RequestError) as error:
                self._say(f"no answer from the daemon: {error}")
            await asyncio.sleep(RECONNECT_S)

    async def _load(self) -> None:
        self._workflows = {each["workflow"]: each for each in await self._source.ask({"op": "workflows"})}
        self._tasks.clear()
        for workflow in self._workflows.values():
            if workflow["run"]:
                run = await self._source.ask({"op": "run", "run": workflow["run"]})
                for task in run.get("tasks", ()):
                    if task["status"] in _UNDER_WAY:
                        self._begin(workflow["workflow"], run, task)
        running = [key for key, task in self._tasks.items() if task.state == "running"]
        if running and not self._followed:
            self._follow(running[0])
        self._draw_workflows()
        self._draw_tasks()

    def _begin(self, workflow: str, run: Mapping[str, Any], task: Mapping[str, Any]) -> None:
        """Take a task that was under way before we came."""
        present = run.get("present", {}).get(task["id"]) or {}
        attempt = present.get("attempt") or len(task["attempts"])
        since_s = _seconds(present["started"]) if present.get("started") else time.time()
        self._keep(_Task(workflow, run["run"], task["id"], attempt, task["status"], since_s))

    def _keep(self, task: _Task) -> None:
        self._tasks[task.key] = task

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, subject, data = event["type"], event.get("subject", ""), event.get("data", {})
        if kind == "wizflow.task.output":
            if subject.endswith(f"/{self._followed}"):
                self.query_one("#output", RichLog).write(_safe(data["text"].rstrip("\n")))
        elif kind == "wizflow.error":
            self._say(data["message"])
        elif kind.startswith("wizflow.task."):
            self._take_task(kind.removeprefix("wizflow.task."), subject, data, event["time"])
        elif kind.startswith(("wizflow.run.", "wizflow.workflow.")):
            self._refresh()

    def _take_task(self, what: str, subject: str, data: Mapping[str, Any], at: str) -> None:
        workflow, run, task = subject.rsplit("/", 2)
        if what in ("started", "adopted", "retrying", "paused"):
            state = what if what in _UNDER_WAY else "running"
            self._keep(_Task(workflow, run, task, data.get("attempt", 0), state, _seconds(at)))
            if state == "running" and not self._followed:
                self._follow(f"{run}/{task}")
        else:
            self._tasks.pop(f"{run}/{task}", None)
            if self._followed == f"{run}/{task}":
                self.query_one("#output", RichLog).write(Text(f"[{what}] {data.get('message', '')}", style="bold"))
                self._followed = ""
        self._draw_tasks()

    @work(exclusive=True, group="refresh")
    async def _refresh(self) -> None:
        try:
            self._workflows = {each["workflow"]: each for each in await self._source.ask({"op": "workflows"})}
        except (OSError, RequestError) as error:
            self._say(str(error))
        self._draw_workflows()

    # -- drawing ----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._draw_workflows()
        self._draw_tasks()

    def _draw_workflows(self) -> None:
        rows = {}
        for name, each in sorted(self._workflows.items()):
            last = each["last"] or {}
            state = "failed" if each["error"] else each["state"]
            rows[name] = (_name(name), _state(state, each["state"]), _ended(last))
        _fill(self._table("workflows"), rows)
        running = sum(each["state"] == "running" for each in self._workflows.values())
        self.sub_title = f"{len(self._workflows)} workflows, {running} running"

    def _draw_tasks(self) -> None:
        rows = {
            key: (
                _name(task.task),
                _state(task.state),
                Text(_span(time.time() - task.since_s)),
                Text(str(task.attempt or "")),
                _name(task.workflow),
            )
            for key, task in self._tasks.items()
        }
        _fill(self._table("tasks"), rows)

    def _say(self, text: str) -> None:
        self.query_one("#status", Static).update(printable(text))

    # -- keys -------------------------------------------------------------------------------------------------

    def _selected(self, name: str) -> str:
        table = self._table(name)
        if not table.row_count:
            return ""
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    def _selected_workflow(self) -> dict[str, Any]:
        if self._table("tasks").has_focus and (key := self._selected("tasks")) in self._tasks:
            return self._workflows.get(self._tasks[key].workflow, {})
        return self._workflows.get(self._selected("workflows"), {})

    def action_cancel(self) -> None:
        self._request("cancel", self._selected_workflow().get("run"))

    def action_pause(self) -> None:
        workflow = self._selected_workflow()
        self._request("resume" if workflow.get("state") == "paused" else "pause", workflow.get("run"))

    def action_retry(self) -> None:
        self._request("retry", (self._selected_workflow().get("last") or {}).get("run"))

    @work
    async def action_trigger(self) -> None:
        workflow = self._selected_workflow().get("workflow")
        await self._send({"op": "trigger", "workflow": workflow}, f"trigger {workflow}")

    def action_follow(self) -> None:
        if key := self._selected("tasks"):
            self._follow(key)

    @work
    async def action_approve(self) -> None:
        task = self._tasks.get(self._selected("tasks"))
        if task is None or task.state != "paused":
            self._say("the task that is marked waits for no approval")
            return
        await self._send({"op": "approve", "run": task.run, "task": task.task}, f"approve {task.task} of {task.run}")

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if event.data_table.id == "tasks":
            self._follow(str(event.row_key.value))

    def _follow(self, key: str) -> None:
        self._followed = key
        output = self.query_one("#output", RichLog)
        output.clear()
        task = self._tasks.get(key)
        output.border_title = printable(f"Output of {task.task} ({task.workflow})" if task else f"Output of {key}")

    @work
    async def _request(self, op: str, run: str | None) -> None:
        if run is None:
            self._say(f"nothing to {op}")
            return
        await self._send({"op": op, "run": run}, f"{op} {run}")

    async def _send(self, request: Mapping[str, Any], what: str) -> None:
        try:
            await self._source.ask(request)
        except (OSError, RequestError) as error:
            self._say(str(error))
        else:
            self._say(f"{what}: done")


def _fill(table: DataTable[Text], rows: Mapping[str, tuple[Text, ...]]) -> None:
    """Bring a table into line with rows, without losing the cursor."""
    for key in [key for key in table.rows if key.value not in rows]:
        table.remove_row(key)
    for name, cells in rows.items():
        if name in table.rows:
            for column, cell in zip(table.columns, cells, strict=True):
                if table.get_cell(name, column) != cell:
                    table.update_cell(name, column, cell, update_width=True)
        else:
            table.add_row(*cells, key=name)


def _safe(text: str) -> Text:
    return Text("\n".join(map(printable, text.split("\n"))))


def _name(text: str) -> Text:
    """Return a name with its middle left out where it is long: its ends tell it from others."""
    shown = printable(text)
    half = NAME_WIDTH // 2
    return Text(shown if len(shown) <= NAME_WIDTH else f"{shown[:half]}…{shown[-half + 1 :]}")


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def _state(state: str, shown: str = "") -> Text:
    if not state:
        return Text("")
    look = LOOKS.get(state)
    return Text(shown or state) if look is None else Text(f"{look.sign} {shown or state}", style=look.terminal)


def _span(seconds: float) -> str:
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _ended(last: Mapping[str, Any]) -> Text:
    """Return how a run ended, by its sign, and how long ago; one that passed something over is not plain green."""
    status = last.get("status", "")
    passed_over = status == "succeeded" and (last.get("skipped") or last.get("tolerated"))
    look = LOOKS.get("tolerated" if passed_over else status)
    if look is None or not last.get("ended"):
        return Text("")
    amount, unit, *_ = _span(time.time() - _seconds(last["ended"])).split()
    return Text(f"{look.sign} {amount} {unit} ago", style=look.terminal)
