"""Verdicts that a judge only names: the loser, the ideal, the condition, the threshold."""

from __future__ import annotations

import time

import pytest

from kdharness.judges.scoring.arena import read_step
from kdharness.judges.scoring.verdicts import read_rating, read_winner

A, B, TIE = 1.0, 0.0, 0.5


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("[[B]] is better than [[A]].", B),
        ("Therefore, [[B]] is better than [[A]]", B),
        ("[[A]] is better than [[B]].", A),
        ("I choose [[B]] instead of [[A]].", B),
        ("I choose [[B]] rather than [[A]].", B),
        ("[[B]] rather than the answer of assistant [[A]].", B),
        ("Verdict: [[B]] over [[A]].", B),
        ("[[B]] (over [[A]])", B),
        ("[[B]] wins against [[A]].", B),
        ("[[B]] outperforms [[A]].", B),
        ("[[B]] > [[A]]", B),
        ("[[A]] < [[B]]", B),
        ("[[B]], not [[A]]", B),
        ("Not [[A]], but [[B]]", B),
        ("My verdict is [[B]]. [[A]] is weaker because it omits the reference.", B),
        ("[[B]]. Assistant [[A]] fails.", B),
        ("[[B]]\n\nThe reason: [[A]] is wrong.", B),
        ("[[A]] omits the price, so the verdict is [[B]]", B),
        ("[[B]]. If A had cited sources, [[A]].", B),
        ("[[B]]. Had A been complete, it would be [[A]].", B),
        ("[[B]]. With sources it would have been [[A]].", B),
        ("Final verdict: [[B]] (second choice [[A]])", B),
        ("[[C]] since [[A]] and [[B]] are equal", TIE),
        ("Neither [[A]] nor [[B]] is better: [[C]]", TIE),
        ("[[C]], not [[A]] or [[B]]", TIE),
        ("Output one of [[A]], [[B]], [[C]]: [[B]]", B),
        # The verdict given is nowhere said.
        ("[[B]] is worse than [[A]].", None),
        ("[[A]] is not better than [[B]].", None),
        ("Answer B is better than [[A]].", None),
        ("[[A]] loses.", None),
        # As it was.
        ("If I had to choose, I would pick [[A]].", A),
        ("[[B]] is the better one.", B),
        ("[[A]] is better. Its proof is right, and its tone is kind.", A),
        ("All in all I would have to say [[B]].", B),
        ("[[A]], although it is less complete.", A),
        ("> [[B]]", B),
    ],
)
def test_the_winner_is_the_one_that_is_given(reply: str, value: float | None) -> None:
    assert read_winner(reply).value == value


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Rating: [[6]]. A perfect answer would get [[10]].", 6),
        ("Rating: [[6]]\n\nAn ideal response would be rated [[10]].", 6),
        ("Rating: [[6]] out of a possible [[10]].", 6),
        ("[[6]] out of a maximum of [[10]]", 6),
        ("Rating: [[6]] instead of [[8]].", 6),
        ("Rating: [[6]] rather than [[8]] because of the error.", 6),
        ("Rating: [[6]] (not [[9]])", 6),
        ("Rating: [[6]]. This is below the [[7]] threshold.", 6),
        ("Rating: [[6]], down from [[8]] for the missing sources.", 6),
        ("I changed it from [[6]] to [[8]].", 8),
        ("Rating: [[6]]. To reach [[10]], it should cite sources.", 6),
        ("[[6]] – a [[10]] would need sources.", 6),
        ("Rating: [[6]]. The maximum is [[10]].", 6),
        ("Rating: [[6]]\n\n(For reference, [[10]] is perfect and [[1]] useless.)", 6),
        ("I give [[8]]. If it had cited sources, [[10]].", 8),
        ("I give [[8]]. With sources it would have been [[10]].", 8),
        ("I would have given [[9]], but [[6]] because of the error.", 6),
        ("This would be [[9]] but for the error, so [[6]].", 6),
        ("Rating: [[8]]. Confidence: [[9]]", 8),
        ("Torn between [[6]] and [[7]], I end with [[7]].", 7),
        ("A perfect answer would get [[10]].", None),
        ("Rating: [[6]] (previous turn: [[9]])", None),
        ("Confidence: [[9]]", None),
        # As it was.
        ("I would give it [[8]].", 8),
        ("My rating would be [[8]].", 8),
        ("It is a perfect answer and gets [[10]].", 10),
        ("A perfect answer: [[10]]", 10),
        ("It gets the highest rating, [[10]].", 10),
        ("Even if the tone was off, it earns [[8]].", 8),
        ("Overall, [[7]] is fair.", 7),
    ],
)
def test_the_rating_is_the_one_that_is_given(reply: str, value: float | None) -> None:
    assert read_rating(reply).value == value


