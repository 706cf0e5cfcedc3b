"""Adding a new adapter to a student, and merging one into its base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdharness.harness.config.models import LoraSpec
from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.models.adapters import is_adapter
from kdharness.harness.models.checkpoints import add_made, model_checkpoint
from kdharness.harness.models.hub import split_hub_name
from kdharness.harness.models.loading import load_model, load_tokenizer
from kdharness.harness.models.loading_errors import essence
from kdharness.harness.models.resolve import resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.types import Checkpoint
from kdharness.harness.util.filesystem import exists
from kdharness.trainers.students.folder import folder_name, save_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
            autocast_adapter_dtype=fp32,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            essence(str(error)),
            where="student.lora.target_modules",
            hint=f"available modules: {', '.join(_linear_names(student))}",
        ) from error


def _linear_names(model: PreTrainedModel) -> list[str]:
    """Return the last parts of the names of a model's linear layers."""
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
        }
    )


def merged_start(
    adapter: Checkpoint, source: str, paths: Paths, *, trust_remote_code: bool
) -> Checkpoint:
    """Return an adapter checkpoint merged into a full model, made once, as a new adapter's base.

    The new adapter's config records its base. If that were the old adapter's base, loading would
    drop the old adapter.
    """
    target = paths.models / f"merged-{folder_name(adapter)}-{adapter.id[:8]}"
    if not (target / "config.json").exists():
        model = load_model(source, paths, device="cpu", trust_remote_code=trust_remote_code)
        save_folder(model, load_tokenizer(source, paths), target, {"merged_from": adapter.name})
    return add_made(
        paths,
        target,
        name=f"{adapter.name}-merged",
        method=adapter.method,
        parents={"adapter": adapter.id},
    )


def merge_adapter(source: str, output: str, paths: Paths) -> str:
    """Merge a LoRA checkpoint into a full model folder; return the folder.

    Raises:
        ConfigError: the output exists. ModelError: the source is not an adapter.
    """
    folder = Path(resolve_model(source, paths))
    if not is_adapter(folder):
        raise ModelError(f"{source} is not an adapter: there is nothing to merge")
    target = Path(output).expanduser().resolve()
    if target.exists():
        raise ConfigError("this folder already exists; choose another name", where=str(target))
    model = load_model(str(folder), paths, device="cpu")
    parent = model_checkpoint(paths, source)
    save_folder(model, load_tokenizer(str(folder), paths), target, {"merged_from": parent.name})
    add_made(paths, target, name=target.name, method=parent.method, parents={"adapter": parent.id})
    return str(target)
