"""Run configs: pydantic models.

Every field carries a title and help, because the app's forms, `config init` and the docs are
made from these models. `config_files` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from kdharness.harness.config.base import RunConfig, Settings
from kdharness.harness.config.data import DataSpec
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.config.merging import MergeConfig
from kdharness.harness.config.models import Student, Teacher, TeacherSpec, _spell_out
from kdharness.harness.registry import method_config
from kdharness.harness.types import digest

Divergence = Literal["forward_kl", "reverse_kl", "js", "skew_kl", "skew_reverse_kl"]


# ---------------------------------------------------------------- models


def _check_tail(teachers: Sequence[TeacherSpec | None], trainer: DistillSpec) -> None:
    """A sampled tail estimates a sum over the teacher's distribution: forward KL alone is one."""
    for teacher in teachers:
        if teacher is not None and teacher.served and trainer.temperature != 1.0:
            raise ValueError(
                "a server tells probabilities at temperature 1: set trainer.temperature to 1"
            )
        sampled = teacher is not None and teacher.cache and teacher.cache.tail == "sampled"
        if sampled and trainer.divergence != "forward_kl":
            raise ValueError(
                f"a sampled cache gives forward_kl only, not {trainer.divergence}: "
                "set cache.tail to bucket"
            )


# ---------------------------------------------------------------- data


# ---------------------------------------------------------------- training


