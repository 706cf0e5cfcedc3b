"""Coverage of the intervals of scores corrected by labels: the table in docs/judges.md.

python tests/support/label_coverage.py        # prints it; takes minutes
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdharness.harness.stats.corrected import Question, corrected_mean

Floats = NDArray[np.float64]
RATINGS, SHARES = (1.0, 10.0), (0.0, 1.0)
KINDS = [
    f"{scale} {judge}" for scale in ("ratings", "wins") for judge in ("good", "useless", "reversed")
]
SIZES = ((20, 80), (20, 800), (50, 200), (100, 800))
"""(labelled answers, all answers)."""
TRIALS = 1000


def questions(people: Sequence[float] | Floats, judge: Sequence[float] | Floats) -> list[Question]:
    """Make questions of one answer each, of which the first are labelled."""
    rows = [Question(f, 1, y, 1, f) for y, f in zip(people, judge, strict=False)]
    return [*rows, *(Question(f, 1) for f in judge[len(people) :])]


def rated(
    rng: np.random.Generator, total: int, noise: float, shift: float
) -> tuple[Floats, Floats]:
    """Draw people's ratings of answers, and a judge's."""
    quality = rng.normal(6, 1.5, total)
    people = np.clip(np.round(quality), 1, 10)
    return people, np.clip(np.round(quality + shift + rng.normal(0, noise, total)), 1, 10)


def draw_world(rng: np.random.Generator, kind: str, total: int) -> tuple[Floats, Floats, float]:
    """Return people's values, the judge's, and the true mean."""
    scale, judge = kind.split()
    if scale == "ratings":
        noise = {"good": 0.8, "useless": 50.0, "reversed": 0.8}[judge]
        people, judged = rated(rng, total, noise, 0.8)
        return people, 11 - judged if judge == "reversed" else judged, 6.0
    people = (rng.random(total) < 0.6).astype(np.float64)
    right = rng.random(total) < {"good": 0.9, "useless": 0.5, "reversed": 0.15}[judge]
    return people, np.where(right, people, 1 - people), 0.6


def coverage(kind: str, n: int, total: int, trials: int) -> float:
    """Return the share of intervals that contain the true mean."""
    rng = np.random.default_rng([n, total, len(kind)])
    coarse = kind.startswith("wins")
    bounds, hits = (SHARES if coarse else RATINGS), 0
    for _ in range(trials):
        people, judge, truth = draw_world(rng, kind, total)
        corrected = corrected_mean(questions(people[:n], judge), bounds=bounds, coarse=coarse)
        assert corrected is not None
        low, high = corrected.interval.low, corrected.interval.high
        assert low is not None and high is not None
        hits += low <= truth <= high
    return hits / trials


def table(trials: int = TRIALS) -> str:
    """Return the Markdown table of all coverages, in percent."""
    sizes = [f"{n} of {total}" for n, total in SIZES]
    lines = [f"| labels of people, judge | {' | '.join(sizes)} |", "|---|" + "---|" * len(SIZES)]
    for kind in KINDS:
        shares = [f"{100 * coverage(kind, n, total, trials):.0f}" for n, total in SIZES]
        lines.append(f"| {kind.replace(' ', ', ')} | {' | '.join(shares)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS))
