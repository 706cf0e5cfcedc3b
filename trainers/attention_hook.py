"""A hook in transformers' attention that records queries and keys for the attention loss."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    AttentionMaskInterface,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kdharness.harness.errors import ModelError
from kdharness.trainers.losses.attention import AttentionTape, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "kdharness_"


def _rows_of(module: Any, query: Tensor, key: Tensor, kwargs: Mapping[str, Any]) -> Rows:
    if kwargs.get("s_aux") is not None:
        raise ModelError(
            "the attention loss does not support attention sinks",
            hint="set trainer.attention_weight: 0",
        )
    scale = kwargs.get("scaling")
    window = kwargs.get("sliding_window") or 0
    return Rows(
        query,
        key,
        float(scale if scale is not None else query.shape[-1] ** -0.5),
        int(window),
        float(kwargs.get("softcap") or 0.0),
    )


def _hooked(base_name: str) -> Callable[..., Any]:
    """Return an attention function that records, then calls the model's usual one."""

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> object:
        layer = module.layer_idx
        keep = getattr(module, "kd_keep", None)
        if keep is not None and layer in keep.layers.values():
            rows = _rows_of(module, query, key, kwargs)
            keep.teacher[layer] = Rows(
                rows.q.detach(), rows.k.detach(), rows.scale, rows.window, rows.softcap
            )
        tape = getattr(module, "kd_tape", None)
        if tape is not None and layer in tape.layers and torch.is_grad_enabled():
            rows = _rows_of(module, query, key, kwargs)
            teacher = tape.teacher[tape.layers[layer]]
            dry = layer in tape.terms
            term = tape.kl(rows, teacher, tape, dry=dry)
            if not dry:
                same = rows.q.shape[1] == teacher.q.shape[1]
                tape.heads = rows.q.shape[1] if same else 1
                tape.terms[layer] = term
        if base_name == "eager":
            source = importlib.import_module(type(module).__module__)
            base = source.eager_attention_forward
        else:
            base = ALL_ATTENTION_FUNCTIONS[base_name]
        return base(module, query, key, value, mask, **kwargs)

    return attend


def install_attention_hook(model: PreTrainedModel) -> None:
    """Route a model's attention layers through the hook; its outputs do not change.

    Raises:
        ModelError: the architecture does not use transformers' attention interface.
    """
    base = str(model.config._attn_implementation or "eager")
    if base.startswith(PREFIX):
        return
    name = PREFIX + base
    AttentionInterface.register(name, _hooked(base))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    try:
        model.set_attn_implementation(name)
    except (ValueError, NotImplementedError) as error:
        raise ModelError(
            f"{type(model).__name__} does not accept an attention hook: {error}",
            hint="set trainer.attention_weight: 0",
        ) from error


def attention_modules(model: PreTrainedModel) -> list[Any]:
    """Return the modules that may call the attention interface: those with a layer index.

    How they name their projections differs: Phi-3 and GPT-NeoX have one for queries, keys and
    values, multi-head latent attention has others.
    """
    return [
        module for module in model.modules() if isinstance(getattr(module, "layer_idx", None), int)
    ]


def set_keep(model: PreTrainedModel, tape: AttentionTape | None) -> None:
    """Record queries and keys of this (teacher) model on `tape` from now on."""
    for module in attention_modules(model):
        module.kd_keep = tape


def set_tape(model: PreTrainedModel, tape: AttentionTape | None) -> None:
    """Compare this (student) model's layers with the queries and keys on `tape` from now on.

    It stays set until the next step: under activation checkpointing the layers run again in the
    backward pass and must save the same tensors.
    """
    for module in attention_modules(model):
        module.kd_tape = tape
