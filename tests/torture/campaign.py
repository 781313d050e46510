"""What all campaigns share: how long they are, patched copies of wizflowd for negative controls, the report of figures.

`WIZFLOW_TORTURE=long` asks for the long form. `WIZFLOW_TORTURE_REPORT` names the report, one JSON line a campaign.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
LONG = os.environ.get("WIZFLOW_TORTURE", "") == "long"


def either(short: T, long: T) -> T:
    """Return the value of the present form."""
    return long if LONG else short


def report(campaign: str, **figures: object) -> None:
    """Append the measured figures of a campaign to the report, and print them in one line."""
    path = Path(os.environ.get("WIZFLOW_TORTURE_REPORT", ROOT / "build" / "torture.jsonl"))
    path.parent.mkdir(parents=True, exist_ok=True)
    form = either("short", "long")
    line = {"campaign": campaign, "form": form, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **figures}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    shown = ", ".join(f"{name}={value}" for name, value in figures.items())
    print(f"\n{campaign} ({form}): {shown}")


def patched_copy(folder: Path, module: str, *changes: tuple[str, str]) -> dict[str, str]:
    """Copy the package into `folder`, with lines of one module replaced; return the environment that uses the copy.

    `module` is a path within the package. Each old text must stand there exactly once, so that a control that no
    longer breaks anything is noticed.
    """
    package = folder / "wizflowd"
    if not package.exists():
        shutil.copytree(ROOT / "wizflowd", package, ignore=shutil.ignore_patterns("__pycache__"))
    path = package / module
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) == 1, f"{module} does not hold exactly once: {old}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def memory_mib(pid: int) -> tuple[int, int]:
    """Return what a process holds in memory, and the most that it ever held since `forget_peak`; MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return found["VmRSS"], found["VmHWM"]


def forget_peak(pid: int) -> None:
    """Let the peak of a process's memory begin anew. Source: proc(5), clear_refs."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
