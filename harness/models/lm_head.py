"""A causal LM split into backbone and output head, to compute logits only where needed.

Imports nothing heavy: it works on any model object.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from kdharness.harness.errors import ModelError


def causal_model(model: Any) -> Any:
    """Return the causal LM inside wrappers (DDP, PEFT)."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def has_own_head(model: Any) -> bool:
    """Return whether a causal LM's head is a matrix apart from its embedding.

    Its weights decide, not `tie_word_embeddings`: some folders hold two matrices under a config
    that says one.
    """
    try:
        ends = model.get_input_embeddings(), model.get_output_embeddings()
    except NotImplementedError:  # a repository's own code need not name its embedding
        return False
    embedding, head = (getattr(module, "weight", None) for module in ends)
    if embedding is None or head is None or "meta" in (embedding.device.type, head.device.type):
        return False
    return embedding is not head


def give_own_head(model: Any) -> None:
    """Copy the matrix that a causal LM's head shares with its embedding; the config says so."""
    if not has_own_head(model):
        model.get_output_embeddings().weight = deepcopy(model.get_input_embeddings().weight)
    state_own_head(model)


def state_own_head(model: Any) -> None:
    """Let the config of a model with a head of its own say so."""
    for config in (model.config, model.config.get_text_config()):
        if getattr(config, "tie_word_embeddings", False):
            config.tie_word_embeddings = False


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


@dataclass(frozen=True)
class Head:
    """The output head of a model: logits = cap(scale · (x Wᵀ + b)).

    Attributes:
        weight: [V, h].
        bias: [V] or None.
        scale: Cohere multiplies by `logit_scale`; Granite divides by `logits_scaling`.
        softcap: Gemma 2 squeezes logits into (-softcap, softcap) with a tanh; 0 for none.
        vocab: only the first so many ids are compared with the other model; 0 for all.
    """

    weight: Any
    bias: Any = None
    scale: float = 1.0
    softcap: float = 0.0
    vocab: int = 0


CHUNK_BYTES = 1 << 30
"""Memory on a GPU for the logits of a chunk of positions, in four fp32 buffers."""


def rows_at_once(chosen: int | None, vocab: int, *, on_cuda: bool) -> int:
    """Return how many positions have their logits in memory at once.

    Small chunks keep a CPU's caches warm; a GPU needs large products to be busy, so it takes what
    fits in `CHUNK_BYTES`, from 512 to 4,096.

    Args:
        chosen: the user's number, which is honoured everywhere.
        vocab: the number of ids.
        on_cuda: whether the device is a CUDA (or ROCm) GPU.
    """
    if chosen is not None:
        return chosen
    if not on_cuda:
        return 128
    fitting = CHUNK_BYTES // (4 * 4 * vocab)
    return min(max(fitting // 128 * 128, 512), 4096)


def fp32_product(left: Any, right: Any) -> Any:
    """Return the matrix product of two tensors, or of two batches of them, in fp32.

    bf16 factors are accumulated in fp32 anyway. Rounding the sums to bf16 would be the largest
    error of a distillation gradient where student and teacher are close.
    """
    import torch

    if left.dtype not in (torch.bfloat16, torch.float16):
        return (left @ right).float()
    needs_grad = torch.is_grad_enabled() and (left.requires_grad or right.requires_grad)
    if left.is_cuda and not needs_grad:
        multiply = torch.bmm if left.dim() == 3 else torch.mm
        return multiply(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def apply_head(head: Head, hidden: Any) -> Any:
    """Return fp32 logits [n, V] of hidden states [n, h]."""
    logits = fp32_product(hidden.to(head.weight.dtype), head.weight.t())
    if head.bias is not None:
        logits += head.bias
    if head.scale != 1.0:
        logits *= head.scale
    if head.softcap:
        logits.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits


def head_of(model: Any, vocab: int = 0) -> Head:
    """Return a model's output head.

    Args:
        model: a causal LM, wrapped or not.
        vocab: `Head.vocab`.

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
    return Head(module.weight, getattr(module, "bias", None), scale, softcap, vocab)


def head_logits(model: Any, hidden: object) -> Any:
    """Compute a model's fp32 logits [n, V] of hidden states [n, h]."""
    return apply_head(head_of(model), hidden)
