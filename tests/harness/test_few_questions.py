"""A handful of questions: intervals that hold what they say, and no verdict from chance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from kdharness.harness.analysis.compare import PairedComparison, compare_all
from kdharness.harness.analysis.leaderboard import leaderboard, rank_ranges, unresolved
from kdharness.harness.analysis.metrics import LEGEND
from kdharness.harness.analysis.scorebook import SCORING_VERSION
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
from kdharness.harness.paths import Paths
from kdharness.harness.reports import build
from kdharness.harness.stats.inference import (
    Difference,
    mean_intervals,
    paired_difference,
    ratio_interval,
)
from kdharness.harness.stats.rows import TOO_SMALL, Row, value_range
from kdharness.harness.stats.tradeoff import AnsweredItems, Plane, pick, trade_off_stats
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, JudgmentStatus, Score

from .interval_coverage import DATA, FIGURES, SIZES, coverage, documented
from .test_compare import add_checkpoint, verdict

Result = tuple[int, str, str]


@pytest.fixture
def store(paths: Paths) -> Any:
    with Store(paths.store) as opened:
        yield opened


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("n", [3, 5, 7])
@pytest.mark.parametrize("figure", sorted(FIGURES))
def test_normal_data_are_covered(figure: str, n: int) -> None:
    """Of the bootstrap's intervals of three questions, one in four missed the truth."""
    assert coverage(figure, "normal", n, 400) >= 0.925


@pytest.mark.slow
def test_the_documented_coverage_is_measured() -> None:
    table = documented()
    assert len(table) == len(FIGURES) * len(DATA) * len(SIZES)
    for (figure, kind, n), share in table.items():
        assert abs(coverage(figure, kind, n) - share) < 0.012, (figure, kind, n)
        assert share >= (0.93 if kind == "normal" else 0.90)


