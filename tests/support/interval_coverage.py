"""Coverage of the confidence intervals for few questions: the table in docs/judges.md.

python tests/support/interval_coverage.py        # prints it; takes two minutes
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdharness.harness.stats import paired_effect
from kdharness.harness.stats.inference import paired_difference, ratio_interval
from kdharness.harness.stats.plane import AnsweredItems, Plane, draw_plane
from kdharness.harness.stats.tradeoff import interval_of, trade_off_stats

Floats = NDArray[np.float64]
Ends = tuple[float | None, float | None]
TRIALS = 2000
SIZES = (3, 4, 5, 6, 7, 8, 10, 12)
UNIT = (0.0, 1.0)
SEEDS = 3


def _normal(rng: np.random.Generator, shape: tuple[int, ...], mean: float) -> Floats:
    return rng.normal(mean, 1.0, shape)


def _skewed(rng: np.random.Generator, shape: tuple[int, ...], mean: float) -> Floats:
    """Draw from a gamma distribution of shape 2 (skewness 1.4), like the losses of single rows."""
    return rng.gamma(2.0, 0.5, shape) - 1.0 + mean


def _binary(rng: np.random.Generator, shape: tuple[int, ...], mean: float) -> Floats:
    return (rng.random(shape) < mean).astype(np.float64)


DATA: dict[str, tuple[Callable[..., Floats], tuple[float, float], tuple[float, float] | None]] = {
    "normal": (_normal, (5.0, 4.5), None),
    "skewed": (_skewed, (5.0, 4.5), None),
    "0/1": (_binary, (0.8, 0.5), UNIT),
}
"""(distribution, means of the two checkpoints, range of the metric)."""


def _sums(values: Floats) -> Mapping[str, tuple[float, float]]:
    return {f"{index:02}": (float(value), 1.0) for index, value in enumerate(values)}


def mean(rng: np.random.Generator, kind: str, n: int) -> tuple[Ends, float]:
    """Return a checkpoint's score."""
    draw, (first, _), bounds = DATA[kind]
    interval = ratio_interval(draw(rng, (n,), first), np.ones(n), bounds=bounds)
    assert interval is not None
    return (interval.low, interval.high), first


def difference(rng: np.random.Generator, kind: str, n: int) -> tuple[Ends, float]:
    """Return the difference of two checkpoints on the same questions."""
    draw, means, bounds = DATA[kind]
    a, b = (draw(rng, (n,), mean_value) for mean_value in means)
    interval = paired_difference(_sums(a), _sums(b), bounds=bounds, flips=99)
    assert interval is not None
    return (interval.low, interval.high), means[0] - means[1]


def retention(rng: np.random.Generator, kind: str, n: int) -> tuple[Ends, float]:
    """Return the trade-off's retention: the share of the reference's general score that is kept."""
    draw, means, _ = DATA[kind]
    general = [draw(rng, (n,), mean_value) for mean_value in means]
    if not general[0].sum():
        return (None, None), 0.0
    domain = _sums(rng.normal(0, 1, n))
    names = ("reference", "other")
    answered = [
        AnsweredItems(name, _sums(g), domain) for name, g in zip(names, general, strict=True)
    ]
    interval = trade_off_stats(answered, Plane("reference")).points[1].retention
    assert interval is not None
    return (interval.low, interval.high), means[1] / means[0]


def gain(rng: np.random.Generator, kind: str, n: int) -> tuple[Ends, float]:
    """Return the share of an expert's domain gain, if that gain is significantly above 0."""
    draw, _, _ = DATA[kind]
    means = (0.3, 0.6, 0.9) if kind == "0/1" else (0.0, 3.0, 6.0)
    domain = [draw(rng, (n,), mean_value) for mean_value in means]
    general = _sums(rng.normal(5, 1, n))
    answered = [
        AnsweredItems(name, general, _sums(d)) for name, d in zip("rme", domain, strict=True)
    ]
    draws = draw_plane(answered, Plane("r", "e"))
    if not draws.gain_known:
        return (None, None), 0.5
    interval = interval_of(float(draws.gain[1]), draws.gain_draws[:, 1], n)
    return (None, None) if interval is None else (interval.low, interval.high), 0.5


def claim(rng: np.random.Generator, kind: str, n: int) -> tuple[Ends, float]:
    """Return a claim's effect over three seeds, each with its own shift."""
    draw, means, bounds = DATA[kind]
    shifts = np.zeros(SEEDS) if bounds else rng.normal(0, 0.3, SEEDS)
    pairs = [
        (_sums(draw(rng, (n,), means[0]) + shift), _sums(draw(rng, (n,), means[1])))
        for shift in shifts
    ]
    interval = paired_effect(pairs, None if bounds is None else bounds[1] - bounds[0])
    assert interval is not None
    return (interval.low, interval.high), means[0] - means[1]


FIGURES = {
    "mean": mean,
    "difference": difference,
    "retention": retention,
    "gain": gain,
    "claim": claim,
}


def coverage(figure: str, kind: str, n: int, trials: int = TRIALS) -> float:
    """Return the share of intervals that contain the true value, among trials with an interval."""
    rng = np.random.default_rng([n, sorted(FIGURES).index(figure), sorted(DATA).index(kind)])
    hits = intervals = 0
    for _ in range(trials):
        (low, high), truth = FIGURES[figure](rng, kind, n)
        if low is None or high is None:
            continue
        intervals += 1
        hits += low <= truth <= high
    return hits / intervals


def table(trials: int = TRIALS) -> str:
    """Return the Markdown table of all coverages, in percent."""
    lines = [
        "| figure | data | " + " | ".join(f"n = {n}" for n in SIZES) + " |",
        "|---|---|" + "---|" * len(SIZES),
    ]
    for figure in FIGURES:
        for kind in DATA:
            shares = [f"{100 * coverage(figure, kind, n, trials):.0f}" for n in SIZES]
            lines.append(f"| {figure} | {kind} | {' | '.join(shares)} |")
    return "\n".join(lines)


def documented() -> dict[tuple[str, str, int], float]:
    """Read the coverages documented in docs/judges.md."""
    text = (Path(__file__).parents[2] / "docs" / "judges.md").read_text("utf-8")
    shares = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 + len(SIZES) and cells[0] in FIGURES and cells[1] in DATA:
            for n, cell in zip(SIZES, cells[2:], strict=True):
                shares[cells[0], cells[1], n] = int(cell) / 100
    return shares


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS))
