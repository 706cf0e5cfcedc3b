"""What every config is made of: unknown fields are errors, names follow one rule."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^\w[\w.-]{0,63}$"
"""What a run may be called: it is a folder's name, and an argument of commands."""


class Settings(BaseModel):
    """Base of every config: unknown fields are errors, values cannot change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class RunConfig(Settings):
    """What every training run has."""

    name: str | None = Field(
        None,
        pattern=NAME,
        title="Name",
        description=("The run's name; made from the method when left out."),
    )
    seed: int = Field(42, ge=0, title="Seed")