@pytest.mark.parametrize(
    ("reply", "step"),
    [
        ("[[A>B]] rather than [[B>A]]", 1),
        ("[[B>>A]] instead of [[A>B]].", -2),
        ("My verdict: [[A>B]]. Had B been complete, it would be [[B>A]].", 1),
        ("Turn 1: [[A>B]] Turn 2: [[B>A]]", None),
        ("Correctness: [[A>B]]\nStyle: [[B>A]]", None),
        ("Correctness: [[A>B]]\nStyle: [[B>A]]\nOverall: [[A=B]]", 0),
        ("Assistant A looked better: [[A>B]]. No, assistant B is better: [[B>A]]", -1),
        ("[[A > B]]", 1),
        ("[[ B >> A ]]", -2),
    ],
)
def test_the_step_is_the_one_that_is_given(reply: str, step: int | None) -> None:
    assert read_step(reply)[1] == step


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Rating: -3", None),
        ("Rating: -3/10", None),
        ("Rating - 8", 8),
        ("Rating: 10%", None),
        ("Score: 85 %", None),
        ("Rating: >8", None),
        ("Rating: <= 8", None),
        ("Rating: ~7", 7),
        ("Confidence score: 9", None),
        ("Rating: 8\nConfidence score: 9", 8),
        ("Score breakdown: relevance 8, accuracy score: 6", None),
        ("Accuracy score: 6", 6),
        ("Quality score 9, rating 4", 4),
        ("The response fails. Rating: 2\n\nThe ideal score: 10", 2),
        ("The ideal score: 10", None),
        ("Rating: 7-8", None),
        ("Rating: 8:10", None),
        ("underscore: 8", None),
        ("Rating: [8](https://example.org)", None),
        # Other forms of one rating.
        ("**8**", 8),
        ("**8/10**", 8),
        ("\\boxed{8}", 8),
        ("$\\boxed{8}$", 8),
        ("Rating: $\\boxed{8}$", 8),
        ("The sum is \\boxed{8}", None),
        ("Good. <rating>8</rating>", 8),
        ("<score>8/10</score>", 8),
        ("<rating>8</rating> <rating>3</rating>", None),
        ("Rating: 2\nIt ends with <rating>10</rating>.", None),
        ("评分：8", 8),
        ('{"rating": 8, "reason": "ok"}', 8),
        ('{"reason": "Rating: 3 would be harsh", "rating": 8}', 8),
        ('{"rating": 8, "reason": "it says [[10]]"}', 8),
        ('```json\n{"score": "8/10"}\n```', 8),
        ('Here it is: {"rating": 8, "reason": "ok"}', 8),
        ('{"rating": 1, "max": 10}', 1),
        ('{"rating": 8, "score": 3}', None),
        ('{"rating": 8, "rating": 3}', None),
        ('{"rating": true}', None),
        ('{"rating": 85}', None),
        ('{"a": 8}', None),
    ],
)
def test_ratings_without_double_brackets(reply: str, value: float | None) -> None:
    assert read_rating(reply).value == value


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("[[Tie]]", TIE),
        ("[[tie]]", TIE),
        ("[[Draw]]", TIE),
        ("[[a]]", A),
        ("[[b]]", B),
        ("rows[[a]] is read twice. [[B]]", B),
        ("It reads rows[[a]].", None),
    ],
)
def test_winners_in_other_spellings(reply: str, value: float | None) -> None:
    assert read_winner(reply).value == value


@pytest.mark.parametrize(
    "part",
    [
        "[[8]] is ",
        "if had would ",
        "[[A]] and ",
        "rating: 8\n",
        '{"rating":8} ',
        "not ",
        "a ",
        "it asks me to give [[9]] ",
        "x[[1]] ",
    ],
)
def test_long_replies_take_no_time(part: str) -> None:
    started = time.process_time()
    text = part * (200_000 // len(part))
    read_rating(text)
    read_winner(text)
    read_step(text)
    assert time.process_time() - started < 5
