"""How long things take and what they cost: one process to its end, a living one, several contestants in turn.

Used by the experiments. Contestants are interleaved, so that a noisy minute of the machine hits all of them.
"""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_MIB = 1 << 20


class BenchError(Exception):
    """Something did not work: a tool failed, or is not there."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program to be measured."""

    argv: Sequence[str | Path]
    folder: Path
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process took from start to exit; the largest resident set of it and what it waited for."""

    wall_s: float
    cpu_s: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What living processes have used since they started."""

    cpu_s: float
    rss_mib: float
    peak_mib: float


def run(command: Command) -> Spent:
    """Run a program to its end. Raises BenchError when it fails."""
    output = command.folder / "output.txt"
    with output.open("wb") as file:
        began_s = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in command.argv],
            cwd=command.folder,
            env=dict(command.env),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - began_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchError(f"{command.argv[0]} ended with {process.returncode}: {output.read_text()[-2000:]}")
    return Spent(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def interleaved(rounds: int, contestants: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Let each contestant run once a round; return what each gave."""
    results: dict[str, list[T]] = {name: [] for name in contestants}
    for _round in range(rounds):
        for name, contestant in contestants.items():
            results[name].append(contestant())
    return results


def percentile(values: Iterable[float], percent: int) -> float:
    """Return the value below which so many percent of the values lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def usage(pids: Iterable[int]) -> Usage:
    """Return what some living processes have used, together."""
    cpu_s, rss, peak = 0.0, 0, 0
    for pid in pids:
        cpu_s += time.clock_gettime(_cpu_clock(pid))
        rss += _status_field(pid, "VmRSS") * 1024
        peak += _status_field(pid, "VmHWM") * 1024
    return Usage(cpu_s, rss / _MIB, peak / _MIB)


def _cpu_clock(pid: int) -> int:
    """Return the clock of a process's processor time, as `clock_getcpuclockid` does; /proc has ticks of 10 ms."""
    return (~pid << 3) | 2


def wakeups(pid: int, seconds: float) -> int:
    """Return how often a process woke up in so many seconds, by its system calls that waited.

    Not by the context switches that the kernel counts: some virtual machines count none.
    """
    with tempfile.NamedTemporaryFile("r") as found:
        argv = [
            "strace",
            "-f",
            "-qq",
            "-e",
            "trace=epoll_wait,poll,select,futex,read",
            "-p",
            str(pid),
            "-o",
            found.name,
        ]
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as tracer:
            time.sleep(seconds)
            tracer.terminate()
        ended = (line for line in found if "unfinished" not in line)
        return sum("futex" not in line or "FUTEX_WAIT" in line or "resumed" in line for line in ended)


def _status_field(pid: int, name: str) -> int:
    path = Path(f"/proc/{pid}/status")
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def wait_until(condition: Callable[[], T], within_s: float, what: str) -> T:
    """Return what a condition gives as soon as that is true. Raises BenchError when time is up."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise BenchError(f"waited {within_s:.0f} s in vain: {what}")
        time.sleep(0.005)
    return found
