"""Verdicts of claims and of the demo with very few items."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdharness.harness.experiments.claim_judge import judge_claims
from kdharness.harness.experiments.claims import (
    HOLDS,
    UNSURE,
    ClaimResult,
    ClaimSpec,
    finding_lines,
)
from kdharness.harness.experiments.demo import load_demo, summary_rows
from kdharness.harness.stats import paired_effect
from kdharness.harness.stats.rows import TOO_SMALL
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, JudgmentStatus
from support.scored_store import make_score, sums


def test_claim_with_few_items_is_inconclusive() -> None:
    claim = ClaimSpec(text="b is better", of="b", than="a", metric="shop:score")
    for n, has_interval in ((2, False), (3, True), (4, True), (5, True)):
        effect = paired_effect([(sums(*(1.0 + k / 99 for k in range(n))), sums(*[0.0] * n))])
        assert effect is not None and (effect.low is not None) == has_interval
        result = ClaimResult(claim, {}, effect)
        assert result.verdict == (UNSURE if n < 5 else "holds")
        assert ("too few for a verdict" in result.as_dict()["note"]) == (n < 5)
        json.dumps(result.as_dict(), allow_nan=False)
        text = "\n".join(finding_lines([result]))
        assert "inf" not in text and "None" not in text


def test_identical_differences_keep_a_nonzero_interval_with_a_known_width() -> None:
    identical = [(sums(*[1.0] * 5), sums(*[0.0] * 5))]
    with_width, without_width = paired_effect(identical, width=1.0), paired_effect(identical)
    assert with_width is not None and without_width is not None
    assert (without_width.low, without_width.high) == (1.0, 1.0) and (with_width.low or 0) < 0.5


def add_demo_rows(store: Store, n: int, noise: float = 0.0) -> None:
    """Store a finished demo: KD closer than SFT; DAE half-way to the expert, forgetting less."""
    means = {
        ("heldout", "general_kl"): {"sft": 0.9, "kd": 0.5, "expert": 0.9, "dae": 0.7},
        ("heldout", "general_loss"): {"sft": 2.0, "kd": 2.0, "expert": 3.0, "dae": 2.2},
        ("heldout", "other_writer_loss"): {"sft": 2.0, "kd": 2.0, "expert": 3.0, "dae": 3.0},
        ("shop", "accuracy"): {"sft": 0.1, "kd": 0.2, "expert": 0.8, "dae": 0.5},
    }
    rng = np.random.default_rng(0)
    for name in ("sft", "kd", "expert", "dae"):
        store.add_checkpoint(Checkpoint(name, f"demo-{name}", name, "", 1.0))
        for (bench, metric), table in means.items():
            item_noise = np.linspace(-0.05, 0.05, n) + noise * rng.standard_normal(n)
            store.add_judgments(
                Judgment(
                    id=f"{name}/{metric}/{i}",
                    checkpoint=name,
                    bench=bench,
                    revision="r",
                    item=f"{metric.rpartition('_')[0]}/{i}",
                    turn=1,
                    category="",
                    judge="exact",
                    metric=metric,
                    status=JudgmentStatus.OK,
                    created=1.0,
                    value=table[name] + item_noise[i] + 0.002 * rng.standard_normal(),
                    weight=1.0,
                )
                for i in range(n)
            )


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4, 12])
def test_demo_verdicts_follow_the_tests(n: int, store: Store) -> None:
    add_demo_rows(store, n)
    closer, gained, general, writer = demo_verdicts(store)
    if n < 5:
        assert {closer, gained, general, writer} == {UNSURE}
        return
    # Equal losses on both sides give no winner, regardless of rounding.
    assert (closer, general, writer) == (HOLDS, HOLDS, UNSURE)


def test_demo_is_inconclusive_on_noisy_rows(store: Store) -> None:
    add_demo_rows(store, 12, noise=3.0)
    closer, _, general, writer = demo_verdicts(store)
    assert {closer, general, writer} == {UNSURE}


def demo_verdicts(store: Store) -> list[str]:
    """Return the verdicts on the shipped demo's claims."""
    sweep, planned = load_demo(smoke=False, judge=None)
    return [result.verdict for result in judge_claims(store, sweep.claims, planned)]


def test_demo_table_shows_n_instead_of_an_interval_for_two_items() -> None:
    (row,) = summary_rows([make_score("kd", 0.5, 2, flags=(TOO_SMALL,))])[0]
    assert row["shop"] == "0.5 (n 2)"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.4, 0.6, "0.5 ±0.1"), (0.45, 0.6, "0.5 [0.45, 0.6]"), (0.5, 0.9, "0.5 [0.5, 0.9]")],
)
def test_asymmetric_interval_is_shown_by_its_bounds(low: float, high: float, expected: str) -> None:
    """A symmetric `0 ±0.18` would extend below the minimum of a score."""
    score = make_score("kd", 0.5, 12)._replace(ci_low=low, ci_high=high)
    (row,) = summary_rows([score])[0]
    assert row["shop"] == expected
