"""Faults at a counted call of a program: a library that is loaded before it, and the page that both look at.

Used by the campaigns of kill points and disks. Source of the library: `tests/tools/faults.c`.
"""

import mmap
import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.torture.campaign import ROOT

NEVER = (1 << 64) - 1
_PLAN = struct.Struct("=QQQ")


class Faults:
    """Lets calls that change files below `path` fail in the programs that have `settings` in their environment.

    `program` is a part of their command line; `calls` narrows what is counted; `error` 0: the process is killed.
    """

    def __init__(self, folder: Path, program: str, path: Path, calls: Iterable[str] = (), error: int = 0) -> None:
        if shutil.which("gcc") is None:
            pytest.skip("needs gcc")
        library, plan = folder / "faults.so", folder / f"{program.rpartition('/')[2]}.plan"
        if not library.exists():
            source = ROOT / "tests" / "tools" / "faults.c"
            subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
        plan.write_bytes(bytes(_PLAN.size))
        with plan.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _PLAN.size)
        names = f",{','.join(calls)}," if calls else ""
        self.settings = {
            "LD_PRELOAD": str(library),
            "FAULT_PLAN": str(plan),
            "FAULT_PROGRAM": program,
            "FAULT_PATH": f"{path}/",
            "FAULT_CALLS": names,
            "FAULT_ERRNO": str(error),
        }

    def arm(self, first: int, last: int = 0) -> None:
        """Begin to count anew; let the calls from `first` to `last` (by default that one alone) fail."""
        self._page[:] = _PLAN.pack(0, first, last or first)

    def disarm(self) -> None:
        """Let everything succeed, and begin to count anew."""
        self.arm(NEVER)

    @property
    def count(self) -> int:
        """How many calls there were since it was armed or disarmed."""
        return int(_PLAN.unpack(self._page[:])[0])
