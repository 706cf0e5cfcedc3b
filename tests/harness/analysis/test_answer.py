"""The answer in sentences: only what corrected tests allow, and what it is based on."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdharness.harness.analysis.answer import (
    answer_of,
    best_on,
    home_answer,
    judged_by,
    who_sentences,
)
from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.tradeoff import Axis, Point, Roles, TradeOffPoint, TradeOffView
from kdharness.harness.analysis.tradeoff_groups import TradeOffStatistics
from kdharness.harness.paths import Paths
from kdharness.harness.stats.answer import Standing, Verdict
from kdharness.harness.stats.inference import Interval
from kdharness.harness.store import Store
from kdharness.harness.types import Judgment, Score
from support.scored_store import add_checkpoint
from support.scored_store import verdict as verdict_row
from support.tui_home import fill_sample_data


def standing(name: str, gain: float = 0.7, kept: float = 0.98) -> Standing:
    return Standing(
        name,
        Interval(gain, gain - 0.1, gain + 0.1, 72),
        Interval(kept, kept - 0.01, kept + 0.01, 48),
    )


def verdict(
    leaders: tuple[Standing, ...] = (),
    behind: tuple[str, ...] = (),
    perhaps: tuple[Standing, ...] = (),
    items: int = 72,
) -> Verdict:
    return Verdict(0.95, leaders, behind, perhaps, 48, items, 4)


def verdict_of(
    name: str, item: int, value: float, bench: str = "shop", judge: str = "exact", when: float = 1.0
) -> Judgment:
    return verdict_row(name, item, value, bench=bench, metric="score", judge=judge, created=when)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            verdict((standing("dae"),)),
            "The only significant domain gain that retains at least 0.95 of the general score: "
            "dae, 70 % [60, 80] of the expert's gain, retention 98.0 % [97.0, 99.0].",
        ),
        (
            verdict((standing("dae"),), ("sft", "kd")),
            "The largest significant domain gain that retains at least 0.95 of the general score: "
            "dae, 70 % [60, 80] of the expert's gain, retention 98.0 % [97.0, 99.0]. "
            "Significantly less: sft, kd.",
        ),
        (
            verdict((standing("dae"), standing("twin", 0.69))),
            "Among the largest significant domain gains that retain at least 0.95 of the general "
            "score: dae, 70 % [60, 80] of the expert's gain, retention 98.0 % [97.0, 99.0]. "
            "No significant difference in gain from twin.",
        ),
        (
            verdict((), (), (standing("dae"), standing("b", 0.6, 0.955))),
            "No checkpoint gains significantly in the domain and retains at least 0.95 of the "
            "general score. dae, 70 % [60, 80] of the expert's gain, retention 98.0 % [97.0, "
            "99.0]: more items may settle it. Retention inconclusive: b (95.5 % [94.5, 96.5]).",
        ),
        (
            verdict(),
            "No checkpoint gains significantly in the domain and retains at least 0.95 of the "
            "general score.",
        ),
        (verdict(items=4), "No answer from 4 items: at least 5 are needed."),
    ],
)
def test_each_verdict_has_its_sentence(found: Verdict, told: str) -> None:
    assert who_sentences(found) == told


def score(name: str, metric: str, judge: str, *flags: str, n: int = 72) -> Score:
    bench = "shop" if metric == "score" else "mt-bench"
    return Score(name, None, "dae", bench, metric, 0.5, 0.4, 0.6, n, 0, judge, flags)


def test_the_basis_names_items_judges_their_cards_and_flags() -> None:
    point = TradeOffPoint(Point("dae", "dae", 7.0, 0.5), 0.7, 0.98, on_front=True)
    axes = Axis("mt-bench", "expected_rating", False), Axis("shop", "score", False)
    view = TradeOffView(*axes, [point], Roles("kd", "expert"))
    scores = [
        score("dae", "score", "exact", "truncated"),
        score("dae", "expected_rating", "openai:few", "judge:untested", n=3),
        score("dae", "expected_rating", "openai:x", "judge:near-chance", "subset:8", n=48),
        score("elsewhere", "expected_rating", "openai:y", n=48),
    ]
    found = answer_of(view, TradeOffStatistics(verdict=verdict((standing("dae"),))), scores)
    assert found.basis == (
        "Based on 72 items of shop:score (no judge; flagged truncated) and 48 of "
        "mt-bench:expected_rating (judged by openai:x: near-chance; flagged subset); 95 % "
        "intervals, Holm-corrected tests of 4 checkpoints."
    )
    assert found.text.endswith(found.basis) and found.text.startswith(found.who)


def test_a_checked_judge_without_issues_is_told_from_an_untested_one() -> None:
    assert judged_by([score("a", "m", "openai:x")]) == (
        "judged by openai:x: no issues on its report card"
    )
    assert judged_by([score("a", "m", "openai:x", "judge:untested")]) == (
        "judged by openai:x: untested"
    )


def test_without_a_trade_off_the_best_is_named_only_if_paired_tests_tell_it(
    tmp_path: Path,
) -> None:
    paths = Paths(tmp_path)
    with Store(paths.store) as store:
        fill_sample_data(store)
        scores = leaderboard(store, paths)
        close = best_on(store, scores, "shop:score")
        clear = home_answer(store, scores, None, None, "heldout:domain_loss")
        one = best_on(store, [s for s in scores if s.checkpoint == "kd"], "shop:score")
    assert close.who == (
        "No significant difference on shop:score between big-model and expert, kd, sft."
    )
    assert "8 items of shop:score (no judge; flagged subset)" in close.basis
    assert clear.who == (
        "Best on heldout:domain_loss: big-model, significantly better than expert, kd, sft."
    )
    assert "Holm-corrected over 3 comparisons" in clear.basis
    assert one.who == "Nothing to compare yet on shop:score." and one.basis == ""


def test_the_best_is_found_under_one_of_several_judges(tmp_path: Path) -> None:
    """A panel has no rows: it must not take the place of the judges it is made of."""
    with Store(Paths(tmp_path).store) as store:
        for name, lift in (("a", 0.0), ("b", 3.0)):
            add_checkpoint(store, name)
            for when, judge in enumerate(("vllm:x", "qwen:y"), 1):
                store.add_judgments(
                    verdict_of(name, item, 3 + lift + item % 2, "mt-bench", judge, float(when))
                    for item in range(12)
                )
        found = best_on(store, leaderboard(store), "mt-bench:score")
    assert found.who == "Best on mt-bench:score: b, significantly better than a."
    assert "panel" not in found.basis and "Based on 12 items" in found.basis


def test_checkpoints_of_different_judges_are_not_compared(tmp_path: Path) -> None:
    with Store(Paths(tmp_path).store) as store:
        for name, judge, rating in (("a", "openai:strict", 3.0), ("b", "openai:kind", 8.0)):
            add_checkpoint(store, name)
            store.add_judgments(
                verdict_of(name, item, rating + item % 2, "mt-bench", judge) for item in range(12)
            )
        found = best_on(store, leaderboard(store), "mt-bench:score")
    assert found.who == "Nothing to compare yet on mt-bench:score."


def test_easy_items_alone_make_no_checkpoint_the_best(tmp_path: Path) -> None:
    """The mean over all items of each says the opposite of the test over the shared ones."""
    with Store(Paths(tmp_path).store) as store:
        for name, count in (("easy", 20), ("all", 32), ("few", 8)):
            add_checkpoint(store, name)
            store.add_judgments(
                verdict_of(name, item, (0.8 if name != "all" else 1.0) * (item < 20))
                for item in range(count)
            )
        found = best_on(store, leaderboard(store), "shop:score")
    assert found.who == "Best on shop:score: all, significantly better than easy."
    assert "Based on 20 items" in found.basis
    assert found.basis.endswith("Left out, with few of these items: few.")
