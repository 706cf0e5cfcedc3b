"""Claims that an experiment states in advance, and their results.

    claims:
      - text: KD is closer to its teacher than SFT at equal tokens
        metric: heldout:general_kl
        of: kd
        than: sft
      - text: DAE lies above the WiSE-FT curve
        figure: above_curve
        of: dae
        reference: start
        expert: expert

A claim's effect is oriented so that higher is better and compared with the threshold in the file:
the claim *holds* if the whole 95 % interval is above it, *does not hold* if the whole interval is
below it, and is inconclusive (*can't tell*) otherwise. The interval covers two sources of variance:
questions and seeds (see `two_way_interval`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kdharness.harness.stats.rows import LEAST_FOR_VERDICT

Sums = Mapping[str, tuple[float, float]]
"""Question -> (sum of values, sum of weights)."""
HOLDS, FAILS, UNSURE = "holds", "does not hold", "can't tell"
COLUMNS = (
    "claim",
    "verdict",
    "effect",
    "ci_low",
    "ci_high",
    "threshold",
    "seeds",
    "questions",
    "settings",
    "figure",
    "note",
)


Figure = Literal[
    "gain", "retention", "above_curve", "gain_above_frontier", "retention_above_frontier"
]
FRONTIERS = ("gain_above_frontier", "retention_above_frontier")
"""Figures that compare with every point of a step: its best gain at that retention or more, and
its best retention at that gain or more."""


class ClaimSpec(BaseModel):
    """One claim of an experiment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(..., min_length=1, title="Text", description="The claim as a sentence.")
    of: str = Field(..., title="Of", description="Step whose checkpoint the claim is about.")
    than: str | None = Field(
        None, title="Than", description=("Step or model to compare with (needs `metric`).")
    )
    metric: str | None = Field(
        None,
        pattern=r"^[^:]+:.+$",
        title="Metric",
        description=(
            "Score to compare, BENCH:METRIC; the effect is how much better `of` is than `than`."
        ),
    )
    figure: Figure | None = Field(
        None, title="Figure", description="A trade-off value, instead of a metric."
    )
    reference: str | None = Field(
        None, title="Reference", description="Reference of the trade-off."
    )
    expert: str | None = Field(None, title="Expert", description="Expert of the trade-off.")
    curve: str | None = Field(
        None,
        title="Curve",
        description=("Step that merges reference and expert (for above_curve)."),
    )
    frontier: str | None = Field(
        None,
        title="Frontier",
        description=(
            "Step of which one number is varied, such as SFT at several learning rates (for "
            "gain_above_frontier and retention_above_frontier)."
        ),
    )
    general: str = Field(
        "heldout:other_writer_loss",
        title="General",
        description=("General axis of the trade-off, BENCH:METRIC."),
    )
    domain: str = Field(
        "shop:score", title="Domain", description=("Domain axis of the trade-off, BENCH:METRIC.")
    )
    threshold: float = Field(
        0.0, title="Threshold", description=("Minimum effect, in its own unit.")
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.metric is None) == (self.figure is None):
            raise ValueError("a claim needs either a metric or a figure")
        if self.metric is not None and self.than is None:
            raise ValueError(
                "a claim with a metric needs `than`, the step or model to compare with"
            )
        if self.figure is not None and (self.reference is None or self.expert is None):
            raise ValueError("a claim with a figure needs a reference and an expert")
        if self.figure == "above_curve" and self.curve is None:
            raise ValueError("above_curve needs `curve`, the step that makes the curve")
        if (self.figure in FRONTIERS) != (self.frontier is not None):
            raise ValueError(
                f"`frontier`, a step with a varied number, belongs to {' and '.join(FRONTIERS)}"
            )
        if self.frontier is not None and self.frontier == self.of:
            raise ValueError("`of` and `frontier` are the same step")
        return self


@dataclass(frozen=True)
class Effect:
    """A claim's effect with its interval, higher being better; `per_seed` in the order of seeds.

    `low` and `high` are None with fewer than three questions.
    """

    value: float
    low: float | None
    high: float | None
    questions: int
    per_seed: tuple[float, ...]


@dataclass(frozen=True)
class ClaimResult:
    """The result of one claim under one combination of settings other than seeds."""

    claim: ClaimSpec
    settings: Mapping[str, Any]
    effect: Effect | None
    note: str = ""

    @property
    def verdict(self) -> str:
        """`holds`, `does not hold` or `can't tell`."""
        effect = self.effect
        if effect is None or self.too_few or effect.low is None or effect.high is None:
            return UNSURE
        if effect.low > self.claim.threshold:
            return HOLDS
        return FAILS if effect.high < self.claim.threshold else UNSURE

    @property
    def too_few(self) -> str:
        """Why there is no verdict, if there are too few questions."""
        few = self.effect is not None and self.effect.questions < LEAST_FOR_VERDICT
        return f"fewer than {LEAST_FOR_VERDICT} questions: too few for a verdict" if few else ""

    def as_dict(self) -> dict[str, Any]:
        """Return a row of `replicate --format json`."""
        effect = self.effect
        other = self.claim.than
        if self.claim.frontier:
            other = f"all of {self.claim.frontier}"
        compared = f"{self.claim.of} against {other}" if other else ""
        return {
            "claim": self.claim.text,
            "verdict": self.verdict,
            "effect": effect.value if effect else None,
            "ci_low": effect.low if effect else None,
            "ci_high": effect.high if effect else None,
            "threshold": self.claim.threshold,
            "seeds": len(effect.per_seed) if effect else 0,
            "questions": effect.questions if effect else 0,
            "settings": dict(self.settings),
            "figure": " ".join(filter(None, (self.claim.metric or self.claim.figure, compared))),
            "per_seed": list(effect.per_seed) if effect else [],
            "note": "; ".join(filter(None, (self.note, self.too_few))),
        }


