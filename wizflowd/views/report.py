"""One page of one run: its picture, what needs attention, a time line, outputs and the ends of logs.

In: `result.json` of the run, its picture as SVG, and the ends of its logs by the names that the result gives them. Out:
HTML that loads nothing and runs nothing. Called by `results`; pure.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import nsmallest
from itertools import islice
from typing import Any, NamedTuple

from wizflowd.views.lettering import markup
from wizflowd.views.palette import LOOKS, attention, look_of

MOST_ROWS = 400
"""Attempts of the time line: more than anybody reads. What needs attention comes first."""
MOST_LOGS = 60
_LONGEST_OUTPUT = 2_000
_STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#59636e;--line:#d1d9e0;--page:#fff;--card:#f6f8fa}
body{font:14px/1.5 ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;
color:var(--ink);background:var(--page);max-width:1280px;margin:0 auto;padding:24px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:32px 0 8px}.soft{color:var(--soft)}
svg{max-width:100%;height:auto;margin-top:16px}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:3px 12px 3px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft)}td:first-child{width:1%;padding-right:24px;white-space:nowrap}td.time{width:45%;padding-right:0}td.num{text-align:right;white-space:nowrap}
.bar{display:block;height:12px;margin-top:4px;min-width:2px;border-radius:3px;background:currentcolor}
.sign{font-weight:700;white-space:nowrap}pre,code{font:12px/1.45 ui-monospace,"DejaVu Sans Mono",monospace}
pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:10px;overflow:auto;max-height:420px;
white-space:pre-wrap;overflow-wrap:anywhere}summary{cursor:pointer;padding:3px 0}
"""
_STYLE_DARK = ":root{--ink:#e6edf3;--soft:#9198a1;--line:#343b45;--page:#0d1117;--card:#171c24}"


class _Attempt(NamedTuple):
    """One attempt as the time line shows it; times as the result has them, which sort as texts."""

    task: str
    number: int
    state: str
    started: str
    ended: str
    note: str
    log: str

    @property
    def attention(self) -> int:
        return attention(self.state)


@dataclass(slots=True)
class _Attempts:
    """All attempts of a run, of which only those are kept that are shown: there may be 100,000."""

    count: int = 0
    first: str = ""
    last: str = ""
    shown: list[_Attempt] = field(default_factory=list)
    logged: list[_Attempt] = field(default_factory=list)

    @classmethod
    def of(cls, result: Mapping[str, Any], logs: Collection[str]) -> "_Attempts":
        """Return those of a result; `logs` are those of which something is shown."""
        found = cls()
        found.shown = nsmallest(MOST_ROWS, found._noting(_attempts(result), logs), key=lambda each: each.attention)
        return found

    def _noting(self, attempts: Iterable[_Attempt], logs: Collection[str]) -> Iterator[_Attempt]:
        for attempt in attempts:
            self.count += 1
            self.first = min(self.first or attempt.started, attempt.started)
            self.last = max(self.last, attempt.ended)
            if attempt.log in logs:
                self.logged.append(attempt)
            yield attempt


def draw_report(result: Mapping[str, Any], picture: str, log_ends: Mapping[str, str]) -> str:
    """Return the page. `log_ends` maps names as `logs/count.1.log` to text; logs without an entry are only named."""
    attempts = _Attempts.of(result, log_ends)
    title = f"{result['workflow']} · {result['status']}"
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">""",
            f"<title>{markup(title)}</title><style>{_style()}</style></head><body>",
            *_head(result),
            picture,
            *_troubles(result),
            *_time_line(attempts),
            *_outputs(result["outputs"]),
            *_logs(attempts.logged, log_ends),
            "</body></html>\n",
        ]
    )


def most_wanted_logs(result: Mapping[str, Any]) -> list[str]:
    """Return the names of the logs whose ends the page shows."""
    with_log = (attempt for attempt in _attempts(result) if attempt.log)
    return [attempt.log for attempt in nsmallest(MOST_LOGS, with_log, key=lambda each: each.attention)]


def _style() -> str:
    light = "".join(f".{state}{{color:{look.light}}}" for state, look in LOOKS.items())
    dark = "".join(f".{state}{{color:{look.dark}}}" for state, look in LOOKS.items())
    return f"{_STYLE}{light}@media (prefers-color-scheme:dark){{{_STYLE_DARK}{dark}}}"


