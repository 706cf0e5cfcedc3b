"""Students with a subset of a teacher's layers, and which of its layers theirs are matched with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from kdharness.harness.errors import ConfigError, ModelError

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


# ---------------------------------------------------------------- cutting


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


PER_LAYER = ("layer_types", "no_rope_layers", "mlp_layer_types", "attention_layers")
"""Fields of configs with a value for each layer."""


def cut_model(teacher: PreTrainedModel, keep: int | Sequence[int]) -> tuple[Any, list[int]]:
    """Return a deep copy of `teacher` with only the kept layers, and their list.

    Raises:
        ConfigError: layers that there are not, or that the architecture's config cannot describe.
        ModelError: an architecture whose layers are not found.
    """
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
    _renumber(student.config, kept, len(layers))
    _check_config(student, kept)
    return student, kept


def _renumber(config: Any, kept: Sequence[int], depth: int) -> None:
    """Let a model's config describe the kept ones of its layers, by their new numbers."""
    config.num_hidden_layers = len(kept)
    for name in PER_LAYER:
        values = getattr(config, name, None)
        if isinstance(values, list) and len(values) == depth:
            setattr(config, name, [values[i] for i in kept])
    if isinstance(getattr(config, "attention_types", None), list):
        config.attention_types = [[list(config.attention_layers), 1]]
    if isinstance(getattr(config, "first_k_dense_replace", None), int):
        config.first_k_dense_replace = sum(i < config.first_k_dense_replace for i in kept)
    step = getattr(config, "decoder_sparse_step", None)
    if isinstance(step, int):
        listed = getattr(config, "mlp_only_layers", None) or []
        dense = {i for i in range(depth) if i in listed or (i + 1) % step}
        config.decoder_sparse_step = 1
        config.mlp_only_layers = [new for new, old in enumerate(kept) if old in dense]


def _check_config(student: Any, kept: Sequence[int]) -> None:
    """Refuse a cut model that its own config would build with other tensors.

    Raises:
        ConfigError: by a layer's number, the architecture decides what is in it.
    """
    if getattr(student, "is_quantized", False):
        return  # its tensors are named and packed in another way
    with torch.device("meta"):
        built = type(student)(copy.deepcopy(student.config)).state_dict()
    own = {name: value.shape for name, value in student.state_dict().items()}
    differs = sorted(n for n in {*own, *built} if n not in built or own.get(n) != built[n].shape)
    if differs:
        raise ConfigError(
            f"{type(student).__name__} cannot be cut to the layers "
            f"{', '.join(map(str, kept))}: by a layer's number its config decides what is in it "
            f"(first {differs[0]})",
            where="student.keep_layers",
            hint="keep layers in the teacher's own pattern, or give the student as student.model",
        )
