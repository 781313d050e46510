"""What is at which path: the metrics, and whether the daemon lives and is ready (SPEC section 6).

In: a request's method, path and headers. Out: an `Answer`. Called by `server`, which speaks HTTP and knows no paths.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wizflowd.metrics.page import Page

_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body, and the headers that go with them besides length and date."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("content-type", _TEXT),)


def text_answer(status: int, line: str, *headers: tuple[str, str]) -> Answer:
    """Return an answer of one line of text."""
    return Answer(status, f"{line}\n".encode(), (("content-type", _TEXT), *headers))


@dataclass(frozen=True, slots=True)
class Site:
    """`unready` says in one line why no work would be taken now, or nothing."""

    page: Page
    unready: Callable[[], str]

    async def answer(self, method: str, target: str, headers: Mapping[str, str]) -> Answer:
        """Return the answer to a request; names of headers are in small letters."""
        path = target.partition("?")[0]
        if path not in ("/metrics", "/-/healthy", "/-/ready"):
            return text_answer(404, "there is /metrics, /-/healthy and /-/ready")
        if method not in ("GET", "HEAD"):
            return text_answer(405, "only GET and HEAD", ("allow", "GET, HEAD"))
        if path == "/-/healthy":  # an answer from the loop is the proof
            return text_answer(200, "wizflowd is healthy")
        if path == "/-/ready":
            why_not = self.unready()
            return (
                text_answer(503, f"wizflowd is not ready: {why_not}")
                if why_not
                else text_answer(200, "wizflowd is ready")
            )
        return await self._metrics(headers)

    async def _metrics(self, headers: Mapping[str, str]) -> Answer:
        written = await self.page.written(headers.get("accept", ""), headers.get("accept-encoding", ""))
        fields = [("content-type", written.content_type), ("vary", "accept, accept-encoding")]
        if written.packed:
            fields.append(("content-encoding", "gzip"))
        return Answer(200, written.body, tuple(fields))
