"""Limits of sampled answers: what they see, and what ends a run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.config.on_policy import OnPolicySpec
from kdharness.harness.runs.rollouts import Rollout
from kdharness.trainers.guards import Guard, curves_of, distinct_share


def answer(**changes: Any) -> Rollout:
    values: dict[str, Any] = {
        "step": 1,
        "row": 0,
        "where": "rows.jsonl:1",
        "kind": "general",
        "prompt_tokens": 4,
        "tokens": 10,
        "ended": True,
        "distinct": 0.9,
        "score": 0.5,
        "text": "text",
    }
    return Rollout(**{**values, **changes})


def test_variety_is_the_share_of_different_sequences() -> None:
    assert distinct_share([1, 2, 3, 4]) == 1.0
    assert distinct_share([1, 2] * 10) == pytest.approx(2 / 18)
    assert distinct_share([7] * 12) == pytest.approx(0.1)
    assert distinct_share([1, 2]) is None


@given(st.lists(st.integers(0, 5), min_size=3, max_size=60))
def test_repeating_an_answer_never_makes_it_more_varied(tokens: list[int]) -> None:
    once, twice = distinct_share(tokens), distinct_share(tokens * 4)
    assert once is not None and twice is not None and 0 < twice <= 1
    assert len(tokens) < 12 or twice < 0.5


def test_curves_are_means_over_answers_and_tokens() -> None:
    seen = [
        answer(tokens=10, score=1.0),
        answer(tokens=30, score=2.0, ended=False, distinct=None),
    ]
    assert curves_of(seen) == {
        "rollout_length": 20.0,
        "rollout_ended": 0.5,
        "rollout_kl": pytest.approx(70 / 40),
        "rollout_distinct": 0.9,
    }
    assert curves_of([]) == {}


BROKEN: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "min_ended": ({"ended": False}, {}, "only 0.0% of the sampled answers ended by themselves"),
    "min_distinct": ({"distinct": 0.05}, {}, "repeat themselves: 5.0%"),
    "max_kl": ({"score": 9.0}, {"max_kl": 3.0}, "9 nats per token from the teacher"),
}


@pytest.mark.parametrize("field", BROKEN)
def test_a_broken_limit_is_named_once_the_window_is_full(field: str) -> None:
    changes, limits, words = BROKEN[field]
    guard = Guard(OnPolicySpec(stop_window=3, **limits))
    assert guard.see([answer(**changes)]) is None
    # A step without sampled answers says nothing about them.
    assert guard.see([]) is None
    assert guard.see([answer(**changes)]) is None
    problem = guard.see([answer(**changes)])
    assert problem is not None and problem.where == f"trainer.on_policy.{field}"
    assert words in problem.message and "the last 3 steps" in problem.message
    assert f"the limit is {getattr(guard.spec, field):g}" in problem.message
    assert "kdharness rollouts" in str(problem.hint)


def test_answers_leave_the_window() -> None:
    guard = Guard(OnPolicySpec(stop_window=2, min_ended=0.5))
    assert guard.see([answer(ended=False)]) is None
    assert guard.see([answer()]) is None
    assert guard.see([answer()]) is None


def test_a_window_of_0_never_stops() -> None:
    guard = Guard(OnPolicySpec(stop_window=0))
    assert all(guard.see([answer(ended=False, distinct=0.0)]) is None for _ in range(40))
