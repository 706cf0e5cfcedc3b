"""Claims that an experiment states beforehand, and what its figures make of them.

    claims:
      - text: KD is closer to its teacher than SFT at equal tokens
        metric: heldout:general_kl
        of: kd
        than: sft
      - text: DAE stands above the WiSE-FT curve
        figure: above_curve
        of: dae
        reference: start
        expert: expert

A claim's effect is turned so that more is better and held against a threshold that stands in the
file: it *holds* where the whole 95 % interval is above, *does not hold* where the whole interval
is below, and else nobody *can tell*. Two sources of chance are in the interval together: other
questions, and other seeds (see `two_way_interval`).
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


class ClaimSpec(BaseModel):
    """One claim of an experiment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(..., min_length=1, title="Text", description="The claim as a sentence.")
    of: str = Field(..., title="Of", description="The step whose checkpoint the claim is about.")
    than: str | None = Field(
        None, title="Than", description=("The step or model it is compared with (with `metric`).")
    )
    metric: str | None = Field(
        None,
        pattern=r"^[^:]+:.+$",
        title="Metric",
        description=(
            "BENCH:METRIC to compare in; the effect is how much better `of` is than `than`."
        ),
    )
    figure: Literal["gain", "retention", "above_curve"] | None = Field(
        None, title="Figure", description="A trade-off figure instead of a metric."
    )
    reference: str | None = Field(None, title="Reference", description="For a trade-off figure.")
    expert: str | None = Field(None, title="Expert", description="For a trade-off figure.")
    curve: str | None = Field(
        None,
        title="Curve",
        description=("The step that merges reference and expert (for above_curve)."),
    )
    general: str = Field(
        "heldout:other_writer_loss",
        title="General",
        description=("The trade-off's general axis, BENCH:METRIC."),
    )
    domain: str = Field(
        "shop:score", title="Domain", description=("The trade-off's domain axis, BENCH:METRIC.")
    )
    threshold: float = Field(
        0.0, title="Threshold", description=("What the effect must be above, in its own unit.")
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.metric is None) == (self.figure is None):
            raise ValueError("a claim has a metric or a figure, one of them")
        if self.metric is not None and self.than is None:
            raise ValueError("a metric is compared with something: name it as `than`")
        if self.figure is not None and (self.reference is None or self.expert is None):
            raise ValueError("a trade-off figure needs a reference and an expert")
        if self.figure == "above_curve" and self.curve is None:
            raise ValueError("above_curve needs the step that makes the curve")
        return self


@dataclass(frozen=True)
class Effect:
    """A claim's effect with its interval, more being better; `per_seed` in the seeds' order.

    `low` and `high` are None with fewer than three questions.
    """

    value: float
    low: float | None
    high: float | None
    questions: int
    per_seed: tuple[float, ...]


@dataclass(frozen=True)
class ClaimResult:
    """What became of one claim under one choice of the settings that are no seeds."""

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
        """Why no verdict is given, where the questions are a handful."""
        few = self.effect is not None and self.effect.questions < LEAST_FOR_VERDICT
        return f"fewer than {LEAST_FOR_VERDICT} questions: too few for a verdict" if few else ""

    def as_dict(self) -> dict[str, Any]:
        """A row of `replicate --format json`."""
        effect = self.effect
        compared = f"{self.claim.of} against {self.claim.than}" if self.claim.than else ""
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
    """The 95 % interval of a mean over seeds, were both seeds and questions drawn anew.

    Each source has its Student interval; their half-widths are added as squares (Howe, JASA
    69(347), 1974). What is left of a cell beside its seed and its question is in both, so that
    the interval errs to the wide side.

    Args:
        per_seed: the effect under each seed. A single one says nothing of the seeds: then the
            interval is over questions alone.
        question_variance: the variance of the mean over seeds, were other questions asked.
        questions: how many there are; with fewer than three there is no interval.
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
    """How much more the first of each pair has than the second; one pair a seed.

    Over the questions that all of them answered; None with fewer than two of these.

    Args:
        width: how far apart two values of the metric can be, where there is such a limit: then
            questions that all agree do not claim certainty.
    """
    import numpy as np

    from kdharness.harness.stats.inference import LEAST, LEVEL, student_quantile, unseen_share

    sides = [sums for pair in pairs for sums in pair]
    shared = sorted(q for q in sides[0] if all(s.get(q, (0, 0))[1] > 0 for s in sides))
    n = len(shared)
    if n < 2:
        return None
    table = np.array([_shares(first, shared) - _shares(second, shared) for first, second in pairs])
    # A question's share of the difference, times n: the mean over questions is the difference.
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
    # Linearised ratio: with weights that differ between questions, each question moves the mean
    # by how far its value is from what its weight would give.
    ratio = cells[:, 0].sum() / cells[:, 1].sum()
    mean_weight = cells[:, 1].mean()
    return ratio + (cells[:, 0] - ratio * cells[:, 1]) / mean_weight


def drawn_effect(values: Sequence[float], draws: Sequence[Any], questions: int) -> Effect | None:
    """A figure's mean over seeds from bootstrap draws (the same questions for every seed)."""
    import numpy as np

    if not values or not all(map(math.isfinite, values)):
        return None
    mean = np.mean(np.stack(list(draws)), axis=0)
    finite = mean[np.isfinite(mean)]
    if len(finite) < len(mean) // 2 or questions < 2:
        return None
    # A bootstrap of n questions is too narrow by sqrt((n − 1) / n).
    variance = float(finite.var(ddof=1)) * questions / (questions - 1)
    low, high = two_way_interval(values, variance, questions)
    return Effect(math.fsum(values) / len(values), low, high, questions, tuple(values))


# ---------------------------------------------------------------- in words


def finding_lines(findings: Sequence[ClaimResult]) -> list[str]:
    """Claims as a person reads them."""
    lines = []
    for number, one in enumerate(findings, 1):
        lines.append(f"{number}. {one.verdict}: {one.claim.text}")
        lines += [f"   {part}" for part in claim_parts(one)]
    return lines


def claim_parts(one: ClaimResult) -> list[str]:
    """What stands below a claim: its effect with the interval, and what it rests on."""
    effect, figure = one.effect, one.as_dict()["figure"]
    if effect is None:
        return [f"{figure}: {one.note}"]
    settings = "".join(f", {key} {value}" for key, value in one.settings.items())
    limit = f", to be above {one.claim.threshold:g}" if one.claim.threshold else ""
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
