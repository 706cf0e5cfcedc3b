"""Adding a new LoRA adapter to a model, and what it leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdharness.harness.config.models import LoraSpec
from kdharness.harness.errors import ConfigError
from kdharness.harness.models.hub import split_hub_name
from kdharness.harness.models.loading_errors import essence
from kdharness.harness.util.filesystem import exists

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FUSED = frozenset({"gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3"})
"""Layers of experts that a mixture holds as one weight, for which peft knows these names."""


def with_adapter(student: Any, lora: LoraSpec, start: str, *, fp32: bool = True) -> Any:
    """Add a new LoRA adapter to a student, loaded or on the meta device.

    Args:
        student: a causal LM.
        lora: the config's settings.
        start: the student's folder or name, which the adapter's config records as its base.
        fp32: whether the adapter is fp32 whatever the dtype of the base.

    Raises:
        ConfigError: modules that this model does not have, or that do not support LoRA.
    """
    from peft import LoraConfig, get_peft_model

    # The adapter's config records its base by Hub id and commit, not by this machine's cache.
    hub = None if exists(Path(start), folder=True) else split_hub_name(start)
    available = f"available modules: {', '.join(_linear_names(student))}"
    try:
        adapted = get_peft_model(
            student,
            LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=lora.target_modules,
                task_type="CAUSAL_LM",
                base_model_name_or_path=hub[0] if hub else start,
                revision=hub[1] if hub else None,
            ),
            autocast_adapter_dtype=fp32,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            essence(str(error)),
            where="student.lora.target_modules",
            hint=available,
        ) from error
    # peft is silent about a name that it does not find, if it finds others.
    if unknown := _without_adapter(adapted, lora.target_modules):
        raise ConfigError(
            f"no such module{'s' * (len(unknown) > 1)}: {', '.join(unknown)}",
            where="student.lora.target_modules",
            hint=available,
        )
    return adapted


def _without_adapter(model: Any, names: str | Sequence[str]) -> list[str]:
    """Return which of some modules, by their names or the ends of these, got no adapter."""
    if isinstance(names, str):
        return []
    targeted = [*model.targeted_module_names, *getattr(model, "targeted_parameter_names", ())]
    fused = FUSED if expert_shapes(model) else frozenset()
    return [
        name
        for name in names
        if name not in fused and not any(f".{whole}".endswith(f".{name}") for whole in targeted)
    ]


def expert_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Map the names of a mixture's three-dimensional weights to their shapes."""
    return {
        name: tuple(value.shape)
        for name, value in model.named_parameters()
        if value.dim() == 3 and ".experts." in name and "lora_" not in name
    }


def adapted_parameters(model: Any) -> dict[str, tuple[int, ...]]:
    """Map weights that peft adapts as parameters, not as layers, to their shapes."""
    found = {}
    for name, module in model.named_modules():
        if type(module).__name__ == "ParamWrapper":
            inner = module
            while hasattr(inner, "base_layer"):
                name, inner = f"{name}.base_layer", inner.base_layer
            weight = getattr(inner, module.parameter_name)
            found[f"{name}.{module.parameter_name}"] = tuple(weight.shape)
    return found


def missed_by_adapter(model: Any) -> str:
    """Return a warning about experts of a PEFT model without an adapter; empty if all have one.

    Which of them `target_modules` reaches depends on the architecture, and peft says nothing.
    """
    shapes, adapted = expert_shapes(model), adapted_parameters(model)
    missed = {name: shape for name, shape in shapes.items() if name not in adapted}
    if not missed:
        return ""
    size = sum(math.prod(shape) for shape in missed.values())
    total = sum(v.numel() for n, v in model.named_parameters() if "lora_" not in n)
    kinds = sorted({name.rpartition(".")[2] for name in missed})
    return (
        f"LoRA: target_modules gives the experts no adapter ({', '.join(kinds)}: "
        f"{size / total:.0%} of the model's weights stay as they are)"
    )


def _linear_names(model: PreTrainedModel) -> list[str]:
    """Return the last parts of the names of a model's linear layers."""
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if type(module).__name__ in ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt")
        }
    )
