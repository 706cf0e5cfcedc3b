"""The table of field kinds covers only fields that configs have."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from kdharness.harness.config.field_kinds import FIELD_KINDS, names_model
from kdharness.harness.config.training import CONFIGS


def all_fields(model: type[BaseModel]) -> set[str]:
    """Return all fields of a config, nested ones included, by their name in YAML."""
    names = set()
    for name, field in model.model_fields.items():
        names.add(field.alias or name)
        stack: list[Any] = [field.annotation]
        while stack:
            annotation = stack.pop()
            stack += get_args(annotation)
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                names |= all_fields(annotation)
    return names


def test_every_field_in_the_table_exists() -> None:
    known = set().union(*(all_fields(model) for model in CONFIGS.values()))
    assert set(FIELD_KINDS) <= known


def test_fields_that_name_a_model() -> None:
    """In these fields experiments replace a step's name by its checkpoint."""
    assert {name for name in FIELD_KINDS if names_model(name)} == {
        "student",
        "model",
        "from",
        "teacher",
        "reference",
        "expert",
        "baseline",
        "models",
        "experts_from",
        "checkpoints",
    }
