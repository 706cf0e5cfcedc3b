"""The `trainer` section of a config: how a student is trained, by method."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from kdharness.harness.config.base import ADDED, Settings, former
from kdharness.harness.config.kernels import BLOCK, Chunk, Kernels, check_block
from kdharness.harness.config.on_policy import Divergence, OnPolicySpec
from kdharness.harness.config.points import BenchPoints, check_points
from kdharness.harness.config.precision import OldPrecision, Precision, PrecisionName, precision_of
from kdharness.harness.config.schedule import WARMUP, Schedule, check_rates
from kdharness.harness.config.tracking import Trackers, trackers_field

AttentionName = Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"]
LengthGroups = Literal["auto", "micro-batch", "step", "none"]


class TrainerSpec(Settings):
    """Optimisation settings shared by every method."""

    unlimited: ClassVar[frozenset[str]] = frozenset({"max_loss"})

    learning_rate: float = Field(2e-5, gt=0, lt=1, title="Learning rate")
    schedule: Schedule = Field("cosine", title="Schedule")
    warmup_ratio: float = Field(
        WARMUP,
        ge=0,
        lt=1,
        title="Warm-up",
        description=(
            "Fraction of steps over which the learning rate increases; constant has none."
        ),
    )
    weight_decay: float = Field(0.0, ge=0, title="Weight decay")
    l2_start: float = Field(
        0.0,
        ge=0,
        title="L2 to the start",
        description=(
            "Pull towards the starting weights (L2-SP), as strong as weight decay of the same "
            "value is towards 0: each step goes learning rate · this of the way back. With LoRA "
            "the adapter's product is pulled to 0. 0 disables it."
        ),
        json_schema_extra=ADDED,
    )
    optimizer: Literal["adamw", "adamw_8bit", "adafactor", "sgd"] = Field(
        "adamw", title="Optimiser"
    )
    max_grad_norm: float = Field(1.0, ge=0, title="Gradient clip", description="0 disables it.")
    epochs: float = Field(
        2.0, gt=0, le=1e9, title="Epochs", description="The last step is filled from the next one."
    )
    max_steps: int | None = Field(
        None, ge=1, title="Steps", description="Stop after this many steps, before the epochs end."
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        title="Tokens",
        description=("Train on this many tokens (excluding padding), to match methods by tokens."),
    )
    batch_size: int = Field(8, ge=1, title="Rows per micro-batch")
    tokens_per_batch: int | None = Field(
        None,
        ge=8,
        title="Tokens per micro-batch",
        description=(
            "Fill micro-batches up to this many tokens, including padding, instead of by rows."
        ),
    )
    length_groups: LengthGroups = Field(
        "auto",
        title="Similar lengths",
        description=(
            "Which rows are drawn with similar lengths. micro-batch: those of a micro-batch, and a "
            "step has many lengths. step: those of a step; its rows do not depend on how it is "
            "split. none. auto: micro-batch, or none with packing."
        ),
        json_schema_extra=ADDED,
    )
    packing: bool = Field(
        False,
        title="Packing",
        description=(
            "Run the models on a micro-batch's rows end to end, without padding; each row attends "
            "to itself alone. On a GPU it needs attn_implementation: flash_attention_2 or 3."
        ),
        json_schema_extra=ADDED,
    )
    accumulation: int = Field(
        1,
        ge=1,
        title="Accumulation",
        description=(
            "Micro-batches per optimiser step. The gradient does not depend on how a step is split."
        ),
    )
    precision: PrecisionName = Field(
        "auto",
        title="Precision",
        description=(
            "auto: on a GPU with bf16 mixed, or bf16-sr where only that fits; else fp32. mixed: "
            "fp32 weights, bf16 products; with LoRA fp32 adapters on a bf16 base. bf16-sr: bf16 "
            "weights, updates rounded stochastically, for less memory. bf16: bf16 weights only, "
            "most small updates are lost."
        ),
        json_schema_extra=ADDED,
    )
    dtype: OldPrecision = Field(
        "auto",
        title="Precision (former name)",
        description=("float32 is precision: fp32; bfloat16 is precision: bf16, with LoRA mixed."),
        json_schema_extra=former("precision (float32 is fp32, bfloat16 is bf16)"),
    )
    gradient_checkpointing: bool = Field(
        False,
        title="Gradient checkpointing",
        description=("Uses less memory for about a third more time."),
    )
    kernels: Kernels = "reference"
    attn_implementation: AttentionName = Field(
        "auto",
        title="Attention",
        description=(
            "Attention kernel of the student and of teachers that are run: auto (sdpa where the "
            "model has it), sdpa, eager, flash_attention_2 or flash_attention_3 (each needs its "
            "package, a GPU, and bf16 products)."
        ),
        json_schema_extra=ADDED,
    )
    compile: bool = Field(
        False,
        title="Compile",
        description=(
            "Compile each layer with torch.compile: a slow first step, then fewer and larger "
            "kernels. Needs a C++ compiler on a CPU."
        ),
        json_schema_extra=ADDED,
    )
    tf32: bool = Field(
        False,
        title="TF32",
        description=(
            "Let a GPU round the factors of fp32 products to 10 bits of mantissa: faster, less "
            "exact. Products in bf16 are not affected."
        ),
        json_schema_extra=ADDED,
    )
    track: Trackers = trackers_field()
    workers: int = Field(
        0,
        ge=0,
        le=64,
        title="Loader processes",
        description=(
            "Processes that prepare micro-batches ahead; 0 prepares them between steps, which a "
            "GPU hides as well, since nothing waits for it."
        ),
        json_schema_extra=ADDED,
    )
    device: str = Field("auto", title="Device", description="auto, cpu, cuda, cuda:1, mps")
    threads: int | None = Field(None, ge=1, title="CPU threads")
    eval_every: int = Field(
        0,
        ge=0,
        title="Held-out every",
        description=("Measure held-out loss every N steps; 0: only at the start and at the end."),
    )
    eval_benches: BenchPoints = Field(
        default_factory=list,
        title="Benchmarks on the way",
        description=(
            "Small benchmarks whose answers are generated and scored with the held-out loss."
        ),
        json_schema_extra=ADDED,
    )
    save_every: int = Field(
        0,
        ge=0,
        title="Save every",
        description=("Save a checkpoint every N steps; 0: only at the end (and when stopped)."),
    )
    keep: int = Field(2, ge=1, title="Checkpoints kept")
    best: str | None = Field(
        None,
        title="Best by",
        description=(
            "Keep the checkpoint with the lowest value of this held-out metric, e.g. general_loss, "
            "or of a sum such as general_loss + 0.5 * domain_loss; or with the highest score of a "
            "benchmark of eval_benches. Conditions: domain subject to general >= 0.98 * reference, "
            "the reference being the start."
        ),
    )
    early_stop: int | None = Field(
        None,
        ge=1,
        title="Early stop",
        description="Stop after this many evaluation points in a row without a new best.",
        json_schema_extra=ADDED,
    )
    max_loss: float = Field(
        1e4,
        gt=0,
        title="Loss limit",
        description="A loss above this, or NaN, stops the run; .inf: no limit.",
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.dtype == "float16":
            raise ValueError(
                "dtype: float16 is not supported, its small gradients would be lost: "
                "remove it, or set precision: mixed (bf16) or fp32"
            )
        if self.dtype != "auto" and self.precision != "auto":
            raise ValueError(
                f"dtype is the former name of precision, which is {self.precision} here: remove "
                "dtype, or set precision to what it says (float32 is fp32, bfloat16 is bf16)"
            )
        if self.tokens_per_batch is not None and self.length_groups == "step":
            raise ValueError(
                "length_groups: step draws a number of rows for a step, and tokens_per_batch fills "
                "micro-batches: remove one of them"
            )
        check_rates(self.learning_rate, self.schedule, self.warmup_ratio, self.l2_start)
        if self.precision == "bf16-sr" and self.optimizer not in ("adamw", "adamw_8bit"):
            raise ValueError(
                f"precision: bf16-sr rounds the updates of adamw and adamw_8bit, not those of "
                f"{self.optimizer}: change the optimizer or the precision"
            )
        return self

    @property
    def grouping(self) -> Literal["micro-batch", "step", "none"]:
        """Which rows are drawn with similar lengths."""
        if self.length_groups == "auto":
            return "none" if self.packing else "micro-batch"
        return self.length_groups

    @model_validator(mode="after")
    def _points_agree(self) -> Self:
        check_points(self.eval_benches, self.best, self.early_stop, self.eval_every)
        return self

    def precision_on(self, *, lora: bool, has_bf16: bool) -> Precision:
        """Return the precision on a device with or without bf16 in hardware."""
        return precision_of(self.precision, self.dtype, lora=lora, has_bf16=has_bf16)


FLOOR = 0.01
"""The least weight of a token in SFT's loss, as in the paper of TALR."""


