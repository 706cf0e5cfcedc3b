"""Options of `vllm serve` in a user's settings: which are refused, in every way to write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kdharness.harness.config.settings import VLLMSettings
from kdharness.harness.config.vllm_options import _REASONS

CHANGES = "changes the answers"


@given(
    name=st.sampled_from(sorted(_REASONS)),
    underscores=st.booleans(),
    off=st.booleans(),
    end=st.sampled_from(["", "=x", ".key", ".key=x", ".list+", " x"]),
    cut=st.integers(0, 3),
)
def test_every_way_to_write_a_refused_option_is_refused(
    name: str, underscores: bool, off: bool, end: str, cut: int
) -> None:
    """vLLM takes underscores, dots, `--no-` and the beginning of a name."""
    short = name[: max(2, len(name) - cut)]
    written = short.replace("-", "_") if underscores else short
    with pytest.raises(ValidationError):
        VLLMSettings(options=[f"--{'no-' if off else ''}{written}{end}"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--quantization=fp8"], CHANGES),
        (["-q", "fp8"], CHANGES),
        (["-qfp8"], CHANGES),
        (["--quant", "fp8"], CHANGES),
        (["--kv-cache-dtype", "fp8"], CHANGES),
        (["--kv_cache_dtype=fp8"], CHANGES),
        (["--rope-scaling", "{}"], CHANGES),
        (["--hf-overrides.max_position_embeddings=9"], CHANGES),
        (["--hf_overrides.rope_parameters.factor", "2"], CHANGES),
        (["--enforce-eager", "--reasoning-parser", "qwen3"], CHANGES),
        (["--structured-outputs-config.reasoning_parser=x"], CHANGES),
        (["--logprobs-mode=raw_logits"], CHANGES),
        (["--trust-remote-code"], "decided by each evaluation"),
        (["--no-trust-remote-code"], "decided by each evaluation"),
        (["--dtype", "float16"], "use vllm.dtype"),
        (["--hf-token=hf_abcdefghijklmnopqrstuvwxyz123456"], "HF_TOKEN in the environment"),
        (["--ssl-certfile", "x"], "set by kdharness"),
        (["--Port=1"], "set by kdharness"),
    ],
)
def test_what_changes_answers_or_belongs_elsewhere_is_refused(
    options: list[str], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason) as caught:
        VLLMSettings(options=options)
    assert "abcdefghijklmnop" not in str(caught.value.errors()[0]["msg"])


@pytest.mark.parametrize(
    "options",
    [
        ["--enforce-eager", "--seed=1", "-O3", "-tp", "2", "-cc.mode=none", "--max-num-seqs=64"],
        ["--no-enable-prefix-caching", "--kv-cache-memory-bytes=1G", "--max-logprobs", "-1"],
        ["--speculative-config", '{"method": "ngram"}', "--model-impl", "vllm"],
        ["--cpu-offload-gb", "4", "--data-parallel-size=2", "--block-size", "32"],
    ],
)
def test_other_options_are_passed_on(options: list[str]) -> None:
    assert VLLMSettings(options=options).options == options
