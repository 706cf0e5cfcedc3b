"""A small random decoder of each plain architecture."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from support.training_steps import EXTRA

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "sliding_window": None,
    "attn_implementation": "sdpa",
}
MORE: dict[str, dict[str, Any]] = {
    "deepseek_v3": EXTRA["deepseek_v3"],
    "gemma": {"head_dim": 8},
    "mixtral": {"num_local_experts": 4},
    "olmo2": {"num_key_value_heads": 4},
    "qwen2_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}


def a_decoder(family: str, **changes: Any) -> Any:
    """Make a small random decoder of an architecture."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SHAPE, **MORE.get(family, {}), **changes})
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
