"""How often the intervals of a handful of questions hold the truth: the table in docs/judges.md.

python tests/support/interval_coverage.py        # prints it; half a minute
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdharness.harness.experiments.claims import paired_effect
from kdharness.harness.stats.inference import paired_difference, ratio_interval
from kdharness.harness.stats.tradeoff import (
    AnsweredItems,
    Plane,
    draw_plane,
    interval_of,
    trade_off_stats,
)

Floats = NDArray[np.float64]
Ends = tuple[float | None, float | None]
TRIALS = 2000
SIZES = (3, 4, 5, 6, 7, 8, 10, 12)
UNIT = (0.0, 1.0)
SEEDS = 3


def _normal(rng: np.random.Generator, shape: tuple[int, ...], mean: float) -> Floats:
    return rng.normal(mean, 1.0, shape)


def _skewed(rng: np.random.Generator, shape: tuple[int, ...], mean: float) -> Floats:
    """Gamma of shape 2, as losses of single rows look: skewness 1.4."""
    return rng.gamma(2.0, 0.5, shape) - 1.0 + mean


def _binary(rng: np.random.Generator, shape: tuple[int, ...], mean: float) -> Floats:
    return (rng.random(shape) < mean).astype(np.float64)


DATA: dict[str, tuple[Callable[..., Floats], tuple[float, float], tuple[float, float] | None]] = {
    "normal": (_normal, (5.0, 4.5), None),
    "skewed": (_skewed, (5.0, 4.5), None),
    "0/1": (_binary, (0.8, 0.5), UNIT),
}
"""How values are drawn, the means of the two checkpoints, and the range of the metric."""


def _sums(values: Floats) -> Mapping[str, tuple[float, float]]:
    return {f"{place:02}": (float(value), 1.0) for place, value in enumerate(values)}


def mean(rng: np.random.Generator, kind: str, n: int) -> tuple[Ends, float]:
    """A checkpoint's score."""
    draw, (first, _), bounds = DATA[kind]
    found = ratio_interval(draw(rng, (n,), first), np.ones(n), bounds=bounds)
    assert found is not None
    return (found.low, found.high), first


def difference(rng: np.random.Generator, kind: str, n: int) -> tuple[Ends, float]:
    """Two checkpoints on the same questions."""
    draw, means, bounds = DATA[kind]
    a, b = (draw(rng, (n,), one) for one in means)
    found = paired_difference(_sums(a), _sums(b), bounds=bounds, flips=99)
    assert found is not None
    return (found.low, found.high), means[0] - means[1]


def retention(rng: np.random.Generator, kind: str, n: int) -> tuple[Ends, float]:
    """The trade-off's share of the reference's general figure that is left."""
    draw, means, _ = DATA[kind]
    general = [draw(rng, (n,), one) for one in means]
    if not general[0].sum():
        return (None, None), 0.0
    domain = _sums(rng.normal(0, 1, n))
    names = ("reference", "other")
    answered = [
        AnsweredItems(name, _sums(g), domain) for name, g in zip(names, general, strict=True)
    ]
    found = trade_off_stats(answered, Plane("reference")).points[1].retention
    assert found is not None
    return (found.low, found.high), means[1] / means[0]


def gain(rng: np.random.Generator, kind: str, n: int) -> tuple[Ends, float]:
    """The share of an expert's domain gain, where that gain itself is told apart from 0."""
    draw, _, _ = DATA[kind]
    means = (0.3, 0.6, 0.9) if kind == "0/1" else (0.0, 3.0, 6.0)
    domain = [draw(rng, (n,), one) for one in means]
    general = _sums(rng.normal(5, 1, n))
    answered = [
        AnsweredItems(name, general, _sums(d)) for name, d in zip("rme", domain, strict=True)
    ]
    draws = draw_plane(answered, Plane("r", "e"))
    if not draws.gain_known:
        return (None, None), 0.5
    found = interval_of(float(draws.gain[1]), draws.gain_draws[:, 1], n)
    return (None, None) if found is None else (found.low, found.high), 0.5


def claim(rng: np.random.Generator, kind: str, n: int) -> tuple[Ends, float]:
    """A claim's effect over three seeds, each of which moves it as a whole."""
    draw, means, bounds = DATA[kind]
    moved = np.zeros(SEEDS) if bounds else rng.normal(0, 0.3, SEEDS)
    pairs = [
        (_sums(draw(rng, (n,), means[0]) + shift), _sums(draw(rng, (n,), means[1])))
        for shift in moved
    ]
    found = paired_effect(pairs, None if bounds is None else bounds[1] - bounds[0])
    assert found is not None
    return (found.low, found.high), means[0] - means[1]


FIGURES = {
    "mean": mean,
    "difference": difference,
    "retention": retention,
    "gain": gain,
    "claim": claim,
}


def coverage(figure: str, kind: str, n: int, trials: int = TRIALS) -> float:
    """The share of the trials whose interval holds the truth; of those that have one."""
    rng = np.random.default_rng([n, sorted(FIGURES).index(figure), sorted(DATA).index(kind)])
    hits = told = 0
    for _ in range(trials):
        (low, high), truth = FIGURES[figure](rng, kind, n)
        if low is None or high is None:
            continue
        told += 1
        hits += low <= truth <= high
    return hits / told


def table(trials: int = TRIALS) -> str:
    """The Markdown table of all of them, in percent."""
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
    """The shares that docs/judges.md holds."""
    text = (Path(__file__).parents[2] / "docs" / "judges.md").read_text("utf-8")
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 + len(SIZES) and cells[0] in FIGURES and cells[1] in DATA:
            for n, cell in zip(SIZES, cells[2:], strict=True):
                found[cells[0], cells[1], n] = int(cell) / 100
    return found


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS))
