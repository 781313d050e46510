"""`wizflow schema`: the JSON Schema of a definition, with the kinds of tasks that are installed."""

import json
import sys

from wizflowd.core.schema import definition_schema
from wizflowd.errors import printable
from wizflowd.plugins import load_plugins


def schema() -> int:
    """Print the schema."""
    for kind, why in load_plugins().items():
        print(printable(f"warning: the kind of tasks {kind} is left out: {why}"), file=sys.stderr)
    print(json.dumps(definition_schema(), indent=2, ensure_ascii=False))
    return 0
