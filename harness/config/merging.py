"""What a merge is told to do: which models, and how their weights are put together.

Merging trains nothing, so it is what every training has to beat (docs/method.md#merging). The
formulas and their sources stand in `kdharness.trainers.methods.merge`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from kdharness.harness.config.base import RunConfig


class MergeConfig(RunConfig):
    """Merging: weights interpolated, averaged or added up; nothing is trained."""

    method: Literal["merge"] = "merge"
    seed: int = Field(
        42,
        ge=0,
        title="Seed",
        description=("Nothing is drawn: it only tells runs of one experiment apart."),
    )
    kind: Literal["wise-ft", "average", "task-arithmetic"] = Field(
        "wise-ft",
        title="Kind",
        description=(
            "wise-ft: a curve from the reference to the expert, one checkpoint an alpha. average: "
            "the mean of models. task-arithmetic: the reference plus what each model learnt."
        ),
    )
    reference: str | None = Field(
        None,
        min_length=1,
        title="Reference",
        description=(
            "Where the curve starts, or what the models were trained from (not for average)."
        ),
    )
    expert: str | None = Field(
        None, min_length=1, title="Expert", description=("Where the curve ends (wise-ft only).")
    )
    models: list[str] = Field(
        default_factory=list,
        title="Models",
        description=("What is averaged, or whose learning is added up."),
    )
    alphas: list[float] = Field(
        default_factory=lambda: [0.25, 0.5, 0.75],
        title="Alphas",
        description="The expert's share, above 0 and below 1: one checkpoint each (wise-ft only).",
    )
    weights: list[float] = Field(
        default_factory=list,
        title="Weights",
        description=("One a model, equal by default. For average they are scaled to add up to 1."),
    )
    scale: float = Field(
        1.0,
        title="Scale",
        description=("What all differences are multiplied by (task-arithmetic); below 0 unlearns."),
    )
    trust_remote_code: bool = Field(
        False,
        title="Trust remote code",
        description=("Run code that comes with the models. Only for authors you trust."),
    )

    @field_validator("alphas")
    @classmethod
    def _inside(cls, values: list[float]) -> list[float]:
        """The ends of the curve are checkpoints already."""
        kept = sorted({value for value in values if value not in (0.0, 1.0)})
        if not kept or kept[0] < 0 or kept[-1] > 1:
            raise ValueError(
                "give shares above 0 and below 1; 0 is the reference and 1 the expert themselves"
            )
        return kept

    @model_validator(mode="after")
    def _what_the_kind_needs(self) -> Self:
        curve = self.kind == "wise-ft"
        if curve and (not self.reference or not self.expert):
            raise ValueError("wise-ft needs a reference and an expert")
        if curve and (self.models or self.weights):
            raise ValueError(
                "wise-ft has a reference and an expert; models and weights are for "
                "average and task-arithmetic"
            )
        if not curve and self.expert:
            raise ValueError(f"{self.kind} has no expert: name it among the models")
        if self.kind == "average" and (len(self.models) < 2 or self.reference):
            raise ValueError("average needs two models or more, and no reference")
        if self.kind == "task-arithmetic" and (not self.reference or not self.models):
            raise ValueError("task-arithmetic needs a reference and one model or more")
        if self.kind == "task-arithmetic" and self.scale == 0:
            raise ValueError("a scale of 0 is the reference itself")
        if self.weights and len(self.weights) != len(self.models):
            raise ValueError(f"{len(self.weights)} weights for {len(self.models)} models")
        if self.kind == "average" and self.weights and not sum(self.weights) > 0:
            raise ValueError("weights must add up to more than 0")
        if len(set(self.models)) < len(self.models):
            raise ValueError("a model is named twice; give it a weight instead")
        return self

    def checkpoints(self, run: str) -> list[str]:
        """The names of what a run of this makes: one an alpha, the run's own for a lone one."""
        if self.kind != "wise-ft" or len(self.alphas) == 1:
            return [run]
        return [f"{run}-{alpha_label(alpha)}" for alpha in self.alphas]

    @property
    def sources(self) -> dict[str, str]:
        """Role -> model, in the order in which they are put together."""
        if self.kind == "wise-ft":
            return {"reference": str(self.reference), "expert": str(self.expert)}
        first = {"reference": self.reference} if self.reference else {}
        return {**first, **{f"model-{n}": name for n, name in enumerate(self.models, 1)}}


def alpha_label(alpha: float) -> str:
    """What tells one checkpoint of a curve from the others."""
    return f"alpha-{alpha:g}"
