"""The other tools: how each is told a workload, and what is started for it.

To add one, write a function that puts the workload into `folder` in the tool's own words and returns its argv, and
give it a line in PEERS with what it can do.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measure import BenchError, Command, run
from bench.place import NPM, VENV, Place, find_program
from bench.workloads import Workload, independent

Argv = Sequence[str | Path]
_SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool. `graphs`: it knows that a task waits for others; `slow`: it is given a tenth of the tasks."""

    name: str
    write: Callable[[Workload, int, Path], Argv]
    graphs: bool = True
    slow: bool = False

    def is_there(self, place: Place) -> bool:
        """Return whether it can do two tasks at all; where it cannot, say why. Also warms what it reads up."""
        try:
            self.time_s(place, independent(2), 2)
        except BenchError as error:
            print(f"without {self.name}: {error}", file=sys.stderr)
            return False
        return True

    def time_s(self, place: Place, work: Workload, at_once: int) -> float:
        """Return the seconds from the start of the process to its exit."""
        folder = place.fresh(self.name)
        argv = self.write(work, at_once, folder)
        return run(Command(argv, folder, place.env(DAGU_HOME=str(folder)))).wall_s


def _make(work: Workload, at_once: int, folder: Path) -> Argv:
    rules = "".join(f"{task}: {' '.join(needs)}\n\t@sh -c true\n" for task, needs in work.needs.items())
    every = " ".join(work.leaves)
    (folder / "Makefile").write_text(f"all: {every}\n.PHONY: all {' '.join(work.needs)}\n{rules}")
    return [find_program("make"), "-s", f"-j{at_once}"]


def _ninja(work: Workload, at_once: int, folder: Path) -> Argv:
    lines = "".join(f"build {task}: sh {' '.join(needs)}\n" for task, needs in work.needs.items())
    (folder / "build.ninja").write_text(f"rule sh\n  command = true\n{lines}")  # it runs `/bin/sh -c` by itself
    return [find_program("ninja"), f"-j{at_once}"]


def _xargs(work: Workload, at_once: int, folder: Path) -> Argv:
    (folder / "tasks").write_text("\n".join(work.needs))
    return [find_program("xargs"), "-a", "tasks", "-P", str(at_once), "-n", "1", "sh", "-c", "true"]


def _parallel(work: Workload, at_once: int, folder: Path) -> Argv:
    (folder / "tasks").write_text("\n".join(work.needs))
    return [find_program("parallel"), "-a", "tasks", f"-j{at_once}", "sh -c true #"]


def _doit(work: Workload, at_once: int, folder: Path) -> Argv:
    lines = [
        "import json",
        "def task_all():",
        "    for name, needs in json.load(open('tasks.json')).items():",
        "        yield {'basename': name, 'actions': ['true'], 'task_dep': needs}",
    ]
    (folder / "tasks.json").write_text(json.dumps(work.needs))
    (folder / "dodo.py").write_text("\n".join(lines))
    many = ["-n", str(at_once), "-P", "thread"] if at_once > 1 else []
    return [find_program("doit", VENV), "run", *many, "-v", "0"]


def _huey(work: Workload, at_once: int, folder: Path) -> Argv:  # noqa: ARG001  # a script gets its folder as cwd
    return [find_program("python", VENV), _SCRIPTS / "with_huey.py", str(len(work)), str(at_once)]


def _luigi(work: Workload, at_once: int, folder: Path) -> Argv:
    (folder / "tasks.json").write_text(json.dumps(work.needs))
    return [find_program("python", VENV), _SCRIPTS / "with_luigi.py", str(at_once)]


def _snakemake(work: Workload, at_once: int, folder: Path) -> Argv:
    rules = "".join(
        f"rule {task}:\n    input: {json.dumps(needs)}\n    output: touch('{task}')\n    shell: 'true'\n"
        for task, needs in work.needs.items()
    )
    (folder / "Snakefile").write_text(f"rule all:\n    input: {json.dumps(work.leaves)}\n{rules}")
    return [find_program("snakemake", VENV), "--quiet", "all", "--cores", str(at_once)]


def _dagu(work: Workload, at_once: int, folder: Path) -> Argv:
    steps = [{"name": task, "command": "true", "depends": needs} for task, needs in work.needs.items()]
    text = json.dumps({"type": "graph", "maxActiveSteps": at_once, "steps": steps})
    (folder / "work.yaml").write_text(text)
    binary = next(NPM.glob("@dagu-org/dagu-linux-*/bin/dagu"), None)
    return [binary or find_program("dagu"), "start", "work.yaml"]


PEERS = {
    peer.name: peer
    for peer in (
        Peer("make", _make),
        Peer("ninja", _ninja),
        Peer("xargs", _xargs, graphs=False),
        Peer("parallel", _parallel, graphs=False),
        Peer("doit", _doit),
        Peer("huey", _huey, graphs=False),
        Peer("luigi", _luigi, slow=True),
        Peer("snakemake", _snakemake, slow=True),
        Peer("dagu", _dagu, slow=True),
    )
}
