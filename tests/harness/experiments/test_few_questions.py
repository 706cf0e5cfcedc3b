"""A handful of questions: what claims and the demo say of them."""

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
    paired_effect,
)
from kdharness.harness.experiments.demo import load_demo, summary_rows
from kdharness.harness.stats.rows import TOO_SMALL
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, JudgmentStatus, Score
from support.scored_store import make_score, sums


def test_a_claim_about_a_handful_cannot_tell() -> None:
    claim = ClaimSpec(text="b is better", of="b", than="a", metric="shop:score")
    for n, known in ((2, False), (3, True), (4, True), (5, True)):
        effect = paired_effect([(sums(*(1.0 + k / 99 for k in range(n))), sums(*[0.0] * n))])
        assert effect is not None and (effect.low is not None) == known
        found = ClaimResult(claim, {}, effect)
        assert found.verdict == (UNSURE if n < 5 else "holds")
        assert ("too few for a verdict" in found.as_dict()["note"]) == (n < 5)
        json.dumps(found.as_dict(), allow_nan=False)
        text = "\n".join(finding_lines([found]))
        assert "inf" not in text and "None" not in text


def test_a_claim_whose_questions_agree_is_not_certain() -> None:
    alike = [(sums(*[1.0] * 5), sums(*[0.0] * 5))]
    loose, tight = paired_effect(alike, width=1.0), paired_effect(alike)
    assert loose is not None and tight is not None
    assert (tight.low, tight.high) == (1.0, 1.0) and (loose.low or 0) < 0.5


def demo_rows(store: Store, n: int, noise: float = 0.0) -> None:
    """A finished demo: KD closer than SFT, DAE half-way to the expert and forgetting less."""
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
            wave = np.linspace(-0.05, 0.05, n) + noise * rng.standard_normal(n)
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
                    value=table[name] + wave[i] + 0.002 * rng.standard_normal(),
                    weight=1.0,
                )
                for i in range(n)
            )


@pytest.mark.parametrize("n", [2, 4, 12])
def test_the_demo_names_winners_by_tests_alone(n: int, store: Store) -> None:
    demo_rows(store, n)
    closer, gained, general, writer = claims_of_the_demo(store)
    if n < 5:
        assert {closer, gained, general, writer} == {UNSURE}
        return
    # The same loss on both sides names nobody, whichever way the last digit falls.
    assert (closer, general, writer) == (HOLDS, HOLDS, UNSURE)


def test_the_demo_takes_no_side_where_rows_disagree(store: Store) -> None:
    demo_rows(store, 12, noise=3.0)
    closer, _, general, writer = claims_of_the_demo(store)
    assert {closer, general, writer} == {UNSURE}


def claims_of_the_demo(store: Store) -> list[str]:
    """The verdicts on the shipped demo's claims."""
    sweep, planned = load_demo(smoke=False, judge=None)
    return [found.verdict for found in judge_claims(store, sweep.claims, planned)]


def test_two_answers_have_no_interval_in_the_demos_table() -> None:
    (row,) = summary_rows([make_score("kd", 0.5, 2, flags=(TOO_SMALL,))])[0]
    assert row["shop"] == "0.5 (n 2)"


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(0.4, 0.6, "0.5 ±0.1"), (0.45, 0.6, "0.5 [0.45, 0.6]"), (0.5, 0.9, "0.5 [0.5, 0.9]")],
)
def test_a_lopsided_interval_is_shown_by_its_ends(low: float, high: float, shown: str) -> None:
    """0 ±0.18 would reach below what a score can be."""
    one = Score(**{**make_score("kd", 0.5, 12).__dict__, "ci_low": low, "ci_high": high})
    (row,) = summary_rows([one])[0]
    assert row["shop"] == shown
