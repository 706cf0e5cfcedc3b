"""Replies into verdicts, and the traps of the benchmarks' own readers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.types import JudgmentStatus
from kdharness.judges import verdicts
from kdharness.judges.verdicts import read_rating, read_winner


@pytest.mark.parametrize(("reply", "value"), [
    ("Rating: [[7]]", 7.0),
    ("I'd say [[8.5]].", 8.5),
    ("Rating: [6]", 6.0),
    ("[[10/10]]", 10.0),
    ("[[ 9 ]]", 9.0),
    ("[[08]]", 8.0),
    ("The score is [4].", 4.0),
    ("7", 7.0),
    ("[7]", 7.0),
    ("Good.\nRating: 5/10", 5.0),
    ("<think>maybe [[2]]?</think> Rating: [[9]]", 9.0),
    ("It may be [[3]] but </think>\nRating: [[6]]", 6.0),
    ("<|channel|>analysis<|message|>[[1]]<|channel|>final<|message|>[[8]]", 8.0),
    ("First [[6]], on reflection [[7]]", 7.0),
])  # fmt: skip
def test_ratings_that_are_there(reply: str, value: float) -> None:
    assert read_rating(reply).value == value


@pytest.mark.parametrize("reply", [
    "", "no verdict", "[[85]]", "[[0]]", "As [1] shows, this is right.", "See [1] and [2].",
    "<think>I think [[9]]", "[[-3]]", "Rating: [[seven]]", "[[11]]", "array[3] = 5",
])  # fmt: skip
def test_what_is_no_rating(reply: str) -> None:
    verdict = read_rating(reply)
    assert verdict.status is JudgmentStatus.UNREADABLE and verdict.value is None


def test_the_published_reading_keeps_its_traps() -> None:
    assert read_rating("[[85]]", published=True).value == 85
    assert read_rating("As [1] shows", published=True).value == 1
    assert read_rating("[[10/10]]", published=True).value is None


@pytest.mark.parametrize(("reply", "value"), [
    ("[[A]]", 1.0), ("so: [[B]]", 0.0), ("[[C]]", 0.5), ("nothing", None),
    ("If A were shorter, [[A]]; but as it is: [[B]]", 0.0), ("<think>[[A]]</think>[[C]]", 0.5),
])  # fmt: skip
def test_winners(reply: str, value: float | None) -> None:
    assert read_winner(reply).value == value


def test_the_published_winner_is_looked_for_in_order() -> None:
    assert read_winner("[[B]] no, [[A]]", published=True).value == 1.0


@pytest.mark.parametrize(("reply", "value"), [
    ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]", 1.0),
    ("```python\n[{'model': 'model_2', 'rank': 1}, {'model': 'model_1', 'rank': 2}]\n```", 2.0),
    ("[{'model': 'model_1', 'rank': 3}]", None), ("__import__('os')", None), ("", None),
    ("[{'model': 'm'}]", None), ("{" * 5000, None), ("[1, 2]", None),
])  # fmt: skip
def test_rankings(reply: str, value: float | None) -> None:
    assert verdicts.read_ranking(reply).value == value


def test_first_tokens() -> None:
    half = math.log(0.5)
    assert verdicts.read_first_token([("m", half), ("M", half)]).value == pytest.approx(1.5)
    assert verdicts.read_first_token([("m", -0.1), ("The", -3)]).value == 1.0
    assert verdicts.read_first_token([("M", -9.0)]).value == 2.0
    assert verdicts.read_first_token([(" m", -0.1), ("Mm", -1)]).value is None
    assert verdicts.read_first_token(None).value is None
    assert verdicts.read_first_token([("m", -1000.0), ("M", -1001.0)]).value == pytest.approx(
        2 - 1 / (1 + math.exp(-1))
    )


def test_discrete_tokens() -> None:
    assert verdicts.read_token(" m ").value == 1.0
    assert verdicts.read_token('"M"').value == 2.0
    assert verdicts.read_token("<think>m</think>M").value == 2.0
    assert verdicts.read_token("maybe").value is None


@given(st.floats(1, 2))
def test_switching_twice_is_nothing(value: float) -> None:
    verdict = verdicts.Verdict(JudgmentStatus.OK, value)
    twice = verdicts.unswitch(verdicts.unswitch(verdict, True), True)
    assert twice.value == pytest.approx(value)
    assert verdicts.unswitch(verdict, False) is verdict


@given(st.text())
def test_no_text_breaks_a_reader(text: str) -> None:
    for read in (read_rating, read_winner, verdicts.read_ranking, verdicts.read_token):
        assert read(text).status in JudgmentStatus
    assert isinstance(verdicts.cut_thinking(text), str)
