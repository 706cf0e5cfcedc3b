"""Students with a subset of a teacher's layers, and the layer map for attention."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from kdharness.harness.errors import ModelError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint
from kdharness.trainers.layers import kept_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_layers(model: PreTrainedModel) -> tuple[Any, str]:
    """Return the module that holds the decoder layers, and its attribute's name.

    Raises:
        ModelError: an architecture whose layers are not found.
    """
    base = model.base_model
    for name in ("layers", "h", "blocks"):
        layers = getattr(base, name, None)
        if layers is not None and hasattr(layers, "__len__"):
            return base, name
    raise ModelError(
        f"cannot find the layers of {type(model).__name__}",
        hint="use student.model instead of student.from",
    )


def cut_model(teacher: PreTrainedModel, keep: int | Sequence[int]) -> tuple[Any, list[int]]:
    """Return a deep copy of `teacher` with only the kept layers, and their list."""
    base, name = find_layers(teacher)
    layers = getattr(base, name)
    kept = kept_layers(keep, len(layers))
    setattr(base, name, torch.nn.ModuleList([layers[i] for i in kept]))
    try:
        student = copy.deepcopy(teacher)
    finally:
        setattr(base, name, layers)
    for index, layer in enumerate(getattr(student.base_model, name)):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = index
    config = student.config
    config.num_hidden_layers = len(kept)
    for per_layer in ("layer_types", "no_rope_layers", "mlp_layer_types"):
        values = getattr(config, per_layer, None)
        if isinstance(values, list) and len(values) == len(layers):
            setattr(config, per_layer, [values[i] for i in kept])
    return student, kept


def kept_of(checkpoint: Checkpoint, teacher: Checkpoint, paths: Paths) -> list[int] | None:
    """Return the layers a student kept if it was cut from this teacher; None otherwise.

    The weights decide: a teacher with another chat template has the same layers.
    """
    kept, source = checkpoint.info.get("kept_layers"), checkpoint.parents.get("teacher")
    if kept is None or source is None:
        return None
    with Store(paths.store) as store:
        origin = store.checkpoint(source)
    if origin is None or origin.model != teacher.model:
        return None
    return [int(layer) for layer in kept]
