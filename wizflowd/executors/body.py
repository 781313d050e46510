"""The body of an HTTP response: decoded within bounds, masked into the attempt's log as it comes, kept for outputs.

In: a response whose headers are here. Out: the bytes kept. Called by `rest`. Decoding is done here and not by httpx,
because a few compressed bytes must not become a full memory.
"""

import asyncio
import threading
import zlib
from typing import TYPE_CHECKING

from wizflowd.core.attempt import Job
from wizflowd.errors import printable
from wizflowd.executors.inprocess import AttemptError, Trace
from wizflowd.spawner.log import CappedLog
from wizflowd.spawner.masking import Masker

if TYPE_CHECKING:
    import httpx  # imported by the first attempt; see `rest`


class Body:
    """A body as it comes. `kept` is its beginning, decoded, up to about `keep` bytes."""

    def __init__(self, job: Job, maximum: int, *, keep: int) -> None:
        self.kept = b""
        self._job = job
        self._maximum = maximum
        self._keep = keep

    async def read(self, response: "httpx.Response", trace: Trace) -> None:
        """Read to the end. Raises AttemptError for what is too long, sent or decoded, or cannot be decoded."""
        log = _BodyLog(self._job)
        kept = bytearray()
        sent = decoded = 0
        try:
            decoder = _Decoder(response.headers.get("Content-Encoding", ""))
            async for chunk in response.aiter_raw():
                sent += len(chunk)
                data = decoder.feed(chunk, self._maximum - decoded + 1)
                decoded += len(data)
                if max(sent, decoded) > self._maximum:
                    what = f"the response body is over {self._maximum} bytes"
                    raise AttemptError("response", what, hint="max_response_bytes sets the limit", retryable=False)
                if len(kept) < self._keep:
                    kept += data
                await asyncio.to_thread(log.write, data)
            decoder.finish()
        finally:
            self.kept = bytes(kept)
            await asyncio.to_thread(log.close)
            trace.log = self._job.log_path.name if log.written else None
            trace.notes += log.notes


class _Decoder:
    """Undoes a content encoding, never giving more than there is room for."""

    def __init__(self, encoding: str) -> None:
        self._begun = False
        self._zlib = None
        match encoding.strip().lower():
            case "" | "identity":
                pass
            case "gzip" | "x-gzip" | "deflate":
                self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 32)  # recognises either header
            case _:
                raise AttemptError("response", f"cannot read a body with the content encoding {printable(encoding)}")

    def feed(self, chunk: bytes, room: int) -> bytes:
        if self._zlib is None:
            return chunk
        self._begun = True
        try:
            return self._zlib.decompress(chunk, room)
        except zlib.error as exc:
            raise AttemptError("response", f"cannot decompress the response body: {exc}") from exc

    def finish(self) -> None:
        """Refuse a body that was cut; none at all, as after HEAD, is whole."""
        if self._zlib is not None and self._begun and not self._zlib.eof:
            raise AttemptError("response", "cannot decompress the response body: it ends early")


class _BodyLog:
    """The attempt's log. Its methods block and run in threads, of which a cancelled attempt may leave one behind."""

    def __init__(self, job: Job) -> None:
        self._log = CappedLog(str(job.log_path), job.log_max)
        self._masker = Masker(job.secrets)
        self._turn = threading.Lock()
        self._closed = False

    def write(self, data: bytes) -> None:
        with self._turn:
            if not self._closed:
                self._log.write(self._masker.feed(data))

    def close(self) -> None:
        with self._turn:
            self._closed = True
            self._log.write(self._masker.flush())
            self._log.close()

    @property
    def written(self) -> bool:
        return self._log.state.size > 0

    @property
    def notes(self) -> list[str]:
        return [f"the log is not whole: {self._log.state.note}"] if self._log.state.note else []
