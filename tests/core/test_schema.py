"""The JSON Schema that editors use."""

import json
from typing import Any

import pytest

from wizflowd.core.schema import definition_schema

SCHEMA: Any = definition_schema()
TASKS = ["ShellTask", "RestTask", "EmailTask"]


def test_the_schema_is_json_of_the_dialect_2020_12() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_only_tasks_are_required() -> None:
    assert SCHEMA["required"] == ["tasks"]
    assert SCHEMA["additionalProperties"] is False
    assert SCHEMA["$defs"]["ShellTask"]["required"] == ["id", "type", "command"]


@pytest.mark.parametrize("task", TASKS)
def test_every_field_of_a_task_is_described(task: str) -> None:
    fields = SCHEMA["$defs"][task]["properties"]

    assert [
        name for name, field in fields.items() if "description" not in field and "$ref" not in json.dumps(field)
    ] == []


def test_fields_are_named_as_in_a_file() -> None:
    email = SCHEMA["$defs"]["EmailTask"]["properties"]

    assert {"emailBody", "from", "status", "position", "breakpoint"} <= email.keys()
    assert not {"email_body", "sender"} & email.keys()


def test_choices_and_examples_are_offered() -> None:
    shell = SCHEMA["$defs"]["ShellTask"]["properties"]

    assert shell["run_on"]["enum"] == ["success", "failure", "always"]
    assert {"const": "SHELL"} in shell["type"]["anyOf"]
    assert "1h30m" in json.dumps(shell["timeout"])


def test_a_param_may_be_written_short() -> None:
    (param,) = SCHEMA["properties"]["params"]["patternProperties"].values()

    assert {"$ref": "#/$defs/Param"} in param["anyOf"]
    assert SCHEMA["properties"]["params"]["additionalProperties"] is False


def test_every_reference_leads_somewhere() -> None:
    written = json.dumps(SCHEMA)

    for part in written.split('"$ref": "#/$defs/')[1:]:
        assert part.split('"')[0] in SCHEMA["$defs"]
