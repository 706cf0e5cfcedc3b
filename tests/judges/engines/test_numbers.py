"""The numbers after a begun reply: local models, llama.cpp and endpoints."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdharness.harness.chat.template import encode_prompt
from kdharness.harness.config.evaluation import EvalConfig, parse_spec
from kdharness.harness.models.loading import load_model
from kdharness.harness.paths import Paths
from kdharness.harness.types import GenerationRequest, Reply
from kdharness.judges.engines import numbers
from kdharness.judges.engines.local import LocalEngine
from kdharness.judges.engines.numbers import NumberReader, numerals
from kdharness.judges.engines.openai import OpenAIEngine
from kdharness.judges.engines.opening_probe import gives_expected
from kdharness.judges.scoring.expected import NUMBERS, OPENING, read_expected
from support.loopback import Loopback, completion

TEXTS = ("Hello there", "A much longer prompt about whisks and feeders, " * 3, "size")


def opened(text: str, **settings: Any) -> GenerationRequest:
    request = GenerationRequest(
        ({"role": "user", "content": text},), max_new_tokens=1, top_logprobs=20, opening=OPENING
    )
    return replace(request, **settings)


@torch.inference_mode()
def brute(model: Any, tokenizer: Any, text: str) -> dict[str, float]:
    """Return P(number) from whole forward passes, one for every spelling by tokens."""
    start = encode_prompt(tokenizer, [{"role": "user", "content": text}], OPENING)
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]

    def shares(tokens: list[int]) -> list[float]:
        logits = model(input_ids=torch.tensor([start + tokens])).logits[0, -1].float()
        found: list[float] = logits.softmax(-1).tolist()
        return found

    def spelled(rest: str, tokens: list[int]) -> float:
        """Return the probability of `rest` and then no digit."""
        now = shares(tokens)
        if not rest:
            return 1.0 - sum(p for p, t in zip(now, texts, strict=False) if t[:1].isdigit())
        total = 0.0
        for token, piece in enumerate(texts):
            bare = piece.lstrip() if not tokens else piece
            if not bare or token in tokenizer.all_special_ids:
                continue
            if rest.startswith(bare):
                total += now[token] * spelled(rest[len(bare) :], [*tokens, token])
            elif bare.startswith(rest) and not bare[len(rest)].isdigit():
                total += now[token]
        return total

    return {number: spelled(number, []) for number in NUMBERS}


def shares_of(reply: Reply) -> dict[str, float]:
    return {number: math.exp(value) for number, value in reply.top_logprobs or ()}


def with_ten(folder: Path) -> None:
    """Give a tokenizer's folder the token "10"."""
    path = folder / "tokenizer.json"
    inner = json.loads(path.read_text("utf-8"))
    vocab, merges = inner["model"]["vocab"], inner["model"]["merges"]
    last = max(vocab, key=lambda token: vocab[token])
    number = vocab.pop(last)
    inner["model"]["merges"] = [m for m in merges if "".join(m).replace(" ", "") != last]
    vocab["10"] = number
    pair = ["1", "0"] if merges and isinstance(merges[0], list) else "1 0"
    inner["model"]["merges"].insert(0, pair)
    path.write_text(json.dumps(inner), "utf-8")


@pytest.mark.parametrize("one_token", [False, True], ids=["digits", "ten is a token"])
def test_a_local_model_is_read_as_by_enumeration(
    paths: Paths, tiny_teacher: Path, tmp_path: Path, one_token: bool
) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(tiny_teacher, folder)
    if one_token:
        with_ten(folder)
    engine = LocalEngine(str(folder), paths, batch_size=2)
    assert ("10" in numerals(engine.tokenizer).values()) is one_token
    replies = dict(engine.stream([opened(text) for text in TEXTS]))
    model = load_model(str(folder), paths)
    for index, text in enumerate(TEXTS):
        expected = brute(model, engine.tokenizer, text)
        assert shares_of(replies[index]) == pytest.approx(expected, rel=1e-3, abs=1e-7)
        assert replies[index].text == "" and not replies[index].error


