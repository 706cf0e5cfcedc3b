"""JSON Schemas of config files, with which editors complete fields and mark mistakes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OURS = ("hashed", "former default", "instead")
"""Keys that only this package reads."""


def json_schema(models: Mapping[str, type[BaseModel]], unnamed: str = "") -> dict[str, Any]:
    """Return the JSON Schema of a file that is read as one of several models.

    Args:
        models: `method` -> model. A file may leave out fields with defaults.
        unnamed: the one method that a file may leave out too.
    """
    schemas = {name: _schema(model, named=name != unnamed) for name, model in models.items()}
    definitions: dict[str, Any] = {}
    for schema in schemas.values():
        definitions |= schema.pop("$defs", {})
    if len(schemas) == 1:
        (schema,) = schemas.values()
        return {"$schema": DIALECT, **schema, "$defs": definitions}
    # One branch by method: editors then name the wrong field, and not all methods it is not of.
    branches = [
        {
            "if": {
                "properties": {"method": {"const": name}},
                "required": [] if name == unnamed else ["method"],
            },
            "then": {"$ref": f"#/$defs/{name}"},
        }
        for name in schemas
    ]
    return {
        "$schema": DIALECT,
        "title": "A config of kdharness",
        "type": "object",
        "required": [] if unnamed else ["method"],
        "properties": {"method": {"enum": list(schemas)}},
        "allOf": branches,
        "$defs": {**definitions, **schemas},
    }


def schema_text(models: Mapping[str, type[BaseModel]], unnamed: str = "") -> str:
    """Return the schema as indented JSON."""
    return json.dumps(json_schema(models, unnamed), indent=2, ensure_ascii=False) + "\n"


def _schema(model: type[BaseModel], *, named: bool) -> dict[str, Any]:
    found: dict[str, Any] = _without_ours(TypeAdapter(model).json_schema(by_alias=True))
    if named:
        found["required"] = ["method", *found.get("required", [])]
    return found


def _without_ours(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_ours(part) for key, part in value.items() if key not in OURS}
    return [_without_ours(part) for part in value] if isinstance(value, list) else value