class SFTSpec(TrainerSpec):
    """SFT adds weights of tokens: docs/method.md#token-weights."""

    token_weights: Literal["none", "talr"] = Field(
        "none",
        title="Token weights",
        description=(
            "talr: weigh each token's loss by max(p^(1/τ), floor), so that tokens the model finds "
            "improbable count for less; τ is the median over a step's rows of their mean loss."
        ),
        json_schema_extra=ADDED,
    )
    token_weight_floor: float = Field(
        FLOOR,
        gt=0,
        le=1,
        title="Least token weight",
        description=("With token_weights: talr. 1 is plain SFT."),
        json_schema_extra=ADDED,
    )

    @model_validator(mode="after")
    def _floor_is_used(self) -> Self:
        if self.token_weights == "none" and self.token_weight_floor != FLOOR:
            raise ValueError(
                "token_weight_floor has no effect without token_weights: set token_weights: talr, "
                "or remove it"
            )
        return self


def plain_settings(value: object) -> object:
    """Return a method's trainer settings as given, or those that all methods share as a mapping.

    A more special class than the one given takes the same fields.
    """
    if type(value) is TrainerSpec or type(value) is DistillSpec:
        return value.model_dump(exclude_unset=True)
    return value


class DistillSpec(TrainerSpec):
    """Settings shared by KD and DAE: docs/method.md#losses."""

    temperature: float = Field(1.0, gt=0, le=100, title="Temperature")
    distill_weight: float = Field(
        1.0,
        ge=0,
        le=1,
        title="Distillation weight (λ)",
        description=(
            "Weight of the distillation loss; 1 - λ is the weight of next-token loss on the data."
        ),
    )
    divergence: Divergence = Field(
        "forward_kl",
        title="Divergence",
        description=("Distance between the student's and the teacher's distributions."),
    )
    beta: float = Field(
        0.5,
        gt=0,
        lt=1,
        title="β or skew",
        description=("The teacher's weight in the mixture of js, skew_kl and skew_reverse_kl."),
    )
    chunk: Chunk = None
    on_policy: OnPolicySpec | None = Field(
        None,
        title="On-policy rows",
        description=(
            "A share of rows is answered by the student itself, sampled in every step: "
            "docs/method.md#on-policy-rows."
        ),
        json_schema_extra=ADDED,
    )

    @model_validator(mode="after")
    def _rollouts_agree(self) -> Self:
        if self.on_policy is None:
            return self
        if self.distill_weight == 0:
            raise ValueError(
                "on_policy with distill_weight: 0 leaves sampled answers without a loss, since "
                "next-token loss is for the data's answers: remove one of them"
            )
        for name in ("max_tokens", "tokens_per_batch"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} counts tokens before they are sampled, which on_policy cannot: set "
                    + ("max_steps" if name == "max_tokens" else "batch_size")
                    + ", or remove on_policy"
                )
        return self


