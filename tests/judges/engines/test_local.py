"""The in-process engine compared with transformers' generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig

from kdharness.harness.models.loading import load_model
from kdharness.harness.paths import Paths
from kdharness.harness.types import Finish, GenerationRequest
from kdharness.judges.engines.local import LocalEngine

PROMPTS = [
    "Hello there",
    "What is it?",
    "A much longer prompt about whisks and feeders, " * 4,
    "size",
    "Marlowick policy: how big can a gift card be?",
]


def make_request(text: str, **options: object) -> GenerationRequest:
    settings: dict[str, object] = {"temperature": 0.0, "max_new_tokens": 24}
    return GenerationRequest(({"role": "user", "content": text},), **{**settings, **options})  # type: ignore[arg-type]


@pytest.fixture
def local_engine(paths: Paths, tiny_teacher: Path) -> LocalEngine:
    return LocalEngine(str(tiny_teacher), paths, batch_size=3)


@pytest.mark.slow
def test_greedy_decoding_matches_transformers(
    local_engine: LocalEngine, paths: Paths, tiny_teacher: Path
) -> None:
    replies = dict(local_engine.stream([make_request(text) for text in PROMPTS]))
    model = load_model(str(tiny_teacher), paths)
    for index, text in enumerate(PROMPTS):
        ids = local_engine.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        out = model.generate(
            **ids,
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=sorted(local_engine.end_tokens),
            pad_token_id=2,
        )
        expected = local_engine.tokenizer.decode(
            out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True
        ).strip()
        assert replies[index].text == expected
        assert replies[index].prompt_tokens == ids["input_ids"].shape[1]


@pytest.mark.slow
def test_replies_do_not_depend_on_the_batch_size(paths: Paths, tiny_teacher: Path) -> None:
    requests = [make_request(t, temperature=0.9, seed=i + 1) for i, t in enumerate(PROMPTS)]
    texts = [
        {i: r.text for i, r in LocalEngine(str(tiny_teacher), paths, batch_size=n).stream(requests)}
        for n in (1, 2, 5)
    ]
    assert texts[0] == texts[1] == texts[2]
    other = [make_request(t, temperature=0.9, seed=i + 9) for i, t in enumerate(PROMPTS)]
    local_engine = LocalEngine(str(tiny_teacher), paths)
    assert {i: r.text for i, r in local_engine.stream(other)} != texts[0]


def test_token_limits_and_end_tokens(local_engine: LocalEngine) -> None:
    replies = dict(
        local_engine.stream([make_request("Hello", max_new_tokens=n) for n in (1, 5, 9)])
    )
    assert [replies[i].tokens for i in range(3)] == [1, 5, 9]
    assert all(r.finish is Finish.LENGTH for r in replies.values())
    end = local_engine.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in local_engine.end_tokens
    # A finished row leaves the batch while the others continue.
    first = local_engine.tokenizer(replies[0].text, add_special_tokens=False)["input_ids"][0]
    local_engine.end_tokens = local_engine.end_tokens | {first}
    again = dict(
        local_engine.stream(
            [make_request("Hello", max_new_tokens=9), make_request("size", max_new_tokens=9)]
        )
    )
    assert again[0].tokens == 0 and again[0].finish is Finish.STOP
    assert len(again) == 2


def test_stop_strings_end_a_reply_and_are_kept(local_engine: LocalEngine) -> None:
    whole = dict(local_engine.stream([make_request("Hello", max_new_tokens=30)]))[0].text
    stop = whole[5:7]
    stopped = dict(local_engine.stream([make_request("Hello", max_new_tokens=30, stops=(stop,))]))[
        0
    ]
    assert (
        stop in stopped.text
        and stopped.finish is Finish.STOP
        and whole.startswith(stopped.text[:5])
    )
    assert stopped.tokens < 30


def test_context_length_is_read_from_a_nested_text_config(local_engine: LocalEngine) -> None:
    """A vision-language model has its context length in the text part of its config."""
    text = local_engine.model.config
    nested = local_engine.model.config = PreTrainedConfig()
    nested.text_config = text
    assert nested.get_text_config() is text and not hasattr(nested, "max_position_embeddings")
    assert local_engine.context == text.max_position_embeddings


def test_prompt_longer_than_the_context_is_an_error(local_engine: LocalEngine) -> None:
    long, short = make_request("word " * 2000), make_request("Hello")
    replies = dict(local_engine.stream([long, short]))
    assert "context" in replies[0].error and replies[0].finish is Finish.ERROR
    assert not replies[1].error


def test_first_token_logprobs_match_the_model(local_engine: LocalEngine) -> None:
    request = make_request("Which?", max_new_tokens=1, top_logprobs=5, choices=("m", "M"))
    padded = make_request(
        "A longer one, so that the other is padded " * 3, max_new_tokens=1, top_logprobs=5
    )
    reply = dict(local_engine.stream([request, padded]))[0]
    ids = local_engine.tokenizer.apply_chat_template(
        list(request.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        logp = local_engine.model(**ids).logits[0, -1].float().log_softmax(-1)
    logprobs = dict(reply.top_logprobs or ())
    for letter in "mM":
        token = local_engine.tokenizer.convert_tokens_to_ids(letter)
        assert logprobs[letter] == pytest.approx(float(logp[token]), abs=1e-4)
    best = logp.topk(5)
    assert max(logprobs.values()) == pytest.approx(float(best.values[0]), abs=1e-4)
    assert len(logprobs) in (5, 6, 7)


def test_stop_soon_ends_the_stream(paths: Paths, tiny_teacher: Path) -> None:
    local_engine = LocalEngine(str(tiny_teacher), paths, batch_size=1)
    pairs = []
    for pair in local_engine.stream([make_request(text) for text in PROMPTS]):
        pairs.append(pair)
        local_engine.stop_soon()
    assert len(pairs) == 1


def test_out_of_memory_halves_the_batch(
    local_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [make_request(t, temperature=0.9, seed=i + 1) for i, t in enumerate(PROMPTS)]
    expected = {i: r.text for i, r in local_engine.stream(requests)}
    generate = local_engine.generate_batch

    def generate_small_batches(rows):  # type: ignore[no-untyped-def]
        for index, pair in enumerate(generate(rows)):
            yield pair
            if len(rows) > 1 and index == 0:
                raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(local_engine, "generate_batch", generate_small_batches)
    assert {i: r.text for i, r in local_engine.stream(requests)} == expected

    def always_out_of_memory(rows):  # type: ignore[no-untyped-def]
        raise torch.OutOfMemoryError("no room")
        yield

    monkeypatch.setattr(local_engine, "generate_batch", always_out_of_memory)
    replies = dict(local_engine.stream(requests))
    assert len(replies) == len(PROMPTS) and all("memory" in r.error for r in replies.values())


def test_preallocated_cache_matches_the_dynamic_cache() -> None:
    from transformers.cache_utils import DynamicLayer

    from kdharness.judges.engines.kv_cache import RoomyLayer

    torch.manual_seed(0)
    preallocated, dynamic = RoomyLayer(), DynamicLayer()
    for step in (7, 1, 1, 300, 1, 2):
        keys, values = torch.randn(3, 2, step, 4), torch.randn(3, 2, step, 4)
        for mine, theirs in zip(
            preallocated.update(keys, values), dynamic.update(keys, values), strict=True
        ):
            assert torch.equal(mine, theirs)
        assert preallocated.get_seq_length() == dynamic.get_seq_length()
    keep = torch.tensor([2, 0])
    preallocated.batch_select_indices(keep)
    dynamic.batch_select_indices(keep)
    keys = torch.randn(2, 2, 1, 4)
    assert torch.equal(preallocated.update(keys, keys)[0], dynamic.update(keys, keys)[0])


def test_a_reply_ends_with_the_line_of_its_verdict(
    local_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was cut off at the first "]]": a scale, a quotation or code took the verdict's place."""
    engine, texts = local_engine, {}
    assert engine.model is not None  # its end tokens are known once it is loaded
    for text in (
        "On a scale from [[1]] to [[10]], this earns [[8]].",
        "The code uses seen[nums[i]].\nRating: [[9]]\nUser: Next?\nRating: [[2]]",
    ):
        script = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = iter([*script, *[next(iter(engine.end_tokens))] * 50])

        def scripted(logits: torch.Tensor, tokens: Any = tokens) -> torch.Tensor:
            forced = torch.full_like(logits, -1e9)
            forced[:, next(tokens)] = 0.0
            return forced

        monkeypatch.setattr(engine, "_next_logits", scripted)
        request = make_request("x", max_new_tokens=200, verdict="rating")
        texts[text] = dict(engine.stream([request]))[0].text
    first, second = texts.values()
    assert first.endswith("earns [[8]].")
    assert second.endswith("Rating: [[9]]")
