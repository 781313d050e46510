"""Packages that add kinds of tasks: found by the entry points `wizflowd.executors`, registered before any planning.

In: what is installed. Out: kinds in `core.kinds`. A package that cannot be used is named and left out, and stops
nobody. Called by the daemon and for the commands that read definitions. What is in `__all__` is for those packages:
`docs/plugins.md` describes it.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points

from wizflowd.core.fields import (
    MODEL,
    AnyJson,
    Count,
    Duration,
    FieldError,
    FilledLine,
    Flag,
    Line,
    RelativePath,
    Size,
    Text,
    Url,
)
from wizflowd.core.kinds import UNUSABLE, Kind, KindCall, KindError, register
from wizflowd.core.task import PluginTask
from wizflowd.core.values import Json
from wizflowd.errors import WizflowError

__all__ = [
    "MODEL",
    "AnyJson",
    "Count",
    "Duration",
    "FieldError",
    "FilledLine",
    "Flag",
    "Json",
    "Kind",
    "KindCall",
    "KindError",
    "Line",
    "PluginTask",
    "RelativePath",
    "Size",
    "Text",
    "Url",
    "load_plugins",
]

GROUP = "wizflowd.executors"


@cache
def load_plugins() -> Mapping[str, str]:
    """Register the kinds of all packages, once, and return those that could not be, by name, and why."""
    for entry in entry_points(group=GROUP):
        try:
            offered = entry.load()
            register(entry.name, offered() if isinstance(offered, type) else offered)
        except WizflowError as error:
            UNUSABLE[entry.name] = str(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - of a stranger's package, which must not stop us
            UNUSABLE[entry.name] = f"{type(error).__name__}: {error}"
    return UNUSABLE
