"""Compare plans for 7B and 70B models with published figures.

Parameter counts are those of the models' cards. LLaMA-Factory's README gives rules of thumb for
bf16 training: 60 GB for 7B and 600 GB for 70B (all weights), 16 and 160 GB (LoRA). LongLoRA
(arXiv 2309.12307, table 12) measured 25.7 GB per GPU for LoRA on Llama 2 7B with 8,192 tokens,
activation checkpointing and full logits.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
import yaml

from kdharness.harness.config.files import parse_config
from kdharness.harness.paths import Paths
from kdharness.harness.runs.estimate import model_size
from kdharness.harness.runs.memory import plan_memory
from kdharness.harness.runs.sizes import Size
from kdharness.harness.runs.teachers import teacher_sources

GB = 1e9
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama-2-7b": LLAMA,
    "llama-2-70b": {
        **LLAMA,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
    "mistral-7b": {
        **LLAMA,
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
    },
    "mixtral-8x7b": {
        **LLAMA,
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
}
CARDS = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-70b": 68_976_648_192,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
}


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Size]:
    sizes_by_name = {}
    for name, config in MODELS.items():
        folder = tmp_path_factory.mktemp("shapes") / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        sizes_by_name[name] = model_size(str(folder), Paths(folder))
    return sizes_by_name


def planned_memory(
    sizes: dict[str, Size],
    student: str,
    teacher: str = "",
    *,
    width: int = 512,
    engine: str = "single",
    processes: int = 1,
    **trainer: Any,
) -> dict[str, float]:
    """Return the parts of a memory plan in GB per process."""
    lora = {"r": trainer.pop("lora")} if "lora" in trainer else None
    quantization = trainer.pop("quantization", None)
    values: dict[str, Any] = {
        "method": "kd" if teacher else "sft",
        "student": {"model": "s/s", "lora": lora},
        "data": {"train": "x"},
        "trainer": {
            "batch_size": 1,
            "dtype": "bfloat16",
            "gradient_checkpointing": True,
            **trainer,
        },
    }
    if teacher:
        values["teacher"] = {"model": "t/t", "quantization": quantization}
        values["trainer"]["attention_weight"] = 0.0
    teachers = {"teacher": sizes[teacher]} if teacher else {}
    parts, _ = plan_memory(
        parse_config(values),
        sizes[student],
        teachers,
        width,
        engine=engine,
        processes=processes,
        on_cpu=False,
    )
    return {name: size / GB for name, size in parts.items()}


def test_parameter_counts_match_the_model_cards(sizes: dict[str, Size]) -> None:
    assert {name: size.total for name, size in sizes.items()} == CARDS
    # In Mixtral a token uses two of eight experts: 12.9 of 46.7 billion parameters.
    mixtral = sizes["mixtral-8x7b"]
    assert mixtral.body + 2 * 32000 * 4096 == pytest.approx(12.9e9, rel=0.005)


@pytest.mark.parametrize(("student", "published"), [("llama-2-7b", 60), ("llama-2-70b", 600)])
def test_memory_of_full_bf16_training(
    sizes: dict[str, Size], student: str, published: float
) -> None:
    total = sum(planned_memory(sizes, student).values())
    assert total == pytest.approx(published, rel=0.1)


@pytest.mark.parametrize(("student", "published"), [("llama-2-7b", 16), ("llama-2-70b", 160)])
def test_memory_of_lora_training(sizes: dict[str, Size], student: str, published: float) -> None:
    total = sum(planned_memory(sizes, student, lora=8).values())
    assert 0.8 * published < total < published


def test_memory_of_long_rows_matches_the_published_measurement(sizes: dict[str, Size]) -> None:
    """We never materialize full logits; add [8192, 32000] in bf16, in fp32 and its gradient."""
    planned = sum(planned_memory(sizes, "llama-2-7b", width=8192, lora=8).values())
    full_logits = 8192 * 32000 * (2 + 4 + 4) / GB
    context = 1.0  # CUDA context
    assert planned + full_logits + context == pytest.approx(25.7, rel=0.2)
    assert planned < 25.7


def test_distilling_8x7b_into_7b_fits_on_eight_gpus(sizes: dict[str, Size]) -> None:
    """The published setup: eight 80 GB GPUs, sharded, 8 rows of 2,048 tokens per GPU."""
    sharded = planned_memory(
        sizes, "mistral-7b", "mixtral-8x7b", width=2048, engine="fsdp2", processes=8, batch_size=8
    )
    assert sharded["teacher teacher"] == pytest.approx(2 * 46.7 / 8, rel=0.01)
    assert sharded["weights"] + sharded["gradients"] + sharded["optimizer"] == pytest.approx(
        8 * 7.24 / 8, rel=0.01
    )
    assert sum(sharded.values()) < 80
    # Without sharding the teacher alone exceeds one GPU; quantized to 4 bits it fits.
    assert planned_memory(sizes, "mistral-7b", "mixtral-8x7b")["teacher teacher"] > 80
    # bitsandbytes replaces linear layers; Mixtral's experts, 45 of 47 billion weights, are none.
    four_bit = planned_memory(
        sizes, "mistral-7b", "mixtral-8x7b", lora=16, quantization={"method": "bnb-4bit"}
    )
    assert sizes["mixtral-8x7b"].quantizable == pytest.approx(1.34e9, rel=0.01)
    assert four_bit["teacher teacher"] > 90
    # A dense teacher is replaced almost whole: 4-bit files of 70B take 35 to 42 GB.
    dense = planned_memory(
        sizes, "llama-2-7b", "llama-2-70b", lora=16, quantization={"method": "bnb-4bit"}
    )
    assert 35 <= dense["teacher teacher"] <= 42


def test_70b_does_not_fit_on_one_machine(sizes: dict[str, Size]) -> None:
    eight_gpus = planned_memory(sizes, "llama-2-70b", engine="fsdp2", processes=8, width=2048)
    sixteen_gpus = planned_memory(sizes, "llama-2-70b", engine="fsdp2", processes=16, width=2048)
    assert sum(eight_gpus.values()) > 72 > sum(sixteen_gpus.values())


@pytest.mark.parametrize(
    ("preset", "processes", "teachers", "limit"),
    [
        ("kd-paper", 8, {"teacher": "mixtral-8x7b"}, 80),
        ("kd-fsdp", 8, {"teacher": "mixtral-8x7b"}, 80),
        ("dae-paper", 8, {"expert": "mistral-7b", "reference": "mistral-7b"}, 80),
        ("kd-lora-one-gpu", 1, {}, 40),
        ("dae-lora-one-gpu", 1, {}, 40),
    ],
)
def test_gpu_presets_fit_the_machines_they_are_for(
    preset: str, processes: int, teachers: dict[str, str], limit: float, sizes: dict[str, Size]
) -> None:
    """GPUs of 80 GB, or one of 40, with a tenth left free."""
    text = files("kdharness.data").joinpath("presets", f"{preset}.yaml").read_text("utf-8")
    config = parse_config(yaml.safe_load(text))
    assert set(teacher_sources(config)) >= set(teachers)
    parts, _ = plan_memory(
        config,
        sizes["mistral-7b"],
        {role: sizes[name] for role, name in teachers.items()},
        config.data.max_length,
        engine="fsdp2" if processes > 1 else "single",
        processes=processes,
        on_cpu=False,
    )
    assert sum(parts.values()) / GB < 0.9 * limit
