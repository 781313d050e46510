#!/usr/bin/env python3
"""What `make run` shows: a daemon in a folder of its own, a dropped file, an edit, and what ran.

Uses the programs as anybody would: `wizflowd` in the background, `wizflow` in front, results read from disk.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).with_name("word_count.yaml")
PROGRAMS = Path(sys.executable).parent
COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
PATIENCE_S = 20.0


def main() -> int:
    """Show it; return 0, or 1 where something did not come about."""
    folder = Path(tempfile.mkdtemp(prefix="wizflow-demo-"))
    try:
        with (folder / "wizflowd.log").open("w") as log:
            return show(folder, log.fileno())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def show(folder: Path, log: int) -> int:
    """Start the daemon in `folder`, go through the four steps, stop it."""
    workflows = folder / "workflows"
    workflows.mkdir()
    config = folder / "wizflowd.yaml"
    config.write_text("log: {level: info, format: text}\n")
    options: list[str | Path] = [
        "--config",
        config,
        "--workflows",
        workflows,
        "--state",
        folder / "state",
        "--metrics",
        "off",
    ]
    options += ["--events-socket", folder / "events.sock", "--control-socket", folder / "control.sock"]

    say("1. The plan: what would run, in what order, how wide. Nothing runs yet.", "wizflow plan word_count.yaml")
    subprocess.run([PROGRAMS / "wizflow", "plan", EXAMPLE], env=environment(), check=True)

    say("2. The daemon watches a folder; the file is dropped in.", "wizflowd --workflows workflows &")
    daemon = subprocess.Popen([PROGRAMS / "wizflowd", *options], stderr=log, stdout=log, env=environment())
    try:
        wait_for((folder / "control.sock").exists, "the daemon's socket", daemon)
        say("", "cp word_count.yaml workflows/")
        publish(workflows / EXAMPLE.name, EXAMPLE.read_text())
        first = next_run(workflows, "", daemon)
        print_run(first)
        print("\n" + (workflows / "word_count.runs/workspace/summary.txt").read_text().rstrip())

        say("3. Beside the file: everything about the run.", "find workflows/word_count.runs")
        print_tree(workflows / "word_count.runs")

        say("4. One command changes; what it does not touch is reused.", "sed -i 's/%-12s/%-20s/' word_count.yaml")
        publish(workflows / EXAMPLE.name, EXAMPLE.read_text().replace("%-12s", "%-20s"))
        print_run(next_run(workflows, first["run"], daemon))

        say("5. The daemon's own account.", "cat wizflowd.log")
        print((folder / "wizflowd.log").read_text().rstrip())
        return 0
    except RuntimeError as error:
        print(f"error: {error}\n{(folder / 'wizflowd.log').read_text()}", file=sys.stderr)
        return 1
    finally:
        stop(daemon)


def environment() -> dict[str, str]:
    """Return this environment without settings of a wizflowd that is really in use."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WIZFLOWD_")}


def publish(path: Path, text: str) -> None:
    """Write beside and rename: the daemon never sees half a file, and need not wait for more."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.rename(path)


def next_run(workflows: Path, last: str, daemon: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for the result of a run other than `last`, and return it."""
    result = workflows / "word_count.runs/latest/result.json"

    def ended() -> bool:
        return result.exists() and json.loads(result.read_text())["run"] != last

    wait_for(ended, "the result of the run", daemon)
    return dict(json.loads(result.read_text()))


def wait_for(condition: Callable[[], bool], what: str, daemon: subprocess.Popen[bytes]) -> None:
    """Return when `condition` holds; raise RuntimeError when the daemon ended or patience did."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if daemon.poll() is not None:
            raise RuntimeError(f"cannot wait for {what}: the daemon ended with {daemon.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"cannot wait for {what} any longer: nothing after {PATIENCE_S:.0f} s")
        time.sleep(0.02)


def stop(daemon: subprocess.Popen[bytes]) -> None:
    """End the daemon as systemd would: SIGTERM, and SIGKILL only when that did not help."""
    daemon.terminate()
    try:
        daemon.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def print_run(result: dict[str, Any]) -> None:
    """One line per task: its sign, name, state, time and reason; then the run's own."""
    for task in result["tasks"]:
        reused = bool(task["reused_from"])
        sign, colour = ("=", "36") if reused else ("+", "32") if task["status"] == "succeeded" else ("!", "31")
        state = "reused" if reused else task["status"]
        print(paint(colour, f"  {sign} {task['id']:<10} {state:<10}"), task["reason"] or "")
    print(f"  run {result['run']}: {result['status']} in {result['duration_s']:.2f} s")


def print_tree(folder: Path) -> None:
    """Print the files below `folder`, as `find` would, without hidden ones."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder.parent)
        if any(part.startswith(".") for part in parts.parts) or (path.is_dir() and not path.is_symlink()):
            continue
        target = f" -> {os.readlink(path)}" if path.is_symlink() else ""
        print(f"  {parts}{paint('36', target)}")


def say(text: str, command: str) -> None:
    """Print what comes and the command that a person would type for it."""
    if text:
        print(f"\n{paint('1', text)}")
    print(paint("2", f"$ {command}"), flush=True)


def paint(code: str, text: str) -> str:
    """Return `text` in an ANSI colour where the output is a terminal that wants it."""
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR and text else text


if __name__ == "__main__":
    sys.exit(main())
