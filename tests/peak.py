"""The most memory that a process of its own has used, as the kernel counts it since its program started.

`ru_maxrss` will not do: a child begins with the peak of the process that started it, here pytest's own.
"""

from pathlib import Path


def peak_mib() -> float:
    """Return the peak of this process in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
