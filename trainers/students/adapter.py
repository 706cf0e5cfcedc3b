"""A new adapter on a student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdharness.harness.config.training import LoraSpec
from kdharness.harness.errors import ConfigError
from kdharness.harness.models.hub import split_hub_name
from kdharness.harness.models.loading_errors import essence
from kdharness.harness.paths import exists


def with_adapter(student: Any, lora: LoraSpec, start: str) -> Any:
    """Put a new LoRA on a student, loaded or on the meta device.

    Args:
        student: a causal LM.
        lora: the config's settings.
        start: where the student lies, which the adapter's config names as its base.

    Raises:
        ConfigError: modules that this model does not have, or that take no LoRA.
    """
    from peft import LoraConfig, get_peft_model

    # The adapter's config names its base: by hub id and commit, not by this machine's cache.
    hub = None if exists(Path(start), folder=True) else split_hub_name(start)
    try:
        return get_peft_model(
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
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            essence(str(error)),
            where="student.lora.target_modules",
            hint=f"this model has: {', '.join(_linear_names(student))}",
        ) from error


def _linear_names(model: Any) -> list[str]:
    """The last parts of the names of a model's linear layers."""
    import torch

    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
        }
    )
