"""Models in a config: students, teachers, adapters, caches."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from kdharness.harness.config.base import ADDED, Settings
from kdharness.harness.util.redact import holds_secret


class QuantizationSpec(Settings):
    """How frozen weights are quantised; needs bitsandbytes."""

    method: Literal["bnb-4bit", "bnb-8bit"] = Field("bnb-4bit", title="Method")


class CacheSpec(Settings):
    """Cache a teacher's distributions on disk, so that later epochs and runs need no teacher."""

    k: int = Field(
        64, ge=2, le=4096, title="Tokens kept", description=("Tokens stored per position.")
    )
    tail: Literal["sampled", "bucket"] = Field(
        "sampled",
        title="Tail",
        description=(
            "sampled: half of the k tokens are sampled from outside the top, which keeps loss and "
            "gradient unbiased (forward_kl only). bucket: the remaining probability mass goes into "
            "one bucket, for any divergence; underestimates the loss by a few percent."
        ),
    )


class ModelSpec(Settings):
    """A model: a local folder, a checkpoint's name, a pulled asset or a hub id."""

    model: str = Field(
        ...,
        min_length=1,
        title="Model",
        description=("A local folder, a stored checkpoint's name, a pulled asset or a hub id."),
    )
    trust_remote_code: bool = Field(
        False,
        title="Trust remote code",
        description=("Run code from the model's repository. Only for authors you trust."),
    )


class TeacherSpec(ModelSpec):
    """A frozen model that the student is distilled from."""

    quantization: QuantizationSpec | None = Field(
        None, title="Quantisation", description=("Load the teacher in 4 or 8 bits.")
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        title="Precision",
        description=("auto: bf16 on a GPU that has it, else fp32; independent of the student's."),
        json_schema_extra=ADDED,
    )
    cache: CacheSpec | None = Field(
        None,
        title="Cache",
        description=(
            "Store top-k distributions once and train from them. Does not support attention loss."
        ),
    )
    served: str | None = Field(
        None,
        title="Served at",
        description=(
            "URL of a vLLM server that runs this teacher, such as http://gpu-box:8000/v1. Fills "
            "the cache; only tokenizer and config are needed locally."
        ),
    )

    @model_validator(mode="after")
    def _served_fills_a_cache(self) -> Self:
        if self.served is None:
            return self
        if not self.served.startswith(("http://", "https://")) or holds_secret(self.served):
            raise ValueError(
                "served must be an http(s) URL without a key in it (set OPENAI_API_KEY instead)"
            )
        if self.cache is None or self.cache.tail != "bucket":
            raise ValueError(
                "a server returns only the top log-probabilities: set cache: {k: 20, tail: bucket}"
            )
        if self.dtype != "auto":
            raise ValueError("dtype has no effect on a served teacher: set it on the server")
        if self.quantization is not None:
            raise ValueError("quantization has no effect on a served teacher: set it on the server")
        return self


class LoraSpec(Settings):
    """Train a low-rank adapter instead of all weights. The paper uses r 256, alpha 128, 0.15."""

    r: int = Field(16, ge=1, le=4096, title="Rank")
    alpha: float = Field(32, gt=0, title="Alpha", description="Updates are scaled by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, title="Dropout")
    target_modules: str | list[str] = Field(
        "all-linear",
        title="Modules",
        description=("Linear layers that get an adapter; all-linear excludes the output head."),
    )


class StudentSpec(Settings):
    """The model that is trained: an existing one, or one made from others."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    model: str | None = Field(
        None,
        title="Model",
        description=("A local folder, a stored checkpoint's name, a pulled asset or a hub id."),
    )
    source: str | None = Field(
        None,
        alias="from",
        title="Cut from",
        description=("Make the student by keeping some layers of this model: teacher, or a model."),
    )
    keep_layers: int | list[int] | None = Field(
        None,
        title="Layers kept",
        description=(
            "Number of layers to keep, evenly spaced and including the first and last, or a list "
            "of layers."
        ),
    )
    experts_from: list[str] | None = Field(
        None,
        title="Experts from",
        description=(
            "Make a mixture-of-experts student whose experts are the MLPs of these dense models; "
            "a single model is upcycled into two identical experts."
        ),
    )
    lora: LoraSpec | None = Field(
        None, title="LoRA", description=("Train an adapter and leave the base weights unchanged.")
    )
    quantization: QuantizationSpec | None = Field(
        None,
        title="Quantisation",
        description=(
            "Load the base weights in 4 or 8 bits and train an adapter on them (QLoRA). The "
            "adapter is saved for the base as it was before."
        ),
        json_schema_extra=ADDED,
    )
    trust_remote_code: bool = Field(
        False,
        title="Trust remote code",
        description=("Run code from the model's repository. Only for authors you trust."),
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        origins = [name for name in ("model", "source", "experts_from") if getattr(self, name)]
        if len(origins) != 1:
            raise ValueError("set exactly one of model, from, experts_from")
        if self.source and self.keep_layers is None:
            raise ValueError("from needs keep_layers: how many layers to keep, or a list of them")
        if self.keep_layers is not None and not self.source:
            raise ValueError("keep_layers needs from: the model to cut the student from")
        if isinstance(self.keep_layers, int) and self.keep_layers < 1:
            raise ValueError("keep_layers must be at least 1")
        if self.quantization is not None and self.lora is None:
            raise ValueError(
                "quantization: quantised weights cannot be trained themselves: set lora, or remove "
                "quantization"
            )
        return self


def expand_model_spec(value: object) -> object:
    """Expand a plain string to `{model: string}`."""
    return {"model": value} if isinstance(value, str) else value


Student = Annotated[StudentSpec, BeforeValidator(expand_model_spec)]


Teacher = Annotated[TeacherSpec, BeforeValidator(expand_model_spec)]
