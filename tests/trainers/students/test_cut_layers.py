"""Students cut from models whose layers differ by their number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kdharness.harness.errors import ConfigError
from kdharness.harness.models.loading import load_model
from kdharness.harness.paths import Paths
from kdharness.trainers.layers import cut_model
from support.commands import CommandLine
from support.files import WriteRows
from support.models import make_tokenizer

COMMON: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "bos_token_id": None,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
QWEN = {**EXPERTS, "head_dim": 8, "num_experts": 4}
DEEPSEEK = {
    **EXPERTS,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
NEO = {
    "hidden_size": 32,
    "num_layers": 6,
    "num_heads": 4,
    "window_size": 8,
    "vocab_size": 512,
    "attention_types": [[["global", "local"], 3]],
}
JAMBA = {
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "use_mamba_kernels": False,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "every second": ("qwen3_moe", {**COMMON, **QWEN, "decoder_sparse_step": 2}),
    "one dense": ("qwen3_moe", {**COMMON, **QWEN, "mlp_only_layers": [2]}),
    "both": ("qwen2_moe", {**COMMON, **QWEN, "decoder_sparse_step": 2, "mlp_only_layers": [3]}),
    "first two": ("deepseek_v3", {**COMMON, **DEEPSEEK, "first_k_dense_replace": 2}),
    "global and local": ("gpt_neo", NEO),
}
IDS = torch.arange(5, 45).view(1, 40)


def made(kind: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize("keep", [[0, 2, 4, 5], [1, 3, 5], [2], [0, 1, 2, 3, 4, 5]], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_cut_model_is_what_its_folder_says(
    name: str, keep: list[int], paths: Paths, tmp_path: Path
) -> None:
    """The folder said that other layers had experts: no run could load it."""
    student, kept = cut_model(made(*MODELS[name]), keep)
    assert kept == keep
    student.save_pretrained(tmp_path / "cut")
    again = load_model(str(tmp_path / "cut"), paths, device="cpu", dtype="float32")
    assert torch.equal(logits(again), logits(student))


def test_layers_that_a_config_cannot_describe_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be cut to the layers 0, 3, 5") as caught:
        cut_model(made("jamba", {**COMMON, **JAMBA}), [0, 3, 5])
    assert caught.value.where == "student.keep_layers"
    assert cut_model(made("jamba", {**COMMON, **JAMBA}), [0, 3, 4, 5])[1] == [0, 3, 4, 5]


@pytest.mark.parametrize("command", [["config", "check"], ["plan"], ["check"], ["train"]])
def test_it_is_refused_before_a_run_and_no_folder_is_left(
    command: list[str], paths: Paths, tmp_path: Path, write_jsonl: WriteRows, kd: CommandLine
) -> None:
    made("jamba", {**COMMON, **JAMBA}).save_pretrained(tmp_path / "teacher")
    make_tokenizer(tmp_path / "teacher")
    rows = write_jsonl("rows.jsonl", [{"prompt": "a", "completion": "b"}] * 4)
    file = tmp_path / "c.yaml"
    file.write_text(
        f"method: kd\nteacher: {tmp_path}/teacher\n"
        f"student: {{from: teacher, keep_layers: [0, 3, 5]}}\ndata: {{train: {rows}}}\n"
        "trainer: {max_steps: 1, attention_weight: 0, device: cpu}\n"
    )
    code, out, err = kd(*command, str(file))
    assert code and "cannot be cut to the layers 0, 3, 5" in " ".join((out + err).split())
    assert not list(paths.models.glob("cut-*"))
