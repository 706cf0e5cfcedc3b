"""With very few items there is no verdict, no exact rank and no winner."""

from __future__ import annotations

import json

import pytest

from kdharness.harness.analysis.compare import PairedComparison, compare_all
from kdharness.harness.analysis.leaderboard import leaderboard, rank_ranges, unresolved
from kdharness.harness.analysis.metrics import LEGEND
from kdharness.harness.analysis.scorebook import SCORING_VERSION
from kdharness.harness.paths import Paths
from kdharness.harness.stats.inference import (
    Difference,
)
from kdharness.harness.stats.rows import TOO_SMALL
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, JudgmentStatus
from support.commands import CommandLine
from support.scored_store import add_checkpoint, make_score, verdict


def comparison_of(n: int, low: float | None = 0.1, p: float = 0.001) -> PairedComparison:
    gap = Difference(0.5, low, 0.9 if low is not None else None, p, n, 10)
    return PairedComparison("shop", "score", "exact", "a", "b", 0.0, 0.5, gap, p)


@pytest.mark.parametrize(("n", "word"), [(2, ""), (3, ""), (4, ""), (5, "better"), (50, "better")])
def test_no_winner_below_five_items(n: int, word: str) -> None:
    assert comparison_of(n).lean == word
    assert comparison_of(n).verdict == (word or "not told apart")
    assert comparison_of(n, None).lean == ""


def add_few_rows(store: Store, count: int) -> None:
    """Add judgments of a few items: `b` is always correct, `a` never."""
    for name in "ab":
        add_checkpoint(store, name)
        store.add_judgments(verdict(name, n, float(name == "b")) for n in range(count))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_commands_name_no_winner_with_few_items(
    store: Store, paths: Paths, kd: CommandLine, count: int
) -> None:
    add_few_rows(store, count)
    comparisons = [row for row in compare_all(store, paths, ["a", "b"]) if row.metric == "score"]
    assert [row.lean for row in comparisons] == ([""] if count > 1 else [])
    for form in ("json", "table", "csv", "md"):
        for command in (
            ["compare", "a", "b"],
            ["leaderboard"],
            [
                "tradeoff",
                "--general",
                "shop:score",
                "--domain",
                "shop:score",
                "--reference",
                "a",
                "--expert",
                "b",
            ],
        ):
            code, out, err = kd(*command, "--format", form)
            assert code == 0, (command, form, err)
            assert "better" not in out.replace("(better)", "") and "worse" not in out
            assert "Infinity" not in out and "NaN" not in out and "None" not in out
            if form == "json":
                json.loads(out)
    code, out, _ = kd("leaderboard", "--format", "json")
    row = next(r for r in json.loads(out) if r["metric"] == "score" and r["checkpoint"] == "b")
    assert (row["ci_low"] is None) == (count < 3)
    assert (TOO_SMALL in row["flags"]) == (count < 3)
    code, _, err = kd("report", "--output", str(paths.home / "report.html"))
    assert code == 0, err
    assert TOO_SMALL in LEGEND


def test_scores_of_two_items_share_the_full_rank_range() -> None:
    scores = [
        make_score("a", 0.9, 2, flags=(TOO_SMALL,)),
        make_score("b", 0.1, ci_low=0.05, ci_high=0.2),
        make_score("c", 0.5, ci_low=0.4, ci_high=0.6),
    ]
    assert rank_ranges(scores) == ["1-3", "2-3", "1-2"]
    assert {key[0] for key in unresolved(scores)} == {"a", "c"}
    # Published scores have no interval either; they are ranked by value.
    assert rank_ranges([make_score("a", 0.9), make_score("b", 0.1)]) == ["1", "2"]


def test_scores_cached_by_an_older_scoring_version_are_recomputed(
    store: Store, paths: Paths
) -> None:
    add_few_rows(store, 3)
    fresh = {(s.checkpoint, s.metric): s.ci_low for s in leaderboard(store, paths)}
    keys = store.cached_scores([c.id for c in store.checkpoints()])
    assert keys and all(state.startswith(f"{SCORING_VERSION}:") for state, _ in keys.values())
    store.cache_scores(
        [
            (key, "2" + state[1:], json.dumps([["score", 0.0, 0.0, 0.0, 3, 0, []]]))
            for key, (state, _) in keys.items()
        ]
    )
    assert {(s.checkpoint, s.metric): s.ci_low for s in leaderboard(store, paths)} == fresh


def test_import_with_two_rows_is_flagged_too_small(store: Store, paths: Paths) -> None:
    store.add_checkpoint(Checkpoint(id="c", name="c", method="import", path="", created=1.0))
    store.add_judgments(
        Judgment(
            id=str(n),
            checkpoint="c",
            bench="alpaca-eval-2",
            revision="r",
            item=str(n),
            turn=1,
            category="",
            judge="j",
            metric="preference",
            status=JudgmentStatus.OK,
            created=1.0,
            value=1.2 + n / 10,
        )
        for n in range(2)
    )
    rate = next(s for s in leaderboard(store, paths) if s.metric == "win_rate")
    assert rate.value == pytest.approx(25) and rate.ci_low is None and TOO_SMALL in rate.flags
