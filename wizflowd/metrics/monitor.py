"""The metrics of one daemon, put together: a registry with everything in it, and the server that shows it.

In: the settings and what is watched. Out: `tally`, a sink of the engine, and a server. Called by the daemon.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from wizflowd.core.state import State, Workflow
from wizflowd.errors import ConfigError
from wizflowd.metrics.disks import Disks
from wizflowd.metrics.labels import WorkflowLabels
from wizflowd.metrics.page import Page
from wizflowd.metrics.present import Present, StreamCounts
from wizflowd.metrics.server import MetricsServer
from wizflowd.metrics.site import Site
from wizflowd.metrics.tally import Tally, TypeOf
from wizflowd.metrics.web_config import read_web_config
from wizflowd.settings import Metrics


@dataclass(frozen=True, slots=True)
class Subject:
    """What is watched. `unready` says why no work would be taken; `folders` are those whose disks are told of."""

    state: State
    type_of: TypeOf
    state_of: Callable[[State, Workflow], str]
    stream: StreamCounts
    unready: Callable[[], str]
    folders: tuple[Path, ...]


class Monitor:
    """Counts, and serves while `run` runs. Raises ConfigError where the web configuration is wrong."""

    def __init__(self, settings: Metrics, subject: Subject) -> None:
        if settings.listen is None:
            raise ConfigError("cannot serve metrics: metrics.listen is off")
        registry = self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        labels = WorkflowLabels(settings.max_workflows)
        self.tally = Tally(registry, labels, subject.state, subject.type_of)
        self._disks = Disks(subject.folders)
        present = Present(subject.state, labels, subject.state_of, subject.stream, self._disks)
        registry.register(present)
        self._page = Page(registry, present)
        access = read_web_config(settings.web_config)
        self.server = MetricsServer(settings.listen, Site(self._page, subject.unready), access)

    def change_settings(self, settings: Metrics) -> None:
        """Take over a changed web configuration, and certificates that were renewed. Raises ConfigError."""
        self.server.change_access(read_web_config(settings.web_config))

    def open(self) -> None:
        """Begin to listen. Raises WizflowError."""
        self.server.open()

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            await self.server.run()
        finally:
            self._disks.close()
            self._page.close()
