"""`wizflow events`: the event stream, for people or as JSON lines; goes on by itself when the daemon comes back."""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wizflowd.cli.reach import listening, unreachable
from wizflowd.cli.terminal import Cell, Terminal
from wizflowd.cli.times import clock_time, time_of
from wizflowd.client import Place, read_events
from wizflowd.views.palette import look_of

AGAIN_S = 0.5
_TYPE_WIDTH = 20
_PREFIX = "wizflow."
_UNTOLD = frozenset({"outputs", "files", "digest", "change", "status", "path", "log", "pid", "incremental", "blamed"})
_IN_MESSAGE = frozenset({"reason", "exit_code", "signal", "status_code"})
_LIKE = {"invalid": "failed", "unavailable": "failed", "degraded": "failed", "gap": "tolerated", "error": "failed"}
_LIKE |= {
    "started": "running",
    "resumed": "running",
    "adopted": "running",
    "ready": "succeeded",
    "recovered": "succeeded",
}


def events(options: argparse.Namespace) -> int:
    """Print events for ever."""
    terminal = Terminal()
    wish: dict[str, Any] = {"types": [_full_type(name) for name in options.type]}
    if options.workflow:
        wish["workflow"] = options.workflow
    path = listening(options, "events")
    place = Place(options.since)
    while True:
        try:
            for event in read_events(path, wish, place):
                _print(terminal, event, options.json)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            if not place.epoch:
                raise unreachable("events", {path: error}) from error
        _wait_for_daemon(path)


def _full_type(name: str) -> str:
    return name if name.startswith((_PREFIX, "*")) else f"{_PREFIX}{name}"


def _wait_for_daemon(path: Path) -> None:
    """Return when it is worth another try, and say once why it takes a while."""
    time.sleep(AGAIN_S)
    if not path.exists():
        print(f"the daemon at {path} is gone, waiting for it", file=sys.stderr)
        while not path.exists():
            time.sleep(AGAIN_S)


def _print(terminal: Terminal, event: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(event, ensure_ascii=False, separators=(",", ":")), flush=True)
        return
    kind = event["type"].removeprefix(_PREFIX)
    state = kind.rpartition(".")[2]
    terminal.say(
        Cell(clock_time(event["time"]), "bright_black", plain=event["time"]),
        "  ",
        Cell(f"{kind:<{_TYPE_WIDTH}}", look_of(_LIKE.get(state, _passed_over(event) or state)).terminal),
        f"  {event['subject']}" if event["subject"] else "",
        Cell(f"  {details}" if (details := _details(event["data"])) else "", "bright_black"),
    )


def _passed_over(event: Mapping[str, Any]) -> str:
    """Return how an event looks that tells of something skipped or tolerated."""
    data = event["data"]
    return "tolerated" if data.get("skipped") or data.get("tolerated") else ""


def _details(data: Mapping[str, Any]) -> str:
    """Return the data of an event on one line."""
    told = []
    untold = _UNTOLD | _IN_MESSAGE if data.get("message") else _UNTOLD
    for name, value in data.items():
        if name in untold or value is False:
            continue
        if name == "duration_s":
            told.append(time_of(value))
        elif name.endswith("_s"):
            told.append(f"{name[:-2]} {time_of(value)}")
        elif name in {"message", "reason", "note"}:
            told.append(str(value))
        elif value is True:
            told.append(name)
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            told.append(f"{name} {', '.join(value)}")
        else:
            told.append(f"{name.replace('_', ' ')} {value if isinstance(value, str) else json.dumps(value)}")
    return ", ".join(told)
