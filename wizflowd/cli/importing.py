"""`wizflow import`: files of other schedulers into our format, and what could not be carried over."""

import argparse
import os
import sys
from pathlib import Path

from wizflowd.core.calendar import CalendarError, zone_of
from wizflowd.errors import RequestError, printable
from wizflowd.importers import Imported, import_crontab, import_dagu

MAX_BYTES = 8 * 1024 * 1024


def convert(options: argparse.Namespace) -> int:
    """Write the definitions to stdout, or as files into a folder; what was left out goes to stderr."""
    path = Path(options.file)
    imported = _read(path, system=options.system)
    for line in imported.left_out:
        print(f"left out: {printable(line)}", file=sys.stderr)
    if options.output is None:
        for name, text in imported.files.items():
            print(f"# {name}\n{text}")
    else:
        _write(imported, options.output)
    return 0


def _read(path: Path, *, system: bool) -> Imported:
    try:
        data = path.read_bytes()[: MAX_BYTES + 1]
        text = data.decode()
    except OSError as exc:
        raise RequestError("not_found", f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise RequestError("invalid", f"cannot read {path}: it is not UTF-8") from exc
    if len(data) > MAX_BYTES:
        raise RequestError("invalid", f"cannot read {path}: it is larger than 8 MiB")
    if path.suffix.lower() in (".yaml", ".yml"):
        return import_dagu(text, path.stem, zone=_host_zone())
    return import_crontab(text, system=system or path.resolve().is_relative_to("/etc"), zone=_host_zone())


def _host_zone() -> str:
    """Return the time zone by which this host's own schedules go, as cron and Dagu do; empty: it is UTC, or unknown."""
    name = os.environ.get("TZ", "").removeprefix(":") or os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
    try:
        zone_of(name)
    except CalendarError:
        return ""
    return "" if name in {"UTC", "Etc/UTC"} else name


def _write(imported: Imported, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in imported.files.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
            print(folder / name)
    except FileExistsError as exc:
        raise RequestError("bad_output", f"cannot write {exc.filename}: it exists") from exc
    except OSError as exc:
        raise RequestError("bad_output", f"cannot write below {folder}: {exc.strerror}") from exc
