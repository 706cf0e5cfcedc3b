"""What programs see of an answer: length, end, refusals, repetition, script."""

from __future__ import annotations

import pytest

from kdharness.harness.types import Finish
from kdharness.judges.audit.behaviour import behaviour_of, repeated_share
from support.answers import make_answer


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I can't help with that.", 1),
        ("I’m sorry, I cannot do it", 1),
        ("Unfortunately, I do not know this person.", 1),
        ("As an AI, I have no opinion.", 1),
        ("I am unable to open links.", 1),
        ("Paris is the capital. " * 20 + "I cannot say more.", 0),
        ("Write: 'the shop is sorry'", 0),
        ("You can't divide by zero.", 0),
        ("", 0),
    ],
)
def test_refusals_are_at_the_beginning(text: str, refused: int) -> None:
    assert behaviour_of(make_answer(text)).refused == refused


def test_length_and_end_are_without_reasoning() -> None:
    found = behaviour_of(make_answer("<think>long thought</think> Yes. "))
    assert (found.length, found.ended, found.empty) == (4, 1, 0)
    cut = behaviour_of(make_answer("abc", finish=Finish.LENGTH))
    assert (cut.length, cut.ended) == (3, 0)
    assert behaviour_of(make_answer("  ")).empty == 1


def test_repeated_share_counts_passages() -> None:
    assert repeated_share("one two three") == 0
    assert repeated_share("a b c d e f g h") == 0
    assert repeated_share("a b c d a b c d") == pytest.approx(1 / 5)
    assert repeated_share("again " * 100) == pytest.approx(96 / 97)


def test_script_is_that_of_most_letters() -> None:
    assert behaviour_of(make_answer("Привет, world of мир и труд")).script == "CYRILLIC"
    assert behaviour_of(make_answer("12 + 3 = 15")).script == ""
