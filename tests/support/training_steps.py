"""Small models and batches, and one training step on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.step import Objective, loss_inputs

VOCAB = 64


EXTRA: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 5},
    "gemma2": {
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 5,
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 2.0,
        "attn_implementation": "eager",
    },
    "cohere": {"logit_scale": 0.5},
    "granite": {"logits_scaling": 2.0},
    "mixtral": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": None,
        "router_aux_loss_coef": 0.05,
    },
    "qwen3": {"head_dim": 8},
    # One projection for queries, keys and values.
    "phi3": {"bos_token_id": 1, "eos_token_id": 2},
    "gpt_neox": {"rotary_pct": 0.5, "hidden_dropout": 0.0},
    # Multi-head latent attention, and values of another size than keys.
    "deepseek_v3": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 6,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 4,
    },
    "gemma3": {"head_dim": 8, "sliding_window": 5},
    "starcoder2": {"sliding_window": None, "residual_dropout": 0, "embedding_dropout": 0},
    "falcon": {"new_decoder_architecture": True},
}
"""What an architecture needs beside the common sizes."""


def make_model(seed: int, family: str = "llama", **changes: Any) -> Any:
    """Make a small random model of an architecture family."""
    import transformers as tf

    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "initializer_range": 0.25,
        "attn_implementation": "sdpa",
        "pad_token_id": 0,
    }
    names = {
        "llama": ("LlamaConfig", "LlamaForCausalLM"),
        "mistral": ("MistralConfig", "MistralForCausalLM"),
        "gemma2": ("Gemma2Config", "Gemma2ForCausalLM"),
        "cohere": ("CohereConfig", "CohereForCausalLM"),
        "granite": ("GraniteConfig", "GraniteForCausalLM"),
        "mixtral": ("MixtralConfig", "MixtralForCausalLM"),
        "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
        "phi3": ("Phi3Config", "Phi3ForCausalLM"),
        "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM"),
        "deepseek_v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM"),
        "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
        "starcoder2": ("Starcoder2Config", "Starcoder2ForCausalLM"),
        "falcon": ("FalconConfig", "FalconForCausalLM"),
    }[family]
    config = getattr(tf, names[0])(**{**settings, **EXTRA.get(family, {}), **changes})
    return getattr(tf, names[1])(config).eval()


def with_lora(model: Any, seed: int) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    return get_peft_model(model, config)


def make_batch(rows: int = 4, width: int = 14, side: str = "right", seed: int = 0) -> Any:
    """Make a padded batch with labels in the middle of each row and alternating kinds."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (rows, width), generator=g)
    keys, labels = torch.ones_like(ids), ids.clone()
    for row in range(rows):
        length = width - row * 2
        real = slice(0, length) if side == "right" else slice(width - length, width)
        keys[row], keys[row, real] = 0, 1
        labels[row] = -100
        start = real.start + 3
        labels[row, start : real.stop] = ids[row, start : real.stop]
        labels[row, start + 2] = -100
    ids = ids.masked_fill(keys == 0, 0)
    kind = torch.tensor([i % 2 for i in range(rows)])
    return {"input_ids": ids, "attention_mask": keys, "labels": labels, "kind": kind}


def fused(
    student: Any,
    batch: dict[str, Tensor],
    teachers: dict[int, Any],
    *,
    mix: Mix,
    layers: dict[int, int] | None = None,
    gamma: float = 0.0,
) -> Tensor:
    """Return the loss of one fused step."""
    step = loss_inputs(Objective(mix, teachers, layers or {}, gamma, attention_block=3), batch)
    loss: Tensor = student(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], step=step
    )["loss"]
    return loss


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradient of each parameter."""
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(
    ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 2e-5
) -> None:
    """Assert that gradients agree, relative to their norm."""
    assert set(ours) == set(theirs)
    norm = torch.stack([g.norm() for g in theirs.values()]).norm()
    error = torch.stack([(ours[n] - theirs[n]).norm() for n in theirs]).norm()
    assert error <= tolerance * norm, f"relative error {float(error / norm):.2e}"
