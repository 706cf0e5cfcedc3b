"""Means corrected by labels of a stratified sample: formula, limits, coverage, and allocation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.stats.corrected import Question, corrected_mean, rater_agreement
from kdharness.harness.stats.stratified import label_shares, strata_by
from support.label_coverage import RATINGS, questions, rated
from support.label_sampling import STRATIFIED, strata_for, stratified, study


def test_labels_denser_in_one_stratum_do_not_move_the_mean() -> None:
    """A judge says 9 of one half and 3 of the other; people say 8 and 4; one half has 3/4."""
    low = [Question(3, 1, 4 + n % 2 / 5, 1, 3, 0) for n in range(15)]
    high = [Question(9, 1, 8 + n % 2 / 5, 1, 9, 1) for n in range(5)]
    rest = [Question(3, 1, stratum=0)] * 25 + [Question(9, 1, stratum=1)] * 35
    corrected = corrected_mean([*low, *high, *rest], bounds=RATINGS)
    assert corrected is not None
    assert corrected.interval.value == pytest.approx(6.1, abs=0.05)
    assert corrected.interval.low is not None and corrected.interval.high is not None
    assert corrected.interval.low < 6.1 < corrected.interval.high
    unweighted = corrected_mean([q._replace(stratum=0) for q in [*low, *high, *rest]])
    assert unweighted is not None and unweighted.interval.low is not None


def test_it_is_the_textbooks_stratified_estimate() -> None:
    rng = np.random.default_rng(1)
    people, judge = rated(rng, 400, 0.8, 1.0)
    strata = strata_for(judge)
    labelled = [i for k in range(4) for i in np.flatnonzero(strata == k)[: 10 + 5 * k]]
    corrected = stratified(people, judge, strata, labelled, "ratings")
    assert corrected is not None and 0 < corrected.weight <= 1
    mean = corrected.weight * judge.mean()
    for kind in range(4):
        inside = [i for i in labelled if strata[i] == kind]
        residual = people[inside] - corrected.weight * judge[inside]
        mean += (strata == kind).mean() * residual.mean()
    assert corrected.interval.value == pytest.approx(float(mean))
    assert corrected.interval.n == len(labelled)


def test_one_stratum_is_a_simple_random_sample() -> None:
    people, judge = rated(np.random.default_rng(2), 100, 0.8, 1.0)
    plain = questions(people[:30], judge)
    assert corrected_mean([q._replace(stratum=7) for q in plain], bounds=RATINGS) == corrected_mean(
        plain, bounds=RATINGS
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10), st.integers(0, 3)), min_size=3),
    st.lists(st.tuples(st.integers(1, 10), st.integers(0, 4)), max_size=40),
    st.booleans(),
)
def test_any_strata_give_an_interval_within_the_range(
    labelled: list[tuple[int, int, int]], rest: list[tuple[int, int]], coarse: bool
) -> None:
    scale = 10 if coarse else 1
    rows = [
        Question(f / scale, 1, float(y > 5) if coarse else y, 1, f / scale, k)
        for y, f, k in labelled
    ]
    rows += [Question(f / scale, 1, stratum=k) for f, k in rest]
    bounds = (0.0, 1.0) if coarse else RATINGS
    corrected = corrected_mean(rows, bounds=bounds, coarse=coarse)
    assert corrected is not None
    low, value, high = corrected.interval.low, corrected.interval.value, corrected.interval.high
    assert low is not None and high is not None
    assert bounds[0] - 1e-9 <= low <= value <= high <= bounds[1] + 1e-9
    assert 0 <= corrected.weight <= 1 and 0 <= corrected.p <= 1
    assert corrected.to_halve is None or 0 <= corrected.to_halve <= len(rest)


def test_how_many_more_labels_halve_the_interval() -> None:
    people, judge = rated(np.random.default_rng(8), 4000, 0.8, 1.0)
    strata = strata_for(judge)
    kinds = [np.flatnonzero(strata == k) for k in range(4)]
    order = [int(inside[n]) for n in range(600) for inside in kinds]
    first = stratified(people, judge, strata, order[:120], "ratings")
    assert first is not None and first.to_halve is not None
    more = stratified(people, judge, strata, order[: 120 + first.to_halve], "ratings")
    assert more is not None
    widths = [(c.interval.high or 0.0) - (c.interval.low or 0.0) for c in (first, more)]
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.25)


# ---------------------------------------------------------------- coverage


@pytest.mark.parametrize("kind", STRATIFIED)
def test_intervals_cover_the_truth_and_are_not_wider(kind: str) -> None:
    # 60 studies: 95 % give or take three standard errors. The table in docs/judges.md has more.
    hits, _, width = study(kind, 20, 80, 60)
    assert hits >= 0.86 and width <= 1.06


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wins useless", "preferences good"])
def test_coverage_is_close_to_95_percent_with_labels_chosen_by_labels(kind: str) -> None:
    hits, error, width = study(kind, 60, 200, 150)
    assert hits >= 0.9 and width <= 1.03
    assert abs(error) < (0.05 if kind.startswith("ratings") else 0.02)


# ---------------------------------------------------------------- strata and their labels


def test_strata_are_quarters_by_verdict_and_equal_verdicts_stay_together() -> None:
    quarters = strata_by({str(n): n / 100 for n in range(100)}, {})
    assert [sum(k == kind for k in quarters.values()) for kind in range(4)] == [25] * 4
    assert [quarters[str(n)] for n in (0, 30, 60, 99)] == [0, 1, 2, 3]
    ties = strata_by({str(n): float(n % 2) for n in range(40)}, {})
    assert {ties[str(n)] for n in range(0, 40, 2)} == {0} and set(ties.values()) == {0, 1}


def test_an_uncertain_judges_doubts_split_each_half() -> None:
    values = {str(n): float(n >= 50) for n in range(100)}
    doubts = {str(n): float(n % 2) for n in range(100)}
    strata = strata_by(values, doubts)
    cells = {(values[name], doubts[name]): kind for name, kind in strata.items()}
    assert cells == {(0.0, 0.0): 0, (0.0, 1.0): 1, (1.0, 1.0): 2, (1.0, 0.0): 3}


@pytest.mark.parametrize("count", [0, 1, 9, 15])
def test_few_items_are_at_most_a_few_strata_of_five(count: int) -> None:
    strata = list(strata_by({str(n): float(n) for n in range(count)}, {}).values())
    assert len(strata) == count
    assert all(strata.count(kind) >= 5 for kind in strata) or len(set(strata)) == 1


def test_labels_go_where_they_differ_and_never_below_half_of_the_plain_share() -> None:
    sizes = {0: 60, 1: 20, 2: 20}
    plain = {0: 0.6, 1: 0.2, 2: 0.2}
    assert label_shares(sizes, {0: [0.5] * 5, 1: [0.1, 0.9], 2: [0.5]}) == pytest.approx(plain)
    rng = np.random.default_rng(3)
    pilot = {0: [0.5] * 20, 1: list(rng.random(20)), 2: [0.5] * 20}
    shares = label_shares(sizes, pilot)
    assert math.isclose(sum(shares.values()), 1)
    assert shares[1] > 0.3 and all(shares[k] >= plain[k] / 2 for k in sizes)
    assert label_shares(sizes, {k: [0.5] * 20 for k in sizes}) == pytest.approx(plain)


def test_agreement_counts_each_label_by_its_weight() -> None:
    pairs = {str(n): [(float(n % 7), float(n % 5))] for n in range(12)}
    doubled = rater_agreement(pairs, weights={"3": 2.0, "8": 2.0})
    copies = {**pairs, "3b": pairs["3"], "8b": pairs["8"]}
    twice = rater_agreement(copies)
    assert doubled.kappa is not None and twice.kappa is not None
    assert doubled.kappa.value == pytest.approx(twice.kappa.value)
    assert rater_agreement(pairs, weights={}) == rater_agreement(pairs)
