"""Buffers that keep their places against the cache that grows: the same logits, pass by pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    GPT2Config,
    GPTNeoXConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)
from transformers.models.auto import AutoModelForCausalLM

from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.judges.engines import decoding
from kdharness.judges.engines.decoding import (
    Decoding,
    Fixed,
    Growing,
    can_be_fixed,
    can_record,
    recorded,
)
from kdharness.judges.engines.local import LocalEngine

from .test_local import PROMPTS, make_request

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
GQA = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}


def model_of(config: PreTrainedConfig, attention: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.eval()


def padded(lengths: list[int]) -> torch.Tensor:
    width = max(lengths)
    rows = [[0] * (width - n) + [3 + (5 * i + 7 * n) % 90 for i in range(n)] for n in lengths]
    return torch.tensor(rows)


@torch.inference_mode()
def walk(decoder: Decoding, lengths: list[int], drops: dict[int, list[int]]) -> list[torch.Tensor]:
    """Decode greedily for eight tokens; return the logits of the rows that are left, pass by pass.

    `drops` maps a pass to the rows that stay, numbered from the beginning.
    """
    logits = decoder.prefill(padded(lengths))
    numbers, live, seen = list(range(len(lengths))), list(range(len(lengths))), [logits]
    for step in range(8):
        chosen = logits.argmax(-1)
        if step in drops:
            live = drops[step]
            kept = decoder.keep([numbers.index(row) for row in live])
            if kept is not None:
                chosen, numbers = chosen[kept], list(live)
        logits = decoder.step(chosen)
        seen.append(logits[[numbers.index(row) for row in live]])
    return seen


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**GQA),
        MistralConfig(**GQA, sliding_window=None),
        GPTNeoXConfig(**SIZES, intermediate_size=48),
        GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=512),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [[5, 5], [3, 11, 7, 1]], ids=["even", "padded"])
def test_fixed_buffers_give_the_same_logits(
    config: PreTrainedConfig, attention: str, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room for three tokens: the buffers are laid out anew within the walk.
    monkeypatch.setattr(decoding, "ROOM", 3)
    model = model_of(config, attention)
    assert can_be_fixed(model)
    drops = {2: list(range(1, len(lengths))), 4: [len(lengths) - 1]}
    want = walk(Growing(model, lengths, "m", 512), lengths, drops)
    got = walk(Fixed(model, lengths, "m", 512, None), lengths, drops)
    for number, (a, b) in enumerate(zip(want, got, strict=True)):
        torch.testing.assert_close(b, a, msg=f"pass {number}")


def test_a_pass_is_recorded_once_for_each_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "ROOM", 4)
    runs: list[Callable[[], torch.Tensor]] = []

    def record(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        runs.append(run)
        return run

    model, lengths = model_of(Qwen2Config(**GQA)), [4, 4, 4, 4]
    walk(Fixed(model, lengths, "m", 512, record), lengths, {})
    assert len(runs) == 2  # eight tokens, four fit
    runs.clear()
    walk(Fixed(model, lengths, "m", 512, record), lengths, {1: [0, 1, 2], 2: [0, 1]})
    # Three of four rows stay as they are, two of four are laid out anew: after 2 tokens, then 4.
    assert len(runs) == 3


def test_what_a_pass_reads_and_writes_stays_where_it_is() -> None:
    """A graph replays addresses: none may change between two passes."""
    model, lengths = model_of(Qwen2Config(**GQA)), [4, 6]
    fixed = Fixed(model, lengths, "m", 512, None)

    def addresses() -> list[int]:
        states = [tensor for pair in fixed.states for tensor in pair]
        inputs = [fixed.ids, fixed.position, fixed.place, fixed.places, fixed.starts]
        return [tensor.data_ptr() for tensor in (*states, *inputs)]

    with torch.inference_mode():
        chosen = fixed.prefill(padded(lengths)).argmax(-1)
        before = addresses()
        for _ in range(5):
            chosen = fixed.step(chosen).argmax(-1)
            assert addresses() == before


def test_a_model_that_cannot_be_recorded_is_passed_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(decoding, "notify", said.append)

    def broken() -> torch.cuda.Stream:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "Stream", broken)
    expected = torch.zeros(1)
    assert recorded(lambda: expected)() is expected
    assert len(said) == 1 and "not permitted" in said[0]


def test_windows_and_other_devices_are_told(
    paths: Paths, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not can_be_fixed(model_of(MistralConfig(**GQA, sliding_window=8)))
    assert not can_be_fixed(model_of(Qwen2Config(**GQA), "flex_attention"))
    engine = LocalEngine(str(tiny_teacher), paths, cuda_graphs=True, device="cpu")
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        list(engine.stream([make_request("Hello")]))
    said: list[str] = []
    monkeypatch.setattr(decoding, "notify", said.append)
    windowed = model_of(MistralConfig(**GQA, sliding_window=8))
    monkeypatch.setattr(torch.nn.Module, "parameters", lambda _: iter([_OnCuda()]))
    assert not can_record(windowed, "mine")
    assert said and "mine: no CUDA graphs" in said[0]


class _OnCuda:
    device = torch.device("cuda")


@pytest.mark.slow
def test_answers_are_the_same_texts(
    paths: Paths, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [make_request(text, temperature=0.8, seed=n) for n, text in enumerate(PROMPTS)]
    plain = dict(LocalEngine(str(tiny_teacher), paths, batch_size=3).stream(requests))
    engine = LocalEngine(str(tiny_teacher), paths, batch_size=3)
    monkeypatch.setattr(
        engine, "_decoding", lambda lengths: Fixed(engine.model, lengths, "m", 512, None)
    )
    fixed = dict(engine.stream(requests))
    assert {n: r.text for n, r in fixed.items()} == {n: r.text for n, r in plain.items()}
