"""The leaderboard side by side: which scores, in which order, and what differs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kdharness.harness.analysis.board import (
    difference_mark,
    flag_marks,
    make_board,
    primary_metrics,
)
from kdharness.harness.types import Score
from support.scored_store import make_score


def interval(name: str, value: float, half: float, n: int = 40, **changes: object) -> Score:
    """Make a score with an interval of this half-width."""
    score = make_score(name, value, n=n, ci_low=value - half, ci_high=value + half)
    return score._replace(**changes)


@pytest.mark.parametrize(
    ("names", "headline", "chosen"),
    [
        (["accuracy", "score"], "", ["score"]),
        (["score", "turn_1", "turn_2"], "", ["score"]),
        (["prompt_strict", "inst_strict"], "prompt_strict", ["prompt_strict"]),
        (
            ["domain_agreement", "domain_loss", "general_agreement", "general_loss"],
            "",
            ["domain_loss", "general_loss"],
        ),
        (["general_agreement", "general_loss"], "", ["general_loss"]),
        (
            ["win_rate", "length_controlled_winrate", "avg_length"],
            "",
            ["length_controlled_winrate", "win_rate"],
        ),
        (["win_rate", "loss_rate", "win_rate_adjusted"], "", ["win_rate_adjusted"]),
        (["score", "corrected_score"], "", ["score", "corrected_score"]),
        (["acc", "acc_norm"], "", ["acc"]),
        (["category:math", "n_labels"], "", []),
    ],
)
def test_primary_metrics_of_a_benchmark(
    names: list[str], headline: str, chosen: Sequence[str]
) -> None:
    assert primary_metrics(names, headline) == chosen


def test_columns_of_few_rows_and_untested_judges_come_last() -> None:
    scores = [
        interval("kd", 5.0, 1.0, bench="mt-bench", judge="openai:a", flags=("judge:untested",)),
        interval("kd", 0.5, 0.1, bench="ifeval", n=7),
        interval("kd", 0.5, 0.1, bench="ifeval", n=8, judge="openai:tested"),
        interval("kd", 0.5, 0.1, bench="heldout"),
        interval("kd", 0.5, 0.1, bench="shop"),
        interval("kd", 0.5, 0.1, bench="mine"),
    ]
    board = make_board(scores)
    assert [(c.bench, c.judge) for c in board.columns] == [
        ("mine", "exact"),
        ("shop", "exact"),
        ("heldout", "exact"),
        ("ifeval", "openai:tested"),
        ("ifeval", "exact"),
        ("mt-bench", "openai:a"),
    ]


def test_the_best_of_the_first_column_comes_first_and_missing_scores_last() -> None:
    scores = [
        interval("a", 0.2, 0.1),
        interval("b", 0.6, 0.1),
        interval("none", 0.5, 0.1, bench="ifeval"),
        make_score("unscored", 0.0)._replace(value=None),
    ]
    assert make_board(scores).checkpoints[:2] == ("b", "a")
    losses = [s._replace(metric="domain_loss") for s in scores[:2]]
    assert make_board(losses).checkpoints == ("a", "b")


@pytest.mark.parametrize(
    ("metric", "value", "half", "n", "mark"),
    [
        ("score", 0.9, 0.1, 40, "▲"),
        ("score", 0.1, 0.1, 40, "▼"),
        ("score", 0.6, 0.1, 40, ""),
        ("domain_loss", 0.9, 0.1, 40, "▼"),
        ("domain_loss", 0.1, 0.1, 40, "▲"),
        ("score", 0.9, 0.1, 4, ""),
    ],
)
def test_marks_where_the_intervals_do_not_overlap(
    metric: str, value: float, half: float, n: int, mark: str
) -> None:
    base = interval("base", 0.5, 0.15, metric=metric)
    other = interval("other", value, half, n, metric=metric)
    board = make_board([base, other], reference="base")
    assert difference_mark(board.columns[0], "other", board.reference) == mark
    assert difference_mark(board.columns[0], "base", board.reference) == ""
    assert difference_mark(board.columns[0], "other", None) == ""


def test_no_mark_without_an_interval() -> None:
    board = make_board([interval("base", 0.5, 0.1), make_score("other", 9.0)], reference="base")
    assert difference_mark(board.columns[0], "other", "base") == ""


def test_flags_and_failures_as_symbols() -> None:
    score = interval("a", 0.5, 0.1, flags=("judge:toy", "truncated:50%", "subset:8"), n_failed=2)
    assert flag_marks(score) == "†!°✗"
    assert flag_marks(score._replace(flags=("labels:20 of 160",), n_failed=0)) == ""


def test_other_metrics_are_counted_and_chosen_ones_shown() -> None:
    scores = [interval("a", 0.5, 0.1), interval("a", 0.5, 0.1, metric="accuracy")]
    assert make_board(scores).hidden == ("accuracy",)
    assert [c.metric for c in make_board(scores, metrics=["accuracy"]).columns] == ["accuracy"]


def test_parts_and_versions_of_a_benchmark_have_columns_of_their_own() -> None:
    whole, part = interval("a", 0.5, 0.1), interval("a", 0.7, 0.1, flags=("subset:8",))
    board = make_board([whole, part, interval("b", 0.6, 0.1)])
    shown = [(c.variant, {k: s.value for k, s in c.scores.items()}) for c in board.columns]
    assert shown == [("", {"a": 0.5, "b": 0.6}), ("subset:8", {"a": 0.7})]
    # Two results that nothing distinguishes are both shown, too.
    twice = make_board([whole, interval("a", 0.9, 0.1)])
    assert [c.scores["a"].value for c in twice.columns] == [0.5, 0.9]
