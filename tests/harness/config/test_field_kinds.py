"""The table of what fields name is about the fields that configs have."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from kdharness.harness.config.field_kinds import FIELD_KINDS, names_model
from kdharness.harness.config.training import CONFIGS


def fields_below(model: type[BaseModel]) -> set[str]:
    """Every field of a config, by the name it is written with."""
    found = set()
    for name, field in model.model_fields.items():
        found.add(field.alias or name)
        stack: list[Any] = [field.annotation]
        while stack:
            part = stack.pop()
            stack += get_args(part)
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= fields_below(part)
    return found


def test_every_field_in_the_table_exists() -> None:
    known = set().union(*(fields_below(model) for model in CONFIGS.values()))
    assert set(FIELD_KINDS) <= known


def test_which_fields_take_a_step_for_a_model() -> None:
    """Experiments put a checkpoint in the place of a step's name in these."""
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
