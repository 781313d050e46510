"""The program `wizflowd`: options and configuration -> the daemon in the foreground."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from wizflowd import __version__
from wizflowd.config import Config, load_config
from wizflowd.errors import ConfigError

EXIT_USAGE = 2
_OPTIONS = {
    "workflows": "workflows_dir",
    "state": "state_dir",
    "events_socket": "events_socket",
    "control_socket": "control_socket",
    "metrics": "metrics.listen",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "wizflowd", description="Run the workflow files of a folder, once per change, until SIGTERM."
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the configuration (default: /etc/wizflowd/wizflowd.yaml)"
    )
    parser.add_argument("--workflows", metavar="DIR", help="the watched folder")
    parser.add_argument("--state", metavar="DIR", help="where the state is kept")
    parser.add_argument("--events-socket", metavar="PATH", help="where events are streamed")
    parser.add_argument("--control-socket", metavar="PATH", help="where commands are taken")
    parser.add_argument("--metrics", metavar="HOST:PORT|off", help="where metrics are served")
    parser.add_argument("--check", action="store_true", help="check the configuration and end")
    parser.add_argument("--version", action="version", version=f"wizflowd {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; return its exit status (SPEC section 7)."""
    options = _parser().parse_args(arguments)
    overrides = {key: getattr(options, name) for name, key in _OPTIONS.items() if getattr(options, name) is not None}

    def configuration() -> Config:
        found = load_config(options.config, os.environ, overrides)
        if found.metrics.listen is not None and found.metrics.web_config is not None:
            from wizflowd.metrics import read_web_config

            read_web_config(found.metrics.web_config)
        return found

    try:
        config = configuration()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    if options.check:
        print("the configuration is good")
        return 0
    from wizflowd.daemon import serve
    from wizflowd.journald import JournalHandler, is_journal
    from wizflowd.logs import set_up_logging

    to_journal = config.log.format == "auto" and is_journal(sys.stderr.fileno(), os.environ)
    set_up_logging(config.log.level, config.log.format, journal=JournalHandler() if to_journal else None)
    return serve(config, configuration)


if __name__ == "__main__":
    sys.exit(main())
