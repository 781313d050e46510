"""The tasks of `tasks.json` in luigi with its local scheduler. `with_luigi.py WORKERS`."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import luigi

NEEDS: dict[str, list[str]] = json.loads(Path("tasks.json").read_text())


class Work(luigi.Task):
    """One task; done when its file is there, which is how luigi knows."""

    name = luigi.Parameter()

    def requires(self) -> Iterable[luigi.Task]:
        """Return what it waits for."""
        return [Work(name=need) for need in NEEDS[self.name]]

    def output(self) -> luigi.Target:
        """Return its file."""
        return luigi.LocalTarget(self.name)

    def run(self) -> None:
        """Do it."""
        subprocess.run(["/bin/sh", "-c", "true"], check=True)
        Path(self.name).touch()


done = luigi.build(
    [Work(name=name) for name in NEEDS], workers=int(sys.argv[1]), local_scheduler=True, log_level="ERROR"
)
sys.exit(0 if done else 1)
