"""Metric specs: bounds, direction, and what counts as a flip."""

from __future__ import annotations

import math

import pytest

from kdharness.harness.stats.metric_specs import PREFERENCE, RATING, metric_spec, percent


@pytest.mark.parametrize(
    ("metric", "bounds", "lower_is_better"),
    [
        ("rating", (1.0, 10.0), False),
        ("preference", (1.0, 2.0), False),
        ("pair", (0.0, 1.0), False),
        ("accuracy", (0.0, 1.0), False),
        ("win_rate", (0.0, 1.0), False),
        ("loss_rate", (0.0, 1.0), True),
        ("general_loss", (0.0, math.inf), True),
        ("domain_kl", (0.0, math.inf), True),
        ("domain_agreement", (0.0, 1.0), False),
        ("category:loss", (0.0, 1.0), False),
    ],
)
def test_metric_bounds_and_direction(
    metric: str, bounds: tuple[float, float], lower_is_better: bool
) -> None:
    spec = metric_spec(metric)
    assert spec.bounds == bounds and spec.lower_is_better is lower_is_better


def test_what_counts_as_a_flip() -> None:
    assert RATING.flipped(4, 6) and RATING.flipped(6, 4) and not RATING.flipped(4, 5.5)
    assert PREFERENCE.flipped(1.4, 1.6) and not PREFERENCE.flipped(1.6, 1.9)
    share = metric_spec("accuracy")
    assert share.flipped(0.0, 0.5) and not share.flipped(0.5, 1.0)
    assert not metric_spec("general_loss").flipped(1.0, 9.0)
    assert [PREFERENCE.sign(value) for value in (1.2, 1.5, 1.7)] == [-1, 0, 1]
    with pytest.raises(TypeError):
        RATING.sign(5)


def test_draw_counts_as_fifty_percent() -> None:
    assert [percent(value) for value in (1.0, 1.5, 2.0)] == [0, 50, 100]
