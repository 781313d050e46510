"""`wizflow validate`: all problems of files with line and column, and what is legal but seldom meant."""

import argparse
import sys

from wizflowd.cli.source import absolute, read_source, usable_config
from wizflowd.config import Config
from wizflowd.core.compile import validate_definition
from wizflowd.core.loader import syntax_of
from wizflowd.errors import DefinitionError, LocatedProblem, RequestError, printable
from wizflowd.secrets import read_dotenv


def validate(options: argparse.Namespace) -> int:
    """Check files and return 0 when all are good, else 2."""
    config = usable_config(options.config)
    status = 0
    for file in options.files:
        try:
            warnings = _warnings(file, config)
        except DefinitionError as error:
            status = 2
            for line in error.lines(file):
                print(line, file=sys.stderr)
        except RequestError as error:
            status = 2
            print(printable(str(error)), file=sys.stderr)
        else:
            for warning in warnings:
                print(f"warning: {warning.render(file)}", file=sys.stderr)
            print(f"{printable(file)}: good")
    return status


def _warnings(file: str, config: Config) -> tuple[LocatedProblem, ...]:
    limits = config.limits.definition.load_limits()
    data = read_source(file, limits)
    path = absolute(file)
    return validate_definition(
        data,
        syntax_of(path.name),
        stem=path.stem,
        limits=limits,
        read_dotenv=lambda names: read_dotenv(path.parent, names),
    )
