"""Parameters an endpoint rejects: remembered, omitted, and recorded in the reply."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from kdharness.harness.types import GenerationRequest
from kdharness.judges.engines.dialect import COLDEST, Dialect, adapt
from support.loopback import Loopback, Raw, completion
from support.openai_calls import engine, refusal, requests


def rejecting(refused: dict[str, str]) -> Callable[[dict[str, Any]], Any]:
    """Return an answer function that rejects requests with any of these parameters."""

    def answer(body: dict[str, Any]) -> Any:
        for name, message in refused.items():
            if name in body or (name == "system" and "'system'" in str(body["messages"])):
                return Raw(400, refusal(message))
        return completion("[[5]]")

    return answer


def test_rejected_temperature_is_recorded() -> None:
    refused = {
        "temperature": "Unsupported value: 'temperature' does not support 0 with this model."
        " Only the default (1) value is supported."
    }
    with Loopback(answer=rejecting(refused)) as server:
        replies = dict(engine(server).stream(requests(3)))
    assert all(reply.info["without"] == ["temperature"] for reply in replies.values())


def test_rejected_seed_and_system_role_are_recorded() -> None:
    refused = {"seed": "unknown field: seed"}
    with Loopback(answer=rejecting(refused)) as server:
        replies = dict(engine(server).stream(requests(2, seed=5)))
    assert all(reply.info["without"] == ["seed"] for reply in replies.values())
    chat = ({"role": "system", "content": "Judge."}, {"role": "user", "content": "x"})
    with Loopback(answer=rejecting({"system": "System role not supported"})) as server:
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
def test_missing_system_role_is_recognized_in_other_wordings(status: int, message: str) -> None:
    def reject_system_role(body: dict[str, Any]) -> Any:
        refused = body["messages"][0]["role"] == "system"
        return Raw(status, refusal(message)) if refused else completion("[[5]]")

    chat = ({"role": "system", "content": "Judge."}, {"role": "user", "content": "x"})
    with Loopback(answer=reject_system_role) as server:
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
def test_lowest_accepted_temperature_replaces_zero(message: str) -> None:
    def reject_zero(body: dict[str, Any]) -> Any:
        if body.get("temperature") == 0:
            return Raw(422, refusal(message))
        return completion("[[5]]")

    with Loopback(answer=reject_zero) as server:
        replies = dict(engine(server, concurrency=1).stream(requests(3)))
        assert [body["temperature"] for body in server.bodies] == [0, *[COLDEST] * 3]
    assert all(reply.info == {"temperature": COLDEST} for reply in replies.values())


def test_nothing_is_recorded_when_nothing_is_rejected() -> None:
    with Loopback() as server:
        replies = dict(engine(server).stream(requests(3)))
    assert all(not reply.info for reply in replies.values())


def test_minimum_max_tokens_is_applied() -> None:
    def reject_small_limit(body: dict[str, Any]) -> Any:
        if body["max_tokens"] < 16:
            return Raw(
                400,
                refusal(
                    "Invalid 'max_tokens': integer below minimum value. Expected a value >= 16"
                ),
            )
        return completion("[[5]]")

    request = GenerationRequest(({"role": "user", "content": "x"},), 0.0, 4)
    with Loopback(answer=reject_small_limit) as server:
        reply = dict(engine(server).stream([request]))[0]
    assert reply.text == "[[5]]" and reply.info["max_tokens"] == 16


def test_request_fields_quoted_in_an_error_are_not_treated_as_rejected() -> None:
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


@pytest.mark.parametrize(
    "error",
    [
        {"message": 'rejected by the safety system: "What temperature should the seed have?"'},
        {"message": "Invalid prompt: 'What temperature should…' is only text", "code": "bad"},
        {"message": "flagged", "metadata": {"flagged_input": "only the seed must be warm"}},
        {
            "message": "This model's maximum context length is 4096 tokens. "
            "Prompt begins: 'What temperature'"
        },
        {
            "message": "[{'loc': ('body',), 'msg': 'Value error, template not allowed', 'input': "
            "{'messages': [{'content': 'What temperature'}], 'temperature': 0.7, 'seed': 3}}]"
        },
        {"message": "groq does not support this. Supported: temperature, max_tokens, seed"},
    ],
)
def test_errors_that_quote_the_request_switch_nothing_off(error: dict[str, Any]) -> None:
    sent = {
        "messages": [{"role": "user", "content": "What temperature should the seed have?"}],
        "max_tokens": 64,
        "temperature": 0.7,
        "seed": 3,
    }
    known = Dialect()
    assert not adapt(known, json.dumps({"error": error}), sent)
    assert known == Dialect()


@pytest.mark.parametrize(
    "error",
    [
        {"message": "Not valid.", "param": "temperature"},
        {"message": "Unsupported parameter: 'temperature' is not supported with this model."},
        {"message": "`temperature` is deprecated for this model."},
        {"message": "temperature: only 1 is allowed. You wrote: What temperature is it?"},
        {"message": "This model has beta-limitations: temperature and top_p are fixed at 1."},
        {"message": "Temperature 0.7 not in range"},
        {"message": "the value of temperature is illegal"},
        {"message": "temperature 参数非法"},
    ],
)
def test_errors_about_the_parameter_switch_it_off(error: dict[str, Any]) -> None:
    sent = {"messages": [{"role": "user", "content": "What temperature is it?"}]}
    known = Dialect()
    assert adapt(known, json.dumps({"error": error}), {**sent, "temperature": 0.7, "seed": 3})
    assert not known.temperature and known.seed
