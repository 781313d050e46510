"""The body of an HTTP response: decoded within bounds, masked into the attempt's log as it comes, kept for outputs.

In: a response whose headers are here. Out: the bytes kept. Called by `rest`. Decoding is done here and not by httpx,
because a few compressed bytes must not become a full memory.
"""

import asyncio
import os
import threading
import time
import zlib
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING

from wizflowd.core.attempt import Job
from wizflowd.errors import printable
from wizflowd.executors.inprocess import AttemptError, Trace
from wizflowd.spawner.log import CappedLog
from wizflowd.spawner.masking import Masker

if TYPE_CHECKING:
    import httpx  # imported by the first attempt; see `rest`

_SHORT_BYTES = 1 << 16
_WRITTEN_WITHIN_S = 0.25


class Body:
    """A body as it comes. `kept` is its beginning, decoded, up to about `keep` bytes."""

    def __init__(self, job: Job, maximum: int, *, keep: int) -> None:
        self.kept = b""
        self._job = job
        self._maximum = maximum
        self._keep = keep

    async def read(self, response: "httpx.Response", trace: Trace) -> None:
        """Read to the end. Raises AttemptError for what is too long, sent or decoded, or cannot be decoded."""
        stream = response.stream  # not `aiter_raw`: pieces of no certain size will do
        assert isinstance(stream, AsyncIterable)  # noqa: S101 - of an asynchronous transport
        log = _BodyLog(self._job)
        kept = bytearray()
        sent = decoded = 0
        is_short = _is_short(response.headers.get("Content-Length", ""))
        try:
            decoder = _Decoder(response.headers.get("Content-Encoding", ""))
            async for chunk in stream:
                sent += len(chunk)
                data = decoder.feed(chunk, self._maximum - decoded + 1)
                decoded += len(data)
                if max(sent, decoded) > self._maximum:
                    what = f"the response body is over {self._maximum} bytes"
                    raise AttemptError("response", what, hint="max_response_bytes sets the limit", retryable=False)
                if len(kept) < self._keep:
                    kept += data
                log.hold(data)
                if not (is_short and log.may_wait):
                    is_short = False  # from here on threads write it
                    await asyncio.to_thread(log.write)
            decoder.finish()
        finally:
            self.kept = bytes(kept)
            if is_short:
                log.close()  # a thread's turn would cost more than the write
            else:
                await asyncio.to_thread(log.close)
            trace.log = os.path.basename(self._job.log_path) if log.written else None
            trace.notes += log.notes


def _is_short(length: str) -> bool:
    return length.isascii() and length.isdigit() and int(length[:9]) <= _SHORT_BYTES


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
    """The attempt's log. `write` and `close` block and run in threads; a cancelled attempt may leave one behind.

    A body that is short and quick is written by `close` alone, in the loop: into a new file, not to the disk.
    """

    def __init__(self, job: Job) -> None:
        self._log = CappedLog(job.log_path, job.log_max)
        self._masker = Masker(job.secrets)
        self._turn = threading.Lock()
        self._held: list[bytes] = []
        self._written_s = time.monotonic()
        self._closed = False

    def hold(self, data: bytes) -> None:
        """Take what is to be written."""
        self._held.append(data)

    @property
    def may_wait(self) -> bool:
        """Whether so little is held (a short body can be long when decoded), and for so short a time."""
        return sum(map(len, self._held)) <= _SHORT_BYTES and time.monotonic() - self._written_s < _WRITTEN_WITHIN_S

    def write(self) -> None:
        with self._turn:
            if not self._closed:
                self._write()

    def close(self) -> None:
        with self._turn:
            self._closed = True
            self._write()
            self._log.write(self._masker.flush())
            self._log.close()

    def _write(self) -> None:
        held, self._held = b"".join(self._held), []
        self._written_s = time.monotonic()
        self._log.write(self._masker.feed(held))

    @property
    def written(self) -> bool:
        return self._log.state.size > 0

    @property
    def notes(self) -> list[str]:
        return [f"the log is not whole: {self._log.state.note}"] if self._log.state.note else []