@pytest.mark.parametrize(
    ("name", "value"), [("RoomyLayer", type("Other", (), {})), ("MASKED", frozenset())]
)
def test_other_caches_and_other_attention_read_the_same(
    paths: Paths, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    """A cache that cannot forget is filled anew; without masks beginnings are read one by one."""
    engine = LocalEngine(str(tiny_teacher), paths)
    first = dict(engine.stream([opened(text) for text in TEXTS]))
    monkeypatch.setattr(numbers, name, value)
    second = dict(engine.stream([opened(text) for text in TEXTS]))
    for index in first:
        assert shares_of(second[index]) == pytest.approx(shares_of(first[index]), rel=1e-3)


def test_other_requests_beside_it_are_answered_as_ever(paths: Paths, tiny_teacher: Path) -> None:
    engine = LocalEngine(str(tiny_teacher), paths, batch_size=8)
    plain = GenerationRequest(({"role": "user", "content": "size"},), max_new_tokens=3)
    alone = dict(engine.stream([plain]))[0]
    mixed = dict(engine.stream([opened("size"), plain, opened("size")]))
    assert mixed[1].text == alone.text
    assert shares_of(mixed[0]) == pytest.approx(shares_of(mixed[2]), rel=1e-4)


def test_broken_logits_are_an_error(paths: Paths, tiny_teacher: Path) -> None:
    engine = LocalEngine(str(tiny_teacher), paths)
    with torch.no_grad():
        engine.model.lm_head.weight.fill_(math.nan)
    reply = dict(engine.stream([opened("size")]))[0]
    assert "not a number" in reply.error and reply.top_logprobs is None


def test_a_template_that_opens_reasoning_is_no_place_for_a_rating(
    paths: Paths, tiny_teacher: Path
) -> None:
    engine = LocalEngine(str(tiny_teacher), paths)
    engine.tokenizer.chat_template += "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    reply = dict(engine.stream([opened("size")]))[0]
    assert "reasoning" in reply.error
    # Reasoning that is closed at once, as by templates with thinking turned off, is fine.
    engine.tokenizer.chat_template = engine.tokenizer.chat_template.replace(
        "<think>\n", "<think>\n\n</think>\n\n"
    )
    assert not dict(engine.stream([opened("size")]))[0].error


@pytest.mark.parametrize(
    ("template", "before"),
    [
        ("[INST]{{ m['content'] }}[/INST]", " "),
        ("U:{{ m['content'] }}\nA:", "<think>\n\n</think>\n\n"),
    ],
)
def test_what_a_template_writes_before_a_reply_is_kept(
    tokenizer: Any, template: str, before: str
) -> None:
    """Public reports: a reply continued without the template's blank is another prompt."""
    mine = copy.deepcopy(tokenizer)
    said = "{{ '" + before.replace("\n", "\\n") + "' + m['content'] }}"
    mine.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}"
        f"{template}{{% else %}}{said}{{% endif %}}{{% endfor %}}"
    )
    turns = [{"role": "user", "content": "x"}]
    text = mine.decode(encode_prompt(mine, turns, OPENING))
    assert text == mine.decode(encode_prompt(mine, turns)) + before + OPENING


def test_prefill_is_padded_without_changing_a_reading(paths: Paths, tiny_teacher: Path) -> None:
    engine = LocalEngine(str(tiny_teacher), paths)
    prompts = [encode_prompt(engine.tokenizer, opened(t).messages, OPENING) for t in TEXTS]
    texts = numerals(engine.tokenizer)
    with torch.inference_mode():
        batch = [r for r, _ in NumberReader(engine.model, prompts, 2).read(texts)]
        alone = [next(NumberReader(engine.model, [p], 2).read(texts))[0] for p in prompts]
    for together, single in zip(batch, alone, strict=True):
        assert together is not None and single is not None
        assert together.shares == pytest.approx(single.shares, rel=1e-3, abs=1e-8)


