"""Unusual judge replies: what is scored, what fails, and what is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import JudgeError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Finish, GenerationRequest, Judgment, JudgmentStatus
from kdharness.judges.audit.report_card import check
from kdharness.judges.engines.local import LocalEngine
from kdharness.judges.engines.sampling import Sampler
from support.benchmark_files import write_assets
from support.evaluations import imported, judged, scores
from support.files import WriteRows
from support.loopback import Loopback, Raw, completion
from support.openai_calls import refusal
from support.reporters import Listener

pytestmark = pytest.mark.usefixtures("assets_home")


def judgments_of(
    answer: Callable[[dict[str, Any]], Any],
    paths: Paths,
    store: Store,
    listener: Listener | None = None,
    **changes: Any,
) -> list[Judgment]:
    """Judge MT-Bench answers with a server that replies by `answer`; return the judgments."""
    imported(store, "a")
    with Loopback(answer=answer) as server:
        config = judged(server, **{"benches": ["mt-bench"], "limit": 2, **changes})
        pipeline.run(config, paths, store, listener or Listener())
    return store.judgments("id-a")


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "Okay, on this scale [[2]] would be too",
        "Rating: [[2]]",
        "<think>[[2]]",
        "<|channel|>analysis<|message|>[[2]]",
        "[THINK][[2]]",
        "<reasoning>[[2]]",
    ],
)
def test_truncated_reply_is_unreadable(text: str, paths: Paths, store: Store) -> None:
    listener = Listener()
    judgments = judgments_of(lambda body: completion(text, finish="length"), paths, store, listener)
    assert len(judgments) == 4
    assert {(j.status, j.value, j.raw) for j in judgments} == {
        (JudgmentStatus.UNREADABLE, None, text)
    }
    assert all(j.info["cut_off"] and j.error for j in judgments)
    assert any(kind == "warning" and "4 failed" in message for kind, message in listener.said)


@pytest.mark.slow
def test_max_tokens_is_raised_for_a_judge_that_reasons_in_its_text(
    paths: Paths, store: Store
) -> None:
    def reasoning_judge(body: dict[str, Any]) -> Any:
        if body["max_tokens"] <= 2048:
            return completion("<think>Is it [[2]]?", finish="length")
        return completion("<think>Is it [[2]]?</think>\n[[8]]")

    listener = Listener()
    judgments = judgments_of(reasoning_judge, paths, store, listener)
    assert {j.value for j in judgments} == {8.0} and {j.info["max_tokens"] for j in judgments} == {
        6144
    }
    assert sum("max_tokens raised to 6144" in message for _, message in listener.said) == 1


def test_reply_with_several_verdicts_is_unreadable(paths: Paths, store: Store) -> None:
    listener = Listener()
    judgments = judgments_of(
        lambda body: completion("First turn: [[9]]. Second turn: [[4]]."),
        paths,
        store,
        listener,
    )
    assert {j.status for j in judgments} == {JudgmentStatus.UNREADABLE}
    assert any(
        "4 failed: the reply contains verdicts on several" in message
        for _, message in listener.said
    )


def test_rejected_parameter_is_reported_once_and_flagged(paths: Paths, store: Store) -> None:
    def reject_temperature(body: dict[str, Any]) -> Any:
        if "temperature" in body:
            return Raw(400, refusal("Unsupported value: 'temperature' does not support 0."))
        return completion("[[7]]")

    listener = Listener()
    other = Paths(paths.home.parent / "other")
    write_assets(other.home / "assets")
    imported(store, "a")
    with Loopback(answer=reject_temperature) as server, Store(other.store) as second:
        config = judged(server, benches=["mt-bench"], limit=2)
        pipeline.run(config, paths, store, listener)
        server.answer = lambda body: completion("[[7]]")
        imported(second, "a")
        pipeline.run(config, other, second, Listener())
        undisturbed = second.judgments("id-a")
    judgments = store.judgments("id-a")
    assert len(judgments) == 4 and all(j.info["without"] == ["temperature"] for j in judgments)
    assert sum("does not support temperature" in message for _, message in listener.said) == 1
    assert "sampled-verdicts" in scores(store, paths)["a", "mt-bench", "score"].flags
    # Parameters rejected by an endpoint are not part of a judgment's identity.
    assert {j.id for j in undisturbed} == {j.id for j in judgments}
    assert all("without" not in j.info for j in undisturbed)


def test_judge_without_logprobs_needs_discrete_fallback(paths: Paths, store: Store) -> None:
    def without_logprobs(body: dict[str, Any]) -> Any:
        if body.get("logprobs"):
            return Raw(403, refusal("You are not allowed to request logprobs from this model."))
        return completion("m")

    imported(store, "a")
    listener = Listener()
    with Loopback(answer=without_logprobs) as server:
        weighted = judged(server, benches=["alpaca-eval"])
        with pytest.raises(JudgeError, match="log-probabilities") as caught:
            pipeline.run(weighted, paths, store, listener)
        assert "--discrete" in caught.value.hint and "key" not in str(caught.value)
        config = judged(server, benches=["alpaca-eval"], discrete_fallback=True)
        pipeline.run(config, paths, store, listener)
    assert any("returns no log-probabilities" in message for _, message in listener.said)
    score = scores(store, paths)["a", "alpaca-eval-2", "win_rate"]
    assert score.n == 12 and score.n_failed == 0 and "discrete" in score.flags


def test_first_token_that_is_not_a_verdict_is_unreadable(paths: Paths, store: Store) -> None:
    top = [("<think>", -0.01), ("m", -9.0), ("M", -9.7)]
    imported(store, "a")
    listener = Listener()
    with Loopback(answer=lambda body: completion("<think>", finish="length", top=top)) as server:
        pipeline.run(judged(server, benches=["alpaca-eval"]), paths, store, listener)
    preferences = [j for j in store.judgments("id-a") if j.metric == "preference"]
    assert {j.status for j in preferences} == {JudgmentStatus.UNREADABLE} and len(preferences) == 12
    assert all("the first token is '<think>'" in j.error for j in preferences)
    assert any("reasoning model" in message for _, message in listener.said)


def test_one_token_verdict_may_finish_by_length(paths: Paths, store: Store) -> None:
    top = [("m", -0.1), ("M", -2.5)]
    imported(store, "a")
    with Loopback(answer=lambda body: completion("m", finish="length", top=top)) as server:
        pipeline.run(judged(server, benches=["alpaca-eval"]), paths, store, Listener())
    score = scores(store, paths)["a", "alpaca-eval-2", "win_rate"]
    assert (score.n, score.n_failed) == (12, 0)


def test_prompt_truncated_by_the_server_is_a_failed_judgment(
    paths: Paths, store: Store, tiny_teacher: Path, write_jsonl: WriteRows
) -> None:
    text = "Summarise this long text about kettles and how they are cleaned at paths. " * 420
    bench = write_jsonl("long.jsonl", [{"prompt": f"[{n}] {text}"} for n in range(2)])
    with (
        Loopback(answer=lambda body: completion("Fine.", prompt_tokens=8000)) as answering,
        Loopback(answer=lambda body: completion("[[7]]", prompt_tokens=2050)) as server,
    ):
        config = EvalConfig(
            checkpoints=[str(tiny_teacher)],
            benches=[str(bench)],
            answer_engine=answering.spec,
            judge=[server.spec],
        )
        done = pipeline.run(config, paths, store, Listener())
    assert done["failed_judgments"] == 2
    rows = [j for j in store.judgments(store.checkpoints()[0].id) if j.metric == "rating"]
    assert all("read only 2,050 of about" in j.error and j.value is None for j in rows)


def test_judge_check_does_not_read_truncated_replies() -> None:
    from kdharness.judges.engines.openai import OpenAIEngine

    with Loopback(answer=lambda body: completion("[[5]]", finish="length")) as server:
        card = check(OpenAIEngine("judge-1", server.url), items=2)
    assert card["checks"]["readable"]["share"] == 0.0 and "unreadable" in card["labels"]


def test_stop_string_inside_reasoning_does_not_stop_a_local_judge(
    paths: Paths, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop strings apply to the verdict only; the reasoning may contain any number of them."""
    engine = LocalEngine(str(tiny_teacher), paths)
    token_ids = engine.tokenizer(
        "<think>[[2]] or</think> Rating: [[9]] and more of it", add_special_tokens=False
    )["input_ids"]
    remaining = list(token_ids)
    monkeypatch.setattr(Sampler, "choose", lambda *_: torch.tensor([remaining.pop(0)]))
    request = GenerationRequest(({"role": "user", "content": "x"},), 0.0, 200, stops=("]]",))
    reply = dict(engine.stream([request]))[0]
    assert reply.finish is Finish.STOP and reply.text.endswith("Rating: [[9]]")


def test_failed_judgments_keep_the_error_text(paths: Paths, store: Store) -> None:
    rejection = Raw(403, refusal("requires moderation: your input was flagged"))

    def reject_one_item(body: dict[str, Any]) -> Any:
        return rejection if "82" in json.dumps(body["messages"]) else completion("[[7]]")

    judgments = judgments_of(reject_one_item, paths, store, limit=None)
    failed = [j for j in judgments if j.status is JudgmentStatus.FAILED]
    assert len(failed) == 2 and all("flagged" in j.error for j in failed)
    assert scores(store, paths)["a", "mt-bench", "score"].n == 14


def test_explicit_max_tokens_is_kept_for_reasoning_judges(paths: Paths, store: Store) -> None:
    limits: set[int] = set()

    def reasoning_judge(body: dict[str, Any]) -> Any:
        limits.add(body["max_tokens"])
        return completion("<think>Is it [[2]]?", finish="length")

    judgments = judgments_of(reasoning_judge, paths, store, judge_max_tokens=100)
    assert limits == {100} and {j.status for j in judgments} == {JudgmentStatus.UNREADABLE}
