"""LoRA adapters of tiny models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from kdharness.harness.models.loading import load_model
from kdharness.harness.paths import Paths


def make_adapter(base: Path, folder: Path, seed: int = 0) -> Path:
    """Write a LoRA adapter with random weights and the tokenizer of its base."""
    torch.manual_seed(seed)
    model = load_model(str(base), Paths(folder.parent / "home-of-adapters"))
    config = LoraConfig(
        r=4,
        lora_alpha=64,
        target_modules=["q_proj"],
        init_lora_weights=False,
        base_model_name_or_path=str(base),
    )
    get_peft_model(model, config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / file, folder / file)
    return folder


def rename(folder: Path, change: Callable[[str], str]) -> None:
    """Rename every tensor of an adapter."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({change(k): v for k, v in tensors.items()}, path, metadata={"format": "pt"})
