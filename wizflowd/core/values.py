"""JSON values as they pass between tasks: their one canonical form and their text.

Called by whatever hashes, compares or writes values; knows nothing of tasks.
"""

import hashlib
import json
from typing import Any

import msgspec

_TYPE_NAMES = {dict: "mapping", list: "list", str: "text", bool: "true or false", int: "number", float: "number"}

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_canonical = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def type_name(value: object) -> str:
    """Return what a person calls the type of a JSON value: `text`, `number`, `list`, `mapping`, `null` ..."""
    return "null" if value is None else _TYPE_NAMES.get(type(value), type(value).__name__)


def encode_json(value: Any) -> bytes:
    """Return the compact JSON of a value of mappings, sequences, structs and scalars, on one line, in UTF-8.

    Half a surrogate pair, which outputs of tasks and names of files can hold, is written as an escape. Numbers are
    finite: whatever lets values in refuses others.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:  # msgspec refuses it
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":"), allow_nan=False).encode()


def decode_json(data: bytes | str) -> Any:
    """Return the value that `encode_json`, or any other encoder, wrote. Raises ValueError."""
    try:
        return _decode(data)
    except msgspec.DecodeError:  # it refuses half a surrogate pair, numbers beyond its bounds, NaN
        return json.loads(data)


def canonical(value: Json) -> bytes:
    """Return the compact JSON of `value` with sorted keys in UTF-8: equal values give equal bytes."""
    return _canonical(value).encode("utf-8", "surrogatepass")


def digest(value: Json) -> str:
    """Return the SHA-256 of the canonical form, in 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def text_of(value: Json) -> str:
    """Return a value as text: lists and mappings as compact JSON, `true`/`false`, null empty, numbers as written.

    Source: SPEC section 1, Placeholders.
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
        case _:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
