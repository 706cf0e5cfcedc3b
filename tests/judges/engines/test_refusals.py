"""Errors of an endpoint: those of a single call, and those that end the run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kdharness.harness.errors import JudgeError
from kdharness.judges.engines.openai_wire import read_body
from kdharness.judges.engines.refusals import status_error
from kdharness.judges.engines.trouble import CallError, Trouble
from support.loopback import Loopback, Raw, completion
from support.openai_calls import engine, refusal, requests

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


@pytest.mark.slow
@pytest.mark.parametrize(("status", "text"), NO_LOGPROBS[:-1])
def test_missing_logprobs_support_is_not_reported_as_a_wrong_key(status: int, text: str) -> None:
    error = status_error(status, text, None)
    assert error.lacks_logprobs and error.trouble is Trouble.REFUSED
    assert "no log-probabilities" in error.message and "key" not in error.hint

    def reject_logprobs(body: dict[str, Any]) -> Any:
        return Raw(status, text) if "logprobs" in body else completion("m")

    with Loopback(answer=reject_logprobs) as server:
        probe = engine(server).probe(logprobs=True)
        assert not probe.logprobs and "returns no log-probabilities" in probe.note
        replies = dict(engine(server).stream(requests(3)))
        assert {reply.text for reply in replies.values()} == {"m"}
        with pytest.raises(JudgeError, match="no log-probabilities") as caught:
            dict(engine(server).stream(requests(40, top=5)))
        assert "--discrete" in caught.value.hint


CONTENT_ERRORS = [
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


@pytest.mark.slow
@pytest.mark.parametrize(("status", "text"), CONTENT_ERRORS)
def test_call_rejected_for_its_content_is_a_single_failure(status: int, text: str) -> None:
    def reject_question_1(body: dict[str, Any]) -> Any:
        return Raw(status, text) if "question 1" in str(body) else completion("[[7]]")

    with Loopback(answer=reject_question_1) as server:
        replies = dict(engine(server, first_wait=5).stream(requests(4)))
        assert server.calls == 4
    assert [bool(replies[n].error) for n in range(4)] == [False, True, False, False]
    assert replies[1].error.startswith(f"HTTP {status}")


def test_content_rejections_never_end_a_run() -> None:
    moderated = Raw(403, CONTENT_ERRORS[0][1])
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
    # From public reports: other wordings or statuses for a rejected key.
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


@pytest.mark.slow
@pytest.mark.parametrize(("status", "text", "word"), FATAL)
def test_errors_that_affect_every_call_end_the_run(status: int, text: str, word: str) -> None:
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
        # Errors sent with HTTP 200 and without an `error` field, or with a textual code.
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
def test_response_without_choices_is_classified(body: Any, trouble: Trouble) -> None:
    with pytest.raises(CallError) as caught:
        read_body(json.dumps(body).encode(), requests(1)[0], 0.1)
    assert caught.value.trouble is trouble
    message = body.get("message") or body.get("detail") or body.get("error_msg") or body.get("msg")
    if isinstance(message, str):
        assert message in caught.value.message


def test_unexplained_errors_end_the_run_only_if_consecutive() -> None:
    with Loopback(status=400, refusal="no") as server, pytest.raises(JudgeError) as caught:
        dict(engine(server, concurrency=1).stream(requests(100)))
    assert "8 consecutive calls" in caught.value.message and server.calls == 8
    with Loopback(status=400, refusal="no") as server:
        assert len(dict(engine(server).stream(requests(5)))) == 5


@pytest.mark.parametrize("status", [400, 402, 403, 404])
def test_rejection_among_successes_is_a_single_failure(status: int) -> None:
    def reject_sevens(body: dict[str, Any]) -> Any:
        return Raw(status, refusal("no")) if "7" in str(body["messages"]) else completion("[[5]]")

    with Loopback(answer=reject_sevens) as server:
        replies = dict(engine(server, concurrency=8).stream(requests(60)))
    assert {n for n, reply in replies.items() if reply.error} == {7, 17, 27, 37, 47, 57}


def test_key_without_model_list_permission_is_usable() -> None:
    from kdharness.judges.engines import openai_probe as probe

    with Loopback(listing=Raw(403, refusal("Missing scopes"))) as server:
        assert probe.probe(engine(server), logprobs=False).reachable