def _head(result: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h1>{markup(result["workflow"])} <span class="{result["status"]}">{markup(result["status"])}</span></h1>'
    facts = [f"run {result['run']}", f"trigger: {result['trigger']}"]
    if result["started"]:
        facts.append(f"started {result['started'][:19].replace('T', ' ')} UTC")
    if result["duration_s"] is not None:
        facts.append(_seconds(result["duration_s"]))
    if result["retry_of"]:
        facts.append(f"retry of {result['retry_of']}")
    if result["params"]:
        facts.append(", ".join(f"{name}={value}" for name, value in result["params"].items())[:_LONGEST_OUTPUT])
    if result["reason"]:
        facts.append(result["reason"])
    yield f'<div class="soft">{markup(" · ".join(facts))}</div>'


def _troubles(result: Mapping[str, Any]) -> Iterator[str]:
    """What a green run must not hide, too: skipped tasks and tolerated failures."""
    tolerated = frozenset(result["tolerated"])
    wanted = [
        (state, markup(task["id"]), markup(task["reason"] or ""))
        for task in result["tasks"]
        if (state := _state(task, tolerated)) in {"failed", "tolerated", "skipped", "cancelled"}
    ]
    wanted.sort(key=lambda row: attention(row[0]))
    rows = [(_sign(state), name, reason) for state, name, reason in wanted]
    if rows:
        yield "<h2>What needs attention</h2>"
        yield from _table(("", "task", "why"), rows)


def _time_line(attempts: _Attempts) -> Iterator[str]:
    if not attempts.count:
        return
    first_s = _epoch_s(attempts.first)
    span_s = max(_epoch_s(attempts.last) - first_s, 1e-3)
    rows = []
    for attempt in sorted(attempts.shown, key=lambda attempt: attempt.started):
        started_s, took_s = _epoch_s(attempt.started), _epoch_s(attempt.ended) - _epoch_s(attempt.started)
        left, width = (started_s - first_s) / span_s, took_s / span_s
        place = f"margin-left:{max(0.0, min(left, 0.995)):.2%};width:{max(0.0, min(width, 1.0)):.2%}"
        rows.append(
            (
                _sign(attempt.state),
                markup(attempt.task) + (f' <span class="soft">attempt {attempt.number}</span>' * (attempt.number > 1)),
                f'<span class="bar {attempt.state}" style="{place}"></span>',
                _seconds(took_s),
            )
        )
    yield "<h2>Time line</h2>"
    yield from _table(("", "task", "", ""), rows, ("", "", "time", "num"))
    if more := attempts.count - len(attempts.shown):
        yield f'<p class="soft">and {more:,} more attempts: result.json has them all</p>'


def _outputs(outputs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    rows = [
        (markup(f"{task}.{name}"), f"<code>{markup(str(value)[:_LONGEST_OUTPUT])}</code>")
        for task, values in islice(outputs.items(), MOST_ROWS)
        for name, value in values.items()
    ]
    if rows:
        yield "<h2>Outputs</h2>"
        yield from _table(("output", "value"), rows)


def _logs(attempts: Sequence[_Attempt], ends: Mapping[str, str]) -> Iterator[str]:
    if attempts:
        yield "<h2>Ends of the logs</h2>"
    for attempt in sorted(attempts, key=lambda attempt: attempt.attention):
        opened = " open" if attempt.state in {"failed", "tolerated"} else ""
        name = f"{_sign(attempt.state)} {markup(attempt.log)} <span class='soft'>{markup(attempt.note)}</span>"
        text = "\n".join(map(markup, ends[attempt.log].split("\n")))
        yield f"<details{opened}><summary>{name}</summary><pre>{text}</pre></details>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()) -> Iterator[str]:
    """Yield a table; cells are markup."""
    kinds = [f' class="{name}"' if name else "" for name in classes] or [""] * len(heads)
    yield f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"
    for row in rows:
        yield f"<tr>{''.join(f'<td{kind}>{cell}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>"
    yield "</table>"


def _attempts(result: Mapping[str, Any]) -> Iterator[_Attempt]:
    tolerated = frozenset(result["tolerated"])
    for task in result["tasks"]:
        last = len(task["attempts"])
        for place, attempt in enumerate(task["attempts"], 1):
            yield _Attempt(
                task["id"],
                attempt["attempt"],
                _state(task, tolerated) if place == last else "retrying",
                attempt["started"],
                attempt["ended"],
                attempt["error"] or "",
                attempt["log"] or "",
            )


def _state(task: Mapping[str, Any], tolerated: Collection[str]) -> str:
    return "reused" if task["reused"] else "tolerated" if task["id"] in tolerated else str(task["status"])


def _sign(state: str) -> str:
    return f'<span class="sign {state}">{look_of(state).sign} {state}</span>'


def _epoch_s(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 120 else f"{minutes} min {rest} s"
