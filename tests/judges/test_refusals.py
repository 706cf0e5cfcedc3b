"""What an endpoint refuses: one call, or all of them; and how long it asks to wait."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.errors import JudgeError
from kdharness.harness.types import GenerationRequest
from kdharness.judges.engines.dialect import COLDEST, Dialect, adapt
from kdharness.judges.engines.openai import OpenAIEngine
from kdharness.judges.engines.openai_wire import read_body
from kdharness.judges.engines.refusals import LONGEST_ASKED_WAIT, in_words, status_error
from kdharness.judges.engines.trouble import CallError, Trouble
from kdharness.judges.engines.waits import asked_wait, span

from .loopback import Loopback, Raw, completion


def refusal(message: str, **more: Any) -> str:
    return json.dumps({"error": {"message": message, **more}})


def requests(count: int, *, top: int = 0, seed: int = 0) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            ({"role": "user", "content": f"question {n}"},),
            0.7 if seed else 0.0,
            64,
            seed=seed,
            top_logprobs=top,
        )
        for n in range(count)
    ]


def engine(server: Loopback, **options: Any) -> OpenAIEngine:
    return OpenAIEngine("judge-1", server.url, **{"timeout": 2.0, "first_wait": 0.01, **options})


def first_then(*raws: Raw) -> Callable[[dict[str, Any]], Any]:
    """Answer with these in turn, then well for ever."""
    left = list(raws)
    return lambda body: left.pop(0) if left else completion("Good. [[7]]")


# ---------------------------------------------------------------- of one call, or of all

NO_LOGPROBS = [
    (403, refusal("You are not allowed to request logprobs from this model.")),
    (400, refusal("logprobs is not supported with reasoning models")),
    (
        400,
        refusal(
            "Unsupported parameter: 'logprobs' is not supported with this model.", param="logprobs"
        ),
    ),
    (400, refusal("Logprobs is not enabled for models/some-pro", status="INVALID_ARGUMENT")),
    (400, refusal("top_logprobs must be less than or equal to 1")),
    (400, refusal("5 is greater than the maximum of 1 - 'logprobs'", param="logprobs")),
    (400, refusal("Cannot request more than 3 logprobs.")),
    (400, refusal("this reasoner does not support top_logprobs")),
    (
        422,
        json.dumps(
            {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "logprobs"],
                        "msg": "Extra inputs are not permitted",
                    }
                ]
            }
        ),
    ),
    (404, refusal("No endpoints found that support the requested parameters: top_logprobs")),
    (501, refusal("not implemented", code=501)),
]


@pytest.mark.parametrize(("status", "text"), NO_LOGPROBS[:-1])
def test_no_logprobs_is_not_a_wrong_key(status: int, text: str) -> None:
    error = status_error(status, text, None)
    assert error.lacks_logprobs and error.trouble is Trouble.REFUSED
    assert "no log-probabilities" in error.message and "key" not in error.hint

    def without(body: dict[str, Any]) -> Any:
        return Raw(status, text) if "logprobs" in body else completion("m")

    with Loopback(answer=without) as server:
        probe = engine(server).probe(logprobs=True)
        assert not probe.logprobs and "returns no log-probabilities" in probe.note
        replies = dict(engine(server).stream(requests(3)))
        assert {reply.text for reply in replies.values()} == {"m"}
        with pytest.raises(JudgeError, match="no log-probabilities") as caught:
            dict(engine(server).stream(requests(40, top=5)))
        assert "--discrete" in caught.value.hint


SINGLE = [
    (403, refusal('some/model requires moderation. Your input was flagged for "violence"')),
    (
        400,
        refusal(
            "The response was filtered due to the prompt triggering the content management policy",
            code="content_filter",
            innererror={"code": "ResponsibleAIPolicyViolation"},
        ),
    ),
    (400, refusal("Your request was rejected as a result of our safety system")),
    (400, refusal("Output data may contain inappropriate content.", code="data_inspection_failed")),
    (400, refusal("This model's maximum context length is 8192 tokens", code="context_length")),
    (500, refusal("the request exceeds the available context size. try increasing it")),
    (503, refusal("Prompt is too long: 9000 tokens > 8192 maximum")),
    (413, refusal("input is too long")),
    (
        429,
        refusal(
            "Request too large for x on tokens per min (TPM): Limit 30000, Requested 45000.",
            code="rate_limit_exceeded",
        ),
    ),
    (413, refusal("Request too large: please reduce your message size and try again.")),
    (403, refusal("x requires moderation. Your input was flagged. No credits were charged.")),
    (400, refusal("Content Exists Risk")),
    (400, refusal("输入或生成内容可能包含不安全或敏感内容")),
]


@pytest.mark.parametrize(("status", "text"), SINGLE)
def test_a_call_refused_for_its_text_is_one_failure(status: int, text: str) -> None:
    def one_bad(body: dict[str, Any]) -> Any:
        return Raw(status, text) if "question 1" in str(body) else completion("[[7]]")

    with Loopback(answer=one_bad) as server:
        replies = dict(engine(server, first_wait=5).stream(requests(4)))
        assert server.calls == 4
    assert [bool(replies[n].error) for n in range(4)] == [False, True, False, False]
    assert replies[1].error.startswith(f"HTTP {status}")


def test_refusals_of_texts_never_end_a_run() -> None:
    moderated = Raw(403, SINGLE[0][1])
    with Loopback(answer=lambda body: moderated) as server:
        replies = dict(engine(server).stream(requests(60)))
    assert len(replies) == 60 and all("flagged" in reply.error for reply in replies.values())


FATAL = [
    (401, refusal("Incorrect API key provided"), "key"),
    (403, refusal("You have insufficient permissions for this operation"), "key"),
    (400, refusal("API key not valid. Please pass a valid API key."), "key"),
    (404, refusal("The model `x` does not exist or you do not have access to it."), "model"),
    (400, refusal("some/x is not a valid model ID"), "model"),
    (400, refusal("bad request", code="model_not_found"), "model"),
    (402, refusal("Insufficient Balance"), "quota"),
    (
        429,
        refusal(
            "You exceeded your current quota", type="insufficient_quota", code="insufficient_quota"
        ),
        "quota",
    ),
    (429, refusal("Your credit balance is too low"), "quota"),
    # From public reports: a key's refusal in other words, or with another status.
    (400, refusal("Your credit balance is too low. Go to Plans & Billing."), "quota"),
    (403, refusal("Key limit exceeded (total limit). Manage it on our site."), "quota"),
    (429, refusal("您的账户已欠费，请充值后重试。", code="1113"), "quota"),
    (
        429,
        refusal(
            "Your account is suspended, please check your plan and billing details",
            type="exceeded_current_quota_error",
        ),
        "quota",
    ),
    (403, refusal("The security token included in the request is invalid."), "key"),
    (403, refusal("You are not allowed to sample from this model"), "key"),
    (403, refusal("Your organization must be verified to use the model `x`."), "key"),
    (403, refusal("The API key you are using violates our usage policies and was blocked"), "key"),
    (403, refusal("Your account has been flagged for potential abuse.", code="x"), "key"),
    (500, refusal("AuthenticationError: Incorrect API key provided: abc", code="401"), "key"),
    (403, refusal("Project `x` does not have access to model `y`"), "model"),
]


@pytest.mark.parametrize(("status", "text", "word"), FATAL)
def test_what_refuses_every_call_ends_the_run(status: int, text: str, word: str) -> None:
    with (
        Loopback(answer=lambda body: Raw(status, text)) as server,
        pytest.raises(JudgeError) as caught,
    ):
        dict(engine(server, concurrency=4).stream(requests(100)))
    assert word in caught.value.hint and str(status) in caught.value.message
    assert server.calls <= 4


@pytest.mark.parametrize(
    ("body", "trouble"),
    [
        # Errors that came with HTTP 200 and are in no `error`, or have a code that is a word.
        ({"code": 401, "message": "Unauthorized"}, Trouble.FATAL),
        ({"detail": "Not authenticated"}, Trouble.FATAL),
        (
            {"error_code": 110, "error_msg": "Access token invalid or no longer valid"},
            Trouble.FATAL,
        ),
        ({"error": {"message": "bad key", "code": "invalid_api_key"}}, Trouble.FATAL),
        ({"error": {"message": "It was filtered", "code": "content_filter"}}, Trouble.GIVE_UP),
        (
            {"object": "error", "message": "maximum context length is 2048", "code": 40303},
            Trouble.GIVE_UP,
        ),
        ({"error": "Rate limit exceeded"}, Trouble.RETRY),
        ({"id": "x"}, Trouble.RETRY),
        ({"success": False, "code": 500, "msg": "unknown"}, Trouble.RETRY),
        ({"message": {"content": "[[9]]"}, "done": True}, Trouble.REFUSED),
        (
            {"content": [{"type": "text", "text": "[[9]]"}], "stop_reason": "end_turn"},
            Trouble.REFUSED,
        ),
    ],
)
def test_what_a_body_without_choices_means(body: Any, trouble: Trouble) -> None:
    with pytest.raises(CallError) as caught:
        read_body(json.dumps(body).encode(), requests(1)[0], 0.1)
    assert caught.value.trouble is trouble
    said = body.get("message") or body.get("detail") or body.get("error_msg") or body.get("msg")
    if isinstance(said, str):
        assert said in caught.value.message


def test_a_refusal_that_says_nothing_ends_the_run_when_all_are_refused() -> None:
    with Loopback(status=400, refusal="no") as server, pytest.raises(JudgeError) as caught:
        dict(engine(server, concurrency=1).stream(requests(100)))
    assert "8 calls in a row" in caught.value.message and server.calls == 8
    with Loopback(status=400, refusal="no") as server:
        assert len(dict(engine(server).stream(requests(5)))) == 5


@pytest.mark.parametrize("status", [400, 402, 403, 404])
def test_a_refusal_among_answers_is_one_failure(status: int) -> None:
    def some(body: dict[str, Any]) -> Any:
        return Raw(status, refusal("no")) if "7" in str(body["messages"]) else completion("[[5]]")

    with Loopback(answer=some) as server:
        replies = dict(engine(server, concurrency=8).stream(requests(60)))
    assert {n for n, reply in replies.items() if reply.error} == {7, 17, 27, 37, 47, 57}


def test_a_key_that_may_not_list_models_may_still_ask() -> None:
    from kdharness.judges.engines import openai_probe as probe

    with Loopback(models=None) as server:
        served = server._serve

        async def no_listing(first: str, headers: Any, raw: bytes, writer: Any) -> None:
            if first.startswith("GET"):
                server._send(writer, 403, b'{"error": {"message": "Missing scopes"}}')
                return
            await served(first, headers, raw, writer)

        server._serve = no_listing  # type: ignore[method-assign]
        assert probe.probe(engine(server), logprobs=False).reachable


# ---------------------------------------------------------------- waits

GOOGLE = {
    "error": {
        "code": 429,
        "status": "RESOURCE_EXHAUSTED",
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}],
    }
}


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
def test_a_minutes_quota_is_waited_for(body: Any) -> None:
    with Loopback(answer=first_then(Raw(429, body))) as server:
        started = time.monotonic()
        replies = dict(engine(server).stream(requests(3)))
        took = time.monotonic() - started
    assert not any(reply.error for reply in replies.values())
    assert 1.0 <= took < 5


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
def test_every_way_to_ask_for_a_wait(
    headers: dict[str, str], text: str, seconds: float | None
) -> None:
    assert asked_wait(headers, text) == (None if seconds is None else pytest.approx(seconds))


def test_a_time_of_day_is_a_wait_until_then() -> None:
    now = time.time()
    for value in (str(int((now + 9) * 1000)), str(now + 9)):
        assert asked_wait({"x-ratelimit-reset": value}) == pytest.approx(9, abs=1.5)
    inside = {"error": {"metadata": {"headers": {"X-RateLimit-Reset": str(int((now + 9) * 1000))}}}}
    assert asked_wait({}, json.dumps(inside)) == pytest.approx(9, abs=1.5)


@given(
    st.text(max_size=200),
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "ratelimit-reset"]),
        st.text(),
    ),
)
def test_no_text_breaks_a_wait(text: str, headers: dict[str, str]) -> None:
    found = asked_wait(headers, text)
    assert found is None or found >= 0


@given(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_spans_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert span(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


def test_a_wait_of_hours_ends_the_run_and_says_so() -> None:
    long = Raw(429, refusal("requests per day: try again in 5h12m"))
    with Loopback(answer=lambda body: long) as server, pytest.raises(JudgeError) as caught:
        dict(engine(server, concurrency=2).stream(requests(20)))
    assert "5 h 12 min" in caught.value.hint and server.calls <= 2
    assert status_error(429, "x", LONGEST_ASKED_WAIT).trouble is Trouble.RETRY
    assert [in_words(s) for s in (40, 360, 3720)] == ["40 s", "6 min", "1 h 2 min"]


def test_waits_between_answers_are_no_failures() -> None:
    """A limit of few requests makes a call wait more often than it may fail."""
    asked = 0

    def every_third(body: dict[str, Any]) -> Any:
        nonlocal asked
        asked += 1
        return (
            completion("[[5]]")
            if asked % 3 == 0
            else Raw(429, refusal("x"), {"Retry-After": "0.01"})
        )

    with Loopback(answer=every_third) as server:
        replies = dict(engine(server, retries=2, concurrency=8).stream(requests(12)))
    assert not any(reply.error for reply in replies.values())


# ---------------------------------------------------------------- parameters


def picky(refused: dict[str, str]) -> Callable[[dict[str, Any]], Any]:
    """Refuse each of these parameters where it is sent as told."""

    def answer(body: dict[str, Any]) -> Any:
        for name, message in refused.items():
            if name in body or (name == "system" and "'system'" in str(body["messages"])):
                return Raw(400, refusal(message))
        return completion("[[5]]")

    return answer


def test_a_refused_temperature_leaves_its_mark() -> None:
    refused = {
        "temperature": "Unsupported value: 'temperature' does not support 0 with this model."
        " Only the default (1) value is supported."
    }
    with Loopback(answer=picky(refused)) as server:
        replies = dict(engine(server).stream(requests(3)))
    assert all(reply.info["without"] == ["temperature"] for reply in replies.values())


def test_a_refused_seed_and_system_role_leave_theirs() -> None:
    refused = {"seed": "unknown field: seed"}
    with Loopback(answer=picky(refused)) as server:
        replies = dict(engine(server).stream(requests(2, seed=5)))
    assert all(reply.info["without"] == ["seed"] for reply in replies.values())
    chat = ({"role": "system", "content": "Judge."}, {"role": "user", "content": "x"})
    with Loopback(answer=picky({"system": "System role not supported"})) as server:
        reply = dict(engine(server).stream([GenerationRequest(chat)]))[0]
        assert server.bodies[-1]["messages"] == [{"role": "user", "content": "Judge.\n\nx"}]
    assert reply.text == "[[5]]" and reply.info["without"] == ["system role"]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Developer instruction is not enabled for models/some-27b-it"),
        (500, "jinja2.exceptions.TemplateError: System role not supported"),
        (500, "Conversation roles must alternate user/assistant/user/assistant/..."),
    ],
)
def test_a_template_without_a_system_role_in_other_words(status: int, message: str) -> None:
    def without(body: dict[str, Any]) -> Any:
        refused = body["messages"][0]["role"] == "system"
        return Raw(status, refusal(message)) if refused else completion("[[5]]")

    chat = ({"role": "system", "content": "Judge."}, {"role": "user", "content": "x"})
    with Loopback(answer=without) as server:
        reply = dict(engine(server).stream([GenerationRequest(chat)]))[0]
        assert server.calls == 2
    assert reply.text == "[[5]]" and reply.info["without"] == ["system role"]


@pytest.mark.parametrize(
    "message",
    [
        "`temperature` must be strictly positive",
        "temperature (=0.0) has to be a strictly positive float",
        "temperature: Input should be greater than 0",
        "temperature must be in (0, 1]",
        "temperature must be > 0.0",
    ],
)
def test_the_coldest_temperature_stands_for_zero(message: str) -> None:
    def warm(body: dict[str, Any]) -> Any:
        if body.get("temperature") == 0:
            return Raw(422, refusal(message))
        return completion("[[5]]")

    with Loopback(answer=warm) as server:
        replies = dict(engine(server, concurrency=1).stream(requests(3)))
        assert [body["temperature"] for body in server.bodies] == [0, *[COLDEST] * 3]
    assert all(reply.info == {"temperature": COLDEST} for reply in replies.values())


def test_nothing_refused_leaves_no_mark() -> None:
    with Loopback() as server:
        replies = dict(engine(server).stream(requests(3)))
    assert all(not reply.info for reply in replies.values())


def test_a_least_limit_is_learnt() -> None:
    def least(body: dict[str, Any]) -> Any:
        if body["max_tokens"] < 16:
            return Raw(
                400,
                refusal(
                    "Invalid 'max_tokens': integer below minimum value. Expected a value >= 16"
                ),
            )
        return completion("[[5]]")

    asked = GenerationRequest(({"role": "user", "content": "x"},), 0.0, 4)
    with Loopback(answer=least) as server:
        reply = dict(engine(server).stream([asked]))[0]
    assert reply.text == "[[5]]" and reply.info["max_tokens"] == 16


def test_what_a_refusal_quotes_of_the_request_is_not_what_it_refuses() -> None:
    quoted = json.dumps(
        {
            "detail": [
                {
                    "loc": ["body", "messages"],
                    "msg": "too many",
                    "input": {"temperature": 0, "seed": 1},
                }
            ]
        }
    )
    assert not adapt(Dialect(), quoted, {"temperature": 0, "seed": 1})


def test_a_stop_does_not_wait_for_what_an_endpoint_asks() -> None:
    limited = Raw(429, refusal("try again in 10m0s"))
    with Loopback(answer=lambda body: limited) as server:
        judge = engine(server)
        threading.Timer(0.4, judge.stop_soon).start()
        started = time.monotonic()
        replies = dict(judge.stream(requests(2)))
        assert time.monotonic() - started < 5 and server.calls <= 2
    assert all("429" in reply.error for reply in replies.values())
