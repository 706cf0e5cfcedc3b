"""Gain, retention, Pareto front and hypervolume: hand-computed values and properties."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.analysis.tradeoff import (
    GENERAL_DEFAULTS,
    Axis,
    Point,
    choose_axes,
    dominated_area,
    place,
    roles,
    trade_off_view,
)
from kdharness.harness.analysis.tradeoff_groups import trade_off
from kdharness.harness.cli.tradeoff import draw
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.stats.pareto import gain, hypervolume, pareto_front, retention
from kdharness.harness.store import Store
from kdharness.harness.types import Score
from support.commands import CommandLine
from support.scored_store import add_checkpoint, add_run, lineage, verdict

LOSS = Axis("heldout", "general_loss", True)
SCORE = Axis("shop", "score", False)


def test_example_from_the_design_document() -> None:
    """DAE reaches the full gain and loses 0.4 % of the general score; domain SFT loses 12 %."""
    points = [
        Point("reference", "model", 2.087, 0.0),
        Point("expert", "sft", 2.347, 1.0),
        Point("dae", "dae", 2.095, 1.0),
    ]
    placed = {p.point.checkpoint: p for p in place(points, LOSS, SCORE, "reference", "expert")}
    assert placed["dae"].gain == 1.0
    assert placed["dae"].retention == pytest.approx(0.9962, abs=1e-4)
    assert placed["expert"].retention == pytest.approx(0.8892, abs=1e-4)
    assert [placed[n].on_front for n in ("reference", "expert", "dae")] == [True, False, True]


def test_gain_and_retention_for_losses_and_for_scores() -> None:
    assert gain(3.0, 4.0, 2.0) == 0.5
    assert gain(0.5, 0.0, 1.0) == 0.5
    assert gain(1.0, 1.0, 1.0) is None
    assert retention(4.0, 2.0, lower_is_better=True) == 0.5
    assert retention(2.0, 4.0, lower_is_better=False) == 0.5
    assert retention(0.0, 2.0, lower_is_better=True) is None


def test_gain_and_retention_are_none_without_reference_and_expert() -> None:
    placed = place([Point("a", "kd", 1.0, 2.0)], LOSS, SCORE, None, None)
    assert (placed[0].gain, placed[0].retention) == (None, None)
    assert dominated_area(placed) is None


def test_hypervolume_matches_hand_computed_values() -> None:
    assert hypervolume([(1.0, 1.0)], (0.0, 0.0)) == 1.0
    assert hypervolume([(1.0, 0.5), (0.5, 1.0)], (0.0, 0.0)) == pytest.approx(0.75)
    assert hypervolume([(1.0, 0.5), (0.5, 1.0)], (0.5, 0.0)) == pytest.approx(0.25)
    assert hypervolume([(0.4, 0.4)], (0.5, 0.0)) == 0.0


pairs = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12)


@given(points=pairs)
def test_hypervolume_matches_monte_carlo_estimate(points: list[tuple[float, float]]) -> None:
    rng = random.Random(0)
    samples = [(rng.random(), rng.random()) for _ in range(2000)]
    dominated = sum(any(x >= a and y >= b for x, y in points) for a, b in samples)
    assert hypervolume(points, (0.0, 0.0)) == pytest.approx(dominated / len(samples), abs=0.06)


@given(points=pairs)
def test_pareto_front_has_the_full_hypervolume(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    assert any(front)
    kept = [p for p, on in zip(points, front, strict=True) if on]
    assert hypervolume(kept, (0.0, 0.0)) == pytest.approx(hypervolume(points, (0.0, 0.0)))


def test_plot_places_better_points_to_the_upper_right() -> None:
    points = [Point("bad", "sft", 3.0, 0.1), Point("good", "dae", 2.0, 0.9)]
    lines = draw(place(points, LOSS, SCORE, None, None), LOSS, SCORE, width=40, height=8)
    row_bad = next(i for i, line in enumerate(lines) if "o1" in line)
    row_good = next(i for i, line in enumerate(lines) if "#2" in line)
    assert row_good < row_bad
    assert lines[row_good].index("#2") > lines[row_bad].index("o1")
    assert "3 at the left" in lines[-1] and "2 at the right" in lines[-1]


def test_run_stands_for_the_checkpoint_with_its_weights(paths: Paths) -> None:
    """A run that makes an existing checkpoint again has no name of its own among the scores."""
    with Store(paths.store) as store:
        lineage(store)
        add_run(store, "demo-kd")
        store.update_run("demo-kd", checkpoint="kd")
        found = roles(store, {"kd", "expert", "dae"}, "demo-kd", "expert")
        assert (found.reference, found.expert) == ("kd", "expert")
        with pytest.raises(ConfigError, match="'nothing' has no scores on these axes"):
            roles(store, {"kd"}, "nothing", None)


# ---------------------------------------------------------------- the default axes


def board(scored: dict[str, set[int]]) -> list[Score]:
    """Return scores of numbered checkpoints, by `bench:metric`."""
    return [
        Score(f"m{n}", None, "kd", *label.split(":"), 1.0, None, None, 6, 0, "exact")
        for label, numbers in scored.items()
        for n in sorted(numbers)
    ]


def labels(scores: list[Score], general: str | None = None, domain: str | None = None) -> list[str]:
    return [axis.label for axis in choose_axes(scores, general, domain)]


def test_one_new_result_does_not_empty_the_chart(
    paths: Paths, store: Store, kd: CommandLine
) -> None:
    """The view, which the app draws, the report's table and the command choose the same axes."""
    for n in range(4):
        add_checkpoint(store, f"m{n}")
        rated = {"bench": "mt-bench", "metric": "rating", "judge": "openai:j"}
        store.add_judgments(verdict(f"m{n}", i, 5.0 + n, **rated) for i in range(6))
        store.add_judgments(verdict(f"m{n}", i, 0.5) for i in range(6))
    strict = {"bench": "ifeval", "metric": "prompt_strict"}
    store.add_judgments(verdict("m0", i, 1.0, **strict) for i in range(6))
    view = trade_off_view(store, paths, None, None, None, None)
    assert (view.general.label, view.domain.label) == ("mt-bench:score", "shop:score")
    assert len(view.points) == 4
    assert trade_off(store, paths).view == view
    rows = kd.json("tradeoff")
    assert [row["checkpoint"] for row in rows["points"]] == [
        p.point.checkpoint for p in view.points
    ]


