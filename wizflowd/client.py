"""The commands' end of the daemon's two sockets: a request and its answer, and the event stream (SPEC sections 4, 5).

Called by the commands. Standard library only, so that a command that only asks starts quickly.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wizflowd.errors import RequestError
from wizflowd.sockets import reachable

SILENCE_S = 45.0
"""A stream that is silent for so long is broken: it sends a bookmark every 15 s."""


def ask(path: Path, request: Mapping[str, Any], timeout_s: float = 30.0) -> Any:
    """Send one request and return what it is answered with.

    Raises RequestError as answered, OSError where no daemon listens or answers.
    """
    with socket.socket(socket.AF_UNIX) as peer, reachable(path) as name:
        peer.settimeout(timeout_s)
        peer.connect(name)
        with suppress(BrokenPipeError):  # whoever may not ask is told so before it has asked
            peer.sendall(json.dumps(request).encode() + b"\n")
        with peer.makefile("rb") as lines:
            line = lines.readline()
    if not line.endswith(b"\n"):
        raise ConnectionResetError("wizflowd ended the conversation without an answer")
    answer = json.loads(line)
    if "error" in answer:
        raise RequestError(answer["error"]["code"], answer["error"]["message"])
    return answer["ok"]


@dataclass(slots=True)
class Place:
    """Up to where the stream has been read. `since` None: from the next event on; `epoch` empty: nothing read yet."""

    since: int | None = None
    epoch: str = ""


def read_events(path: Path, wish: Mapping[str, Any], place: Place) -> Iterator[dict[str, Any]]:
    """Yield the events that follow `place`, and keep that; return when the daemon has ended the stream.

    `wish` has `types`, `workflow`, `run`, `output`. Besides stored events there are `wizflow.gap` and
    `wizflow.task.output`, without a sequence. Raises RequestError when refused, OSError where nobody listens or the
    line breaks.
    """
    with socket.socket(socket.AF_UNIX) as peer, reachable(path) as name:
        peer.settimeout(SILENCE_S)
        peer.connect(name)
        with peer.makefile("rb") as lines:
            hello = _next_hello(lines)
            _begin(place, hello["data"])
            peer.sendall(json.dumps({**wish, "since": place.since}).encode() + b"\n")
            _next_hello(lines)  # what came before it did not know of the wish
            for line in lines:
                event = json.loads(line)
                _move(place, event)
                if event["type"] == "wizflow.lagged":
                    return
                if event["type"] not in {"wizflow.bookmark", "wizflow.hello"}:
                    yield event


def _next_hello(lines: Iterator[bytes]) -> dict[str, Any]:
    for line in lines:
        event: dict[str, Any] = json.loads(line)
        if event["type"] == "wizflow.hello":
            return event
        if event["type"] == "wizflow.error":
            raise RequestError("busy", f"cannot follow events: {event['data']['message']}")
    raise ConnectionResetError("wizflowd ended the event stream before it began")


def _begin(place: Place, hello: Mapping[str, Any]) -> None:
    if place.epoch and place.epoch != hello["epoch"]:  # the state was created anew
        place.since = 0
    elif place.since is None:
        place.since = hello["newest"]
    place.epoch = hello["epoch"]


def _move(place: Place, event: Mapping[str, Any]) -> None:
    match event["type"]:
        case "wizflow.bookmark":
            place.since = event["data"]["sequence"]
        case "wizflow.lagged":
            place.since = event["data"]["last"]
        case "wizflow.gap":
            place.since = event["data"]["oldest"] - 1
        case _ if "sequence" in event:
            place.since = int(event["sequence"])
