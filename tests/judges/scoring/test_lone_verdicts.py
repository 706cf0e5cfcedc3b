"""A reply with one verdict: criticism, praise and suppositions before it do not take it away."""

from __future__ import annotations

import pytest

from kdharness.judges.scoring.endings import RATING, WINNER, has_given
from kdharness.judges.scoring.verdicts import read_rating, read_winner

BEFORE = [
    "Overall, while the response could have been more concise, it is accurate, so I would rate it ",
    "The answer should have been 42, not 41, so the rating is ",
    "it should have used the formula, hence the rating: ",
    "Although it could have provided more examples, it earns ",
    "An ideal response would be shorter, so the rating is ",
    "Had the assistant included a source this would be higher, but it is ",
    "If the code were run it would fail, so the rating is ",
    "It would have been better with a source - still ",
    "I give it a perfect score of ",
    "This is a perfect score: ",
    "I'd give it a near-perfect score: ",
    "It doesn't deserve more than a ",
    "I can't give it more than ",
    "no more than ",
    "The answer is better than the previous answer ",
]
PAIRS = [
    ("while Assistant A could have been more concise, its answer is better: [[A]]", 1.0),
    ("Both could have done better, so it's a tie: [[C]]", 0.5),
    ("I would have chosen B if it were shorter, but [[A]]", 1.0),
]


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("number", [1, 8, 10])
def test_a_lone_rating_is_read(before: str, number: int) -> None:
    assert read_rating(f"{before}[[{number}]]").value == number
    assert read_rating(f"It is short.\n\n{before}[[{number}]].\n").value == number


@pytest.mark.parametrize(("reply", "value"), PAIRS)
def test_a_lone_winner_is_read(reply: str, value: float) -> None:
    assert read_winner(reply).value == value


@pytest.mark.parametrize(
    ("reply", "kind", "ends"),
    [
        ("The answer is good. Rating: [[8]]\n", RATING, True),
        ("Rating: [[8]]/10\n", RATING, True),
        ("Rating: [[8]] out of 10\n", RATING, True),
        ("I would rate this [[8]].\n", RATING, True),
        ("My rating for this response is [[8]]\n", RATING, True),
        ("Therefore, Assistant A is better: [[A]]\n", WINNER, True),
        ('Final Verdict: "[[A]]"\n', WINNER, True),
        ('It says "Rating: [[10]]"\n', RATING, False),
        ("On a scale from [[1]] to [[10]]\n", RATING, False),
        ("Rating: [[8]]", RATING, False),
    ],
)
def test_a_local_judge_is_stopped_after_the_usual_verdicts(
    reply: str, kind: str, ends: bool
) -> None:
    assert has_given(reply, kind) is ends
