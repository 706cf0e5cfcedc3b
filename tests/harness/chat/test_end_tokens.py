"""The end-of-turn token of each template, at which generation stops."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import Gemma3Config, GenerationConfig, LlamaConfig

from kdharness.harness.chat.end_tokens import all_ends, end_of_turn
from kdharness.harness.chat.template import encode_prompt
from support.chat_templates import FAMILIES
from support.labels import (
    AROUND,
    TALK,
    labelled,
    marked_tokenizer,
    user,
)
from support.models import make_tokenizer


@pytest.mark.parametrize("special", [True, False])
def test_end_of_turn_token_of_a_custom_template_is_detected(
    special: bool, plain_tokenizer: Any
) -> None:
    """The token need not be one of the tokenizer's named special tokens, nor special at all."""
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(plain_tokenizer)
    tokenizer.add_tokens([AddedToken("<|turn_end|>", special=special, normalized=False)])
    tokenizer.chat_template = FAMILIES["chatml"].replace("<|im_end|>", "<|turn_end|>")
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|turn_end|>")
    assert labelled(tokenizer, TALK) == ["B<|turn_end|>", "C<|turn_end|>"]


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"glm"}))
def test_end_of_turn_token_of_every_family(family: str, families: dict[str, Any]) -> None:
    tokenizer = families[family]
    token = AROUND[family][-1][1].strip()
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids(token)


def test_text_after_an_answer_is_not_an_end_token(
    families: dict[str, Any], plain_tokenizer: Any
) -> None:
    assert end_of_turn(families["glm"]) is None
    split = marked_tokenizer(plain_tokenizer, FAMILIES["chatml"].replace("<|im_end|>", "<|stop|>"))
    assert end_of_turn(split) is None
    assert labelled(split, TALK) == ["B<|stop|>", "C<|stop|>"]


@pytest.mark.slow
def test_local_engine_stops_at_the_end_of_turn_token(tmp_path: Path) -> None:
    """A model that always predicts the template's end token stops immediately."""
    import torch
    from tokenizers import AddedToken

    from kdharness.harness.paths import Paths
    from kdharness.harness.types import Finish, GenerationRequest
    from kdharness.judges.engines.local import LocalEngine
    from support.models import make_llama

    for special in (True, False):
        folder = tmp_path / f"m{special}"
        tokenizer = make_tokenizer(folder)
        tokenizer.add_tokens([AddedToken("<|turn_end|>", special=special, normalized=False)])
        tokenizer.chat_template = FAMILIES["chatml"].replace("<|im_end|>", "<|turn_end|>")
        model = make_llama(vocab_size=len(tokenizer))
        with torch.no_grad():
            model.lm_head.weight.zero_()
            model.model.norm.weight.fill_(1)
            hidden = model.model(torch.tensor([encode_prompt(tokenizer, [user("a")])]))
            model.lm_head.weight[-1] = hidden.last_hidden_state[0, -1]
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        engine = LocalEngine(str(folder), Paths(tmp_path / "home"), dtype="float32")
        request = GenerationRequest(messages=(user("a"),), max_new_tokens=40)
        ((_, reply),) = engine.stream([request])
        assert (reply.finish, reply.tokens, reply.text) == (Finish.STOP, 0, "")


def test_every_end_of_an_answer_counts_once(families: dict[str, Any]) -> None:
    """In this order: tokenizer, template, generation config, config, its part for texts."""
    tokenizer = families["chatml"]
    closing = end_of_turn(tokenizer)

    def ends(config: Any, generation: Any) -> list[int]:
        model: Any = SimpleNamespace(config=config, generation_config=generation)
        return all_ends(model, tokenizer)

    own = [tokenizer.eos_token_id, closing] if tokenizer.eos_token_id != closing else [closing]
    plain = LlamaConfig(vocab_size=99, eos_token_id=[90, closing])
    assert ends(plain, GenerationConfig(eos_token_id=[91, 90])) == [*own, 91, 90]
    composite = Gemma3Config(text_config={"vocab_size": 99, "eos_token_id": 92}, eos_token_id=None)
    assert ends(composite, None) == [*own, 92]
