"""Checks of a command's JSON against its schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonschema import Draft202012Validator

from kdharness.harness.cli.listing_schemas import LISTINGS, SAME, listing_schema


def closed(schema: Any) -> Any:
    """Return a schema that allows no further keys: ours must name all that there are."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(part) for key, part in schema.items()}
    if "properties" in schema:
        found["additionalProperties"] = False
    return found


def listing_of(args: Sequence[str]) -> str:
    """Return which listing a command prints; empty for none that has a schema."""
    words = [word for word in args if not word.startswith("-")]
    name = " ".join(words[:2]) if " ".join(words[:2]) in {*LISTINGS, *SAME} else words[0]
    for option in ("--dry-run", "--list"):
        if option in args:
            return f"{name} {option}" if f"{name} {option}" in {*LISTINGS, *SAME} else ""
    if "--what" in args:
        part = f"{name} {args[list(args).index('--what') + 1]}"
        name = part if part in {*LISTINGS, *SAME} else name
    return name if name in {*LISTINGS, *SAME} else ""


def check_listing(name: str, value: object) -> None:
    """Raise AssertionError, naming the place, for JSON that is not as its schema says."""
    validator = Draft202012Validator(closed(listing_schema(name)))
    errors = [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]
    assert errors == [], f"{name}: {errors[:3]}"
