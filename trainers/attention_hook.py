"""A hook in transformers' attention that records queries and keys for the attention loss."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    AttentionMaskInterface,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kdharness.harness.errors import ConfigError, ModelError
from kdharness.trainers.losses.attention import AttentionTape, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

PREFIX = "kdharness_"
UNMASKED = PREFIX + "unmasked_"
PLAIN_DECODERS = frozenset(
    (
        *("cohere", "deepseek_v3", "gemma", "gpt_neox", "granite", "llama", "mistral", "mixtral"),
        *("olmo", "olmo2", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3"),
        *("stablelm", "starcoder2"),
    )
)
"""Architectures whose masks are causal ones and windows, nothing else; tests compare each."""
PACKABLE = PLAIN_DECODERS - {"stablelm"}
"""Those that tell their attention kernel where packed rows begin."""


def _rows_of(tape: AttentionTape, query: Tensor, key: Tensor, kwargs: Mapping[str, Any]) -> Rows:
    if kwargs.get("s_aux") is not None:
        raise ModelError(
            "the attention loss does not support attention sinks",
            hint="set trainer.attention_weight: 0",
        )
    scale = kwargs.get("scaling")
    window = kwargs.get("sliding_window") or 0
    return Rows(
        tape.padded(query),
        tape.padded(key),
        float(scale if scale is not None else query.shape[-1] ** -0.5),
        int(window),
        float(kwargs.get("softcap") or 0.0),
    )


# Compiled, they would be compiled anew for every number of rows.
@torch.compiler.disable
def _keep(module: Any, query: Tensor, key: Tensor, kwargs: Mapping[str, Any]) -> None:
    """Record a teacher's queries and keys on its tape, on the device of the student."""
    tape, layer = module.kd_keep, module.layer_idx
    if layer in tape.layers.values():
        device = tape.keys.device
        # A copy to the CPU waits: it would be read before it is complete.
        q, k = (
            value.detach().to(device, non_blocking=device.type != "cpu") for value in (query, key)
        )
        tape.teacher[layer] = _rows_of(tape, q, k, kwargs)


@torch.compiler.disable
def _compare(module: Any, query: Tensor, key: Tensor, kwargs: Mapping[str, Any]) -> None:
    """Add the loss of a student's layer to its tape."""
    tape, layer = module.kd_tape, module.layer_idx
    if layer not in tape.layers:
        return
    rows, teacher = _rows_of(tape, query, key, kwargs), tape.teacher[tape.layers[layer]]
    dry = layer in tape.terms
    term = tape.kl(rows, teacher, tape, dry=dry)
    if not dry:
        tape.heads = rows.q.shape[1] if rows.q.shape[1] == teacher.q.shape[1] else 1
        tape.terms[layer] = term


def _hooked(base_name: str) -> Callable[..., Any]:
    """Return an attention function that records, then calls the model's usual one."""

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> object:
        if getattr(module, "kd_keep", None) is not None:
            _keep(module, query, key, kwargs)
        if getattr(module, "kd_tape", None) is not None and torch.is_grad_enabled():
            _compare(module, query, key, kwargs)
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
    if str(model.config._attn_implementation).startswith(PREFIX):
        return
    base = _base_name(model)
    if base.startswith("flash"):
        raise ModelError(
            f"the attention loss cannot be computed beside {base}, whose name transformers needs",
            hint="set trainer.attn_implementation: sdpa, or trainer.attention_weight: 0",
        )
    AttentionMaskInterface.register(PREFIX + base, ALL_MASK_ATTENTION_FUNCTIONS[base])
    _switch(model, PREFIX, base)


def skip_masks(model: PreTrainedModel) -> bool:
    """Let a decoder attend without masks; return whether it can.

    Rows must then be padded at their ends alone. transformers looks at a mask, and at positions
    where there is none, to find the fastest kernel: a GPU would be waited for in every forward.
    A name without a mask function is left alone, and the kernel is told that it is causal.
    """
    config = model.config.get_text_config()
    base = _base_name(model)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    plain = config.model_type in PLAIN_DECODERS and kinds == {"full_attention"}
    # Qwen's mixtures write 0 for no window.
    if base != "sdpa" or getattr(config, "sliding_window", None) or not plain:
        return False
    _switch(model, UNMASKED, base)
    return True


def check_packing(config: PreTrainedConfig, name: str) -> None:
    """Refuse a model whose rows could see each other without padding between them.

    Args:
        config: the model's.
        name: what to call the model.

    Raises:
        ConfigError: an architecture that is not known to mix tokens by attention alone.
    """
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if text.model_type not in PACKABLE or kinds - {"full_attention", "sliding_attention"}:
        raise ConfigError(
            f"packing is not supported for {name} ({text.model_type}): its rows could see each "
            "other",
            where="trainer.packing",
            hint="remove it",
        )


def mask_for(model: PreTrainedModel, keys: Tensor, masked: bool) -> Tensor | None:
    """Return the attention mask [B, T] that a forward needs, given which tokens are real.

    Raises:
        ModelError: padding stands before a token, but the model attends without masks.
    """
    if not masked:
        return None
    if str(model.config._attn_implementation).startswith(UNMASKED):
        raise ModelError("rows padded at their beginning need a model that attends with masks")
    return keys


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model attend with masks and without hooks, as it did before training."""
    used, base = str(model.config._attn_implementation), _base_name(model)
    if used == base:
        yield
        return
    model.set_attn_implementation(base)
    try:
        yield
    finally:
        model.set_attn_implementation(used)


def _base_name(model: PreTrainedModel) -> str:
    """Return the name of the attention that the hook calls."""
    name = str(model.config._attn_implementation or "eager")
    return name.removeprefix(UNMASKED).removeprefix(PREFIX)


def _switch(model: PreTrainedModel, prefix: str, base: str) -> None:
    AttentionInterface.register(prefix + base, _hooked(base))
    try:
        model.set_attn_implementation(prefix + base)
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