def test_prompts_that_begin_alike_are_read_together(
    paths: Paths, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(str(tiny_teacher), paths, batch_size=3)
    long = "Rate this answer about whisks and feeders and gift cards and sizes and returns. "
    texts = [long * 2 + end for end in ("a", "bb", "c c c", "dd")] + ["another", long]
    sizes: list[tuple[int, int]] = []
    made = NumberReader.__init__

    def noted(self: NumberReader, model: Any, prompts: Any, pad: int) -> None:
        made(self, model, prompts, pad)
        sizes.append((len(prompts), self.shared))

    monkeypatch.setattr(NumberReader, "__init__", noted)
    replies = dict(engine.stream([opened(text) for text in texts]))
    assert max(sizes)[0] == 3 and max(shared for _, shared in sizes) > 20
    assert sum(size for size, _ in sizes) == len(texts) == len(replies)
    for index, text in enumerate(texts):
        alone = dict(engine.stream([opened(text)]))[0]
        assert shares_of(replies[index]) == pytest.approx(shares_of(alone), rel=1e-3, abs=1e-7)


# ---------------------------------------------------------------- endpoints


def continuing(body: dict[str, Any]) -> dict[str, Any]:
    """Answer as a server that continues the last message: 1 or 7, and 10 half of the time."""
    last = body["messages"][-1]
    if last["role"] != "assistant":
        return completion("m", top=[("m", -0.1), ("M", -2.5)])
    begun = last["content"].removeprefix(OPENING)
    table = {
        "": {"1": 0.5, "7": 0.3, "The": 0.1},
        "1": {"0": 0.5, "]]": 0.4, "5": 0.1},
        "10": {"]]": 1.0},
        "7": {"]]": 0.9, "5": 0.1},
    }[begun]
    return completion(next(iter(table)), top=[(t, math.log(p)) for t, p in table.items()])


def restarting(body: dict[str, Any]) -> dict[str, Any]:
    """Answer as a server that begins a new reply after an assistant message."""
    return completion("Rating", top=[("Rating", -0.01), ("I", -5.0)])


def endpoint(server: Loopback) -> OpenAIEngine:
    spec = parse_spec(server.spec)
    return OpenAIEngine(spec.model, spec.url, first_wait=0.01)


def test_an_endpoint_is_asked_for_each_likely_beginning() -> None:
    with Loopback(continuing) as server:
        reply = dict(endpoint(server).stream([opened("x")]))[0]
        bodies = server.bodies
    assert shares_of(reply) == pytest.approx({"1": 0.5 * 0.4, "10": 0.25, "7": 0.27}, abs=1e-6)
    assert read_expected(reply).value == pytest.approx((0.2 + 2.5 + 1.89) / 0.72)
    assert len(bodies) == 4 and reply.prompt_tokens == 40
    assert bodies[0]["messages"][-1] == {"role": "assistant", "content": OPENING}
    assert bodies[0]["continue_final_message"] is True
    assert bodies[0]["add_generation_prompt"] is False and bodies[0]["top_logprobs"] == 20


def test_whether_a_judge_continues_is_found_by_asking(
    monkeypatch: pytest.MonkeyPatch, paths: Paths, tiny_teacher: Path
) -> None:
    for answer, gives in ((continuing, True), (restarting, False)):
        with Loopback(answer) as server:
            engine = endpoint(server)
            probe = engine.probe(logprobs=True)
            assert gives_expected(engine, probe, parse_spec(server.spec)) is gives
    local = LocalEngine(str(tiny_teacher), paths)
    assert gives_expected(local, local.probe(), parse_spec(f"local:{tiny_teacher}"))
    # OpenAI's own API begins a new turn, whatever the first token looks like: it is never asked.
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    public = OpenAIEngine("gpt-x")
    probe = replace(probe, logprobs=True)
    assert not gives_expected(public, probe, parse_spec("openai:gpt-x"))
    azure = "openai:gpt-x@https://me.openai.azure.com/openai/v1"
    assert not gives_expected(public, probe, parse_spec(azure))
    assert public.calls == 0
    assert EvalConfig().rating == "parsed"
