"""Verdicts as the transcripts show them: weighted, and in words where they are steps."""

from __future__ import annotations

import pytest

from kdharness.harness.types import Judgment, JudgmentStatus
from kdharness.judges.scoring.arena import battle
from kdharness.tui.viewmodels.transcripts import (
    Exchange,
    Side,
    marked_lines,
    shown_value,
    verdict_lines,
)


def judged(
    value: float, weight: float, metric: str = "hard_prompt", order: int = 0, baseline: str = "o3"
) -> Judgment:
    return Judgment(
        id=f"{metric}{order}",
        checkpoint="m",
        bench="b",
        revision="r",
        item="1",
        turn=1,
        category="",
        judge="j",
        metric=metric,
        status=JudgmentStatus.OK,
        created=1.0,
        value=value,
        weight=weight,
        order=order,
        baseline=baseline,
    )


@pytest.mark.parametrize(
    ("step", "order", "words"),
    [
        (2, 0, "won clearly, counts 3 times"),
        (1, 0, "won"),
        (0, 0, "tie"),
        (0, 1, "tie"),
        (1, 1, "lost"),
        (-2, 1, "won clearly, counts 3 times"),
        (2, 1, "lost clearly, counts 3 times"),
    ],
)
def test_five_step_verdicts_are_shown_from_the_side_of_the_model(
    step: int, order: int, words: str
) -> None:
    value, weight = battle(step, order)
    assert shown_value(judged(float(value), weight)) == words


def test_the_verdict_of_an_item_is_a_win_rate() -> None:
    """A clear win and a narrow loss are three of four battles, not a mean of 1.5."""
    side = Side((), (judged(3.0, 3.0), judged(0.0, 1.0, order=1)))
    assert side.value == side.mean == 0.75
    text = "\n".join("".join(part for part, _ in line) for line in verdict_lines(side))
    assert "hard_prompt against o3 won clearly, counts 3 times" in text
    assert "hard_prompt against o3, other order lost" in text


def test_an_imported_figure_is_its_value_not_its_sum() -> None:
    side = Side((), (judged(659.5, 1319.0, "acc", baseline=""),))
    assert side.value == 0.5 and shown_value(side.judgments[0]) == "0.5"


def side(value: float | None) -> Side:
    status = JudgmentStatus.UNREADABLE if value is None else JudgmentStatus.OK
    base = Judgment(
        id="j",
        checkpoint="c",
        bench="b",
        revision="r",
        item="q",
        turn=1,
        category="",
        judge="judge",
        metric="score",
        status=status,
        created=0.0,
        value=value,
        weight=1.0,
    )
    return Side((), (base,), "score")


@pytest.mark.parametrize(
    ("first", "second", "words", "differs"),
    [
        (None, None, "no verdict", False),
        (None, 3.0, "only one verdict", False),
        (1.4001, 1.4002, "= same verdict", False),
        (1.4, 1.5, "≠ verdicts differ", True),
    ],
)
def test_the_words_on_two_verdicts_agree_with_what_is_shown(
    first: float | None, second: float | None, words: str, differs: bool
) -> None:
    exchange = Exchange("q", "", side(first), side(second))
    assert exchange.relation == words and exchange.differs is differs


def test_words_are_highlighted_only_where_texts_are_close() -> None:
    roles = {role for line in marked_lines("the cat sat", "the dog sat") for _, role in line}
    assert roles == {"", "accent"}
    far = marked_lines("Toys and the games", "Planes fly over the old town today")
    assert {role for line in far for _, role in line} == {""}
