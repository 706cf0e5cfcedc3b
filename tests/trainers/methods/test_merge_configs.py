"""Which models a merge takes for the same function of their weights, by their configs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kdharness.harness.errors import ModelError
from kdharness.trainers.methods.merge_configs import check_configs

LLAMA = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
LINEAR = {"rope_type": "linear", "factor": 2.0}
DIFFERENT: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"rope_theta": 5e5}, "rope_theta is 10000.0 in A and 500000.0 in B"),
    (
        "llama",
        {"rope_scaling": LINEAR},
        "rope_type is default in A and linear",
    ),
    (
        "llama",
        {"num_attention_heads": 8, "num_key_value_heads": 4},
        "num_attention_heads is 4 in A",
    ),
    ("llama", {"rms_norm_eps": 1e-3}, "rms_norm_eps is 1e-06 in A and 0.001 in B"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act is silu in A and gelu in B"),
    ("llama", {"tie_word_embeddings": True}, "tie_word_embeddings is False in A and True in B"),
    ("mixtral", {"num_experts_per_tok": 1}, "num_experts_per_tok is 2 in A and 1 in B"),
    ("mistral", {"sliding_window": 8}, "sliding_window is 4096 in A and 8 in B"),
    ("gemma2", {"final_logit_softcapping": 5.0}, "final_logit_softcapping is 30.0 in A and 5.0"),
    ("gemma2", {"layer_types": ["full_attention"] * 26}, "layer_types"),
    (
        "qwen2",
        {"use_sliding_window": True, "max_window_layers": 3},
        "use_sliding_window is False in A and True in B",
    ),
]


@pytest.mark.parametrize(("family", "changes", "message"), DIFFERENT)
def test_models_that_use_equal_weights_differently_are_refused(
    family: str, changes: dict[str, Any], message: str
) -> None:
    first, other = config_of(family), config_of(family, **changes)
    with pytest.raises(ModelError, match=message):
        check_configs(first, other, "A", "B")
    with pytest.raises(ModelError, match=message.split(" is ")[0]):
        check_configs(other, first, "B", "A")


def test_another_kind_of_model_is_refused_first() -> None:
    with pytest.raises(ModelError, match="model type is llama in A and mistral in B"):
        check_configs(config_of("llama"), config_of("mistral"), "A", "B")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"bos_token_id": 7, "eos_token_id": [2, 3], "pad_token_id": 0}),
        ("llama", {"attention_dropout": 0.1, "initializer_range": 0.5, "use_cache": False}),
        ("llama", {"dtype": "bfloat16", "unsloth_version": "2025.1", "architectures": ["X"]}),
        # Rows may be longer; the rotary embedding is the same.
        ("llama", {"max_position_embeddings": 8192}),
        ("mixtral", {"output_router_logits": True, "router_aux_loss_coef": 0.1}),
        ("qwen2", {"max_window_layers": 3}),
    ],
)
def test_fields_that_do_not_change_the_function_may_differ(
    family: str, changes: dict[str, Any]
) -> None:
    check_configs(config_of(family), config_of(family, **changes), "A", "B")


ROTARY = {"factor": 2.0, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("family", "first", "other"),
    [
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ),
        (
            "llama",
            {"rope_parameters": {"type": "linear", **ROTARY}},
            {"rope_parameters": {"rope_type": "linear", **ROTARY}},
        ),
        ("mixtral", {}, {"head_dim": 128}),
    ],
)
def test_what_is_left_out_or_has_a_former_name_is_the_same(
    family: str, first: dict[str, Any], other: dict[str, Any]
) -> None:
    check_configs(config_of(family, **first), config_of(family, **other), "A", "B")
    check_configs(config_of(family, **other), config_of(family, **first), "A", "B")


def test_configs_of_a_models_own_code_may_leave_numbers_of_heads_out() -> None:
    def own(**fields: Any) -> Any:
        values = {"hidden_size": 64, "num_attention_heads": 4, **fields}
        return SimpleNamespace(model_type="own", to_dict=lambda: values)

    check_configs(own(), own(num_key_value_heads=4, head_dim=16), "A", "B")
    check_configs(
        own(rope_scaling={"type": "linear"}), own(rope_scaling={"rope_type": "linear"}), "A", "B"
    )
    with pytest.raises(ModelError, match="num_key_value_heads is 4 in A and 2 in B"):
        check_configs(own(), own(num_key_value_heads=2), "A", "B")
    with pytest.raises(ModelError, match="head_dim is 16 in A and 32 in B"):
        check_configs(own(), own(head_dim=32), "A", "B")
    with pytest.raises(ModelError, match="rope_type is linear in A and dynamic in B"):
        check_configs(
            own(rope_scaling={"type": "linear"}), own(rope_scaling={"type": "dynamic"}), "A", "B"
        )


def test_the_longest_row_counts_where_the_rotary_embedding_depends_on_it() -> None:
    scaled = {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    first = config_of("llama", **scaled)
    other = config_of("llama", max_position_embeddings=8192, **scaled)
    with pytest.raises(ModelError, match="max_position_embeddings is 2048 in A and 8192 in B"):
        check_configs(first, other, "A", "B")


def config_of(family: str, **changes: Any) -> Any:
    import transformers

    names = {"llama": "Llama", "mistral": "Mistral", "mixtral": "Mixtral"}
    names |= {"gemma2": "Gemma2", "qwen2": "Qwen2"}
    shape = LLAMA if family == "llama" else {}
    return getattr(transformers, f"{names[family]}Config")(**{**shape, **changes})
