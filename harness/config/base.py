"""Base classes of all configs: unknown fields are errors, run names follow one pattern."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^\w[\w.-]{0,63}$"
"""Pattern of run names, which are folder names and arguments of commands."""


class Settings(BaseModel):
    """Base of every config: unknown fields are errors, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class RunConfig(Settings):
    """Fields that every run config has."""

    name: str | None = Field(
        None,
        pattern=NAME,
        title="Name",
        description=("Name of the run; derived from the method by default."),
    )
    seed: int = Field(42, ge=0, title="Seed")