class TrainerSpec(Settings):
    """How the weights are moved; shared by every method."""

    learning_rate: float = Field(2e-5, gt=0, lt=1, title="Learning rate")
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", title="Schedule"
    )
    warmup_ratio: float = Field(
        0.1,
        ge=0,
        lt=1,
        title="Warm-up",
        description=("The share of steps over which the learning rate rises."),
    )
    weight_decay: float = Field(0.0, ge=0, title="Weight decay")
    optimizer: Literal["adamw", "adamw_8bit", "adafactor", "sgd"] = Field(
        "adamw", title="Optimiser"
    )
    max_grad_norm: float = Field(1.0, ge=0, title="Gradient clip", description="0 turns it off.")
    epochs: float = Field(2.0, gt=0, title="Epochs")
    max_steps: int | None = Field(None, ge=1, title="Steps", description="Ends before the epochs.")
    max_tokens: int | None = Field(
        None,
        ge=1,
        title="Tokens",
        description=(
            "Train on this many tokens (padding not counted), so that methods can be matched."
        ),
    )
    batch_size: int = Field(8, ge=1, title="Rows a micro-batch")
    tokens_per_batch: int | None = Field(
        None,
        ge=8,
        title="Tokens a micro-batch",
        description=(
            "Fill micro-batches up to this many tokens, padding included, instead of by rows."
        ),
    )
    accumulation: int = Field(
        1,
        ge=1,
        title="Accumulation",
        description=(
            "Micro-batches an optimiser step. The gradient does not depend on how a step is cut."
        ),
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", title="Precision")
    gradient_checkpointing: bool = Field(
        False,
        title="Gradient checkpointing",
        description=("Less memory for about a third more time."),
    )
    device: str = Field("auto", title="Device", description="auto, cpu, cuda, cuda:1, mps")
    threads: int | None = Field(None, ge=1, title="CPU threads")
    eval_every: int = Field(
        0,
        ge=0,
        title="Held-out every",
        description=(
            "Measure held-out loss every so many steps; 0: at the start and at the end only."
        ),
    )
    save_every: int = Field(
        0,
        ge=0,
        title="Save every",
        description=("Keep a checkpoint every so many steps; 0: at the end (and when stopped)."),
    )
    keep: int = Field(2, ge=1, title="Checkpoints kept")
    best: str | None = Field(
        None,
        title="Best by",
        description=(
            "Keep the checkpoint with the lowest held-out curve of this name, e.g. general_loss, "
            "or of a sum such as general_loss + 0.5 * domain_loss."
        ),
    )
    max_loss: float = Field(
        1e4,
        gt=0,
        title="Loss limit",
        description=("A loss above this, or not a number, stops the run and names its rows."),
    )


class DistillSpec(TrainerSpec):
    """What KD and DAE share: docs/method.md#losses."""

    temperature: float = Field(1.0, gt=0, le=100, title="Temperature")
    distill_weight: float = Field(
        1.0,
        ge=0,
        le=1,
        title="Distillation weight (λ)",
        description=(
            "1 follows the teacher alone; below 1 the rest is next-token loss on the data."
        ),
    )
    divergence: Divergence = Field(
        "forward_kl",
        title="Divergence",
        description=("How far the student's distribution is from the teacher's."),
    )
    beta: float = Field(
        0.5,
        gt=0,
        lt=1,
        title="β or skew",
        description=("The teacher's share in the mixture of js, skew_kl and skew_reverse_kl."),
    )
    chunk: int = Field(
        128,
        ge=1,
        title="Rows of logits at once",
        description=("Positions whose logits are alive together; lower it when memory is short."),
    )


class KDSpec(DistillSpec):
    """KD adds the attention loss."""

    weight_decay: float = Field(0.1, ge=0, title="Weight decay")
    attention_weight: float = Field(
        1.0, ge=0, title="Attention weight (γ)", description=("0 leaves the attention loss out.")
    )
    layer_map: Literal["uniform", "last-k"] | list[int] = Field(
        "uniform",
        title="Layer map",
        description=(
            "Which teacher layer each student layer follows; a list has one entry a student "
            "layer, -1 for none. A student cut from its teacher follows the layers it kept."
        ),
    )
    attention_layers: int | None = Field(
        None,
        ge=1,
        title="Layers with attention loss",
        description="Only the last so many student layers; all by default.",
    )
    attention_block: int = Field(64, ge=1, title="Attention rows at once")


# ---------------------------------------------------------------- runs


class SFTConfig(RunConfig):
    """Supervised fine-tuning: next-token loss on the answers."""

    method: Literal["sft"] = "sft"
    student: Student = Field(..., title="Student")
    data: DataSpec = Field(..., title="Data")
    trainer: TrainerSpec = Field(default_factory=lambda: TrainerSpec(), title="Trainer")


class KDConfig(RunConfig):
    """Knowledge distillation: follow a teacher's distributions and its attention."""

    method: Literal["kd"] = "kd"
    student: Student = Field(..., title="Student")
    teacher: Teacher = Field(..., title="Teacher")
    data: DataSpec = Field(..., title="Data")
    trainer: KDSpec = Field(default_factory=lambda: KDSpec(), title="Trainer")

    @model_validator(mode="after")
    def _cache_has_no_attention(self) -> Self:
        if self.teacher.cache and self.trainer.attention_weight > 0:
            raise ValueError(
                "teacher.cache keeps distributions, not attention: "
                "set trainer.attention_weight to 0 or leave teacher.cache out"
            )
        _check_tail([self.teacher], self.trainer)
        return self


def _experts(value: Any) -> Any:
    return {k: _spell_out(v) for k, v in value.items()} if isinstance(value, dict) else value


class DAEConfig(RunConfig):
    """Domain alignment: domain rows follow an expert, general rows a reference model."""

    method: Literal["dae"] = "dae"
    student: Student = Field(..., title="Student")
    reference: Teacher | None = Field(
        None,
        title="Reference",
        description=("Followed on general rows. By default the student as it was before training."),
    )
    expert: Teacher | None = Field(None, title="Expert", description="Followed on domain rows.")
    experts: Annotated[dict[str, TeacherSpec], BeforeValidator(_experts)] = Field(
        default_factory=dict,
        title="Experts",
        description=("More experts by name; rows of a source whose kind is that name follow it."),
    )
    data: DataSpec = Field(..., title="Data")
    trainer: DistillSpec = Field(default_factory=lambda: DistillSpec(), title="Trainer")

    @model_validator(mode="after")
    def _every_kind_has_an_expert(self) -> Self:
        names = {"general", *self.experts, *(["domain"] if self.expert else [])}
        if len(names) == 1:
            raise ValueError("DAE needs an expert (or experts by name)")
        for source in self.data.train:
            if source.kind not in names:
                raise ValueError(
                    f"rows of kind {source.kind!r} have no teacher; known: {sorted(names)}"
                )
        if all(source.kind == "general" for source in self.data.train):
            raise ValueError("DAE needs domain rows: give a source kind: domain")
        _check_tail([self.reference, self.expert, *self.experts.values()], self.trainer)
        return self


AnyConfig = SFTConfig | KDConfig | DAEConfig | MergeConfig | EvalConfig
CONFIGS: dict[str, type[AnyConfig]] = {
    "sft": SFTConfig,
    "kd": KDConfig,
    "dae": DAEConfig,
    "merge": MergeConfig,
    "eval": EvalConfig,
}


def config_class(method: str) -> type[AnyConfig] | None:
    """The config of a method, built in or of another package; None for an unknown one."""
    return CONFIGS.get(method) or method_config(method)


def trusted_code(config: AnyConfig) -> list[str]:
    """The models whose own code this config allows to run."""

    def walk(values: Any) -> Iterator[str]:
        if isinstance(values, dict):
            if values.get("trust_remote_code") is True:
                names = values.get("model") or values.get("from") or values.get("checkpoints")
                yield ", ".join(names) if isinstance(names, list) else str(names or "every model")
            for part in values.values():
                yield from walk(part)

    return list(dict.fromkeys(walk(config.model_dump(mode="json", by_alias=True))))


def config_hash(config: AnyConfig) -> str:
    """The identity of what is done: everything but the run's name."""
    return digest(config.model_dump(mode="json", by_alias=True, exclude={"name"}))
