"""A causal LM split into backbone and output head, to compute logits only where needed.

Imports nothing heavy: it works on any model object.
"""

from __future__ import annotations

from typing import Any

from kdharness.harness.errors import ModelError


def causal_model(model: Any) -> Any:
    """Return the causal LM inside wrappers (DDP, PEFT)."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def backbone(model: Any) -> Any:
    """Return the part of a causal LM that ends in the last hidden states.

    Raises:
        ModelError: the model is not split that way.
    """
    causal = causal_model(model)
    base = causal.base_model
    if base is causal:
        raise ModelError(
            f"{type(causal).__name__} has no separate backbone, which distilling needs"
        )
    return base


def head_parts(model: Any) -> tuple[Any, Any, float, float]:
    """Return (weight [V, h], bias [V] or None, scale, soft-cap): cap(scale · (x Wᵀ + b)).

    Cohere multiplies logits by `logit_scale`, Granite divides them by `logits_scaling`, and
    Gemma 2 squeezes them into (−soft-cap, soft-cap) with a tanh; a soft-cap of 0 is none.

    Raises:
        ModelError: no output head, or one with an adapter of its own.
    """
    causal = causal_model(model)
    module = causal.get_output_embeddings()
    if module is None:
        raise ModelError(f"{type(causal).__name__} has no output head")
    if hasattr(module, "lora_A") or hasattr(module, "modules_to_save"):
        raise ModelError(
            "the output head has an adapter, which the fused loss does not support",
            hint="remove lm_head from student.lora.target_modules",
        )
    config = causal.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    if getattr(config, "logits_scaling", None):
        scale /= float(config.logits_scaling)
    softcap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
    return module.weight, getattr(module, "bias", None), scale, softcap


def head_logits(model: Any, hidden: Any) -> Any:
    """Compute fp32 logits [n, V] of hidden states [n, h]."""
    weight, bias, scale, softcap = head_parts(model)
    logits = hidden.to(weight.dtype) @ weight.t()
    if bias is not None:
        logits = logits + bias
    logits = logits.float() * scale
    return softcap * (logits / softcap).tanh() if softcap else logits
