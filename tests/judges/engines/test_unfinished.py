"""Unfinished replies, truncated prompts, and their cost."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.types import Finish, GenerationRequest, Reply
from kdharness.judges.engines import rate_limits
from kdharness.judges.engines.openai_wire import read_body
from kdharness.judges.engines.rate_limits import Price
from kdharness.judges.engines.token_estimates import estimated_tokens, least_tokens
from kdharness.judges.engines.trouble import CallError, Trouble
from support.loopback import Loopback, Raw, completion
from support.openai_calls import engine, requests
from support.timing import without_hanging

REQUEST = GenerationRequest(({"role": "user", "content": "x"},), 0.0, 64)


def read_reply(value: Any, request: GenerationRequest = REQUEST) -> Reply:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read_body(raw, request, 0.1)


def read_error(value: Any, request: GenerationRequest = REQUEST) -> CallError:
    with pytest.raises(CallError) as caught:
        read_reply(value, request)
    return caught.value


def completion_with_message(
    message: dict[str, Any], finish: Any = "stop", **fields: Any
) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}], **fields}


# ---------------------------------------------------------------- finish reasons


@pytest.mark.parametrize(
    "reason",
    [
        "stop",
        "STOP",
        "eos",
        "eos_token",
        "end_turn",
        "stop_sequence",
        "",
        None,
        "COMPLETE",
    ],
)
def test_stop_finish_reasons(reason: Any) -> None:
    assert read_reply(completion("[[7]]", finish=reason)).finish is Finish.STOP


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_length_finish_reasons(reason: str) -> None:
    assert read_reply(completion("[[7]]", finish=reason)).finish is Finish.LENGTH


@pytest.mark.parametrize(
    ("reason", "trouble", "word"),
    [
        ("error", Trouble.RETRY, "aborted"),
        ("network_error", Trouble.RETRY, "aborted"),
        ("insufficient_system_resource", Trouble.RETRY, "aborted"),
        ("abort", Trouble.RETRY, "aborted"),
        ("content_filter", Trouble.GIVE_UP, "filter"),
        ("SAFETY", Trouble.GIVE_UP, "filter"),
        ("prohibited_content", Trouble.GIVE_UP, "filter"),
        ("sensitive", Trouble.GIVE_UP, "filter"),
        ("refusal", Trouble.GIVE_UP, "filter"),
        ("whatever", Trouble.REFUSED, "whatever"),
    ],
)
def test_other_finish_reasons_are_failures(reason: str, trouble: Trouble, word: str) -> None:
    error = read_error(completion("Partly. [[2]]", finish=reason))
    assert error.trouble is trouble and word in error.message


@pytest.mark.parametrize(
    "value",
    [
        {**completion("Partly. [[2]]"), "error": {"message": "upstream died"}},
        {
            "choices": [
                {
                    "message": {"content": "Partly. [[2]]"},
                    "finish_reason": "stop",
                    "error": {"code": 502, "message": "upstream died"},
                }
            ]
        },
        {"error": {"message": "upstream died", "code": 502}},
        {"error": "upstream died"},
    ],
)
def test_error_next_to_text_is_an_error(value: Any) -> None:
    error = read_error(value)
    assert error.trouble is Trouble.RETRY and "upstream died" in error.message


def test_error_code_in_an_http_200_body_is_used_as_status() -> None:
    assert read_error({"error": {"message": "x", "code": 401}}).trouble is Trouble.FATAL
    limited = {"error": {"message": "try again in 3s", "code": 429}}
    assert read_error(limited).wait == 3


# ---------------------------------------------------------------- location of the reply text


@pytest.mark.parametrize(
    "message",
    [
        {"content": [{"type": "text", "text": "[[7]]"}]},
        {"content": [{"text": "[["}, {"type": "output_text", "text": "7]]"}]},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "[[2]]"}]},
                {"type": "text", "text": "[[7]]"},
            ]
        },
        {"content": [{"type": "reasoning", "text": "[[2]]"}, {"type": "text", "text": "[[7]]"}]},
        {"content": "[[7]]", "reasoning_content": "[[2]]"},
    ],
)
def test_reasoning_parts_are_not_reply_text(message: dict[str, Any]) -> None:
    assert read_reply(completion_with_message(message)).text == "[[7]]"


def test_legacy_completion_text_is_read() -> None:
    assert read_reply({"choices": [{"text": "[[7]]", "finish_reason": "stop"}]}).text == "[[7]]"


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "reasoning_content": "Let me see. [[2]]"},
        {"content": "", "reasoning": "Let me see."},
        {"content": [{"type": "thinking", "thinking": "Let me see."}]},
        {"content": None, "reasoning_details": [{"type": "reasoning.text", "text": "Let me see."}]},
        {"content": "", "thinking_blocks": [{"type": "thinking", "thinking": "Let me see."}]},
    ],
)
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_reasoning_without_an_answer_is_not_retried(message: dict[str, Any], reason: str) -> None:
    error = read_error(completion_with_message(message, reason))
    assert error.trouble is Trouble.GIVE_UP
    assert "only reasoning, no answer" in error.message and reason in error.message
    with Loopback(answer=lambda body: completion_with_message(message, "stop")) as server:
        replies = dict(engine(server, first_wait=5).stream(requests(3)))
        assert server.calls == 3
    assert all("only reasoning, no answer" in reply.error for reply in replies.values())


def test_hidden_reasoning_tokens_count_as_reasoning() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 64,
        "completion_tokens_details": {"reasoning_tokens": 64},
    }
    assert (
        "only reasoning"
        in read_error(completion_with_message({"content": ""}, "stop", usage=usage)).message
    )
    hidden = {"prompt_tokens": 6, "completion_tokens": 0, "total_tokens": 22}
    assert (
        "only reasoning"
        in read_error(completion_with_message({"content": ""}, "stop", usage=hidden)).message
    )


EVENTS = (
    'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
    'data: {"choices": [{"delta": {"content": "Good. [["}}]}\n\n'
    ": ping\n\n"
    'data: {"choices": [{"delta": {"content": "7]]"}, "finish_reason": "stop"}]}\n\n'
    'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}\n\n'
    "data: [DONE]\n\n"
)


def test_unrequested_event_stream_is_assembled() -> None:
    reply = read_reply(EVENTS.encode())
    assert (reply.text, reply.prompt_tokens, reply.tokens) == ("Good. [[7]]", 9, 4)
    for length in (EVENTS.index('"finish_reason"') - 40, EVENTS.index("7]]")):
        assert read_error(EVENTS[:length].encode()).trouble is Trouble.RETRY


# ---------------------------------------------------------------- token allowance for reasoning


def inline_reasoner(body: dict[str, Any]) -> Any:
    """Answer as a model that needs 3,000 reasoning tokens before its answer."""
    if body["max_tokens"] < 3000:
        return completion("<think>Is it [[2]]?", finish="length")
    return completion("<think>Is it [[2]]?</think>[[8]]")


def separate_reasoner(body: dict[str, Any]) -> Any:
    """Answer likewise, with the reasoning in a separate field."""
    if body["max_tokens"] < 3000:
        return completion_with_message({"content": None, "reasoning_content": "hm"}, "length")
    return completion("[[8]]")


@pytest.mark.parametrize("answer", [inline_reasoner, separate_reasoner])
def test_reasoning_model_gets_the_thinking_allowance(answer: Any) -> None:
    with_allowance = [
        GenerationRequest(r.messages, 0.0, 64, thinking_room=4096) for r in requests(4)
    ]
    with Loopback(answer=answer) as server:
        replies = dict(engine(server, concurrency=1).stream(with_allowance))
        assert [body["max_tokens"] for body in server.bodies] == [64, *[4160] * 4]
    assert all(reply.text.endswith("[[8]]") for reply in replies.values())
    assert all(reply.info["max_tokens"] == 4160 for reply in replies.values())
    with Loopback(answer=answer) as server:
        plain = dict(engine(server).stream(requests(1)))[0]
    assert plain.error or plain.finish is Finish.LENGTH


# ---------------------------------------------------------------- truncated prompts

PROSE = "The answer explains how a kettle is descaled, and it names every step of the way. "


def request_with(text: str) -> GenerationRequest:
    return GenerationRequest(({"role": "user", "content": text},), 0.0, 64)


@pytest.mark.parametrize(
    ("text", "prompt_tokens"),
    [
        (PROSE * 366, 2050),  # 30,000 characters; half of a 4,096-token context is kept
        ("x" * 30_000, 2050),
        (PROSE * 800, 4096),
        ("今天天气非常好，" * 3000, 2050),
        ("今天天气非常好我们去公园玩吧" * 700, 2050),
        ("def area(width, height):\n    return width*height\n" * 3200, 16_386),
        (PROSE * 180, 2050),
    ],
)
def test_truncated_prompt_is_a_failure(text: str, prompt_tokens: int) -> None:
    error = read_error(completion("[[7]]", prompt_tokens=prompt_tokens), request_with(text))
    assert f"read only {prompt_tokens:,} of about" in error.message and "num_ctx" in error.message


@pytest.mark.parametrize(
    ("text", "prompt_tokens"),
    [
        (PROSE * 366, 6000),
        (PROSE * 366, 0),  # no usage reported
        (PROSE * 366, 12),  # an implausibly low count
        (PROSE * 10, 40),
        (" \n" * 20_000 + PROSE * 100, 1800),
        ("-" * 30_000 + PROSE * 100, 2050),
        ("हिन्दी में लिखा हुआ एक वाक्य " * 300, 2100),
    ],
)
def test_plausible_prompt_token_count_is_accepted(text: str, prompt_tokens: int) -> None:
    assert (
        read_reply(completion("[[7]]", prompt_tokens=prompt_tokens), request_with(text)).text
        == "[[7]]"
    )


def test_cached_prompt_tokens_are_counted() -> None:
    usage = {"prompt_tokens": 300, "completion_tokens": 3, "cache_read_input_tokens": 6000}
    assert (
        read_reply({**completion("[[7]]"), "usage": usage}, request_with(PROSE * 366)).text
        == "[[7]]"
    )


@given(st.text(max_size=3000))
def test_least_tokens_does_not_exceed_the_character_count(text: str) -> None:
    assert 0 <= least_tokens([{"content": text}]) <= len(text)


@given(st.lists(st.sampled_from([*sorted(set(PROSE.split())), "f(y)", "-", "\n\n", "…"])))
def test_least_tokens_is_below_the_word_count(words: list[str]) -> None:
    """Allow for tokenizers that merge words: up to a quarter fewer tokens than words."""
    text = " ".join(words)
    assert least_tokens([{"content": text}]) <= 0.75 * len(text.split())


# ---------------------------------------------------------------- progress and retries


@pytest.mark.slow
def test_other_replies_arrive_while_a_call_is_retried() -> None:
    failed = idled = 0

    def fail_question_0(body: dict[str, Any]) -> Any:
        nonlocal failed
        if "question 0" in str(body):
            failed += 1
            return Raw(500, "oops")
        return completion("[[5]]")

    def idle() -> None:
        nonlocal idled
        idled += 1

    with Loopback(answer=fail_question_0) as server:
        judge = engine(server, first_wait=0.4, retries=3)
        judge.idle = idle
        arrived = [(n, failed) for n, _ in judge.stream(requests(4))]
    assert sorted(n for n, _ in arrived[:3]) == [1, 2, 3]
    assert arrived[3] == (0, 1 + 3)
    assert all(failures < 1 + 3 for _, failures in arrived[:3]), "it waited for the retries"
    assert idled


@pytest.mark.slow
def test_stop_soon_does_not_wait_for_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "LONGEST_WAIT", 600)
    with Loopback(answer=lambda body: Raw(500, "oops")) as server:
        judge = engine(server, first_wait=600)
        threading.Timer(0.5, judge.stop_soon).start()
        with without_hanging():
            replies = dict(judge.stream(requests(2)))
        assert server.calls == 2
    assert all(reply.error.startswith("HTTP 500") for reply in replies.values())


def test_retries_of_a_single_call_are_limited_while_others_succeed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kdharness.judges.engines import openai

    monkeypatch.setattr(openai, "PATIENCE", 0.05)

    def fail_question_0(body: dict[str, Any]) -> Any:
        return Raw(500, "oops") if "question 0" in str(body) else completion("[[5]]")

    with Loopback(answer=fail_question_0) as server:
        replies = dict(engine(server, first_wait=0.04, retries=10).stream(requests(4)))
        assert server.calls < 3 + 10
    assert replies[0].error.startswith("HTTP 500")


# ---------------------------------------------------------------- cost

PRICE = Price(input=1000.0, output=10_000.0)


def test_cost_without_usage_is_estimated_and_recorded_as_such() -> None:
    def without_usage(body: dict[str, Any]) -> Any:
        return {key: value for key, value in completion("Good. [[7]]").items() if key != "usage"}

    with Loopback(answer=without_usage) as server:
        judge = engine(server, price=PRICE, budget=100.0)
        reply = dict(judge.stream(requests(1)))[0]
    prompt = estimated_tokens("question 0") + 8
    assert (reply.prompt_tokens, reply.tokens) == (prompt, 2)
    assert reply.usd == pytest.approx(PRICE.of(prompt, 2)) and reply.info["estimated"] is True
    assert judge.budget.spent == pytest.approx(reply.usd)


def test_billed_failed_calls_count_toward_cost() -> None:
    empty = [completion("") for _ in range(2)]
    with Loopback(answer=lambda body: empty.pop() if empty else completion("[[7]]")) as server:
        judge = engine(server, price=PRICE, budget=100.0)
        reply = dict(judge.stream(requests(1)))[0]
    assert reply.text == "[[7]]" and reply.info["billed_calls"] == 3
    assert reply.usd == pytest.approx(3 * PRICE.of(10, 5)) == pytest.approx(judge.budget.spent)
    reasoning_only = completion_with_message(
        {"content": None, "reasoning": "hm"},
        "length",
        usage={"prompt_tokens": 10, "completion_tokens": 64},
    )
    with Loopback(answer=lambda body: reasoning_only) as server:
        reply = dict(engine(server, price=PRICE).stream(requests(1)))[0]
    assert reply.error and reply.tokens == 64 and reply.usd == pytest.approx(PRICE.of(10, 64))


def test_budget_limits_billed_retries() -> None:
    with Loopback(answer=lambda body: completion("", tokens=64)) as server:
        judge = engine(server, price=PRICE, budget=1.5, retries=50)
        replies = dict(judge.stream(requests(4)))
        assert server.calls <= 4
    assert judge.budget.spent <= 1.5 and all(reply.error for reply in replies.values())
    assert sum(reply.usd for reply in replies.values()) == pytest.approx(judge.budget.spent)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Could not finish the message because max_tokens or model output limit was reached."),
        (500, "litellm: some-model unable to complete request: max_output_tokens"),
    ],
)
def test_token_limit_used_up_by_reasoning_is_not_a_server_error(status: int, message: str) -> None:
    def reject_small_limit(body: dict[str, Any]) -> Any:
        if body["max_tokens"] < 3000:
            return Raw(status, {"error": {"message": message}})
        return completion("[[8]]")

    with_allowance = [
        GenerationRequest(r.messages, 0.0, 64, thinking_room=4096) for r in requests(1)
    ]
    with Loopback(answer=reject_small_limit) as server:
        assert dict(engine(server, first_wait=5).stream(with_allowance))[0].text == "[[8]]"
        assert engine(server).probe(logprobs=False).reachable
