"""Merge configs: which models, and how their weights are combined.

Merging trains nothing, so it is a baseline for every training (docs/method.md#merging). The
formulas and their sources are in `kdharness.trainers.methods.merge_weights`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from kdharness.harness.config.base import ADDED, RunConfig, Seed

SPARSE = ("ties", "dare")
"""Kinds that keep a part of each difference."""
DIFFERENCES = ("task-arithmetic", *SPARSE)
"""Kinds that add differences to a reference."""
DENSITY = 0.2
ALPHAS = [0.25, 0.5, 0.75]


class MergeConfig(RunConfig):
    """Merging: weights are interpolated, averaged or added; nothing is trained."""

    method: Literal["merge"] = "merge"
    seed: Seed = Field(
        42,
        title="Seed",
        description=("What dare keeps; otherwise it only distinguishes runs of one experiment."),
    )
    kind: Literal["wise-ft", "average", "task-arithmetic", "ties", "dare"] = Field(
        "wise-ft",
        title="Kind",
        description=(
            "wise-ft: interpolate from the reference to the expert, one checkpoint per alpha. "
            "average: the mean of models. task-arithmetic: the reference plus each model's "
            "difference to it. ties: the same, of each difference's largest values those whose "
            "signs agree. dare: the same, of a random part of each difference."
        ),
    )
    reference: str | None = Field(
        None,
        min_length=1,
        title="Reference",
        description=(
            "Start of the curve, or the model that the others were trained from (not for average)."
        ),
    )
    expert: str | None = Field(
        None, min_length=1, title="Expert", description=("End of the curve (wise-ft only).")
    )
    models: list[str] = Field(
        default_factory=list,
        title="Models",
        description=("Models to average, or whose differences are added."),
    )
    alphas: list[float] = Field(
        default_factory=lambda: list(ALPHAS),
        title="Alphas",
        description=(
            "The expert's weight, between 0 and 1: one checkpoint each (wise-ft only). 0 and 1 are "
            "left out: those are the reference and the expert."
        ),
    )
    weights: list[float] = Field(
        default_factory=list,
        title="Weights",
        description=("One per model, equal by default. For average they are normalised to sum 1."),
    )
    scale: float = Field(
        1.0,
        title="Scale",
        description=("Factor of all differences; negative values unlearn."),
    )
    density: float = Field(
        DENSITY,
        gt=0,
        le=1,
        title="Density",
        description=("Share of each difference's values that is kept (ties and dare)."),
        json_schema_extra=ADDED,
    )
    trust_remote_code: bool = Field(
        False,
        title="Trust remote code",
        description=("Run code from the models' repositories. Only for authors you trust."),
    )

    @field_validator("alphas")
    @classmethod
    def _inside(cls, values: list[float]) -> list[float]:
        """Drop 0 and 1: the ends of the curve are checkpoints already."""
        kept = sorted({value for value in values if value not in (0.0, 1.0)})
        if not kept or kept[0] < 0 or kept[-1] > 1:
            raise ValueError(
                "give values between 0 and 1; 0 is the reference itself and 1 the expert"
            )
        return kept

    @model_validator(mode="after")
    def _what_the_kind_needs(self) -> Self:
        curve = self.kind == "wise-ft"
        if curve and (not self.reference or not self.expert):
            raise ValueError("wise-ft needs a reference and an expert")
        if curve and (self.models or self.weights):
            raise ValueError(
                "wise-ft uses a reference and an expert; models and weights are for the other kinds"
            )
        if not curve and self.expert:
            raise ValueError(f"{self.kind} does not use expert: add it to models")
        if self.kind == "average" and (len(self.models) < 2 or self.reference):
            raise ValueError("average needs at least two models, and no reference")
        adds = self.kind in DIFFERENCES
        if adds and (not self.reference or not self.models):
            raise ValueError(f"{self.kind} needs a reference and at least one model")
        if adds and self.scale == 0:
            raise ValueError("a scale of 0 yields the reference itself")
        if self.kind == "ties" and any(weight <= 0 for weight in self.weights):
            raise ValueError(
                "ties takes means, whose weights must be above 0; use scale to unlearn"
            )
        if self.density != DENSITY and self.kind not in SPARSE:
            raise ValueError(f"{self.kind} keeps whole differences: density is for ties and dare")
        if self.scale != 1 and not adds:
            raise ValueError(
                f"{self.kind} adds no differences, so a scale has no effect: remove it"
            )
        if not curve and self.alphas != ALPHAS:
            raise ValueError(f"{self.kind} makes one checkpoint: alphas are for wise-ft")
        if self.weights and len(self.weights) != len(self.models):
            raise ValueError(f"{len(self.weights)} weights for {len(self.models)} models")
        if self.kind == "average" and self.weights and not sum(self.weights) > 0:
            raise ValueError("weights must sum to more than 0")
        if len(set(self.models)) < len(self.models):
            raise ValueError("duplicate model; use weights instead")
        return self

    def checkpoints(self, run: str) -> list[str]:
        """Return the names of this run's checkpoints: one per alpha, or the run's own for one."""
        if self.kind != "wise-ft" or len(self.alphas) == 1:
            return [run]
        return [f"{run}-{alpha_label(alpha)}" for alpha in self.alphas]

    @property
    def sources(self) -> dict[str, str]:
        """Role -> model, in the order in which they are combined."""
        if self.kind == "wise-ft":
            return {"reference": str(self.reference), "expert": str(self.expert)}
        first = {"reference": self.reference} if self.reference else {}
        return {**first, **{f"model-{n}": name for n, name in enumerate(self.models, 1)}}


def alpha_label(alpha: float) -> str:
    """Return the suffix that distinguishes one checkpoint of a curve from the others."""
    return f"alpha-{alpha:g}"
