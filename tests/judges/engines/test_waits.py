"""Retry delays requested by an endpoint are parsed and honoured."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.errors import JudgeError
from kdharness.harness.types import GenerationRequest, Reply
from kdharness.judges.engines.openai import OpenAIEngine
from kdharness.judges.engines.refusals import LONGEST_ASKED_WAIT, in_words, status_error
from kdharness.judges.engines.trouble import Trouble
from kdharness.judges.engines.waits import asked_wait, span
from support.loopback import Loopback, Raw
from support.openai_calls import engine, refusal, requests, responses_then_success
from support.timing import without_hanging

# ---------------------------------------------------------------- requested delays

GOOGLE = {
    "error": {
        "code": 429,
        "status": "RESOURCE_EXHAUSTED",
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}],
    }
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        GOOGLE,
        [GOOGLE],
        {
            "error": {
                "message": "Rate limit reached for x on requests per min (RPM): Limit 3. Please "
                "try again in 1s. Visit https://example.org/account/billing to add a card."
            }
        },
    ],
)
def test_per_minute_quota_is_waited_for(body: Any) -> None:
    with Loopback(answer=responses_then_success(Raw(429, body))) as server:
        started = time.monotonic()
        replies = dict(engine(server).stream(requests(3)))
        elapsed = time.monotonic() - started
    assert not any(reply.error for reply in replies.values())
    assert elapsed >= 1.0


@pytest.mark.parametrize(
    ("headers", "text", "seconds"),
    [
        ({}, "Please try again in 1.2s.", 1.2),
        ({}, "Please try again in 6m0s.", 360),
        ({}, "Please try again in 20ms.", 0.02),
        ({}, "Please try again in 1h2m.", 3720),
        ({}, "Please try again in 2m59.56s. Need more?", 179.56),
        ({}, "Please retry in 53.016342224s.", 53.016342224),
        ({}, "Please retry after 5 seconds.", 5),
        ({}, "Rate limit exceeded, wait 20 seconds", 20),
        ({}, "try again in 1 minute and 30 seconds", 90),
        ({}, "Please try again later", None),
        ({}, json.dumps(GOOGLE), 1),
        ({}, json.dumps({"error": "Model is loading", "estimated_time": 20.5}), 20.5),
        ({}, json.dumps({"retry_after": 3}), 3),
        ({"retry-after": "7"}, "try again in 2s", 7),
        ({"retry-after": "2s"}, "", 2),
        ({"retry-after-ms": "250"}, "", 0.25),
        (
            {
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "1s",
                "x-ratelimit-remaining-tokens": "9",
            },
            "",
            360,
        ),
        ({"x-ratelimit-reset-tokens": "1s", "x-ratelimit-remaining-tokens": "9"}, "", None),
        ({"x-ratelimit-reset-tokens": "1s"}, '{"error": {"code": "insufficient_quota"}}', None),
        ({"x-ratelimit-reset": "12"}, "", 12),
        ({}, "", None),
    ],
)
def test_requested_delay_is_parsed_from_every_format(
    headers: dict[str, str], text: str, seconds: float | None
) -> None:
    assert asked_wait(headers, text) == (None if seconds is None else pytest.approx(seconds))


def test_reset_timestamp_is_converted_to_a_delay() -> None:
    now = time.time()
    for value in (str(int((now + 9) * 1000)), str(now + 9)):
        assert asked_wait({"x-ratelimit-reset": value}) == pytest.approx(9, abs=1.5)
    nested = {"error": {"metadata": {"headers": {"X-RateLimit-Reset": str(int((now + 9) * 1000))}}}}
    assert asked_wait({}, json.dumps(nested)) == pytest.approx(9, abs=1.5)


@given(
    st.text(max_size=200),
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "ratelimit-reset"]),
        st.text(),
    ),
)
def test_asked_wait_accepts_any_text(text: str, headers: dict[str, str]) -> None:
    seconds = asked_wait(headers, text)
    assert seconds is None or seconds >= 0


@given(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_span_sums_hours_minutes_and_seconds(hours: int, minutes: int, seconds: int) -> None:
    assert span(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


def test_delay_of_hours_ends_the_run_with_a_hint() -> None:
    long = Raw(429, refusal("requests per day: try again in 5h12m"))
    with Loopback(answer=lambda body: long) as server, pytest.raises(JudgeError) as caught:
        dict(engine(server, concurrency=2).stream(requests(20)))
    assert "5 h 12 min" in caught.value.hint and server.calls <= 2
    assert status_error(429, "x", LONGEST_ASKED_WAIT).trouble is Trouble.RETRY
    assert [in_words(s) for s in (40, 360, 3720)] == ["40 s", "6 min", "1 h 2 min"]


class ScriptedEngine(OpenAIEngine):
    """Two workers: the first request is rate-limited by a script, and then answered.

    Attributes:
        refusals: for each refusal, whether one other call is answered before it.
    """

    def __init__(self, url: str, refusals: tuple[bool, ...]) -> None:
        super().__init__("judge-1", url, retries=2, concurrency=2)
        self.refusals = list(refusals)
        self.turns = self.others = 0
        self.first_is_over = False

    async def call(self, client: Any, request: GenerationRequest) -> Reply:
        if request.messages[0]["content"] != "question 0":
            await self._take_turn()
            return Reply(text="[[5]]")
        if not self.refusals:
            return Reply(text="[[7]]")
        if self.refusals.pop(0):
            seen = self.streak.answers
            self.turns += 1
            while self.streak.answers == seen:
                await asyncio.sleep(0.001)
        raise status_error(429, "slow down", 0.0)

    async def _take_turn(self) -> None:
        """Wait until the script wants an answer, or no worker has the first request any more."""
        self.others += 1
        self.first_is_over |= self.others == 2
        while not self.turns and not self.first_is_over:
            await asyncio.sleep(0.001)
        self.turns -= 1
        self.others -= 1


@pytest.mark.parametrize(
    ("refusals", "answered"),
    [
        ((True,) * 6, True),
        ((False, True, False, True, False, True, False, True), True),
        ((False, False, True, False, False), True),
        ((False, False, False), False),
        ((True, False, False, False), False),
    ],
)
def test_rate_limit_delays_do_not_count_as_failures(
    refusals: tuple[bool, ...], answered: bool
) -> None:
    """While other calls succeed, a call may wait more often than its retry limit."""
    with Loopback() as server, without_hanging(60):
        client = ScriptedEngine(server.url, refusals)
        replies = dict(client.stream(requests(40)))
    assert (replies[0].error == "") is answered
    assert not any(reply.error for index, reply in replies.items() if index)


# ---------------------------------------------------------------- stopping


@pytest.mark.slow
def test_stop_soon_does_not_wait_for_a_requested_delay() -> None:
    limited = Raw(429, refusal("try again in 10m0s"))
    with Loopback(answer=lambda body: limited) as server:
        judge = engine(server)
        threading.Timer(0.4, judge.stop_soon).start()
        with without_hanging():
            replies = dict(judge.stream(requests(2)))
        assert server.calls <= 2
    assert all("429" in reply.error for reply in replies.values())