def test_the_order_of_the_defaults_decides_ties_alone() -> None:
    scored = {"mt-bench:score": {0, 1}, "ifeval:prompt_strict": {0, 1}, "shop:score": {0, 1}}
    assert labels(board(scored)) == ["ifeval:prompt_strict", "shop:score"]
    # A checkpoint without the domain score does not count.
    scored["mt-bench:score"] |= {2, 3}
    assert labels(board(scored))[0] == "ifeval:prompt_strict"
    scored["shop:score"] |= {2}
    assert labels(board(scored))[0] == "mt-bench:score"


def test_one_new_result_does_not_move_the_domain_axis_either() -> None:
    scored = {"heldout:general_loss": {0, 1, 2}, "heldout:domain_loss": {0, 1, 2}}
    assert labels(board({**scored, "shop:score": {0}}))[1] == "heldout:domain_loss"
    assert labels(board({**scored, "shop:score": {0, 1, 2}}))[1] == "shop:score"


def test_a_default_fits_the_axis_that_was_asked_for() -> None:
    scored = {"ifeval:prompt_strict": {0}, "mt-bench:score": {0, 1, 2}, "own:score": {1, 2}}
    assert labels(board(scored), None, "own") == ["mt-bench:score", "own:score"]
    # The axis itself shares the most checkpoints, but the chart would be a straight line.
    assert labels(board(scored), None, "mt-bench:score")[0] == "ifeval:prompt_strict"
    only = board({"mt-bench:score": {0}})
    assert labels(only, None, "mt-bench:score") == ["mt-bench:score"] * 2


@given(
    st.dictionaries(st.sampled_from(GENERAL_DEFAULTS), st.sets(st.integers(0, 5), min_size=1)),
    st.sets(st.integers(0, 5), min_size=1),
)
def test_no_other_default_has_more_points(general: dict[str, set[int]], domain: set[int]) -> None:
    stored = [label for label in GENERAL_DEFAULTS if label in general]
    if stored:
        chosen = labels(board({**general, "shop:score": domain}))[0]
        assert chosen == max(stored, key=lambda label: len(general[label] & domain))
