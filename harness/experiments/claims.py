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
questions and seeds (see `stats.two_way`). An experiment that states many claims will get some of
them right by chance, so each result also has the verdict that is left after Holm's correction over
all claims of the experiment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kdharness.harness.config.base import ADDED
from kdharness.harness.stats.rows import ALPHA, LEAST_FOR_VERDICT

if TYPE_CHECKING:
    from kdharness.harness.stats import Effect

SMALL_P = 0.0001
ROUNDING = 1e-12
TOLERANCE = 0.1
"""Budgets that differ by more than this share are not equal."""
HOLDS, FAILS, UNSURE = "holds", "does not hold", "can't tell"
NO_RESULT = "no result"
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
    "p_holm",
    "adjusted",
    "equal",
)


Figure = Literal[
    "gain",
    "retention",
    "above_curve",
    "gain_above_frontier",
    "retention_above_frontier",
    "prediction",
]
Budget = Literal["tokens", "domain tokens", "FLOPs"]
"""What two trainings may have in equal amounts, so that comparing them is fair."""
FRONTIERS = ("gain_above_frontier", "retention_above_frontier")
"""Figures that compare with every point of a step: its best gain at that retention or more, and
its best retention at that gain or more."""

PREDICTION = "prediction"
"""The rank correlation, over checkpoints, of a score with what is lost on the general axis."""


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
    equal: list[Budget] = Field(
        default_factory=list,
        title="Equal",
        description=(
            "What the compared trainings have in equal amounts; the result says how equal it was."
        ),
        json_schema_extra=ADDED,
    )
    predictor: str | None = Field(
        None,
        pattern=r"^[^:]+:.+$",
        title="Predictor",
        description=(
            "Score, BENCH:METRIC, that is to predict how much of the general axis is lost (for "
            "prediction)."
        ),
        json_schema_extra=ADDED,
    )
    over: list[str] = Field(
        default_factory=list,
        title="Over",
        description=(
            "Steps whose checkpoints are the points of a prediction, besides that of `of`."
        ),
        json_schema_extra=ADDED,
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.metric is None) == (self.figure is None):
            raise ValueError("a claim needs either a metric or a figure")
        if self.metric is not None and self.than is None:
            raise ValueError(
                "a claim with a metric needs `than`, the step or model to compare with"
            )
        predicts = self.figure == PREDICTION
        if predicts != (self.predictor is not None) or predicts != bool(self.over):
            raise ValueError(
                "`predictor`, a score, and `over`, the steps to compare, belong to prediction"
            )
        if predicts and self.reference is None:
            raise ValueError("prediction needs a reference, which the losses are relative to")
        if self.figure and not predicts and (self.reference is None or self.expert is None):
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
class ClaimResult:
    """The result of one claim under one combination of settings other than seeds.

    Attributes:
        p_holm: two-sided p-value of an effect at the threshold, Holm-corrected over all claims of
            the experiment; None without an interval.
        equal: budget -> how much of it `of` had, as a share of what it is compared with had.
    """

    claim: ClaimSpec
    settings: Mapping[str, Any]
    effect: Effect | None
    note: str = ""
    p_holm: float | None = None
    equal: Mapping[Budget, float] = field(default_factory=dict)

    @property
    def adjusted(self) -> str:
        """The verdict where the corrected p-value agrees with it, else `can't tell`."""
        return self.verdict if self.p_holm is not None and self.p_holm < ALPHA else UNSURE

    @property
    def verdict(self) -> str:
        """`holds`, `does not hold` or `can't tell`, by this claim's own interval."""
        effect = self.effect
        if effect is None or self.too_few or effect.low is None or effect.high is None:
            return UNSURE
        if effect.low > self.claim.threshold:
            return HOLDS
        return FAILS if effect.high < self.claim.threshold else UNSURE

    @property
    def heading(self) -> str:
        """The verdict as people read it: what was never measured is not inconclusive."""
        return self.verdict if self.effect is not None else NO_RESULT

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
        if self.claim.predictor:
            other = f"{self.claim.predictor} over {', '.join(self.claim.over)}"
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
            "p_holm": self.p_holm,
            "adjusted": self.adjusted,
            "equal": dict(self.equal),
        }


# ---------------------------------------------------------------- text


def finding_lines(findings: Sequence[ClaimResult]) -> list[str]:
    """Format claim results as text."""
    lines = []
    for number, result in enumerate(findings, 1):
        lines.append(f"{number}. {result.heading}: {result.claim.text}")
        lines += [f"   {part}" for part in claim_parts(result)]
    return lines


def claim_parts(one: ClaimResult) -> list[str]:
    """Format the details of a claim result: effect, interval, what it rests on, notes."""
    effect, figure = one.effect, one.as_dict()["figure"]
    if effect is None:
        return [f"{figure}: {one.note}", *_fairness(one)]
    settings = "".join(f", {key} {value}" for key, value in one.settings.items())
    limit = f", threshold {one.claim.threshold:g}" if one.claim.threshold else ""
    seeds = len(effect.per_seed)
    each = ", ".join(map(_signed, effect.per_seed))
    ends = (
        "[too few questions]"
        if effect.low is None or effect.high is None
        else f"[{_signed(effect.low)}, {_signed(effect.high)}]{limit}"
    )
    better = " better" if one.claim.metric else ""
    return [
        f"{figure}{settings}: {_signed(effect.value)}{better} {ends}",
        *_corrected(one),
        f"{seeds} seed{'s' * (seeds != 1)} ({each}), {effect.questions} questions",
        *_fairness(one),
        *filter(None, (one.note, one.too_few)),
    ]


def _signed(value: float) -> str:
    """Format a number with its sign; what rounding left of 0 is 0."""
    return f"{value if abs(value) > ROUNDING else 0.0:+.3g}"


def _corrected(one: ClaimResult) -> list[str]:
    """Say what is left after the correction."""
    if one.p_holm is None:
        return []
    p = f"p = {one.p_holm:.2g}" if one.p_holm >= SMALL_P else f"p < {SMALL_P:g}"
    return [f"{one.adjusted} after Holm's correction over the experiment's claims ({p})"]


def _fairness(one: ClaimResult) -> list[str]:
    """Say what is held equal, and how equal it was."""
    if not one.claim.equal:
        return []
    parts = []
    for budget in one.claim.equal:
        share = one.equal.get(budget)
        apart = share is not None and abs(share - 1) > TOLERANCE
        measured = "not known yet" if share is None else f"{share:.2f} times"
        parts.append(f"{budget} ({measured}{': NOT EQUAL' if apart else ''})")
    return [f"at equal {', '.join(parts)}"]
