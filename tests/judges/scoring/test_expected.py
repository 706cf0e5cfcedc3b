"""The expected rating, against an enumeration of every text that a judge may go on with."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.types import JudgeCall, JudgmentStatus, Reply
from kdharness.judges.engines.openings import likely
from kdharness.judges.scoring.expected import (
    NUMBERS,
    START,
    NumberReading,
    as_expected,
    begins_number,
    read_expected,
)
from kdharness.judges.scoring.verdicts import LEAST_MASS

SPLIT = ("1", "0", "5", "7", "9", "]]", ".5", " 7", "the", " ")
"""The pieces of a tokenizer that splits numbers into digits."""
WHOLE = ("1", "0", "10", "15", "100", "7", "7]]", "0]]", "]]", "9]", "<think>")
"""The pieces of one that has numbers, and numbers with their brackets, as tokens."""
DEPTH = 4

Next = Mapping[str, tuple[float, ...]]
"""The text so far -> the probability of each piece after it."""


def distributions(size: int) -> st.SearchStrategy[tuple[float, ...]]:
    weights = st.lists(st.floats(0.001, 1.0), min_size=size, max_size=size)
    return weights.map(lambda values: tuple(value / sum(values) for value in values))


@st.composite
def judges(draw: st.DrawFn, pieces: tuple[str, ...]) -> Next:
    """Return a judge: a distribution after each text that may begin a number."""
    texts = ["", *{a + b for a in ("", "1", "10") for b in pieces}]
    pool = [draw(distributions(len(pieces))) for _ in range(3)]
    return {text: pool[draw(st.integers(0, 2))] for text in sorted(texts)}


def after(judge: Next, pieces: tuple[str, ...], text: str) -> list[tuple[int, str, float]]:
    shares = judge.get(text, judge[""])
    return [(n, piece, shares[n]) for n, piece in enumerate(pieces)]


def enumerated(judge: Next, pieces: tuple[str, ...]) -> dict[str, float]:
    """Add up the probability of every sequence of pieces whose text begins with a rating."""
    sums = dict.fromkeys(NUMBERS, 0.0)
    for sequence in itertools.product(range(len(pieces)), repeat=DEPTH):
        texts = [pieces[n] for n in sequence]
        if texts[0] == " ":
            continue  # a blank that is a token of its own is not followed
        share, text = 1.0, ""
        for n, piece in zip(sequence, texts, strict=True):
            # Conditions are on the digits alone: " 7" and "7" are asked alike.
            share *= judge.get(text.strip(), judge[""])[n]
            text += piece
        found = re.match(r"\s*([0-9]+)", text)
        if found and found[1] in sums:
            sums[found[1]] += share
    return sums


def reading(judge: Next, pieces: tuple[str, ...]) -> NumberReading:
    result, branches = NumberReading(), [START]
    while branches:
        branch = branches.pop()
        branches += result.follow(branch, after(judge, pieces, branch.digits))
    return result


@pytest.mark.parametrize("pieces", [SPLIT, WHOLE], ids=["digits", "numbers"])
@settings(max_examples=25)
@given(data=st.data())
def test_a_number_has_the_probability_of_all_texts_that_spell_it(
    pieces: tuple[str, ...], data: st.DataObject
) -> None:
    judge = data.draw(judges(pieces))
    shares = reading(judge, pieces).shares
    brute = enumerated(judge, pieces)
    assert shares == pytest.approx(brute, abs=1e-9)
    assert sum(shares.values()) <= 1 + 1e-9


def test_ten_is_not_one_whichever_tokens_spell_it() -> None:
    split = {"": (0.8, 0.2), "1": (0.0, 0.0), "10": (0.0, 0.0)}
    pieces = ("1", "0")
    found = reading({**split, "1": (0.1, 0.6)}, pieces).shares
    # "11" is off the scale: neither 1 nor 10.
    assert found["10"] == pytest.approx(0.8 * 0.6) and found["1"] == pytest.approx(0.8 * 0.3)
    whole = reading({"": (0.3, 0.5), "1": (0.0, 0.0), "10": (0.0, 0.0)}, ("1", "10")).shares
    assert whole["10"] == pytest.approx(0.5) and whole["1"] == pytest.approx(0.3)


def test_numbers_off_the_scale_have_no_part() -> None:
    """FastChat keeps [[85]]; its first digit is no rating of 8."""
    judge = {"": (0.9, 0.1), "8": (0.0, 0.95), "5": (0.0, 0.0)}
    found = reading(judge, ("8", "5")).shares
    assert found["8"] == pytest.approx(0.9 * 0.05) and found["5"] == pytest.approx(0.1)
    assert begins_number(" 7]]") and not begins_number("x7") and not begins_number("<think>")


@given(
    st.lists(st.floats(0.0, 1.0), min_size=10, max_size=10).filter(
        lambda weights: sum(weights) > 0.1
    ),
    st.floats(LEAST_MASS * 1.01, 1.0),
)
def test_the_mean_is_of_the_distribution_over_the_ratings_alone(
    weights: list[float], mass: float
) -> None:
    shares = [mass * weight / sum(weights) for weight in weights]
    logs = tuple((n, math.log(p)) for n, p in zip(NUMBERS, shares, strict=True) if p > 0)
    verdict = read_expected(Reply(top_logprobs=logs))
    mean = sum(int(n) * p for n, p in zip(NUMBERS, shares, strict=True)) / mass
    assert verdict.status is JudgmentStatus.OK and verdict.value == pytest.approx(mean)
    assert verdict.info["mass"] == pytest.approx(mass, abs=1e-5)


def test_without_mass_on_the_ratings_there_is_no_verdict() -> None:
    least = math.log(LEAST_MASS)
    info = {"likeliest": ["<think>", 0.99]}
    few = read_expected(Reply(top_logprobs=(("7", least - 0.1),), info=info))
    assert few.status is JudgmentStatus.UNREADABLE and few.value is None
    assert "at least 5 % are needed" in few.info["why"] and "'<think>'" in few.info["why"]
    assert read_expected(Reply(top_logprobs=(("7", least + 0.1),))).value == 7
    # Numbers that are no ratings, and logits that are none, have no weight.
    odd = (("0", -0.1), ("11", -0.1), ("7", math.nan), ("3", -math.inf))
    assert read_expected(Reply(top_logprobs=odd)).status is JudgmentStatus.UNREADABLE
    assert read_expected(Reply()).status is JudgmentStatus.UNREADABLE


def test_unlikely_beginnings_count_as_they_are() -> None:
    result = NumberReading()
    branches = result.follow(START, [(0, "7", 0.6), (1, "1", 0.01)])
    assert [branch.digits for branch in likely(branches, result, 0.02)] == ["7"]
    assert result.shares["1"] == pytest.approx(0.01)


def test_a_call_for_a_rating_becomes_one_of_another_protocol() -> None:
    call = JudgeCall("1", 1, "math", "rating", ({"role": "user", "content": "x"},), "a")
    changed = as_expected(call)
    assert changed.metric == "expected_rating" and changed.max_tokens == 1
    assert changed.opening == "Rating: [[" and changed.messages == call.messages
