"""Where a benchmark works and what it calls: folders, programs, the environment. Handed to every experiment."""

import itertools
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import BenchError

ROOT = Path(__file__).parent.parent
VENV = ROOT / "build" / "bench-venv" / "bin"
NPM = ROOT / "build" / "bench-npm" / "node_modules"
PROGRAMS = Path(sys.executable).parent


@dataclass(slots=True)
class Place:
    """A folder for all work, on a real disk; `rounds` is how often each contestant runs, `quick` asks for less work."""

    folder: Path
    rounds: int = 5
    quick: bool = False
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def fresh(self, name: str) -> Path:
        """Return a new folder.

        It stays to the end: an ext4 without a journal looks, for each file that it makes, at all that were removed
        within the last five minutes, and the next contestant would pay for that.
        """
        folder = self.folder / f"{next(self._numbers):03d}-{name}"
        folder.mkdir(parents=True)
        return folder

    def env(self, **more: str) -> dict[str, str]:
        """Return the environment of what is measured: little, and the same for everybody."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8", **more}


def find_program(name: str, *folders: Path) -> Path:
    """Return where a program is. Raises BenchError when it is nowhere."""
    path = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ["PATH"]]))
    if path is None:
        raise BenchError(f"there is no {name}: `make bench-tools` installs the peers")
    return Path(path)
