"""The page of a run: what it shows, in which order, and that nothing in it can run."""

import html.parser
from typing import Any

import pytest

from wizflowd.views.report import MOST_LOGS, MOST_ROWS, draw_report, most_wanted_logs


def attempt(number: int = 1, error: str | None = None, log: str | None = None, second: int = 0) -> dict[str, Any]:
    started, ended = f"2026-11-23T03:05:{second:02}.000000Z", f"2026-11-23T03:05:{second + 1:02}.500000Z"
    return {"attempt": number, "started": started, "ended": ended, "error": error, "log": log}


def task(name: str, status: str = "succeeded", *attempts: dict[str, Any], reason: str = "") -> dict[str, Any]:
    return {"id": name, "status": status, "reused": False, "reason": reason, "attempts": list(attempts)}


def result(*tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "workflow": "team/etl",
        "status": "failed",
        "run": "20261123-030512-7f3a9c",
        "trigger": "change",
        "started": "2026-11-23T03:05:00.000000Z",
        "duration_s": 12.5,
        "retry_of": None,
        "params": {},
        "reason": "",
        "tolerated": [],
        "outputs": {},
        "tasks": list(tasks),
        **fields,
    }


class Page(html.parser.HTMLParser):
    """The tags, and the text outside of the style sheet."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def test_a_run_is_told_with_its_picture_its_times_its_outputs_and_the_ends_of_its_logs() -> None:
    tasks = [task("good", "succeeded", attempt(log="logs/good.1.log")), task("bad", "failed", attempt(error="exit 7"))]

    page = Page(draw_report(result(*tasks, outputs={"good": {"n": 3}}), "<svg/>", {"logs/good.1.log": "all well"}))

    assert "svg" in [tag for tag, _ in page.tags]
    for told in ("team/etl", "20261123-030512-7f3a9c", "12.50 s", "1.50 s", "good.n", "3", "all well"):
        assert told in page.text


def test_what_needs_attention_comes_first_and_a_green_run_does_not_hide_it() -> None:
    tasks = [
        task("fine"),
        task("left_out", "skipped", reason="upstream bad failed"),
        task("soft", "failed", attempt(), reason="exit code 1"),
    ]

    text = Page(draw_report(result(*tasks, status="succeeded", tolerated=["soft"]), "", {})).text

    assert text.index("! tolerated") < text.index("exit code 1") < text.index("upstream bad failed")
    assert "fine" not in text


def test_an_attempt_that_was_tried_again_is_no_failure() -> None:
    flaky = task(
        "flaky", "succeeded", attempt(1, "exit 3", "logs/flaky.1.log"), attempt(2, None, "logs/flaky.2.log", 5)
    )

    page = Page(draw_report(result(flaky), "", {"logs/flaky.1.log": "x", "logs/flaky.2.log": "y"}))

    assert "retrying" in page.text
    assert "✗" not in page.text
    assert not [tag for tag, attributes in page.tags if tag == "details" and "open" in attributes]


HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m'\""


def test_nothing_in_a_definition_or_a_log_becomes_markup() -> None:
    bad = task(HOSTILE, "failed", attempt(error=HOSTILE, log="logs/x.1.log"), reason=HOSTILE)
    whole = result(bad, workflow=HOSTILE, params={HOSTILE: HOSTILE}, reason=HOSTILE, outputs={HOSTILE: {"n": HOSTILE}})

    source = draw_report(whole, "", {"logs/x.1.log": HOSTILE})

    assert not {"script", "img"} & {tag for tag, _ in Page(source).tags}
    assert "\x1b" not in source
    assert "default-src 'none'" in source


def test_a_large_run_gives_a_page_that_can_be_read_with_its_failures() -> None:
    tasks = [task(f"t{n}", "succeeded", attempt(log=f"logs/t{n}.1.log")) for n in range(5_000)]
    tasks[-1] = task("late", "failed", attempt(error="exit 7", log="logs/late.1.log"))

    page = Page(draw_report(result(*tasks), "", {}))

    assert sum(tag == "tr" for tag, _ in page.tags) < MOST_ROWS + 10
    assert "late" in page.text
    assert f"{5_000 - MOST_ROWS:,} more attempts" in page.text
    assert most_wanted_logs(result(*tasks))[0] == "logs/late.1.log"
    assert len(most_wanted_logs(result(*tasks))) == MOST_LOGS


@pytest.mark.parametrize(("seconds", "shown"), [(0.004, "0.00 s"), (125, "2 min 5 s"), (7_500, "2 h 5 min")])
def test_durations_are_told_as_people_say_them(seconds: float, shown: str) -> None:
    assert shown in Page(draw_report(result(duration_s=seconds), "", {})).text
