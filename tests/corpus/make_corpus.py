#!/usr/bin/env python3
"""Lay out the whole corpus in a new folder: make_corpus.py OUT

Copies the small files that lie beside this script and makes those of made.json: the large ones (about 130 MB on
disk, all removable), and the FIFOs, sockets, devices, links and odd names that a repository cannot hold.
A device needs root; without it that one case is left out.
"""

import json
import os
import shutil
import socket
import stat
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def repeat(path: Path, head: str = "", unit: str = "", count: int = 0, tail: str = "") -> None:
    """Write head, then unit count times (%d is its number), then tail."""
    with path.open("w", encoding="utf-8", newline="") as out:
        out.write(head)
        for start in range(0, count, 10_000):
            numbers = range(start, min(start + 10_000, count))
            out.write("".join(unit % n for n in numbers) if "%d" in unit else unit * len(numbers))
        out.write(tail)


def sparse(path: Path, head: str, size: int) -> None:
    path.write_text(head, encoding="utf-8")
    os.truncate(path, size)


def bind(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def make(out: Path, file: str, kind: str, **how: object) -> None:
    """Make one file of made.json under out."""
    path, outside = out / file, out / "outside"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = str(how.get("text", ""))
    match kind:
        case "text":
            path.write_text(text, encoding="utf-8")
        case "repeat" | "sparse":
            {"repeat": repeat, "sparse": sparse}[kind](path, **how)  # type: ignore[operator]
        case "fifo":
            os.mkfifo(path)
        case "socket":
            bind(path)
        case "device":
            os.mknod(path, 0o644 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
        case "directory":
            path.mkdir()
        case "link":
            target = str(how["target"])
            if target == "fifo_target" and not (path.parent / target).exists():
                os.mkfifo(path.parent / target)
            path.symlink_to(target)
        case "link_inside":
            (path.parent / "link_target").mkdir(exist_ok=True)
            (path.parent / "link_target" / f"of_{path.name}").write_text(text, encoding="utf-8")
            path.symlink_to(f"link_target/of_{path.name}")
        case "link_out" | "link_out_relative" | "link_folder_out":
            there = outside / path.stem / "outside.yaml"
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_text(text, encoding="utf-8")
            if kind == "link_folder_out":
                there = there.parent
            path.symlink_to(there if kind == "link_out" else os.path.relpath(there, path.parent))
        case "pair":
            for name, content in zip(file.rsplit("/", 1)[-1].split("+"), (how["first"], how["second"]), strict=True):
                (path.parent / name).write_text(str(content), encoding="utf-8")
        case _:
            raise ValueError(f"{file}: no such kind: {kind}")


def lay_out(out: Path) -> list[str]:
    """Make everything under out, which must not exist; return what could not be made."""
    skip = shutil.ignore_patterns("make_corpus.py", "README.md", ".gitattributes", "made.json", "__pycache__")
    shutil.copytree(HERE, out, ignore=lambda d, names: skip(d, names) if Path(d) == HERE else [])
    failed = []
    for entry in json.loads((HERE / "made.json").read_text(encoding="utf-8")):
        try:
            make(out, **entry)
        except OSError as error:
            failed.append(f"{entry['file']}: {error}")
    return failed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for problem in lay_out(Path(sys.argv[1]).resolve()):
        print("not made:", problem, file=sys.stderr)
