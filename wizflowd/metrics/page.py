"""The page of metrics: what `tally` counted and `present` sees, in Prometheus's text or as OpenMetrics.

Asked by `site` for every scrape. Written in a thread of its own, one page at a time: with 2,000 workflows it takes
half a second, in which the loop goes on.
"""

import asyncio
import gc
import gzip
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric, exposition
from prometheus_client.openmetrics import exposition as openmetrics

from wizflowd.metrics.present import Present
from wizflowd.threads import start_pool

OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_REST = 4
"""A page serves for so many times the CPU that it took, and none is written: scrapes cost a fifth of a core at most."""
_PACK_OVER = 16 * 1024
_CLASHING = frozenset({"wizflow_runs", "wizflow_tasks"})


@dataclass(frozen=True, slots=True)
class _Form:
    as_openmetrics: bool
    packed: bool


@dataclass(frozen=True, slots=True)
class Written:
    """A page as it goes out; `until_s` is the monotonic time until which it is good enough."""

    body: bytes
    content_type: str
    packed: bool
    until_s: float


class Page:
    """Writes the metrics of a registry; `present` is one of its collectors."""

    def __init__(self, registry: CollectorRegistry, present: Present) -> None:
        self._registry = registry
        self._present = present
        self._thread = start_pool(1, "metrics")
        self._turn = asyncio.Lock()
        self._written: dict[_Form, Written] = {}
        self._rest_until_s = 0.0

    async def written(self, accept: str, accept_encoding: str) -> Written:
        """Return the page in the form that the headers of a request ask for."""
        form = _Form("application/openmetrics-text" in accept, "gzip" in accept_encoding)
        async with self._turn:
            page = self._written.get(form)
            if page is None or page.until_s < time.monotonic():
                await asyncio.sleep(max(0.0, self._rest_until_s - time.monotonic()))
                await self._present.look()
                page = await asyncio.get_running_loop().run_in_executor(self._thread, self._write, form)
                self._written[form] = page
                self._rest_until_s = page.until_s
        return page

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _write(self, form: _Form) -> Written:
        began_s = time.thread_time()
        with _no_garbage_collection():
            if form.as_openmetrics:
                body = openmetrics.generate_latest(_Distinct(self._registry))  # type: ignore[no-untyped-call]
                kind = OPENMETRICS_TYPE
            else:
                body = exposition.generate_latest(self._registry)
                kind = exposition.CONTENT_TYPE_PLAIN_0_0_4
        packed = form.packed and len(body) > _PACK_OVER
        if packed:
            body = gzip.compress(body, compresslevel=1)
        return Written(body, kind, packed, time.monotonic() + _REST * (time.thread_time() - began_s))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Spare the loop the collector's stops: tens of thousands of samples come and go, and none is in a cycle."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Distinct(CollectorRegistry):
    """A registry seen by OpenMetrics, where `wizflow_runs_total` is of the family `wizflow_runs`, which is a gauge.

    The counter of such a pair is told as of unknown type under its whole name: name, labels and values stay the same.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if family.type != "counter" or family.name not in _CLASHING:
                yield family
                continue
            distinct = Metric(f"{family.name}_total", family.documentation, "unknown")
            distinct.samples = family.samples
            yield distinct
