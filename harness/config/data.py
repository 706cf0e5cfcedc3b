"""Training and held-out data in a config."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from kdharness.harness.config.base import ADDED, Seed, Settings, is_stored, listed


class SourceSpec(Settings):
    """One file or dataset of chats."""

    path: str = Field(
        ...,
        min_length=1,
        title="Path",
        description=(
            "A .jsonl or .parquet file, hub:NAME, or shipped data: general:train, shop:train, …"
        ),
    )
    kind: str = Field(
        "general",
        min_length=1,
        title="Kind",
        description=("general, domain, or the name of the expert that teaches these rows."),
    )
    weight: float = Field(
        1.0,
        gt=0,
        title="Weight",
        description=(
            "How often one of its rows is drawn, relative to a row of other sources of its kind."
        ),
    )
    format: Literal["auto", "messages", "prompt", "alpaca", "sharegpt"] = Field(
        "auto", title="Row format", description="auto detects the format from the fields."
    )
    split: str = Field("train", title="Split", description="Split of a hub dataset.")
    limit: int | None = Field(
        None, ge=1, title="Limit", description="Use only the first rows, up to this many."
    )

    @model_validator(mode="after")
    def _split_is_used(self) -> Self:
        if self.split != "train" and not self.path.startswith("hub:") and not is_stored():
            raise ValueError(
                f"split: {self.split} has no effect on {self.path}: only a hub dataset (hub:NAME) "
                "has splits"
            )
        return self


Sources = Annotated[
    list[SourceSpec],
    BeforeValidator(
        partial(listed, key="path"),
        json_schema_input_type=str | SourceSpec | list[str | SourceSpec],
    ),
]


class SelfWritten(Settings):
    """General rows that the reference writes itself."""

    rows: int = Field(512, ge=1, le=1_000_000, title="Rows")
    prompt: str = Field(
        "",
        title="Prompt",
        description="The user's turn that every row answers. Default: an empty one.",
    )
    max_new_tokens: int = Field(
        256, ge=1, le=131_072, title="Longest answer", description="In tokens."
    )
    temperature: float = Field(
        1.0,
        ge=0.01,
        le=10,
        title="Temperature",
        description=("1 draws from the reference's own distribution."),
    )
    seed: Seed = Field(
        0,
        title="Seed",
        description=("Of the rows alone: runs with other seeds share them."),
    )


def _count_as_rows(value: object) -> object:
    """Accept a plain number as the number of rows."""
    return {"rows": value} if isinstance(value, int) and not isinstance(value, bool) else value


class DataSpec(Settings):
    """Training data and held-out data."""

    train: Sources = Field(..., min_length=1, title="Training data")
    heldout: Sources = Field(
        default_factory=list,
        title="Held-out data",
        description=("Rows whose loss is measured during training; no method trains on them."),
    )
    domain_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        title="Domain share",
        description=("Fraction of rows drawn from domain sources, regardless of their sizes."),
    )
    self_written: Annotated[SelfWritten | None, BeforeValidator(_count_as_rows)] = Field(
        None,
        title="Self-written rows",
        description=(
            "General rows that the reference writes before training (in SFT: the student as it "
            "starts), where the original data is not available."
        ),
        json_schema_extra=ADDED,
    )
    max_length: int = Field(
        2048, ge=8, title="Length", description="Maximum tokens per row; longer rows are truncated."
    )
    chat_template: str | None = Field(
        None,
        title="Chat template",
        description=("A template file, or chatml. Default: the student's own, else the teacher's."),
    )
    allow_duplicates: bool = Field(
        False,
        title="Allow duplicates",
        description=("Train even if held-out rows are also in the training data."),
    )

    @model_validator(mode="after")
    def _weights_are_used(self) -> Self:
        for source in self.heldout:
            if source.weight != 1 and not is_stored():
                raise ValueError(
                    f"heldout: weight: {source.weight:g} has no effect on {source.path}: every "
                    "held-out row is scored once"
                )
        return self
