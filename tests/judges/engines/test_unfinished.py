"""Replies that are no finished answers, prompts that were cut, and what they cost."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.types import Finish, GenerationRequest, Reply
from kdharness.judges.engines.openai_wire import read_body
from kdharness.judges.engines.rate_limits import Price
from kdharness.judges.engines.token_estimates import estimated_tokens, least_tokens
from kdharness.judges.engines.trouble import CallError, Trouble
from support.loopback import Loopback, Raw, completion
from support.openai_calls import engine, requests

ASKED = GenerationRequest(({"role": "user", "content": "x"},), 0.0, 64)


def read_reply(value: Any, request: GenerationRequest = ASKED) -> Reply:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read_body(raw, request, 0.1)


def failed(value: Any, request: GenerationRequest = ASKED) -> CallError:
    with pytest.raises(CallError) as caught:
        read_reply(value, request)
    return caught.value


def with_message(message: dict[str, Any], finish: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}], **more}


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
def test_ends_of_its_own(reason: Any) -> None:
    assert read_reply(completion("[[7]]", finish=reason)).finish is Finish.STOP


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_ends_at_the_limit(reason: str) -> None:
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
def test_other_ends_are_failures(reason: str, trouble: Trouble, word: str) -> None:
    error = failed(completion("Partly. [[2]]", finish=reason))
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
def test_an_error_beside_a_text_is_an_error(value: Any) -> None:
    error = failed(value)
    assert error.trouble is Trouble.RETRY and "upstream died" in error.message


def test_an_error_with_http_200_is_read_as_its_own_status() -> None:
    assert failed({"error": {"message": "x", "code": 401}}).trouble is Trouble.FATAL
    limited = {"error": {"message": "try again in 3s", "code": 429}}
    assert failed(limited).wait == 3


# ---------------------------------------------------------------- where the text stands


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
def test_parts_that_are_thoughts_are_no_text(message: dict[str, Any]) -> None:
    assert read_reply(with_message(message)).text == "[[7]]"


def test_a_plain_completions_text_is_read() -> None:
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
def test_reasoning_alone_is_given_up_at_once(message: dict[str, Any], reason: str) -> None:
    error = failed(with_message(message, reason))
    assert error.trouble is Trouble.GIVE_UP
    assert "only reasoning, no answer" in error.message and reason in error.message
    with Loopback(answer=lambda body: with_message(message, "stop")) as server:
        replies = dict(engine(server, first_wait=5).stream(requests(3)))
        assert server.calls == 3
    assert all("only reasoning, no answer" in reply.error for reply in replies.values())


def test_thoughts_that_are_only_counted_are_thoughts() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 64,
        "completion_tokens_details": {"reasoning_tokens": 64},
    }
    assert "only reasoning" in failed(with_message({"content": ""}, "stop", usage=usage)).message
    hidden = {"prompt_tokens": 6, "completion_tokens": 0, "total_tokens": 22}
    assert "only reasoning" in failed(with_message({"content": ""}, "stop", usage=hidden)).message


EVENTS = (
    'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
    'data: {"choices": [{"delta": {"content": "Good. [["}}]}\n\n'
    ": ping\n\n"
    'data: {"choices": [{"delta": {"content": "7]]"}, "finish_reason": "stop"}]}\n\n'
    'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}\n\n'
    "data: [DONE]\n\n"
)


def test_a_stream_that_was_not_asked_for_is_put_together() -> None:
    reply = read_reply(EVENTS.encode())
    assert (reply.text, reply.prompt_tokens, reply.tokens) == ("Good. [[7]]", 9, 4)
    for cut in (EVENTS.index('"finish_reason"') - 40, EVENTS.index("7]]")):
        assert failed(EVENTS[:cut].encode()).trouble is Trouble.RETRY


# ---------------------------------------------------------------- room to think


def thinker(body: dict[str, Any]) -> Any:
    """Needs 3,000 tokens of thought before it says a word."""
    if body["max_tokens"] < 3000:
        return completion("<think>Is it [[2]]?", finish="length")
    return completion("<think>Is it [[2]]?</think>[[8]]")


def reasoner(body: dict[str, Any]) -> Any:
    """The same, its thoughts in a field of their own."""
    if body["max_tokens"] < 3000:
        return with_message({"content": None, "reasoning_content": "hm"}, "length")
    return completion("[[8]]")


@pytest.mark.parametrize("answer", [thinker, reasoner])
def test_a_model_that_thinks_first_is_given_room_where_there_is_some(answer: Any) -> None:
    asked = [GenerationRequest(r.messages, 0.0, 64, thinking_room=4096) for r in requests(4)]
    with Loopback(answer=answer) as server:
        replies = dict(engine(server, concurrency=1).stream(asked))
        assert [body["max_tokens"] for body in server.bodies] == [64, *[4160] * 4]
    assert all(reply.text.endswith("[[8]]") for reply in replies.values())
    assert all(reply.info["max_tokens"] == 4160 for reply in replies.values())
    with Loopback(answer=answer) as server:
        plain = dict(engine(server).stream(requests(1)))[0]
    assert plain.error or plain.finish is Finish.LENGTH


# ---------------------------------------------------------------- prompts that were cut

PROSE = "The answer explains how a kettle is descaled, and it names every step of the way. "


def asked_with(text: str) -> GenerationRequest:
    return GenerationRequest(({"role": "user", "content": text},), 0.0, 64)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (PROSE * 366, 2050),  # 30,000 characters and a context of 4,096, half of which is kept
        ("x" * 30_000, 2050),
        (PROSE * 800, 4096),
        ("今天天气非常好，" * 3000, 2050),
        ("今天天气非常好我们去公园玩吧" * 700, 2050),
        ("def area(width, height):\n    return width*height\n" * 3200, 16_386),
        (PROSE * 180, 2050),
    ],
)
def test_a_prompt_that_was_cut_is_a_failure(text: str, seen: int) -> None:
    error = failed(completion("[[7]]", prompt_tokens=seen), asked_with(text))
    assert f"read only {seen:,} of about" in error.message and "num_ctx" in error.message


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (PROSE * 366, 6000),
        (PROSE * 366, 0),  # no usage says nothing
        (PROSE * 366, 12),  # nor does a count that is not of this prompt
        (PROSE * 10, 40),
        (" \n" * 20_000 + PROSE * 100, 1800),
        ("-" * 30_000 + PROSE * 100, 2050),
        ("हिन्दी में लिखा हुआ एक वाक्य " * 300, 2100),
    ],
)
def test_a_prompt_that_may_be_whole_is_not(text: str, seen: int) -> None:
    assert read_reply(completion("[[7]]", prompt_tokens=seen), asked_with(text)).text == "[[7]]"


def test_cached_tokens_were_read_too() -> None:
    usage = {"prompt_tokens": 300, "completion_tokens": 3, "cache_read_input_tokens": 6000}
    assert (
        read_reply({**completion("[[7]]"), "usage": usage}, asked_with(PROSE * 366)).text == "[[7]]"
    )


@given(st.text(max_size=3000))
def test_fewer_tokens_than_characters(text: str) -> None:
    assert 0 <= least_tokens([{"content": text}]) <= len(text)


@given(st.lists(st.sampled_from([*sorted(set(PROSE.split())), "f(y)", "-", "\n\n", "…"])))
def test_a_word_is_a_token_at_least(words: list[str]) -> None:
    """Some tokenizers join words, so that a quarter of them may be missing."""
    text = " ".join(words)
    assert least_tokens([{"content": text}]) <= 0.75 * len(text.split())


# ---------------------------------------------------------------- progress and patience


def test_others_are_reported_while_one_is_tried_again() -> None:
    def one_bad(body: dict[str, Any]) -> Any:
        return Raw(500, "oops") if "question 0" in str(body) else completion("[[5]]")

    looked: list[float] = []
    with Loopback(answer=one_bad) as server:
        judge = engine(server, first_wait=0.4, retries=3)
        judge.idle = lambda: looked.append(time.monotonic())
        started = time.monotonic()
        arrived = [(n, time.monotonic() - started) for n, _ in judge.stream(requests(4))]
    assert [n for n, _ in arrived[:3]] != [] and arrived[-1][0] == 0
    # All but the bad one come long before it is given up.
    assert arrived[2][1] < arrived[3][1] / 2
    assert looked


def test_a_stop_does_not_wait_for_a_back_off() -> None:
    with Loopback(answer=lambda body: Raw(500, "oops")) as server:
        judge = engine(server, first_wait=30)
        threading.Timer(0.5, judge.stop_soon).start()
        started = time.monotonic()
        replies = dict(judge.stream(requests(2)))
        assert time.monotonic() - started < 5
    assert all(reply.error.startswith("HTTP 500") for reply in replies.values())


def test_one_call_is_not_tried_for_ever_beside_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdharness.judges.engines import openai

    monkeypatch.setattr(openai, "PATIENCE", 0.05)

    def one_bad(body: dict[str, Any]) -> Any:
        return Raw(500, "oops") if "question 0" in str(body) else completion("[[5]]")

    with Loopback(answer=one_bad) as server:
        replies = dict(engine(server, first_wait=0.04, retries=10).stream(requests(4)))
        assert server.calls < 3 + 10
    assert replies[0].error.startswith("HTTP 500")


# ---------------------------------------------------------------- what it costs

PRICE = Price(input=1000.0, output=10_000.0)


def test_without_usage_the_price_is_guessed_and_marked() -> None:
    def silent(body: dict[str, Any]) -> Any:
        return {key: value for key, value in completion("Good. [[7]]").items() if key != "usage"}

    with Loopback(answer=silent) as server:
        judge = engine(server, price=PRICE, budget=100.0)
        reply = dict(judge.stream(requests(1)))[0]
    prompt = estimated_tokens("question 0") + 8
    assert (reply.prompt_tokens, reply.tokens) == (prompt, 2)
    assert reply.usd == pytest.approx(PRICE.of(prompt, 2)) and reply.info["estimated"] is True
    assert judge.budget.spent == pytest.approx(reply.usd)


def test_failed_calls_that_are_billed_count() -> None:
    empty = [completion("") for _ in range(3)]
    with Loopback(answer=lambda body: empty.pop() if empty else completion("[[7]]")) as server:
        judge = engine(server, price=PRICE, budget=100.0)
        reply = dict(judge.stream(requests(1)))[0]
    assert reply.text == "[[7]]" and reply.info["billed_calls"] == 4
    assert reply.usd == pytest.approx(4 * PRICE.of(10, 5)) == pytest.approx(judge.budget.spent)
    only = with_message(
        {"content": None, "reasoning": "hm"},
        "length",
        usage={"prompt_tokens": 10, "completion_tokens": 64},
    )
    with Loopback(answer=lambda body: only) as server:
        reply = dict(engine(server, price=PRICE).stream(requests(1)))[0]
    assert reply.error and reply.tokens == 64 and reply.usd == pytest.approx(PRICE.of(10, 64))


def test_a_budget_ends_retries_that_are_billed() -> None:
    with Loopback(answer=lambda body: completion("", tokens=64)) as server:
        judge = engine(server, price=PRICE, budget=1.5, retries=50)
        replies = dict(judge.stream(requests(4)))
        assert server.calls <= 4
    assert judge.budget.spent <= 1.5 and all(reply.error for reply in replies.values())
    assert sum(reply.usd for reply in replies.values()) == pytest.approx(judge.budget.spent)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "Could not finish the message because max_tokens or model output limit was reached."),
        (500, "litellm: some-model unable to complete request: max_output_tokens"),
    ],
)
def test_a_limit_spent_on_thoughts_is_no_error_of_the_server(status: int, said: str) -> None:
    def spent(body: dict[str, Any]) -> Any:
        if body["max_tokens"] < 3000:
            return Raw(status, {"error": {"message": said}})
        return completion("[[8]]")

    asked = [GenerationRequest(r.messages, 0.0, 64, thinking_room=4096) for r in requests(1)]
    with Loopback(answer=spent) as server:
        assert dict(engine(server, first_wait=5).stream(asked))[0].text == "[[8]]"
        assert engine(server).probe(logprobs=False).reachable
