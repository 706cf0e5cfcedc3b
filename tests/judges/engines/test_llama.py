"""llama: with the real SmolLM2 GGUF, where llama-cpp-python is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdharness.harness.errors import ModelError
from kdharness.harness.paths import Paths, find_paths
from kdharness.harness.types import Finish, GenerationRequest, Reply
from kdharness.judges.engines import llama
from kdharness.judges.engines.llama import LlamaEngine
from kdharness.judges.engines.local import LocalEngine
from support.pulled_assets import pull_or_skip

pytest.importorskip("llama_cpp", reason="needs kdharness[llama]")
pytestmark = [pytest.mark.slow, pytest.mark.model]
MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Return a home with SmolLM2's GGUF, shared or pulled."""
    paths = find_paths(tmp_path_factory.mktemp("smol"))
    pull_or_skip(paths, MODEL)
    return paths


@pytest.fixture(scope="module")
def engine(home: Paths) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(MODEL, home)
    yield engine
    engine.close()


def ask(text: str, **settings: Any) -> GenerationRequest:
    return GenerationRequest(({"role": "user", "content": text},), **settings)


def replies(engine: LlamaEngine | LocalEngine, *requests: GenerationRequest) -> dict[int, Reply]:
    return dict(engine.stream(requests))


def test_replies_and_log_probabilities_are_those_of_the_same_weights(
    engine: LlamaEngine, home: Paths
) -> None:
    """llama.cpp rounds activations to 8 bits: values are near, not equal."""
    requests = [
        ask("What is the capital of France?", max_new_tokens=1, top_logprobs=5, choices=("m",)),
        ask("Answer with m or M.", max_new_tokens=1, top_logprobs=3, choices=("m", "M")),
    ]
    mine, theirs = replies(engine, *requests), replies(LocalEngine(MODEL, home), *requests)
    for index in mine:
        assert mine[index].prompt_tokens == theirs[index].prompt_tokens
        ours, others = dict(mine[index].top_logprobs or ()), dict(theirs[index].top_logprobs or ())
        assert set(requests[index].choices) <= set(ours)
        common = set(ours) & set(others)
        assert len(common) >= 3
        for token in common:
            assert ours[token] == pytest.approx(others[token], abs=1.0)


def test_a_reply_depends_on_its_request_alone(engine: LlamaEngine) -> None:
    """Not on what was asked before, nor on the order; sampled ones follow their seed."""
    requests = [
        ask("Tell me about rivers.", max_new_tokens=12),
        ask("Tell me about rivers.", max_new_tokens=12, temperature=0.9, seed=4),
        ask("Name a colour.", max_new_tokens=6, temperature=0.9, seed=4),
    ]
    first = replies(engine, *requests)
    again = replies(engine, *reversed(requests))
    assert [first[n].text for n in range(3)] == [again[2 - n].text for n in range(3)]
    assert first[0].text != first[1].text
    other = replies(
        engine, ask("Tell me about rivers.", max_new_tokens=12, temperature=0.9, seed=5)
    )
    assert other[0].text != first[1].text


def test_the_end_of_turn_and_stops_end_a_reply(engine: LlamaEngine) -> None:
    whole = replies(engine, ask("Say: yes", max_new_tokens=60))[0]
    assert "<|im_end|>" not in whole.text and whole.text
    longer = replies(engine, ask("Count from 1 to 50.", max_new_tokens=24))[0]
    assert longer.finish is Finish.LENGTH and longer.tokens == 24
    stop = longer.text[4:6]
    cut = replies(engine, ask("Count from 1 to 50.", max_new_tokens=24, stops=(stop,)))[0]
    assert cut.finish is Finish.STOP and cut.tokens < 24 and longer.text.startswith(cut.text)


def test_a_context_grows_with_its_requests_and_ends_with_the_model(
    home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "FIRST_CONTEXT", 256)
    engine = LlamaEngine(MODEL, home)
    assert replies(engine, ask("Hi", max_new_tokens=2))[0].tokens <= 2
    found = replies(engine, ask("word " * 300, max_new_tokens=2), ask("word " * 9000))
    engine.close()
    assert not found[0].error and found[0].prompt_tokens > 256
    assert "context length is 8192" in found[1].error and found[1].finish is Finish.ERROR


def test_threads_and_identity(engine: LlamaEngine, home: Paths, tmp_path: Path) -> None:
    copy = tmp_path / "other-name.gguf"
    copy.write_bytes(engine.files[0].read_bytes())
    other = LlamaEngine(str(copy), home)
    assert other.identity == engine.identity and other.name != engine.name
    assert engine._model is not None
    assert engine._model.llama.n_threads == torch.get_num_threads()


def test_a_file_without_a_model_in_it_is_explained(home: Paths, tmp_path: Path) -> None:
    """A sound header whose architecture llama.cpp does not know."""
    from gguf import GGUFWriter

    path = tmp_path / "strange.gguf"
    writer = GGUFWriter(path, "no-such-architecture")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"cannot load it.*no-such-architecture"):
        replies(LlamaEngine(str(path), home), ask("Hi"))
