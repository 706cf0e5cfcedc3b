"""Rows that the student answers itself during training: `trainer.on_policy`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator

from kdharness.harness.config.base import Settings
from kdharness.harness.config.evaluation import parse_spec
from kdharness.harness.errors import ConfigError
from kdharness.harness.util.redact import holds_secret

Divergence = Literal["forward_kl", "reverse_kl", "js", "skew_kl", "skew_reverse_kl"]
LOCAL = "local"


class OnPolicySpec(Settings):
    """A share of rows is answered by the student itself, and its teacher scores every token."""

    share: float = Field(
        0.5,
        gt=0,
        le=1,
        title="Share",
        description=(
            "Share of rows whose last answer the student writes anew each time; the others keep "
            "the data's answers. 1: all rows."
        ),
    )
    max_new_tokens: int = Field(
        256,
        ge=1,
        le=131_072,
        title="Longest answer",
        description=(
            "Maximum tokens of a sampled answer; prompt and answer together have at most "
            "data.max_length. An answer that is cut off does not teach an end of turn."
        ),
    )
    temperature: float = Field(
        1.0,
        ge=0,
        le=2,
        title="Sampling temperature",
        description="Of the sampled answers, not of the loss; 0 takes the likeliest token.",
    )
    divergence: Divergence | None = Field(
        None,
        title="Divergence",
        description=(
            "Distance on sampled answers. Default: trainer.divergence, but reverse_kl where that "
            "is forward_kl."
        ),
    )
    beta: float | None = Field(
        None,
        gt=0,
        lt=1,
        title="β or skew",
        description="As trainer.beta, on sampled answers. Default: trainer.beta.",
    )
    engine: str = Field(
        LOCAL,
        min_length=1,
        title="Engine",
        description=(
            "local: the weights in training. Or a server that you keep up to date with them: "
            "openai:MODEL@URL, or its URL if it serves one model."
        ),
    )
    batch_size: int = Field(
        16, ge=1, title="Answers at once", description="Answers that are sampled together."
    )
    stop_window: int = Field(
        20,
        ge=0,
        title="Stop after",
        description=(
            "End the run when the sampled answers of this many steps break one of the limits "
            "below; 0: never."
        ),
    )
    min_ended: float = Field(
        0.05,
        ge=0,
        le=1,
        title="Least ended",
        description="Smallest share of answers that end by themselves, before the longest answer.",
    )
    min_distinct: float = Field(
        0.2,
        ge=0,
        le=1,
        title="Least distinct",
        description=(
            "Smallest share of different three-token sequences in an answer, on average: below, "
            "the student repeats itself."
        ),
    )
    max_kl: float | None = Field(
        None,
        gt=0,
        title="Largest divergence",
        description="Largest mean divergence from the teacher per sampled token, in nats.",
    )

    @field_validator("engine")
    @classmethod
    def _is_an_engine(cls, engine: str) -> str:
        if holds_secret(engine):
            raise ValueError("engine must not contain a key: set OPENAI_API_KEY instead")
        if engine == LOCAL or engine.startswith(("http://", "https://")):
            return engine
        try:
            spec = parse_spec(engine, "engine")
        except ConfigError as error:
            raise ValueError(
                f"{error.message}: use local, openai:MODEL@URL or http://host:port/v1"
            ) from error
        if spec.kind == "openai" and not spec.url:
            raise ValueError(
                f"engine: {engine} has no URL, and the student in training is not at OpenAI: use "
                f"{engine}@http://host:port/v1"
            )
        if spec.kind != "openai":
            raise ValueError(
                f"engine: {engine} is not the student in training: use local for its weights in "
                "memory, or the URL of a server that is kept up to date with them"
            )
        return engine

    @property
    def is_local(self) -> bool:
        """Whether the weights in training generate."""
        return self.engine == LOCAL

    def settle(self, divergence: Divergence, beta: float) -> Self:
        """Return the settings with what they leave to those of the other rows."""
        own = self.divergence or ("reverse_kl" if divergence == "forward_kl" else divergence)
        return self.model_copy(
            update={"divergence": own, "beta": beta if self.beta is None else self.beta}
        )
