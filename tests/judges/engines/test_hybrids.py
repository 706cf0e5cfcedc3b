"""Models whose layers keep other states than keys and values, in the in-process engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kdharness.harness.chat.template import encode_prompt
from kdharness.harness.errors import ModelError
from kdharness.harness.paths import Paths
from kdharness.harness.types import GenerationRequest
from kdharness.judges.engines import kv_cache
from kdharness.judges.engines.local import LocalEngine
from support.models import make_tokenizer

SMALL = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
LINEAR = {
    "head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
HYBRIDS: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "qwen3_next": {
        **LINEAR,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3_5_text": LINEAR,
    "falcon_h1": {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
    },
}

OTHERS = {"recurrent_gemma": {"num_hidden_layers": 3}}


def engine_of(kind: str, paths: Paths, folder: Path) -> LocalEngine:
    """Return an engine of a tiny random model that never ends a turn by itself."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SMALL, **HYBRIDS.get(kind, OTHERS.get(kind, {}))})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer(folder)
    engine = LocalEngine(str(folder), paths)
    assert engine.model is not None
    engine.end_tokens = frozenset()
    return engine


def request(text: str, tokens: int) -> GenerationRequest:
    return GenerationRequest(
        ({"role": "user", "content": text},), temperature=0.0, max_new_tokens=tokens
    )


def texts(engine: LocalEngine, *requests: GenerationRequest) -> list[tuple[str, int]]:
    replies = dict(engine.stream(requests))
    assert not any(reply.error for reply in replies.values())
    return [(replies[index].text, replies[index].tokens) for index in range(len(requests))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", HYBRIDS)
def test_rows_leave_a_batch_of_a_hybrid_model(kind: str, paths: Paths, tmp_path: Path) -> None:
    """Each row's text is that of the row alone, with and without padding."""
    engine = engine_of(kind, paths, tmp_path / kind)
    prompts = ["hi there you", "a longer prompt about whisks and feeders", "go"]
    for texts_of in (prompts, ["aa", "bb", "cc"]):
        requests = [request(text, 4 + 5 * n) for n, text in enumerate(texts_of)]
        together = texts(engine, *requests)
        assert [tokens for _, tokens in together] == [4, 9, 14]
        assert together == [texts(engine, one)[0] for one in requests]
        assert len({text[:8] for text, _ in together}) > 1


@pytest.mark.slow
def test_rows_stay_where_a_cache_cannot_select(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended rows are then ignored; one that is as long as the context does not leave it."""
    monkeypatch.setattr(kv_cache, "_row_selector", lambda _: None)
    engine = engine_of("gpt2", paths, tmp_path / "gpt2")
    room, text = engine.context, "go"
    while room > 12:
        text += " a"
        room = engine.context - len(encode_prompt(engine.tokenizer, request(text, 1).messages))
    requests = [request(text, room), request("hi", 40), request("me", 20)]
    together = texts(engine, *requests)
    assert [tokens for _, tokens in together] == [room, 40, 20]
    assert together == [texts(engine, one)[0] for one in requests]


@pytest.mark.parametrize("kind", ["mamba", "recurrent_gemma", "xlstm", "openai-gpt"])
def test_a_model_without_a_key_value_cache_is_refused_by_name(
    kind: str, paths: Paths, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"{kind}, which has no ordinary key-value") as caught:
        texts(engine_of(kind, paths, tmp_path / kind), request("hi", 4))
    assert "vllm:PATH" in caught.value.hint
