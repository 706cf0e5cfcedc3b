"""Who leads at a retention: what is claimed holds in 95 % of simulated experiments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.stats.answer import verdict_at
from kdharness.harness.stats.tradeoff import AnsweredItems, Plane, Stats, trade_off_stats

PLANE = Plane("ref", "expert")
LEVELS = {"ref": (8.0, 0.1), "expert": (5.0, 0.9), "dae": (7.8, 0.6)}
"""Checkpoint -> its true general score, and its true share of solved domain items."""


def simulated(
    seed: int, levels: dict[str, tuple[float, float]], items: int = 60, resamples: int = 400
) -> Stats:
    """Draw answers of all checkpoints to the same items."""
    rng = np.random.default_rng(seed)
    hard, luck = rng.normal(0, 1, items), rng.random(items)
    answered = []
    for name, (general, domain) in levels.items():
        scores = general + hard + rng.normal(0, 0.3, items)
        solved = (0.7 * luck + 0.3 * rng.random(items) < domain).astype(float)
        answered.append(
            AnsweredItems(
                name,
                {f"g{i}": (float(s), 1.0) for i, s in enumerate(scores)},
                {f"d{i}": (float(s), 1.0) for i, s in enumerate(solved)},
            )
        )
    return trade_off_stats(answered, PLANE, resamples=resamples, seed=seed)


def test_a_clear_leader_is_named_with_what_is_behind_and_what_retains_too_little() -> None:
    levels = {**LEVELS, "weak": (7.9, 0.3)}
    verdict = verdict_at(simulated(1, levels, 200, 2000), "ref", 0.9)
    assert verdict is not None
    assert [one.checkpoint for one in verdict.leaders] == ["dae"]
    assert verdict.behind == ("weak",) and verdict.perhaps == ()
    assert (verdict.general, verdict.domain, verdict.compared) == (200, 200, 3)
    low = verdict.leaders[0].retention.low
    assert low is not None and low >= 0.9


def test_an_open_retention_is_neither_claimed_nor_denied() -> None:
    verdict = verdict_at(simulated(2, LEVELS, 40, 2000), "ref", 0.975)
    assert verdict is not None
    assert verdict.leaders == () and [one.checkpoint for one in verdict.perhaps] == ["dae"]


def test_fewer_than_five_items_name_nobody() -> None:
    verdict = verdict_at(simulated(3, LEVELS, 4), "ref", 0.5)
    assert verdict is None or (verdict.leaders, verdict.perhaps, verdict.behind) == ((), (), ())


def test_without_a_known_gain_there_is_no_verdict() -> None:
    levels = {"ref": (8.0, 0.5), "expert": (5.0, 0.5), "dae": (8.0, 0.5)}
    assert verdict_at(simulated(4, levels), "ref", 0.5) is None


@pytest.mark.slow
def test_false_claims_are_rare() -> None:
    twins = {**LEVELS, "twin": LEVELS["dae"]}
    exact = LEVELS["dae"][0] / LEVELS["ref"][0]
    apart = sure = 0
    trials = 60
    for seed in range(trials):
        stats = simulated(seed, twins)
        found = verdict_at(stats, "ref", 0.8)
        apart += found is not None and not {"dae", "twin"}.isdisjoint(found.behind)
        at_truth = verdict_at(stats, "ref", exact)
        sure += at_truth is not None and any(
            one.checkpoint in ("dae", "twin") for one in at_truth.leaders
        )
    assert apart <= 0.1 * trials and sure <= 0.1 * trials


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), keep=st.floats(0.4, 1.1), order=st.permutations(list(LEVELS)))
def test_groups_are_disjoint_and_do_not_depend_on_the_order(
    seed: int, keep: float, order: list[str]
) -> None:
    found = verdict_at(simulated(seed, LEVELS, 30, 200), "ref", keep)
    if found is None:
        return
    names = [one.checkpoint for one in (*found.leaders, *found.perhaps)] + list(found.behind)
    assert len(names) == len(set(names)) and "ref" not in names
    assert all((one.retention.low or 0.0) >= keep for one in found.leaders)
    assert all((one.gain.low or 0.0) >= 0 for one in (*found.leaders, *found.perhaps))
    gains = [one.gain.value for one in found.leaders]
    assert gains == sorted(gains, reverse=True)
    stats = simulated(seed, LEVELS, 30, 200)
    again = verdict_at(stats, "ref", keep)
    assert again == found and set(order) == set(stats.draws.names)
