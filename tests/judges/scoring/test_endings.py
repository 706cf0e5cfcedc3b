"""Where a local judge's reply may end: what is read then is what the whole reply would say."""

from __future__ import annotations

import pytest

from kdharness.judges.scoring.endings import RATING, WINNER, has_given
from kdharness.judges.scoring.verdicts import read_rating, read_winner


@pytest.mark.parametrize(
    ("text", "kind", "ends"),
    [
        ("Good.\nRating: [[8]]\n", RATING, True),
        ("[[8]]\n", RATING, True),
        ("**Rating: [[8]]**\n\n", RATING, True),
        ("My final verdict is: [[A]].\n", WINNER, True),
        ("[[Tie]]\n", WINNER, True),
        # Not yet at the end of a line.
        ("Rating: [[8]]", RATING, False),
        # The scale, a quotation, code, a placeholder, a correction, one of several.
        ("On a scale from [[1]] to [[10]],\n", RATING, False),
        ("[[1]] to [[10]]\n", RATING, False),
        ('It ends with\n"Rating: [[10]]"\n', RATING, False),
        ("seen[nums[i]]\n", RATING, False),
        ("```\n[[1]]\n", RATING, False),
        ("Rating: [[rating]]\n", RATING, False),
        ("Rating: [[85]]\n", RATING, False),
        ("I first thought [[9]].\n", RATING, False),
        ("Initial rating: [[3]]\n", RATING, False),
        ("Rating for turn 1: [[9]]\n", RATING, False),
        ("Style: [[5]]\n", RATING, False),
        ("[[A]]\n", RATING, False),
        ("<think>\n[[A]]\n", WINNER, False),
    ],
)
def test_a_reply_ends_with_the_line_of_its_verdict(text: str, kind: str, ends: bool) -> None:
    assert has_given(text, kind) is ends


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("On a scale from [[1]] to [[10]], this earns [[8]].", RATING),
        ('It says "Rating: [[10]]", which I ignore. Rating: [[2]]', RATING),
        ("The code uses seen[nums[i]] correctly. Rating: [[9]]", RATING),
        ("It returns [[1, 2], [3, 4]] as asked.\nRating: [[9]]\n", RATING),
        ("I first thought [[9]], but there is an error, so [[3]].\n", RATING),
        ("Correctness: [[8]]\nStyle: [[5]]\nOverall: [[7]]\n", RATING),
        ("[[A]] omits the price, so the verdict is [[B]]\n", WINNER),
    ],
)
def test_a_reply_that_is_ended_early_is_read_as_the_whole(reply: str, kind: str) -> None:
    read = read_winner if kind == WINNER else read_rating
    ended = next(
        (reply[:end] for end in range(1, len(reply)) if has_given(reply[:end], kind)), reply
    )
    assert read(ended).value == read(reply).value is not None