class DAESpec(DistillSpec):
    """DAE adds what the reference thinks of domain rows: docs/method.md#losses."""

    non_target_weight: float = Field(
        0.0,
        ge=0,
        title="Non-target weight (μ)",
        description=(
            "Weight of the divergence from the reference on domain rows, over all tokens but the "
            "target: it needs no general rows. 0 disables it."
        ),
        json_schema_extra=ADDED,
    )


class KDSpec(DistillSpec):
    """KD adds the attention loss."""

    weight_decay: float = Field(0.1, ge=0, title="Weight decay")
    attention_weight: float = Field(
        1.0, ge=0, title="Attention weight (γ)", description=("0 disables the attention loss.")
    )
    layer_map: Literal["uniform", "last-k"] | list[int] = Field(
        "uniform",
        title="Layer map",
        description=(
            "Teacher layer for each student layer; a list has one entry per student layer, -1 for "
            "none. A student cut from its teacher is matched to the layers it kept."
        ),
    )
    attention_layers: int | None = Field(
        None,
        ge=1,
        title="Layers with attention loss",
        description="Use only the last N student layers; default: all.",
    )
    attention_block: int = Field(BLOCK, ge=1, title="Attention rows at once")

    @property
    def has_attention_loss(self) -> bool:
        """Whether the attention loss is part of the sum: its weight is λ · γ."""
        return self.attention_weight > 0 and self.distill_weight > 0

    @model_validator(mode="after")
    def _block_is_used(self) -> Self:
        check_block(self.kernels, self.attention_block)
        return self
