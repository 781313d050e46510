"""`wizflow run`: plan and run one file here and now."""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable

from wizflowd.assembly import first_error
from wizflowd.cli.source import absolute, compile_file, read_source, usable_config, watching_daemon
from wizflowd.errors import RequestError, WizflowError
from wizflowd.standalone import Asking, run_file
from wizflowd.threads import Loop
from wizflowd.views.progress import Progress


def run(options: argparse.Namespace) -> int:
    """Run the file and return 0 succeeded, 1 failed, 130 interrupted."""
    config = usable_config(options.config)
    data = read_source(options.file, config.limits.definition.load_limits())
    path = absolute(options.file)
    compiled = compile_file(path, data, config)
    watched = watching_daemon(options, path)
    if watched is not None:
        raise RequestError(
            "watched",
            f"cannot run {options.file}: a running daemon watches it",
            hint=f"use `wizflow trigger {watched}`",
        )
    params = {**_params_of_env(compiled.definition.params), **dict(map(_param, options.param))}
    asking = Asking(path, data, compiled, params, options.incremental)
    try:
        with Progress(sys.stdout) as progress, asyncio.Runner(loop_factory=Loop) as runner:
            return runner.run(run_file(asking, config, progress))
    except* WizflowError as group:
        error = first_error(group)
    raise error


def _params_of_env(names: Iterable[str]) -> dict[str, str]:
    """Return the values that the environment gives to parameters, as WIZFLOW_PARAM_NAME."""
    given = ((name, os.environ.get(f"WIZFLOW_PARAM_{name}")) for name in names)
    return {name: value for name, value in given if value is not None}


def _param(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise RequestError("bad_params", f"cannot use -p {text}: write -p NAME=VALUE")
    return name, value
