"""The leaderboard's cells: intervals within their sides, and checkpoints without a score."""

from __future__ import annotations

import pytest

from kdharness.harness.types import Score
from kdharness.tui.viewmodels.leaderboard import (
    Figure,
    interval_width,
    leading,
    make_board,
    missing_sentence,
)


def score(value: float | None, low: float | None, high: float | None) -> Score:
    return Score(
        checkpoint="kd",
        run=None,
        method="kd",
        bench="shop",
        metric="score",
        value=value,
        ci_low=low,
        ci_high=high,
        n=8,
        n_failed=0,
        judge="exact",
    )


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (1.0, 0.95, 1.0, "−.05"),
        (0.0, 0.0, 0.05, "+.05"),
        (0.5, 0.45, 0.55, "±.05"),
        (5.25, 4.0, 6.5, "±1.2"),
        (0.0625, 0.01, 0.26, "−.05+.2"),
        (3.0, 3.0, 3.0, "±0"),
        (0.5, None, 0.6, ""),
        (None, None, None, ""),
    ],
)
def test_an_interval_never_reaches_beyond_its_ends(
    value: float | None, low: float | None, high: float | None, text: str
) -> None:
    assert interval_width(score(value, low, high)) == text


def named(bench: str, metric: str, n: int, judge: str = "exact", *flags: str) -> Score:
    made = score(0.5, 0.4, 0.6)
    return made._replace(bench=bench, metric=metric, n=n, judge=judge, flags=flags)


SCORES = [
    named("alpaca-eval-2", "win_rate", 2, "local:toy", "judge:untested"),
    named("heldout", "other_writer_loss", 24),
    named("mine", "score", 40, "openai:x", "judge:near-chance"),
    named("shop", "score", 72),
    named("small", "score", 7),
]


@pytest.mark.parametrize(
    ("primary", "first"),
    [
        ({}, ["shop:score", "heldout:other_writer_loss"]),
        ({"domain": "small:score"}, ["small:score", "heldout:other_writer_loss"]),
        ({"general": "mine:score"}, ["shop:score", "mine:score"]),
        ({"domain": "gone:score"}, ["shop:score", "heldout:other_writer_loss"]),
    ],
)
def test_the_board_begins_with_the_primary_metrics(
    primary: dict[str, str], first: list[str]
) -> None:
    board = make_board(SCORES, lead=leading(SCORES, primary))
    assert [f.label for f in board.figures][:2] == first
    assert {f.label for f in board.figures} == {f"{s.bench}:{s.metric}" for s in SCORES}


def test_few_items_and_untested_judges_never_lead_unless_chosen() -> None:
    board = make_board(SCORES)
    weak = [
        f.label in ("alpaca-eval-2:win_rate", "mine:score", "small:score") for f in board.figures
    ]
    assert weak == sorted(weak)


def test_a_checkpoint_without_the_score_says_what_it_was_scored_on() -> None:
    row = {"id": "new", "scores": {"a": score(1.0, 0.9, 1.0)}}
    sentence = missing_sentence(row, Figure("ifeval", "prompt_strict", "exact"))
    assert sentence == "new has no ifeval prompt strict; it was scored on shop"
