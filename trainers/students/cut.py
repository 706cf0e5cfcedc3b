"""Students with a subset of a teacher's layers, and the layer map for attention."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def kept_layers(keep: int | Sequence[int], depth: int) -> list[int]:
    """Return the teacher layers to keep, ascending: evenly spaced, including first and last.

    Raises:
        ConfigError: more layers than there are, or a list that is not ascending and in range.
    """
    if isinstance(keep, int):
        if not 1 <= keep <= depth:
            raise ConfigError(
                f"keep_layers is {keep}, but the model has {depth} layers",
                where="student.keep_layers",
            )
        if keep == 1:
            return [depth - 1]
        return [round(i * (depth - 1) / (keep - 1)) for i in range(keep)]
    layers = list(keep)
    if not layers or layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= depth:
        raise ConfigError(
            f"keep_layers must be ascending numbers from 0 to {depth - 1}",
            where="student.keep_layers",
        )
    return layers


def map_layers(spec: str | Sequence[int], student_depth: int, teacher_depth: int) -> dict[int, int]:
    """Return student layer -> teacher layer (docs/method.md#attention).

    `uniform` spreads the student's layers over the teacher's, last to last; `last-k` pairs the
    last layers one to one; a list gives the teacher layer of each student layer, -1 for none.

    Raises:
        ConfigError: a list of the wrong length or with layers that don't exist.
    """
    if spec == "uniform":
        return {i: round((i + 1) * teacher_depth / student_depth) - 1 for i in range(student_depth)}
    if spec == "last-k":
        k = min(student_depth, teacher_depth)
        return {student_depth - k + i: teacher_depth - k + i for i in range(k)}
    layers = [int(layer) for layer in spec]
    if len(layers) != student_depth or not all(-1 <= n < teacher_depth for n in layers):
        raise ConfigError(
            f"a layer map needs {student_depth} numbers from -1 to {teacher_depth - 1}, "
            f"got {len(layers)}",
            where="trainer.layer_map",
        )
    return {i: n for i, n in enumerate(layers) if n >= 0}


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
