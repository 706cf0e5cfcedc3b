"""Checkpoints on (retention, gain): as measured, and in every resample of the questions.

A checkpoint is compared with the reference and the expert on the questions that all of them
answered: those of an unfinished evaluation may be easier than the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdharness.harness.stats.inference import (
    FEW,
    LEVEL,
    RESAMPLES,
    Floats,
    draws_interval,
    resample_counts,
)
from kdharness.harness.stats.rows import Sums


@dataclass(frozen=True)
class AnsweredItems:
    """One checkpoint's rows on both axes, question by question."""

    checkpoint: str
    general: Sums
    domain: Sums


@dataclass(frozen=True)
class Plane:
    """The axes and the roles of checkpoints.

    `curve` names the merges between reference and expert, ordered by alpha. With `same_questions`
    both axes score the same questions, which are then resampled together.
    """

    reference: str
    expert: str | None = None
    general_lower_is_better: bool = False
    domain_lower_is_better: bool = False
    curve: tuple[str, ...] = ()
    floor: tuple[float, float] = (0.0, 0.0)
    same_questions: bool = False


@dataclass(frozen=True)
class Draws:
    """Retention and gain of every checkpoint: as measured, and in every resample.

    Attributes:
        n_general, n_domain: the numbers of questions.
        general_counts, domain_counts: of these, how many each checkpoint is compared on.
    """

    names: tuple[str, ...]
    retention: Floats
    gain: Floats
    retention_draws: Floats
    gain_draws: Floats
    n_general: int
    n_domain: int
    general_counts: tuple[int, ...]
    domain_counts: tuple[int, ...]
    gain_known: bool = True

    def questions(self, name: str) -> int:
        """Return on how many questions of the shorter axis a checkpoint is compared."""
        at = self.names.index(name)
        return min(self.general_counts[at], self.domain_counts[at])


def draw_plane(
    answered: Sequence[AnsweredItems], plane: Plane, *, resamples: int = RESAMPLES, seed: int = 0
) -> Draws:
    """Compute retention and gain as measured and in every resample of the questions."""
    names = tuple(entry.checkpoint for entry in answered)
    base = names.index(plane.reference)
    best = names.index(plane.expert) if plane.expert in names else None
    general = _Paired([entry.general for entry in answered], resamples, seed, base)
    # A different seed, so that two sets with the same number of questions are independent.
    other = seed if plane.same_questions else seed + 1
    domain = _Paired([entry.domain for entry in answered], resamples, other, base, best)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = general.own / general.beside(base)
        if plane.general_lower_is_better:
            kept = 1 / kept
        start = domain.beside(base)
        learnt = domain.own - start
        gained, known = np.full_like(learnt, np.nan), False
        if best is not None:
            span = domain.beside(best) - start
            # The reference's own is 0, not -0, where lower is better.
            gained = learnt / span + 0.0
            better = -span[:, best] if plane.domain_lower_is_better else span[:, best]
            known = _surely_positive(better, domain.counts[best])
    return Draws(
        names,
        kept[0],
        gained[0],
        kept[1:],
        gained[1:],
        general.questions,
        domain.questions,
        general.counts,
        domain.counts,
        known,
    )


class _Paired:
    """Means of checkpoints on one axis, each over the questions that its partners answered, too.

    Attributes:
        own: as measured and in every resample, shape (1 + resamples, checkpoints).
        questions: the number of questions.
        counts: of these, how many each checkpoint and its partners answered.
    """

    def __init__(
        self, columns: Sequence[Sums], resamples: int, seed: int, *partners: int | None
    ) -> None:
        keys = sorted({q for sums in columns for q in sums})
        cells = np.array([[sums.get(q, (0.0, 0.0)) for sums in columns] for q in keys])
        self._values, self._weights = cells[:, :, 0], cells[:, :, 1]
        self._shared: NDArray[np.bool_] = self._weights > 0
        for partner in partners:
            if partner is not None:
                self._shared = self._shared & (self._weights[:, partner] > 0)[:, None]
        self.questions = len(keys)
        self.counts = tuple(int(count) for count in self._shared.sum(axis=0))
        drawn = resample_counts(self.questions, resamples, seed).astype(np.float64)
        self._drawn = np.concatenate([np.ones((1, self.questions)), drawn])
        self.own = self._means(self._values, self._weights, self._shared)

    def beside(self, partner: int) -> Floats:
        """Return a partner's means over each checkpoint's questions, in the shape of `own`."""
        whole = self.own[:, [partner]]
        same = (self._shared == self._shared[:, [partner]]).all(axis=0)
        if same.all():
            return np.broadcast_to(whole, self.own.shape)
        values, weights = self._values[:, [partner]], self._weights[:, [partner]]
        # Where the questions are the same, so is the sum, to the last bit.
        return np.where(same, whole, self._means(values, weights, self._shared))

    def _means(self, values: Floats, weights: Floats, shared: NDArray[np.bool_]) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            means: Floats = (self._drawn @ (values * shared)) / (self._drawn @ (weights * shared))
        return means


def _surely_positive(better: Floats, n: int) -> bool:
    """Return whether the expert's gain is significant; otherwise shares of it are undefined."""
    if n < FEW:
        low = draws_interval(float(better[0]), better[1:], n).low
        return low is not None and low > 0
    return bool(better[0] > 0 and np.mean(better[1:] <= 0) <= (1 - LEVEL) / 2)
