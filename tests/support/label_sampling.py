"""Labels chosen by strata in simulated studies: coverage and width beside random choice.

python tests/support/label_sampling.py        # prints the table of docs/judges.md; takes minutes
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from kdharness.harness.stats.corrected import Corrected, Question, corrected_mean
from kdharness.harness.stats.stratified import label_shares, strata_by
from support.label_coverage import (
    KINDS,
    RATINGS,
    SHARES,
    SIZES,
    TRIALS,
    Floats,
    draw_world,
    questions,
)

STRATIFIED = (*KINDS, "preferences good", "preferences useless", "orders good")
"""Preferences are probabilities, calibrated or about nothing; of orders a third disagree."""
SESSION = 20
"""Labels between two choices of where to label next."""


def draw(rng: np.random.Generator, kind: str, total: int) -> tuple[Floats, Floats, float]:
    """Return people's values, the judge's, and the true mean."""
    if kind in KINDS:
        return draw_world(rng, kind, total)
    win = (rng.random(total) < 0.6).astype(np.float64)
    if kind == "orders good":
        known = rng.random(total) < 0.65
        return win, np.where(known, np.where(rng.random(total) < 0.93, win, 1 - win), 0.5), 0.6
    chance = rng.beta(0.6, 0.4, total)
    calibrated = (rng.random(total) < chance).astype(np.float64)
    return calibrated if kind == "preferences good" else win, chance, 0.6


def strata_for(judge: Floats) -> NDArray[np.int64]:
    """Return the strata that the product makes of a judge's verdicts."""
    strata = strata_by({str(n): float(value) for n, value in enumerate(judge)}, {})
    return np.array([strata[str(n)] for n in range(len(judge))])


def chosen(
    rng: np.random.Generator, people: Floats, strata: NDArray[np.int64], n: int
) -> list[int]:
    """Choose n answers in sessions, each by what the labels before it show."""
    sizes = {int(kind): int((strata == kind).sum()) for kind in np.unique(strata)}
    waiting = {kind: list(rng.permutation(np.flatnonzero(strata == kind))) for kind in sizes}
    taken: dict[int, list[int]] = {kind: [] for kind in sizes}
    shares = label_shares(sizes, {})
    for count in range(n):
        if count % SESSION == 0:
            values = {k: [float(people[i]) for i in inside] for k, inside in taken.items()}
            shares = label_shares(sizes, values)
        kind = max(
            (kind for kind in sizes if waiting[kind]),
            key=lambda kind: shares[kind] / (2 * len(taken[kind]) + 1),
        )
        taken[kind].append(int(waiting[kind].pop()))
    return [index for inside in taken.values() for index in inside]


def stratified(
    people: Floats, judge: Floats, strata: NDArray[np.int64], labelled: list[int], kind: str
) -> Corrected | None:
    """Return the corrected mean of labels chosen by strata."""
    rows = [Question(float(f), 1, stratum=int(k)) for f, k in zip(judge, strata, strict=True)]
    for index in labelled:
        value, own = float(people[index]), float(judge[index])
        rows[index] = Question(own, 1, value, 1, own, int(strata[index]))
    coarse = not kind.startswith("ratings")
    return corrected_mean(rows, bounds=SHARES if coarse else RATINGS, coarse=coarse)


def study(kind: str, n: int, total: int, trials: int) -> tuple[float, float, float]:
    """Return (coverage, mean error, mean width in widths of random choice) over studies."""
    rng = np.random.default_rng([n, total, len(kind), 1])
    coarse = not kind.startswith("ratings")
    hits, errors, widths, plain = 0, 0.0, 0.0, 0.0
    for _ in range(trials):
        people, judge, truth = draw(rng, kind, total)
        strata = strata_for(judge)
        mine = stratified(people, judge, strata, chosen(rng, people, strata, n), kind)
        other = corrected_mean(
            questions(people[:n], judge), bounds=SHARES if coarse else RATINGS, coarse=coarse
        )
        assert mine is not None and other is not None
        low, high = mine.interval.low, mine.interval.high
        assert low is not None and high is not None
        hits += low <= truth <= high
        errors += mine.interval.value - truth
        widths += high - low
        plain += (other.interval.high or 0.0) - (other.interval.low or 0.0)
    return hits / trials, errors / trials, widths / plain


def table(trials: int = TRIALS) -> str:
    """Return the Markdown table of coverages in percent and of widths."""
    sizes = [f"{n} of {total}" for n, total in SIZES]
    lines = [f"| labels of people, judge | {' | '.join(sizes)} |", "|---|" + "---|" * len(SIZES)]
    for kind in STRATIFIED:
        cells = [study(kind, n, total, trials) for n, total in SIZES]
        shown = " | ".join(f"{100 * hit:.0f}, {width:.2f}" for hit, _, width in cells)
        lines.append(f"| {kind.replace(' ', ', ')} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS))
