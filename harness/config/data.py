"""Training and held-out data as a config names them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kdharness.harness.config.base import Settings


class SourceSpec(Settings):
    """One file or data set of chats."""

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
        description=("general, domain, or the name of the expert that these rows follow."),
    )
    weight: float = Field(
        1.0,
        gt=0,
        title="Weight",
        description=("How often rows of this source are drawn, relative to others of its kind."),
    )
    format: Literal["auto", "messages", "prompt", "alpaca", "sharegpt"] = Field(
        "auto", title="Row format", description="auto tells the format from the fields."
    )
    split: str = Field("train", title="Split", description="The split of a hub data set.")
    limit: int | None = Field(None, ge=1, title="Limit", description="Use the first rows only.")


def _sources(value: Any) -> Any:
    """One source may stand without a list, and a plain string for its path."""
    if isinstance(value, (str, dict)):
        value = [value]
    if isinstance(value, list):
        return [{"path": entry} if isinstance(entry, str) else entry for entry in value]
    return value


Sources = Annotated[list[SourceSpec], BeforeValidator(_sources)]


class DataSpec(Settings):
    """What is learnt from, and what is held out."""

    train: Sources = Field(..., min_length=1, title="Training data")
    heldout: Sources = Field(
        default_factory=list,
        title="Held-out data",
        description=("Rows whose loss is measured while training and that no method trains on."),
    )
    domain_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        title="Domain share",
        description=("The share of rows that come from domain sources, whatever the sizes are."),
    )
    max_length: int = Field(2048, ge=8, title="Length", description="Rows are cut here, in tokens.")
    chat_template: str | None = Field(
        None,
        title="Chat template",
        description=(
            "A template file, or chatml. By default the student's own, else the teacher's."
        ),
    )
    allow_duplicates: bool = Field(
        False,
        title="Allow duplicates",
        description=("Train although held-out rows stand in the training data too."),
    )
