"""What the texts in a config name: models, files, benchmarks, judges. One table for all readers.

`files` makes paths absolute by it, experiments put checkpoints in the place of steps, and the
app's form offers what there is. A test compares it with the fields of the configs.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["model", "models", "imported", "file", "benches", "judges", "engine"]

FIELD_KINDS: dict[str, Kind] = {
    "student": "model",
    "model": "model",
    "from": "model",
    "teacher": "model",
    "reference": "model",
    "expert": "model",
    "baseline": "model",
    "models": "models",
    "experts_from": "models",
    "checkpoints": "models",
    "imported": "imported",
    "path": "file",
    "train": "file",
    "heldout": "file",
    "general": "file",
    "domain": "file",
    "extra": "file",
    "chat_template": "file",
    "judge_config": "file",
    "benches": "benches",
    "judge": "judges",
    "answer_engine": "engine",
}
"""Field -> what its text names; `models` are several of them, `imported` those without weights."""

NAMED_MODELS = frozenset({"experts"})
"""Fields that map user-chosen names to models."""


def names_model(field: str) -> bool:
    """Return whether a field's text names a model with weights, or several."""
    return field in NAMED_MODELS or FIELD_KINDS.get(field) in ("model", "models")