@pytest.mark.parametrize("n", [1, 2])
def test_two_questions_have_no_interval(n: int) -> None:
    found = ratio_interval([1.0, 0.0][:n], [1.0] * n, bounds=(0.0, 1.0))
    assert found is not None and (found.low, found.high, found.n) == (None, None, n)
    alike = ratio_interval([1.0] * n, [1.0] * n, bounds=(0.0, 1.0))
    assert alike is not None and alike.low is None
    for part in mean_intervals(np.ones((n, 2)), bounds=(0.0, 1.0)):
        assert part.low is None


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=3, max_size=7))
def test_a_handful_has_students_interval(values: list[float]) -> None:
    found = ratio_interval(values, [1.0] * len(values))
    assert found is not None and found.low is not None and found.high is not None
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    if spread > 1e-6:
        reach = float(t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
        assert found.low == pytest.approx(mean - reach, rel=1e-6, abs=1e-6)
        assert found.high == pytest.approx(mean + reach, rel=1e-6, abs=1e-6)
    (column,) = mean_intervals(np.array(values)[:, None])
    assert column.low == pytest.approx(found.low) and column.high == pytest.approx(found.high)


def test_intervals_stay_within_the_metric() -> None:
    found = ratio_interval([1.0, 0.1, 1.0], [1.0] * 3, bounds=(0.0, 1.0))
    assert found is not None and (found.low, found.high) == (0.0, 1.0)
    ratings = ratio_interval([20.0, 18.0, 20.0], [2.0] * 3, bounds=(1.0, 10.0))
    assert ratings is not None and ratings.high == 10.0 and 5 < (ratings.low or 0) < 9


@pytest.mark.parametrize("n", range(3, 8))
def test_right_or_wrong_is_covered_whatever_the_share(n: int) -> None:
    """Student's t covered 87 % where one of two of seven answers is right: exactly, by counting."""
    found = [
        ratio_interval([1.0] * k + [0.0] * (n - k), [1.0] * n, bounds=(0.0, 1.0))
        for k in range(n + 1)
    ]
    for k, one in enumerate(found):
        assert one is not None and one.low is not None and one.high is not None
        if 0 < k < n:
            exact = binomtest(k, n).proportion_ci(0.95, method="exact")
            assert (one.low, one.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    for share in np.linspace(0.01, 0.99, 99):
        chance = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
        held = [one is not None and (one.low or 0) <= share <= (one.high or 0) for one in found]
        assert sum(c for c, h in zip(chance, held, strict=True) if h) >= 0.95


def sums(*values: float) -> dict[str, tuple[float, float]]:
    return {str(n): (value, 1.0) for n, value in enumerate(values)}


def test_differences_that_agree_claim_no_certainty() -> None:
    found = paired_difference(sums(1, 1, 1, 1), sums(0, 0, 0, 0), bounds=(0.0, 1.0))
    assert found is not None and (found.low or 0) < 0 and found.high == 1.0
    same = paired_difference(sums(1, 1, 1, 1), sums(1, 1, 1, 1), bounds=(0.0, 1.0))
    assert same is not None and same.low == -(same.high or 0) and (same.high or 0) > 0.5
    # Bounds that the values do not keep are none.
    odd = paired_difference(sums(5, 6, 7), sums(0, 0, 0), bounds=(0.0, 1.0))
    assert odd is not None and (odd.high or 0) > 7
    two = paired_difference(sums(1, 3), sums(0, 0))
    assert two is not None
    assert (two.value, two.low, two.high, two.n_needed, two.n) == (2.0, None, None, None, 2)


@pytest.mark.parametrize(
    ("metric", "kinds", "found"),
    [
        ("score", ["rating"], (1.0, 10.0)),
        ("win_rate", ["preference"], (0.0, 100.0)),
        ("score", ["accuracy", "json_f1"], (0.0, 1.0)),
        ("general_loss", ["general_loss"], None),
        ("general_kl", ["general_kl"], None),
        ("general_agreement", ["general_agreement"], (0.0, 1.0)),
        ("score", ["rating", "accuracy"], None),
    ],
)
def test_ranges_of_metrics(metric: str, kinds: list[str], found: Any) -> None:
    rows = [
        Row("i", 1, "", kind, "ok", 1.0, 1.0, 0, "", None, None, None, None, 0.0) for kind in kinds
    ]
    assert value_range(rows, metric) == found


# ---------------------------------------------------------------- verdict words


def compared(n: int, low: float | None = 0.1, p: float = 0.001) -> PairedComparison:
    gap = Difference(0.5, low, 0.9 if low is not None else None, p, n, 10)
    return PairedComparison("shop", "score", "exact", "a", "b", 0.0, 0.5, gap, p)


@pytest.mark.parametrize(("n", "word"), [(2, ""), (3, ""), (4, ""), (5, "better"), (50, "better")])
def test_below_five_questions_nothing_is_better(n: int, word: str) -> None:
    assert compared(n).lean == word
    assert compared(n).verdict == (word or "not told apart")
    assert compared(n, None).lean == ""


def few_rows(store: Store, count: int) -> None:
    """`b` is right where `a` is wrong, on a few questions."""
    for name in "ab":
        add_checkpoint(store, name)
        store.add_judgments(verdict(name, n, float(name == "b")) for n in range(count))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_commands_say_nothing_from_a_handful(
    store: Store, paths: Paths, kd: Callable[..., Result], count: int
) -> None:
    few_rows(store, count)
    one = [row for row in compare_all(store, paths, ["a", "b"]) if row.metric == "score"]
    assert [row.lean for row in one] == ([""] if count > 1 else [])
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


def score(name: str, value: float, n: int = 10, metric: str = "score", **rest: Any) -> Score:
    ends = {"ci_low": None, "ci_high": None, **rest}
    return Score(
        checkpoint=name,
        run=None,
        method="",
        bench="shop",
        metric=metric,
        value=value,
        n=n,
        n_failed=0,
        judge="exact",
        **ends,
    )


def test_figures_of_two_questions_have_no_rank_of_their_own() -> None:
    told = [
        score("a", 0.9, 2, flags=(TOO_SMALL,)),
        score("b", 0.1, ci_low=0.05, ci_high=0.2),
        score("c", 0.5, ci_low=0.4, ci_high=0.6),
    ]
    assert rank_ranges(told) == ["1-3", "2-3", "1-2"]
    assert {key[0] for key in unresolved(told)} == {"a", "c"}
    # Published figures have no interval either, and are compared by value as before.
    assert rank_ranges([score("a", 0.9), score("b", 0.1)]) == ["1", "2"]


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


def world(n: int, spread: float = 0.01) -> list[AnsweredItems]:
    rng = np.random.default_rng(n)
    levels = {"ref": (1.0, 0.2), "expert": (0.5, 0.9), "dae": (0.95, 0.8), "low": (0.95, 0.3)}
    return [
        AnsweredItems(name, sums(*rng.normal(g, spread, n)), sums(*rng.normal(d, spread, n)))
        for name, (g, d) in levels.items()
    ]


def test_the_trade_off_takes_nothing_from_a_handful_for_sure() -> None:
    for n in (1, 2, 3, 4, 6):
        stats = trade_off_stats(world(n), Plane("ref", "expert"), resamples=200)
        point = next(p for p in stats.points if p.checkpoint == "dae")
        assert point.retention is not None and (point.retention.low is None) == (n < 3)
        assert stats.draws.gain_known == (n >= 3)
        chosen = pick(stats, 0.9)
        assert (chosen is None) == (n < 3)
        if chosen is not None:
            assert chosen.checkpoint == "dae" and chosen.sure == (n >= 5)
            assert set(chosen.rivals) == ({"ref", "low"} if n < 5 else set())
        assert any("too few questions" in note for note in stats.notes) == (n < 5)
    # What is 1 by definition stays so; what merely came out alike does not.
    same = [AnsweredItems(name, sums(1, 1, 1), sums(0.1, 0.3, 0.2)) for name in ("ref", "dae")]
    ref, dae = trade_off_stats(same, Plane("ref"), resamples=200).points
    assert ref.retention is not None and (ref.retention.low, ref.retention.high) == (1.0, 1.0)
    assert dae.retention is not None and dae.retention.low is None


def test_the_report_takes_no_side_from_a_handful() -> None:
    def told(n: int, low: float | None) -> str:
        above = {"value": 0.3, "ci_low": low, "ci_high": None if low is None else 0.5, "n": n}
        view = {
            "x": type("X", (), {"label": "x"}),
            "y": type("Y", (), {"label": "y"}),
            "keep": 0.9,
            "roles": ("a", "b"),
            "placed": [],
            "statistics": {"pick": None, "notes": [], "points": {"c": {"above_curve": above}}},
        }
        return " ".join(str(block) for block in build._short_answer(view))

    assert "stands above" in told(5, 0.1)
    assert "is not told apart from" in told(4, 0.1) and "is not told apart from" in told(2, None)


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
def test_the_demo_names_winners_by_tests_alone(n: int, store: Store, paths: Paths) -> None:
    demo_rows(store, n)
    closer, gained, general, writer = claims_of_the_demo(store)
    if n < 5:
        assert {closer, gained, general, writer} == {UNSURE}
        return
    # The same loss on both sides names nobody, whichever way the last digit falls.
    assert (closer, general, writer) == (HOLDS, HOLDS, UNSURE)


def test_the_demo_takes_no_side_where_rows_disagree(store: Store, paths: Paths) -> None:
    demo_rows(store, 12, noise=3.0)
    closer, _, general, writer = claims_of_the_demo(store)
    assert {closer, general, writer} == {UNSURE}


def claims_of_the_demo(store: Store) -> list[str]:
    """The verdicts on the shipped demo's claims."""
    sweep, planned = load_demo(smoke=False, judge=None)
    return [found.verdict for found in judge_claims(store, sweep.claims, planned)]


def test_two_answers_have_no_interval_in_the_demos_table() -> None:
    (row,) = summary_rows([score("kd", 0.5, 2, flags=(TOO_SMALL,))])[0]
    assert row["shop"] == "0.5 (n 2)"


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(0.4, 0.6, "0.5 ±0.1"), (0.45, 0.6, "0.5 [0.45, 0.6]"), (0.5, 0.9, "0.5 [0.5, 0.9]")],
)
def test_a_lopsided_interval_is_shown_by_its_ends(low: float, high: float, shown: str) -> None:
    """0 ±0.18 would reach below what a score can be."""
    one = Score(**{**score("kd", 0.5, 12).__dict__, "ci_low": low, "ci_high": high})
    (row,) = summary_rows([one])[0]
    assert row["shop"] == shown


def test_scores_cached_under_the_old_formula_are_made_anew(store: Store, paths: Paths) -> None:
    few_rows(store, 3)
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


def test_what_is_imported_with_two_rows_is_marked(store: Store, paths: Paths) -> None:
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
