"""Answers sampled by a server: what is sent, what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.on_policy import OnPolicySpec
from kdharness.harness.errors import ModelError, RunError
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import TokenPrompt
from kdharness.trainers.students.served import ServedRollouts
from support.loopback import Loopback, Raw
from support.on_policy import on_policy_values, rollouts_of
from support.training_runs import train

PROMPTS = [TokenPrompt((5, 6, 7), 4, seed) for seed in (3, (1 << 63) + 4)]
END = 1


def server_of(reply: dict[str, Any] | None = None, **options: Any) -> Loopback:
    """Return a server that answers every prompt in one way."""
    choice = {"index": 0, "text": " sold", "finish_reason": "stop", **(reply or {})}
    body = {"id": "x", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    return Loopback(answer=lambda _: Raw(200, body), **options)


def rollouts(server: Loopback, tokenizer: Any, **spec: Any) -> ServedRollouts:
    made = ServedRollouts(OnPolicySpec(engine=server.url, temperature=0.7, **spec), tokenizer)
    made.client = made.client.with_options(max_retries=0)
    made.check()
    return made


def test_token_ids_are_sent_and_the_distribution_is_not_cut(tokenizer: Any) -> None:
    with server_of({"token_ids": [9, 10, END]}) as server:
        replies = rollouts(server, tokenizer).continuations(PROMPTS)
        bodies = server.bodies[1:]
    assert [(reply.ids, reply.ended) for reply in replies] == [([9, 10, END], True)] * 2
    for body in bodies:
        assert body["prompt"] == [5, 6, 7] and body["max_tokens"] == 4
        assert body["temperature"] == 0.7 and body["model"] == "judge-1"
        assert (body["top_p"], body["top_k"], body["min_p"]) == (1.0, -1, 0.0)
        assert body["repetition_penalty"] == 1.0 and body["return_token_ids"] is True
    assert len({body["seed"] for body in bodies}) == 2
    assert all(0 <= body["seed"] < 1 << 31 for body in bodies)


@pytest.mark.parametrize(
    ("reply", "tail", "ended"),
    [
        ({"finish_reason": "stop"}, [END], True),
        ({"finish_reason": "length"}, [], False),
        ({"finish_reason": "stop", "text": ""}, [END], True),
    ],
)
def test_text_is_tokenised_again_where_a_server_returns_no_ids(
    reply: dict[str, Any], tail: list[int], ended: bool, tokenizer: Any
) -> None:
    """An answer that was cut must not get an end of turn: other trainers appended one."""
    with server_of(reply) as server:
        engine = rollouts(server, tokenizer)
        assert "no token ids" in engine.check()
        (found,) = engine.continuations([TokenPrompt((5,), 30, 0)])
    text = reply.get("text", " sold")
    assert list(found.ids) == [*tokenizer(text)["input_ids"], *tail] and found.ended is ended


def test_the_model_of_a_server_with_several_must_be_named(tokenizer: Any) -> None:
    with server_of(models=("a", "b")) as server:
        with pytest.raises(ModelError, match="lists 2 models: a, b") as caught:
            rollouts(server, tokenizer)
        assert "openai:MODEL@" in str(caught.value.hint)
        named = OnPolicySpec(engine=f"openai:b@{server.url}")
        engine = ServedRollouts(named, tokenizer)
        engine.check()
        assert server.bodies[-1]["model"] == "b"


def test_unusable_servers_are_named(tokenizer: Any) -> None:
    with server_of(status=400, refusal="prompt must be a string") as server:
        with pytest.raises(ModelError, match="prompt must be a string") as caught:
            rollouts(server, tokenizer)
        assert caught.value.where == "trainer.on_policy.engine"
        assert "token ids" in str(caught.value.hint)
        url = server.url
    engine = ServedRollouts(OnPolicySpec(engine=f"openai:m@{url}"), tokenizer)
    engine.client = engine.client.with_options(max_retries=0)
    with pytest.raises(ModelError, match=f"no answers from {url}"):
        engine.check()


@pytest.mark.slow
def test_a_training_learns_from_a_servers_answers(
    tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    with server_of({"token_ids": [9, 10, END]}) as server:
        values = on_policy_values(tmp_path, tiny_teacher, tiny_teacher, max_steps=2)
        values["trainer"]["on_policy"]["engine"] = server.url
        train(parse_config(values), paths, "r")
    sampled = rollouts_of(paths, "r")
    assert sampled and all(r.tokens == 3 and r.ended for r in sampled)


@pytest.mark.slow
def test_ids_of_another_vocabulary_are_refused(
    tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    with server_of({"token_ids": [9, 100_000]}) as server:
        values = on_policy_values(tmp_path, tiny_teacher, tiny_teacher, max_steps=2)
        values["trainer"]["on_policy"]["engine"] = server.url
        with pytest.raises(RunError, match="ids that the models do not share"):
            train(parse_config(values), paths, "r")
