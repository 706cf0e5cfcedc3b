"""Means corrected by labels: formula, limits, coverage; agreement of judge and people."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from kdharness.harness.stats.corrected import Question, corrected_mean, rater_agreement
from kdharness.harness.stats.inference import ratio_interval, student_quantile
from support.label_coverage import KINDS, RATINGS, SHARES, coverage, questions, rated

Floats = NDArray[np.float64]


def textbook(y: Floats, f: Floats) -> tuple[float, float, float]:
    """Return (estimate, variance, weight) of the least variance over a grid of weights.

    Written as in the paper, with labelled and unlabelled answers apart: the weight of the judge's
    mean over the unlabelled ones is w (N - n) / N.
    """
    n, total = len(y), len(f)
    inside, rest = f[:n], f[n:]
    best = (math.inf, 0.0, 0.0)
    for weight in np.linspace(0, 1, 2001):
        used = weight * (total - n) / total
        # The variance over unlabelled answers is taken from all, as they are of one population.
        variance = np.var(y - used * inside, ddof=1) / n
        variance += used**2 * np.var(f, ddof=1) / len(rest)
        best = min(best, (float(variance), float(weight), float(used)))
    variance, weight, used = best
    return float(y.mean() + used * (rest.mean() - inside.mean())), variance, weight


def test_it_is_the_papers_estimate_and_interval() -> None:
    people, judge = rated(np.random.default_rng(3), 200, 0.8, 1.0)
    corrected = corrected_mean(questions(people[:40], judge), bounds=RATINGS)
    assert corrected is not None
    value, variance, weight = textbook(people[:40], judge)
    assert corrected.weight == pytest.approx(weight, abs=1e-3)
    assert corrected.interval.value == pytest.approx(value, abs=1e-3)
    # 38 degrees of freedom, as the weight is estimated as well.
    reach = student_quantile(0.975, 38) * math.sqrt(variance * 39 / 38)
    assert corrected.interval.low == pytest.approx(value - reach, abs=0.01)
    assert corrected.interval.high == pytest.approx(value + reach, abs=0.01)
    assert corrected.interval.n == 40 and 0 <= corrected.p < 1e-10


def test_a_generous_judge_is_corrected() -> None:
    people, judge = rated(np.random.default_rng(4), 600, 0.5, 2.0)
    corrected = corrected_mean(questions(people[:60], judge), bounds=RATINGS)
    assert corrected is not None
    assert judge.mean() > people.mean() + 1.5
    assert abs(corrected.interval.value - people.mean()) < 0.2 < 1.5
    alone = ratio_interval(people[:60], np.ones(60), bounds=RATINGS)
    assert alone is not None and alone.low is not None and alone.high is not None
    assert corrected.interval.low is not None and corrected.interval.high is not None
    assert corrected.interval.high - corrected.interval.low < 0.6 * (alone.high - alone.low)


@pytest.mark.parametrize("judge", ["constant", "reversed", "noise"])
def test_a_judge_that_does_not_help_leaves_the_labels_alone(judge: str) -> None:
    rng = np.random.default_rng(5)
    people, _ = rated(rng, 100, 0.5, 0.0)
    values = {
        "constant": np.full(100, 8.0),
        "reversed": 11 - people,
        "noise": rng.integers(1, 11, 100).astype(np.float64),
    }[judge]
    corrected = corrected_mean(questions(people[:30], values), bounds=RATINGS)
    assert corrected is not None and corrected.weight == 0
    assert corrected.interval == ratio_interval(people[:30], np.ones(30), bounds=RATINGS)


def test_with_every_answer_labelled_the_judge_is_not_used() -> None:
    people, judge = rated(np.random.default_rng(6), 50, 0.5, 1.0)
    corrected = corrected_mean(questions(people, judge), bounds=RATINGS)
    assert corrected is not None and corrected.weight == 0 and corrected.to_halve is None
    assert corrected.interval == ratio_interval(people, np.ones(50), bounds=RATINGS)


def test_without_labels_there_is_nothing_and_with_two_no_interval() -> None:
    assert corrected_mean(questions([], [5.0, 6.0]), bounds=RATINGS) is None
    assert corrected_mean([], bounds=RATINGS) is None
    few = corrected_mean(questions([5.0, 7.0], [5.0, 6.0, 7.0, 8.0]), bounds=RATINGS)
    assert few is not None and few.interval.value == 6.0
    assert few.interval.low is few.interval.high is few.to_halve is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), min_size=3, max_size=40),
    st.lists(st.integers(1, 10), max_size=40),
    st.booleans(),
)
def test_never_wider_than_the_labels_alone_and_within_the_range(
    labelled: list[tuple[int, int]], rest: list[int], coarse: bool
) -> None:
    scale = 10.0 if coarse else 1.0
    people = [float(y > 5) if coarse else float(y) for y, _ in labelled]
    judge = [f / scale for f in (*(f for _, f in labelled), *rest)]
    bounds = SHARES if coarse else RATINGS
    corrected = corrected_mean(questions(people, judge), bounds=bounds, coarse=coarse)
    alone = ratio_interval(people, np.ones(len(people)), bounds=bounds)
    assert corrected is not None and alone is not None
    low, value, high = corrected.interval.low, corrected.interval.value, corrected.interval.high
    assert low is not None and high is not None and alone.low is not None and alone.high is not None
    assert bounds[0] - 1e-9 <= low <= value <= high <= bounds[1] + 1e-9
    assert high - low <= alone.high - alone.low + 1e-9
    assert 0 <= corrected.weight <= 1 and 0 <= corrected.p <= 1
    assert corrected.to_halve is None or 0 < corrected.to_halve <= len(rest)


def test_both_turns_of_a_question_are_one_unit() -> None:
    people, judge = rated(np.random.default_rng(7), 80, 0.8, 1.0)
    once = corrected_mean(questions(people[:20], judge), bounds=RATINGS)
    twice = corrected_mean(
        [Question(*(2 * x for x in q)) for q in questions(people[:20], judge)], bounds=RATINGS
    )
    assert once is not None and twice is not None
    assert twice.interval.n == once.interval.n == 20
    assert twice.interval.low == pytest.approx(once.interval.low)
    assert twice.interval.high == pytest.approx(once.interval.high)


def test_a_question_of_which_one_turn_is_labelled_counts_for_that_turn() -> None:
    rows = [Question(10.0, 2, 4.0, 1, 5.0), *questions([4.0] * 9, [5.0] * 30)]
    corrected = corrected_mean(rows, bounds=RATINGS)
    assert corrected is not None and corrected.interval.value == pytest.approx(4.0)


def test_how_many_more_labels_halve_the_interval() -> None:
    people, judge = rated(np.random.default_rng(8), 4000, 0.8, 1.0)
    corrected = corrected_mean(questions(people[:40], judge), bounds=RATINGS)
    assert corrected is not None and corrected.to_halve is not None
    more = corrected_mean(questions(people[: 40 + corrected.to_halve], judge), bounds=RATINGS)
    assert more is not None
    widths = [(c.interval.high or 0.0) - (c.interval.low or 0.0) for c in (corrected, more)]
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.2)


# ---------------------------------------------------------------- coverage


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover_the_truth_whatever_the_judge_is_worth(kind: str) -> None:
    # 100 studies: 95 % give or take three standard errors. The table in docs/judges.md has more.
    assert coverage(kind, 20, 60, 100) >= 0.89


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_coverage_is_close_to_95_percent(kind: str) -> None:
    # Two standard errors of 400 studies are two points.
    assert 0.91 <= coverage(kind, 40, 160, 400) <= 0.99


# ---------------------------------------------------------------- agreement


def test_kappa_and_rank_correlation_are_those_of_two_other_programs() -> None:
    people, judge = rated(np.random.default_rng(9), 60, 1.5, 1.0)
    agreement = rater_agreement(
        {str(n): [pair] for n, pair in enumerate(zip(judge, people, strict=True))}
    )
    assert agreement.kappa is not None and agreement.spearman is not None
    expected = cohen_kappa_score(
        judge.astype(int), people.astype(int), weights="quadratic", labels=list(range(1, 11))
    )
    assert agreement.kappa.value == pytest.approx(expected, abs=1e-9)
    assert agreement.spearman.value == pytest.approx(spearmanr(judge, people).statistic, abs=1e-9)
    for interval in agreement:
        assert interval is not None and interval.low is not None and interval.high is not None
        assert -1 <= interval.low < interval.value < interval.high <= 1 and interval.n == 60


def test_agreement_of_a_constant_judge_is_zero_and_of_too_few_undefined() -> None:
    constant = rater_agreement({str(n): [(5.0, float(n))] for n in range(10)})
    assert constant.spearman is None
    assert constant.kappa is not None and constant.kappa.value == 0
    assert rater_agreement({"1": [(5.0, 5.0)]}) == (None, None)
    assert rater_agreement({}) == (None, None)


def test_a_generous_judge_has_a_high_rank_correlation_and_a_low_kappa() -> None:
    agreement = rater_agreement({str(n): [(n / 2 + 5, n / 2)] for n in range(10)})
    assert agreement.kappa is not None and agreement.spearman is not None
    assert agreement.spearman.value == pytest.approx(1) and agreement.kappa.value < 0.2
