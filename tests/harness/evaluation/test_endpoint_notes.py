"""What an evaluation says of answers without a temperature, of a spent budget, of cut replies."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kdharness.harness.cli.eval import say_outcome
from kdharness.harness.evaluation.judging import call_keys
from kdharness.harness.evaluation.red_flags import sampled_answers
from kdharness.harness.types import Answer, Finish, JudgeCall

ANSWER = Answer(
    id="a",
    checkpoint="c",
    bench="b",
    revision="r",
    item="1",
    turn=1,
    text="x",
    finish=Finish.STOP,
    prompt_hash="",
    settings="",
    created=0.0,
)
CALL = JudgeCall("1", 1, "", "rating", ({"role": "user", "content": "x"},), "a")


def test_answers_without_the_temperature_asked_for_are_found() -> None:
    sampled = replace(ANSWER, item="2", info=cast(Any, {"without": ["temperature"]}))
    other = replace(ANSWER, item="3", info=cast(Any, {"without": ["seed"]}))
    assert sampled_answers([ANSWER, sampled, other]) == ["2"]


def test_a_spent_budget_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    result: Any = {
        "answers": 2,
        "judgments": 1,
        "reused": 0,
        "failed_answers": 0,
        "failed_judgments": 0,
        "usd": 0.5,
        "left": 7,
        "waiting": [],
    }
    say_outcome(result, 0.5)
    assert "7 not asked within the budget of $0.5 (--budget)" in capsys.readouterr().err
    say_outcome(result)
    assert "7 not asked; run the same command again" in capsys.readouterr().err


def test_judgments_of_cut_replies_are_not_taken_for_new_ones() -> None:
    """An engine that ends replies has other keys for verdicts, and accepts none of the older."""
    plain: Any = SimpleNamespace(name="local:x", identity="w")
    ending: Any = SimpleNamespace(name="local:x", identity="w", verdict_ending="the line")
    asked = replace(CALL, verdict="rating")
    assert call_keys(plain, asked) == call_keys(plain, CALL) == call_keys(ending, CALL)
    (key,) = call_keys(ending, asked)
    assert key not in call_keys(plain, asked)