# ---------------------------------------------------------------- statistics


def two_way_interval(
    per_seed: Sequence[float], question_variance: float, questions: int
) -> tuple[float, float] | tuple[None, None]:
    """Return the 95 % interval of a mean over seeds, for new seeds and new questions.

    Each source has its Student interval; their half-widths are added in quadrature (Howe, JASA
    69(347), 1974). The residual of a cell, beyond its seed and question effect, is in both, so
    that the interval is conservative.

    Args:
        per_seed: the effect under each seed. With a single seed the interval covers questions
            only.
        question_variance: the variance of the mean over seeds due to the choice of questions.
        questions: number of questions; with fewer than three there is no interval.
    """
    from kdharness.harness.stats.inference import LEAST, LEVEL, student_quantile

    seeds = len(per_seed)
    mean = math.fsum(per_seed) / seeds
    if questions < LEAST:
        return None, None
    squares = student_quantile((1 + LEVEL) / 2, questions - 1) ** 2 * question_variance
    if seeds > 1:
        of_seeds = math.fsum((x - mean) ** 2 for x in per_seed) / (seeds - 1) / seeds
        squares += student_quantile((1 + LEVEL) / 2, seeds - 1) ** 2 * of_seeds
    reach = math.sqrt(squares)
    return mean - reach, mean + reach


def paired_effect(pairs: Sequence[tuple[Sums, Sums]], width: float | None = None) -> Effect | None:
    """Compute how much higher the first of each pair scores than the second; one pair per seed.

    Only questions answered by all of them count; None with fewer than two.

    Args:
        width: the range of the metric, if bounded; the interval then has a positive width even if
            all questions agree.
    """
    import numpy as np

    from kdharness.harness.stats.inference import LEAST, LEVEL, student_quantile, unseen_share

    sides = [sums for pair in pairs for sums in pair]
    shared = sorted(q for q in sides[0] if all(s.get(q, (0, 0))[1] > 0 for s in sides))
    n = len(shared)
    if n < 2:
        return None
    table = np.array([_shares(first, shared) - _shares(second, shared) for first, second in pairs])
    # Each question's share of the difference, times n: their mean is the difference.
    per_seed = tuple(float(x) for x in table.mean(axis=1))
    moved = table.mean(axis=0)
    variance = float(moved.var(ddof=1)) / n
    if width is not None and n >= LEAST and float(np.ptp(moved)) <= 1e-12 * max(1.0, width):
        variance = (unseen_share(n) * width / student_quantile((1 + LEVEL) / 2, n - 1)) ** 2
    low, high = two_way_interval(per_seed, variance, n)
    return Effect(math.fsum(per_seed) / len(per_seed), low, high, n, per_seed)


def _shares(sums: Sums, questions: Sequence[str]) -> Any:
    import numpy as np

    cells = np.array([sums[q] for q in questions], dtype=np.float64)
    # Linearised ratio: with unequal weights, each question moves the mean by the difference
    # between its value and its weight times the ratio.
    ratio = cells[:, 0].sum() / cells[:, 1].sum()
    mean_weight = cells[:, 1].mean()
    return ratio + (cells[:, 0] - ratio * cells[:, 1]) / mean_weight


def drawn_effect(values: Sequence[float], draws: Sequence[Any], questions: int) -> Effect | None:
    """Compute a value's mean over seeds from bootstrap draws (the same questions for each seed)."""
    import numpy as np

    if not values or not all(map(math.isfinite, values)):
        return None
    means = np.mean(np.stack(list(draws)), axis=0)
    finite = means[np.isfinite(means)]
    if len(finite) < len(means) // 2 or questions < 2:
        return None
    # A bootstrap of n questions underestimates the spread by sqrt((n − 1) / n).
    variance = float(finite.var(ddof=1)) * questions / (questions - 1)
    low, high = two_way_interval(values, variance, questions)
    return Effect(math.fsum(values) / len(values), low, high, questions, tuple(values))


# ---------------------------------------------------------------- text


def finding_lines(findings: Sequence[ClaimResult]) -> list[str]:
    """Format claim results as text."""
    lines = []
    for number, result in enumerate(findings, 1):
        lines.append(f"{number}. {result.verdict}: {result.claim.text}")
        lines += [f"   {part}" for part in claim_parts(result)]
    return lines


def claim_parts(one: ClaimResult) -> list[str]:
    """Format the details of a claim result: effect with interval, seeds, questions, notes."""
    effect, figure = one.effect, one.as_dict()["figure"]
    if effect is None:
        return [f"{figure}: {one.note}"]
    settings = "".join(f", {key} {value}" for key, value in one.settings.items())
    limit = f", threshold {one.claim.threshold:g}" if one.claim.threshold else ""
    seeds = len(effect.per_seed)
    each = ", ".join(f"{value:+.3g}" for value in effect.per_seed)
    ends = (
        "[too few questions]"
        if effect.low is None or effect.high is None
        else (f"[{effect.low:+.3g}, {effect.high:+.3g}]{limit}")
    )
    better = " better" if one.claim.metric else ""
    return [
        f"{figure}{settings}: {effect.value:+.3g}{better} {ends}",
        f"{seeds} seed{'s' * (seeds != 1)} ({each}), {effect.questions} questions",
        *filter(None, (one.note, one.too_few)),
    ]
