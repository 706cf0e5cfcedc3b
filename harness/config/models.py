"""Models in a config: students, teachers, adapters, caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_serializer,
    model_validator,
)

from kdharness.harness.config.base import ADDED, Settings
from kdharness.harness.config.precision import BYTES
from kdharness.harness.util.redact import holds_secret


class QuantizationSpec(Settings):
    """How frozen weights are quantised; needs bitsandbytes."""

    method: Literal["bnb-4bit", "bnb-8bit"] = Field("bnb-4bit", title="Method")


BYTES_PER_TOKEN = 8
"""Of a cached distribution: an id (int32) and a log-weight (float32)."""
BYTES_PER_POSITION = 4
"""Of a cached distribution: its entropy (float32); NaN where the tail is a bucket."""


class CacheSpec(Settings):
    """Cache a teacher's outputs on disk, so that later epochs and runs need no teacher."""

    kind: Literal["top-k", "hidden"] = Field(
        "top-k",
        title="Kind",
        description=(
            "top-k: the likeliest tokens of each position, at one temperature. hidden: the last "
            "hidden state and, once, the output head: the whole distribution, for any divergence "
            "and temperature."
        ),
        json_schema_extra=ADDED,
    )
    k: int = Field(
        64,
        ge=2,
        le=4096,
        title="Tokens kept",
        description=("Tokens stored per position. For top-k only."),
    )
    tail: Literal["sampled", "bucket"] = Field(
        "sampled",
        title="Tail",
        description=(
            "sampled: half of the k tokens are sampled from outside the top, which keeps loss and "
            "gradient unbiased (forward_kl only). bucket: the remaining probability mass goes into "
            "one bucket, for any divergence; underestimates the loss by a few percent. For top-k "
            "only."
        ),
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16",
        title="Precision",
        description=(
            "How hidden states are stored. bfloat16 keeps all of a teacher that computes in bf16; "
            "the states of one that computes in fp32 are rounded, in float16 an eighth as much (a "
            "state beyond its range is refused), in float32 not at all. For hidden only."
        ),
        json_schema_extra=ADDED,
    )

    @property
    def sampled(self) -> int:
        """How many of the k tokens are sampled from the tail."""
        return self.k // 2 if self.kind == "top-k" and self.tail == "sampled" else 0

    def position_bytes(self, width: int) -> int:
        """Return the bytes per labelled position, for a teacher of this hidden size."""
        if self.kind == "hidden":
            return width * BYTES[self.dtype]
        return self.k * BYTES_PER_TOKEN + BYTES_PER_POSITION

    @model_validator(mode="after")
    def _fields_of_the_kind(self) -> Self:
        foreign = sorted(self.model_fields_set & _FOREIGN[self.kind])
        if foreign:
            only = "hidden" if self.kind == "top-k" else "top-k"
            raise ValueError(
                f"{' and '.join(foreign)} cannot be set with kind: {self.kind}, only with kind: "
                f"{only}: remove {'it' if len(foreign) == 1 else 'them'}, or change the kind"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_foreign_fields(
        self, values: Callable[[CacheSpec], dict[str, object]]
    ) -> dict[str, object]:
        """Leave out the other kind's fields, which would be refused when read back."""
        return {n: value for n, value in values(self).items() if n not in _FOREIGN[self.kind]}


_FOREIGN = {"top-k": frozenset({"dtype"}), "hidden": frozenset({"k", "tail"})}
"""Kind of cache -> fields of the other kind."""


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


HOST_MEMORY = ("cpu", "mps")
"""Kinds of devices that compute in the host's own memory."""


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
    device: str = Field(
        "auto",
        pattern=r"^[a-z]+(:\d+)?$",
        title="Device",
        description=(
            "Where the teacher's weights are and where it runs: auto (the student's device), cpu, "
            "cuda, cuda:1, mps. What the loss needs of it is copied to the student's device."
        ),
        json_schema_extra=ADDED,
    )
    offload: bool = Field(
        False,
        title="Offload",
        description=(
            "Keep the weights in host memory and copy them to the GPU each time the teacher scores "
            "a micro-batch. Only its output head stays on the GPU."
        ),
        json_schema_extra=ADDED,
    )
    cache: CacheSpec | None = Field(
        None,
        title="Cache",
        description=(
            "Store distributions or hidden states once and train from them. Does not support "
            "attention loss."
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
        if self.cache is not None and self.cache.kind == "hidden":
            raise ValueError(
                "a server returns log-probabilities, not hidden states: remove served, or set "
                "cache: {k: 20, tail: bucket}"
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

    @model_validator(mode="after")
    def _placed_where_it_runs(self) -> Self:
        placed = [
            n
            for n, value in (("device", self.device != "auto"), ("offload", self.offload))
            if value
        ]
        if self.served and placed:
            raise ValueError(
                f"{' and '.join(placed)} cannot be set for a served teacher, whose weights are on "
                f"the server: remove {'it' if len(placed) == 1 else 'them'}"
            )
        if self.cache and self.device != "auto":
            raise ValueError(
                f"device: {self.device} cannot be set for a cached teacher, which is loaded only "
                "to fill its cache, on trainer.device: remove it (offload: true saves memory there)"
            )
        if self.offload and self.quantization:
            raise ValueError(
                "offload cannot move quantised weights, whose scales are not parameters: remove "
                "offload or quantization"
            )
        if self.offload and self.device in HOST_MEMORY:
            raise ValueError(
                f"offload: true has no effect with device: {self.device}, whose weights are in "
                "host memory anyway: remove one of them"
            )
        return self


class LoraSpec(Settings):
    """Train a low-rank adapter instead of all weights. The paper uses r 256, alpha 128, 0.15."""

    r: int = Field(16, ge=1, le=4096, title="Rank")
    alpha: float = Field(32, gt=0, title="Alpha", description="Updates are scaled by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, title="Dropout")
    target_modules: str | list[str] = Field(
        "all-linear",
        title="Modules",
        description=(
            "Linear layers that get an adapter: names, or a regular expression for their full "
            "names. all-linear excludes the output head."
        ),
    )

    @field_validator("target_modules")
    @classmethod
    def _a_name_is_a_list(cls, value: str | list[str]) -> str | list[str]:
        """Take a plain name for a list of one: as an expression it would match nothing."""
        return [value] if isinstance(value, str) and value.isidentifier() else value


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


Student = Annotated[
    StudentSpec, BeforeValidator(expand_model_spec, json_schema_input_type=str | StudentSpec)
]


Teacher = Annotated[
    TeacherSpec, BeforeValidator(expand_model_spec, json_schema_input_type=str | TeacherSpec)
]
