"""The JSON Schema (draft 2020-12) of rule documents, made from the model, for editors that complete and check TOML. docs/ keeps a copy,
which a test compares. It says what fields there are and of which kind; what fits together is told by `gatepost rules check`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, get_args, get_origin

from gatepost.routing.document import FORMAT, Document
from gatepost.routing.tree import hints, key_field

_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema() -> dict[str, Any]:
    """The schema as a tree."""
    definitions: dict[str, Any] = {}
    top = _object(Document, definitions, "")
    top["properties"] = {"format": {"const": FORMAT, "description": "The version of this format."}, **top["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Gatepost rule document",
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """As it is kept in docs/rules.schema.json."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _object(kind: type, definitions: dict[str, Any], without: str) -> dict[str, Any]:
    needed, properties = [], {}
    for field in dataclasses.fields(kind):
        if field.name == without:
            continue
        made = _of(hints(kind)[field.name], definitions)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            needed.append(field.name)
        elif isinstance(field.default, str | int | float | bool):
            made = {**made, "default": str(field.default) if isinstance(field.default, StrEnum) else field.default}
        properties[field.name] = made
    found: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**found, "required": needed} if needed else found


def _of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _reference(hint, definitions, "")  # type: ignore[arg-type]  # a hint that is a dataclass is its type
    if origin in (tuple, frozenset, Sequence):
        name = key_field(arguments[0]) if dataclasses.is_dataclass(arguments[0]) else ""  # type: ignore[arg-type]  # as above
        if name:
            return {"type": "object", "additionalProperties": _reference(arguments[0], definitions, name)}
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"enum": [str(one) for one in hint]}
    return {"type": _SCALARS[hint]}


def _reference(kind: type, definitions: dict[str, Any], without: str) -> dict[str, Any]:
    if kind.__name__ not in definitions:
        definitions[kind.__name__] = {}  # there before it is made: a kind may lead back to itself
        words = (kind.__doc__ or "").split("\n\n")[0]
        definitions[kind.__name__] = {"description": " ".join(words.split()), **_object(kind, definitions, without)}
    return {"$ref": f"#/$defs/{kind.__name__}"}
