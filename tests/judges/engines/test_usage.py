"""What a call is billed for, and what an empty reply is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kdharness.harness.types import GenerationRequest
from kdharness.judges.engines.refusals import status_error
from kdharness.judges.engines.trouble import Trouble
from kdharness.judges.engines.usage import usage
from support.loopback import Loopback, completion
from support.openai_calls import engine, requests

REQUEST = GenerationRequest(({"role": "user", "content": "x"},))


@pytest.mark.parametrize(
    ("reported", "read", "written"),
    [
        # Thoughts in the total alone, as with Gemini.
        ({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 3110}, 100, 3010),
        # Thoughts that are reported beside the answer, as with xAI.
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 10,
                "total_tokens": 3110,
                "completion_tokens_details": {"reasoning_tokens": 3000},
            },
            100,
            3010,
        ),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 10,
                "completion_tokens_details": {"reasoning_tokens": 3000},
            },
            100,
            3010,
        ),
        # Thoughts within the answer, as with OpenAI.
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 3010,
                "total_tokens": 3110,
                "completion_tokens_details": {"reasoning_tokens": 3000},
            },
            100,
            3010,
        ),
        # Odd totals.
        ({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 10}, 100, 10),
        ({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 0}, 100, 10),
        ({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": -5}, 100, 10),
        # Anthropic counts what is cached beside the rest.
        (
            {
                "input_tokens": 10,
                "output_tokens": 20,
                "cache_read_input_tokens": 1000,
                "cache_creation_input_tokens": 500,
            },
            1510,
            20,
        ),
        (
            {
                "prompt_tokens": 1010,
                "completion_tokens": 20,
                "total_tokens": 1030,
                "cache_read_input_tokens": 1000,
            },
            1010,
            20,
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 20,
                "total_tokens": 1030,
                "cache_read_input_tokens": 1000,
            },
            10,
            20,
        ),
    ],
)
def test_hidden_thoughts_and_caches_are_counted(
    reported: dict[str, Any], read: int, written: int
) -> None:
    used = usage({"usage": reported}, REQUEST, "Good. [[8]]")
    assert (used.prompt, used.written, used.estimated) == (read, written, False)


def test_an_empty_reply_is_asked_for_three_times_at_most() -> None:
    with Loopback(answer=lambda body: completion("")) as server:
        reply = dict(engine(server, retries=8, first_wait=0.01).stream(requests(1)))[0]
        assert server.calls == 3
    assert reply.error == "the reply is empty"


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "tool_calls": [{"type": "function", "function": {"name": "rate"}}]},
        {"content": "", "function_call": {"name": "rate", "arguments": "{}"}},
    ],
)
def test_a_tool_call_is_named_and_not_asked_for_again(message: dict[str, Any]) -> None:
    def called(body: dict[str, Any]) -> Any:
        answer = completion("")
        answer["choices"][0]["message"] = {"role": "assistant", **message}
        return answer

    with Loopback(answer=called) as server:
        reply = dict(engine(server, retries=8, first_wait=0.01).stream(requests(1)))[0]
        assert server.calls == 1
    assert "tool" in reply.error and "rate" in reply.error


@pytest.mark.parametrize(
    ("message", "trouble"),
    [
        ("You have reached the limit of requests per minute", Trouble.RETRY),
        ("limit of 5 requests per second", Trouble.RETRY),
        ("concurrency limit reached", Trouble.RETRY),
        ("please recharge your account", Trouble.FATAL),
    ],
)
def test_a_rate_limit_under_the_name_of_a_quota_is_waited_for(
    message: str, trouble: Trouble
) -> None:
    body = json.dumps({"error": "INSUFFICIENT QUOTA", "message": message})
    error = status_error(429, body, None)
    assert error.trouble is trouble and message in error.message
