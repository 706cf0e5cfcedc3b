"""Axes of curves: tokens, FLOPs and minutes at a step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.types import Run, RunStatus
from kdharness.tui.viewmodels.axes import AXES, Clock, clock_of
from kdharness.tui.viewmodels.drawings import SERIES, colours_of, run_colours


def run_with(**info: object) -> Run:
    return Run(
        id="r",
        method="kd",
        status=RunStatus.FINISHED,
        config={},
        config_hash="",
        folder="",
        created=90.0,
        started=100.0,
        info=info,  # type: ignore[arg-type]
    )


TIMES = [(float(step), 110.0 + 10 * step) for step in range(1, 6)]
RATES = [(float(step), 50.0) for step in range(1, 6)]


def test_tokens_are_those_between_logs_and_their_total_is_the_stored_one() -> None:
    running = clock_of("tokens", run_with(stage_began=110.0), TIMES, RATES)
    assert running is not None and running.at(5) == pytest.approx(2500)
    assert running.at(2.5) == pytest.approx(1250) and running.step_at(1250) == pytest.approx(2.5)
    ended = clock_of("tokens", run_with(tokens=2600, flops=5.2e12), TIMES, RATES)
    assert ended is not None and ended.at(5) == pytest.approx(2600) and ended.at(0) == 0
    flops = clock_of("FLOPs", run_with(tokens=2600, flops=5.2e12), TIMES, RATES)
    assert flops is not None and flops.at(5) == pytest.approx(5.2e12)


def test_a_pause_adds_minutes_but_no_tokens() -> None:
    paused = [(s, t if s < 3 else t + 7200) for s, t in TIMES]
    tokens = clock_of("tokens", run_with(stage_began=110.0), paused, RATES)
    assert tokens is not None and tokens.at(5) == pytest.approx(2500)
    minutes = clock_of("minutes", run_with(), paused, [])
    assert minutes is not None and minutes.at(5) == pytest.approx((7200 + 60) / 60)


def test_what_is_not_stored_has_no_axis() -> None:
    assert clock_of("FLOPs", run_with(), TIMES, RATES) is None
    assert clock_of("tokens", run_with(), TIMES, []) is None
    assert all(clock_of(axis, run_with(), [], RATES) is None for axis in AXES[1:])


@given(
    times=st.lists(st.floats(0, 1e9), min_size=1, max_size=30),
    rates=st.lists(st.floats(0, 1e6), min_size=30, max_size=30),
    axis=st.sampled_from(AXES[1:]),
)
def test_axes_never_fall_and_are_never_negative(
    times: list[float], rates: list[float], axis: str
) -> None:
    """A machine's clock may be set back while a run writes."""
    steps = [float(step) for step in range(1, len(times) + 1)]
    points = list(zip(steps, times, strict=True))
    speeds = list(zip(steps, rates, strict=False))
    clock = clock_of(axis, run_with(tokens=1000, flops=1e12), points, speeds)
    if clock is not None:
        values = [clock.at(step) for step in (0, *steps, len(steps) + 1)]
        assert values == sorted(values) and values[0] >= 0


def test_values_outside_a_clock_are_its_ends() -> None:
    clock = Clock((1.0, 3.0), (10.0, 30.0))
    assert [clock.at(step) for step in (0, 2, 9)] == [10.0, 20.0, 30.0]


def test_a_known_step_has_its_own_value_although_sums_are_rounded() -> None:
    pairs = [(0.1 * n, 0.3 * n + 0.7) for n in range(1, 400)]
    assert any(low + (high - low) > high for low, high in pairs)
    for low, high in pairs:
        assert Clock((1.0, 2.0), (low, high)).at(2) <= high


def test_colours_follow_the_order_of_runs_and_differ_within_a_chart() -> None:
    names = [f"run-{number}" for number in range(8)]
    colours = run_colours(names)
    assert [colours[name] for name in names[:6]] == list(SERIES)
    assert colours["run-6"] == SERIES[0]
    assert run_colours([*names, "later"])["run-3"] == colours["run-3"]
    drawn = colours_of(["run-1", "elsewhere", "run-3"], colours)
    assert drawn["run-1"] == colours["run-1"] and len(set(drawn.values())) == 3
