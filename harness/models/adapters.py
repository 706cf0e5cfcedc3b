"""PEFT adapters: which can be merged into their base model's weights, and which cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdharness.harness.errors import ModelError
from kdharness.harness.models.lm_head import state_own_head
from kdharness.harness.util.filesystem import exists
from kdharness.harness.util.untrusted import read_json_object

DEEPEST = 8
"""The maximum number of stacked adapters."""

_NOT_WEIGHTS = ("ADAPTION_PROMPT", "POLY", "XLORA")
"""Adapter types, besides peft's prompt learning, that do not change weights statically."""


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter instead of a whole model."""
    return exists(folder / "adapter_config.json")


def no_base_error(folder: Path) -> ModelError:
    """Return the error for an adapter that does not name its base model."""
    return ModelError(
        "this adapter does not name its base model (base_model_name_or_path)",
        where=str(folder / "adapter_config.json"),
        hint="set base_model_name_or_path to the model it was trained on",
    )


def too_deep_error(folder: Path) -> ModelError:
    """Return the error for a chain of more than `DEEPEST` adapters, which may be circular."""
    return ModelError(
        f"more than {DEEPEST} adapters are stacked: is one its own base model?",
        where=str(folder / "adapter_config.json"),
    )


def refuse_unmergeable(folder: Path, source: str) -> None:
    """Refuse an adapter of an unknown type, or one that does not change weights.

    Raises:
        ModelError: with the type from the adapter's config.
    """
    from peft import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    where = folder / "adapter_config.json"
    config = read_json_object(where, "adapter_config.json", ModelError)
    kind = str(config.get("peft_type") or "")
    known = {
        str(getattr(name, "value", name)): config_class
        for name, config_class in PEFT_TYPE_TO_CONFIG_MAPPING.items()
    }
    if kind not in known:
        raise ModelError(
            f"could not load the adapter {source!r}: unknown peft_type {kind[:60]!r}",
            where=str(where),
            hint="known to peft: " + ", ".join(sorted(known)),
        )
    reason = ""
    if kind in _NOT_WEIGHTS or issubclass(known[kind], PromptLearningConfig):
        reason = f"a {kind} adapter does not change the model's weights"
    elif config.get("alora_invocation_tokens"):
        reason = (
            "an activated LoRA (alora_invocation_tokens) changes the weights only after certain "
            "tokens"
        )
    if reason:
        raise ModelError(
            f"could not load the adapter {source!r}: {reason}, so it cannot be merged",
            where=str(where),
            hint="evaluate it through a server that runs it: --answer-engine openai:MODEL@URL",
        )


def untie_adapted(model: Any) -> None:
    """Untie embedding and head where an adapter changes only one of them.

    In training such an adapter is separate from the weights that embedding and head share. Merged
    into them it would change both.

    Args:
        model: a PEFT model, not merged yet.
    """
    import torch
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    pair = base.get_input_embeddings(), base.get_output_embeddings()
    plain = [getattr(module, "base_layer", module) for module in pair]
    weights = [getattr(module, "weight", None) for module in plain]
    adapted = any(
        isinstance(module, BaseTunerLayer) and not isinstance(module, TrainableTokensLayer)
        for module in pair
    )
    if not adapted or weights[0] is None or weights[0] is not weights[1]:
        return
    plain[1].weight = torch.nn.Parameter(plain[0].weight.detach().clone(), requires_grad=False)
    state_own_head(base)
