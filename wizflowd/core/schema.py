"""The JSON Schema of a definition, for editors; `wizflow schema` prints it.

In: the models, which describe themselves. Added here: what pydantic leaves out, and what is read before the models
see it (the letter case of `type`, the short form of a param, the Wizflow editor's own fields).
"""

import ast
import inspect
import itertools
import textwrap
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import DataclassSchema

from wizflowd.core.definition import DEFINITION
from wizflowd.core.draft import EDITOR_FIELDS
from wizflowd.core.fields import NAME_PATTERN
from wizflowd.core.task import TASK_TYPES
from wizflowd.core.values import Json

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

_RULES: dict[str, dict[str, Json]] = {
    "SecretSource": {"minProperties": 1, "maxProperties": 1},
    "Auth": {"minProperties": 1, "maxProperties": 1},
    "Tls": {"dependentRequired": {"key_file": ["cert_file"]}},
    "Output": {"if": {"properties": {"type": {"const": "file"}}}, "then": {"required": ["path"]}},
}
"""What the validators of models say about several fields at once."""


def definition_schema() -> dict[str, Json]:
    """Return the schema as a JSON value, in the dialect 2020-12."""
    schema: dict[str, Any] = DEFINITION.json_schema(by_alias=True, mode="validation", schema_generator=_Described)
    definitions = schema["$defs"]
    schema["required"] = ["tasks"]
    for key in ("tasks", "finally"):
        schema["properties"][key] |= {"minItems": 1, "items": {"$ref": "#/$defs/Task"}}
    params = schema["properties"]["params"]["patternProperties"]
    short = {"type": ["string", "number", "boolean", "array", "null"]}
    params[NAME_PATTERN] = {"anyOf": [params[NAME_PATTERN], short]}
    for kind, model in TASK_TYPES.items():
        task = TypeAdapter(model).json_schema(
            by_alias=True, ref_template="#/$defs/{model}", schema_generator=_Described
        )
        definitions |= task.pop("$defs", {})
        definitions[model.__name__] = task
        task["properties"]["type"] = {"description": "The kind of task.", "anyOf": _any_case(kind)}
        task["properties"] |= {name: {"description": "The Wizflow editor's own."} for name in sorted(EDITOR_FIELDS)}
    definitions["Task"] = {"oneOf": [{"$ref": f"#/$defs/{model.__name__}"} for model in TASK_TYPES.values()]}
    for name, rule in _RULES.items():
        definitions[name] |= rule
    for model_schema in (schema, *definitions.values()):
        _close(model_schema)
        _drop_titles(model_schema)
    return {"$schema": _DIALECT, **schema, "title": "Wizflow definition"}


class _Described(GenerateJsonSchema):
    """Describes fields by the texts below them in the source, which pydantic itself would read at every start."""

    def dataclass_schema(self, schema: DataclassSchema) -> dict[str, Any]:
        """Return the schema of a model."""
        found = super().dataclass_schema(schema)
        model = schema["cls"]
        for base in model.__mro__:
            for name, text in _texts_below_fields(base).items():
                alias = model.__pydantic_fields__[name].alias or name
                found["properties"][alias].setdefault("description", text)
        return found


def _texts_below_fields(model: type) -> dict[str, str]:
    """Return by name what the source of a model says below its own fields; nothing where it has no source."""
    if not hasattr(model, "__pydantic_fields__"):
        return {}
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    except (OSError, TypeError):
        return {}
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 - the source of a class
    texts = {}
    for field, below in itertools.pairwise(definition.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                if name in model.__pydantic_fields__:
                    texts[name] = inspect.cleandoc(text)
    return texts


def _drop_titles(schema: dict[str, Any]) -> None:
    """Take out the titles that pydantic makes of names: they say nothing, and editors show them before the rest."""
    schema.pop("title", None)
    for described in schema.get("properties", {}).values():
        described.pop("title", None)


def _any_case(kind: str) -> list[Json]:
    letters = "".join(f"[{letter}{letter.lower()}]" for letter in kind)
    return [{"const": kind}, {"type": "string", "pattern": f"^{letters}$"}]


def _close(schema: dict[str, Any]) -> None:
    """Refuse names that break the rule of a mapping's names."""
    for described in schema.get("properties", {}).values():
        if "patternProperties" in described:
            described["additionalProperties"] = False
