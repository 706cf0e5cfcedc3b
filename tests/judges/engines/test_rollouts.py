"""Answers that a model in training samples: their distribution, their ends, their seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from kdharness.harness.errors import RunError
from kdharness.harness.models.loading import load_model
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import TokenPrompt
from kdharness.judges.engines.rollouts import LocalRollouts

PROMPT = (0, 40, 41, 42)
END = 1


@pytest.fixture
def model(tiny_teacher: Path) -> Any:
    return load_model(str(tiny_teacher), Paths(tiny_teacher), device="cpu")


def engine_of(model: Any, tokenizer: Any, **options: Any) -> LocalRollouts:
    settings = {"batch_size": 16, "temperature": 1.0, "vocabulary": 400, **options}
    return LocalRollouts(model, tokenizer, Paths(Path("unused")), **settings)


def first_shares(model: Any, prompt: tuple[int, ...], temperature: float, known: int) -> Any:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    return (logits[:known] / temperature).softmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "known"), [(1.0, 400), (2.0, 60)])
def test_draws_have_the_distribution_at_the_temperature(
    temperature: float, known: int, model: Any, tokenizer: Any
) -> None:
    """The whole of it: other trainers kept a default top-k, and sampled padding of vocabularies."""
    count = 2000
    engine = engine_of(model, tokenizer, batch_size=500, temperature=temperature, vocabulary=known)
    replies = engine.continuations([TokenPrompt(PROMPT, 1, seed) for seed in range(count)])
    drawn = torch.tensor([reply.ids[0] for reply in replies])
    assert int(drawn.max()) < known
    expected = first_shares(model, PROMPT, temperature, known) * count
    seen = torch.bincount(drawn, minlength=known).double()
    common = expected >= 5
    rare = [~common] * bool((~common).any())
    observed = [*seen[common].tolist(), *(float(seen[rest].sum()) for rest in rare)]
    wanted = [*expected[common].tolist(), *(float(expected[rest].sum()) for rest in rare)]
    assert chisquare(observed, wanted).pvalue > 1e-3


def test_an_answer_depends_on_its_own_seed_and_prompt_alone(model: Any, tokenizer: Any) -> None:
    engine = engine_of(model, tokenizer)
    prompts = [TokenPrompt(PROMPT[: 2 + n % 3], 6, 100 + n) for n in range(7)]
    together = engine.continuations(prompts)
    alone = [engine.continuations([prompt])[0] for prompt in prompts]
    assert together == alone == engine.continuations(prompts[::-1])[::-1]


def likely(model: Any, token: int) -> None:
    """Make one token nearly certain everywhere, by a bias on the head."""
    bias = torch.zeros(400)
    bias[token] = 1e4
    model.lm_head.bias = torch.nn.Parameter(bias)


@pytest.mark.parametrize("declared", ["config", "template"])
def test_an_answer_ends_at_the_end_tokens_of_model_and_template(
    declared: str, model: Any, tokenizer: Any
) -> None:
    """A public report: a base model's end of text and its teacher's end of turn are not the same.

    The student then writes on after one of them, without end.
    """
    if declared == "template":
        model.config.eos_token_id = model.generation_config.eos_token_id = 7
    likely(model, END)
    (reply,) = engine_of(model, tokenizer).continuations([TokenPrompt(PROMPT, 9, 0)])
    assert reply.ids == (END,) and reply.ended
    if declared == "template":
        likely(model, 7)
        (reply,) = engine_of(model, tokenizer).continuations([TokenPrompt(PROMPT, 9, 0)])
        assert reply.ids == (7,) and reply.ended


def test_an_answer_that_is_cut_has_no_end(model: Any, tokenizer: Any) -> None:
    likely(model, 50)
    (reply,) = engine_of(model, tokenizer).continuations([TokenPrompt(PROMPT, 9, 0)])
    assert reply.ids == (50,) * 9 and not reply.ended


def test_the_likeliest_token_is_taken_at_temperature_0(model: Any, tokenizer: Any) -> None:
    engine = engine_of(model, tokenizer, temperature=0.0, vocabulary=100)
    (reply,) = engine.continuations([TokenPrompt(PROMPT, 1, 3)])
    assert reply.ids[0] == int(first_shares(model, PROMPT, 1.0, 100).argmax())


def test_damaged_weights_end_the_run_with_an_error(model: Any, tokenizer: Any) -> None:
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(RunError, match=r"could not answer a row: .*NaN"):
        engine_of(model, tokenizer).continuations([TokenPrompt(PROMPT, 4, 0)])


def test_rows_are_sampled_again_in_smaller_batches_when_memory_runs_out(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(model, tokenizer)
    prompts = [TokenPrompt(PROMPT, 5, seed) for seed in range(6)]
    want = engine.continuations(prompts)
    forward, calls = model.forward, []

    def tight(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(kwargs["input_ids"]))
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("no room")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", tight)
    assert engine.continuations(prompts) == want and max(calls) > 2
