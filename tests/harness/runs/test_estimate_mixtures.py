"""Compare `kdharness plan` with what mixtures, and adapters of few modules, really take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.models import LoraSpec
from kdharness.harness.models.lm_head import causal_model
from kdharness.harness.models.lora import missed_by_adapter, with_adapter
from kdharness.harness.paths import Paths
from kdharness.harness.runs.estimate import estimate
from kdharness.harness.runs.memory import plan_memory
from kdharness.harness.runs.sizes import lora_parameters, model_size
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.precision import autocast
from kdharness.trainers.step import attach_loss
from kdharness.trainers.tools.selfcheck import Models, fused_step, random_batch, tiny_model
from support.fast_products import peak_with_fast_products
from support.models import make_tokenizer

COMMON: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "attn_implementation": "sdpa",
    "num_experts_per_tok": 2,
}
WIDTH = 160
"""Tokens of a row."""
LONG = {"qwen2_moe": 256}
"""Rows of those for which fixed costs, such as the router's, are too much of a short row's."""
SMALL = {"num_experts": 8, "moe_intermediate_size": 96}
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4, "sliding_window": None},
    "qwen2_moe": {**SMALL, "shared_expert_intermediate_size": 128},
    "qwen3_moe": {**SMALL, "head_dim": 16},
    "olmoe": {"num_experts": 8, "intermediate_size": 128},
    "deepseek_v3": {
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "kv_lora_rank": 32,
        "q_lora_rank": 48,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 24,
        "v_head_dim": 32,
        "moe_intermediate_size": 96,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 8,
    },
}
MLP = ["gate_proj", "up_proj", "down_proj"]
LORAS: dict[str, dict[str, Any] | None] = {
    "all weights": None,
    "all-linear": {"r": 8},
    "attention": {"r": 8, "target_modules": ["q_proj", "v_proj"]},
}
LATENT = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
FEW: dict[str, dict[str, Any] | None] = {
    "all weights": None,
    "latent attention": {"r": 8, "target_modules": LATENT},
    "MLP": {"r": 8, "target_modules": MLP},
    "up": {"r": 8, "target_modules": ["up_proj"]},
    "down": {"r": 8, "target_modules": ["down_proj"]},
    "down, dropout": {"r": 8, "target_modules": ["down_proj"], "dropout": 0.1},
    "q": {"r": 8, "target_modules": ["q_proj"]},
    "o": {"r": 8, "target_modules": ["o_proj"]},
    "last layer": {"r": 8, "target_modules": r".*\.layers\.2\..*_proj"},
}


def a_mixture(family: str, folder: Path) -> Any:
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, **{**COMMON, **FAMILIES.get(family, {})})
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    make_tokenizer(folder)
    return model


def a_config(folder: Path, lora: dict[str, Any] | None = None, **trainer: Any) -> Any:
    return parse_config(
        {
            "method": "sft",
            "student": {"model": str(folder), "lora": lora},
            "data": {"train": "x"},
            "trainer": {"batch_size": 4, "device": "cpu", **trainer},
        }
    )


STEPS = [
    (family, lora, precision, checkpointing)
    for family in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")
    for lora in LORAS
    for precision in ("fp32", "mixed", "bf16")
    for checkpointing in (False, True)
    # Every combination of one family, and of the others those with adapters on experts.
    if (precision != "bf16" or lora != "all weights")
    and (family == "mixtral" or (lora == "all-linear" and precision != "fp32"))
]
# What latent attention keeps is not in proportion to a head, and nothing before the first adapter
# keeps anything.
STEPS += [
    *(("deepseek_v3", "all weights", "mixed", checkpointing) for checkpointing in (False, True)),
    *(("deepseek_v3", "all weights", "fp32", checkpointing) for checkpointing in (False, True)),
    *(("deepseek_v3", "latent attention", precision, False) for precision in ("fp32", "bf16")),
    *(("deepseek_v3", "MLP", "fp32", checkpointing) for checkpointing in (False, True)),
    *(("llama", lora, "fp32", False) for lora in ("MLP", "up", "down", "q", "o", "last layer")),
    *(("llama", lora, "mixed", False) for lora in ("up", "down", "last layer")),
    *(("llama", lora, "bf16", True) for lora in ("MLP", "down")),
    ("llama", "down, dropout", "mixed", True),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "lora", "precision", "checkpointing"), STEPS, ids=str)
def test_memory_of_a_step(
    family: str, lora: str, precision: str, checkpointing: bool, tmp_path: Path
) -> None:
    """Adapters of experts, and the merged weights that every forward keeps, were not counted."""
    student, spec = a_mixture(family, tmp_path / "m"), {**LORAS, **FEW}[lora]
    config = a_config(
        tmp_path / "m", spec, precision=precision, gradient_checkpointing=checkpointing
    )
    width = LONG.get(family, WIDTH)
    chosen = config.trainer.precision_on(lora=spec is not None, has_bf16=False)
    size = model_size(str(tmp_path / "m"), Paths(tmp_path), lora=config.student.lora)
    memory, trained = plan_memory(
        config, size, {}, width, engine="single", processes=1, on_cpu=True
    )
    student = student.to(getattr(torch, chosen.weights))
    if config.student.lora:
        student = with_adapter(student, config.student.lora, "", fp32=chosen.trained == "float32")
    causal = causal_model(student)
    attach_loss(student)
    student.train()
    if checkpointing:
        causal.gradient_checkpointing_enable({"use_reentrant": False})
    small = tiny_model(2, vocab_size=1024, hidden_size=16, num_hidden_layers=1)
    models = Models(causal, [small.requires_grad_(False)], random_batch(1024, 4, width), {})

    def work() -> None:
        student.zero_grad(set_to_none=True)
        for _ in range(2):
            with autocast(chosen, "cpu"):
                losses = [fused_step(models, "sft", Mix(kl_weight=0.0, ce_weight=1.0), 0.0)]
            losses.pop().backward()

    real = peak_with_fast_products(work, precision)
    assert trained == sum(p.numel() for p in student.parameters() if p.requires_grad)
    assert memory["weights"] == pytest.approx(sum(p.nbytes for p in student.parameters()))
    made = sum(
        memory.get(name, 0.0) for name in ("gradients", "activations", "logits", "bf16 copies")
    )
    assert made == pytest.approx(real, rel=0.1), memory


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "targets", ["all-linear", ["q_proj", "v_proj"], ["o_proj"], MLP, ["w1", "w2", "w3"], ["gate"]]
)
def test_adapter_weights_are_those_that_peft_makes(
    family: str, targets: str | list[str], tmp_path: Path
) -> None:
    from kdharness.harness.errors import ConfigError

    model, lora = a_mixture(family, tmp_path), LoraSpec(r=4, target_modules=targets)
    try:
        adapted = with_adapter(model, lora, "")
    except ConfigError:
        with pytest.raises(ConfigError):
            model_size(str(tmp_path), Paths(tmp_path), lora=lora)
        return
    size = model_size(str(tmp_path), Paths(tmp_path), lora=lora)
    trained = [p.numel() for p in adapted.parameters() if p.requires_grad]
    assert lora_parameters(size, lora) == sum(trained)
    assert size.adapter is not None and size.adapter.missed == missed_by_adapter(adapted)
    linears = [n for n, m in adapted.named_modules() if type(m).__name__ == "Linear"]
    wrapped = [name for name in linears if name.endswith("base_layer")]
    assert len(size.adapter.linears) == len(wrapped)


@pytest.mark.parametrize(
    ("family", "targets", "missed"),
    [
        ("mixtral", "all-linear", ""),
        ("olmoe", MLP, ""),
        ("olmoe", ["gate_up_proj", "down_proj"], "(gate_up_proj:"),
        ("mixtral", ["q_proj", "v_proj"], "(down_proj, gate_up_proj:"),
        # This architecture's adapters go to its shared expert alone.
        ("qwen2_moe", "all-linear", "(down_proj, gate_up_proj:"),
        ("qwen2_moe", MLP, "(down_proj, gate_up_proj:"),
    ],
)
def test_experts_without_an_adapter_are_named(
    family: str, targets: str | list[str], missed: str, tmp_path: Path
) -> None:
    """A public report: expert weights are no modules, and are left out without a word."""
    model, lora = a_mixture(family, tmp_path), {"r": 4, "target_modules": targets}
    note = missed_by_adapter(with_adapter(model, LoraSpec(**lora), ""))
    rows = {"width": 64, "steps": 1, "tokens": 100, "labelled": 50, "padding_share": 0.0}
    plan = estimate(a_config(tmp_path, lora), Paths(tmp_path), rows)
    named = [row["value"] for row in plan.rows() if row["figure"] == "note"]
    assert named == ([note] if missed else [])
    assert missed in note and ("no adapter" in note) is bool(missed)
