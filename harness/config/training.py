"""Run configs: pydantic models.

Every field has a title and a description, from which the app's forms, `config init` and the docs
are generated. `config.files` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, Self, TypeGuard

from pydantic import BeforeValidator, Field, model_validator

from kdharness.harness.config.base import RunConfig, hashed_values
from kdharness.harness.config.data import DataSpec
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.config.merging import MergeConfig
from kdharness.harness.config.models import (
    Student,
    StudentSpec,
    Teacher,
    TeacherSpec,
    expand_model_spec,
)
from kdharness.harness.config.points import check_losses, parse_best
from kdharness.harness.config.trainer import (
    DAESpec,
    DistillSpec,
    KDSpec,
    SFTSpec,
    TrainerSpec,
    plain_settings,
)
from kdharness.harness.errors import ConfigError
from kdharness.harness.registry import TRAINERS, method_config, unusable
from kdharness.harness.types import digest


def _check_tail(teachers: Sequence[TeacherSpec | None], trainer: DistillSpec) -> None:
    """Refuse a sampled tail, an estimate of a sum over the teacher, with all but forward KL."""
    for teacher in teachers:
        if teacher is not None and teacher.served and trainer.temperature != 1.0:
            raise ValueError(
                "a served teacher's probabilities are at temperature 1: set trainer.temperature "
                "to 1"
            )
        sampled = teacher is not None and teacher.cache and teacher.cache.sampled
        if sampled and trainer.divergence != "forward_kl":
            raise ValueError(
                f"a sampled cache supports forward_kl only, not {trainer.divergence}: "
                "set cache.tail to bucket, or cache.kind to hidden"
            )


def _check_on_policy(
    teachers: Mapping[str | None, TeacherSpec | None], trainer: DistillSpec
) -> None:
    """Refuse caches for teachers that must score text which does not exist yet."""
    cached = [field_of(kind) for kind, spec in teachers.items() if spec is not None and spec.cache]
    if trainer.on_policy is not None and cached:
        raise ValueError(
            f"{cached[0]}.cache holds the data's answers, and trainer.on_policy samples others: "
            f"remove the cache{' (and served)' if _served(teachers) else ''}, so that the teacher "
            "is loaded and scores them, or remove trainer.on_policy"
        )


def _served(teachers: Mapping[str | None, TeacherSpec | None]) -> bool:
    return any(spec is not None and spec.served for spec in teachers.values())


def _check_precision(student: StudentSpec, trainer: TrainerSpec) -> None:
    """Refuse stochastic rounding of adapters, which are fp32, and pulls that bf16 would lose."""
    if student.lora and trainer.precision == "bf16-sr":
        raise ValueError(
            "precision: bf16-sr is for training all weights; with LoRA the adapter is fp32 and "
            "takes little memory: set precision: mixed"
        )
    if trainer.l2_start:
        # `auto` is mixed or fp32 wherever a pull is asked for.
        precision = trainer.precision_on(lora=student.lora is not None, has_bf16=True)
        if precision.trained != "float32":
            raise ValueError(
                f"l2_start: precision: {precision.name} trains bf16 weights, which are too coarse "
                "for steps of learning_rate · l2_start of the way back: set precision: mixed or "
                "fp32"
            )


class SFTConfig(RunConfig):
    """Supervised fine-tuning: next-token loss on the answers."""

    method: Literal["sft"] = "sft"
    student: Student = Field(..., title="Student")
    data: DataSpec = Field(..., title="Data")
    trainer: Annotated[SFTSpec, BeforeValidator(plain_settings)] = Field(
        default_factory=lambda: SFTSpec(), title="Trainer"
    )

    @property
    def main_teacher(self) -> None:
        """None: this method has no teacher that a student could be cut from."""
        return

    @model_validator(mode="after")
    def _adapters_are_fp32(self) -> Self:
        _check_precision(self.student, self.trainer)
        return self


class KDConfig(RunConfig):
    """Knowledge distillation: match a teacher's distributions and its attention."""

    method: Literal["kd"] = "kd"
    student: Student = Field(..., title="Student")
    teacher: Teacher = Field(..., title="Teacher")
    data: DataSpec = Field(..., title="Data")
    trainer: KDSpec = Field(default_factory=lambda: KDSpec(), title="Trainer")

    @property
    def main_teacher(self) -> TeacherSpec:
        """The teacher that `student: {from: teacher}` refers to."""
        return self.teacher

    @property
    def teacher_specs(self) -> dict[str | None, TeacherSpec | None]:
        """Kind of rows -> teacher; the kind None means all rows."""
        return {None: self.teacher}

    @model_validator(mode="after")
    def _cache_has_no_attention(self) -> Self:
        if self.teacher.cache and self.trainer.has_attention_loss:
            stored = "hidden states" if self.teacher.cache.kind == "hidden" else "distributions"
            raise ValueError(
                f"teacher.cache stores {stored}, not attention: "
                "set trainer.attention_weight to 0 or remove teacher.cache"
            )
        if self.data.self_written:
            raise ValueError(
                "data.self_written is for sft and dae, whose general rows keep what a model can "
                "do; kd has no reference that could write them: remove it"
            )
        _check_tail([self.teacher], self.trainer)
        _check_on_policy(self.teacher_specs, self.trainer)
        _check_precision(self.student, self.trainer)
        return self


def _experts(value: object) -> object:
    return {k: expand_model_spec(v) for k, v in value.items()} if isinstance(value, dict) else value


class DAEConfig(RunConfig):
    """Domain alignment: distil an expert on domain rows, a reference model on general rows."""

    method: Literal["dae"] = "dae"
    student: Student = Field(..., title="Student")
    reference: Teacher | None = Field(
        None,
        title="Reference",
        description=("Teacher of general rows. Default: the student before training."),
    )
    expert: Teacher | None = Field(None, title="Expert", description="Teacher of domain rows.")
    experts: Annotated[
        dict[str, TeacherSpec],
        BeforeValidator(_experts, json_schema_input_type=dict[str, str | TeacherSpec]),
    ] = Field(
        default_factory=dict,
        title="Experts",
        description=("Further experts by name; each teaches the rows whose kind is its name."),
    )
    data: DataSpec = Field(..., title="Data")
    trainer: Annotated[DAESpec, BeforeValidator(plain_settings)] = Field(
        default_factory=lambda: DAESpec(), title="Trainer"
    )

    @property
    def main_teacher(self) -> TeacherSpec:
        """The teacher that `student: {from: teacher}` refers to: the first expert."""
        return self.expert or next(iter(self.experts.values()))

    @property
    def teacher_specs(self) -> dict[str | None, TeacherSpec | None]:
        """Kind of rows -> teacher; without a reference, `general` has None."""
        return {"general": self.reference, "domain": self.expert, **dict(self.experts.items())}

    @model_validator(mode="after")
    def _every_kind_has_an_expert(self) -> Self:
        names = {"general", *self.experts, *(["domain"] if self.expert else [])}
        if len(names) == 1:
            raise ValueError("DAE needs an expert (or experts by name)")
        for kind, role in (("domain", "expert"), ("general", "reference")):
            if kind in self.experts and getattr(self, role):
                raise ValueError(
                    f"experts.{kind} and {role} would both teach {kind} rows: remove one of them"
                )
        for source in self.data.train:
            if source.kind not in names:
                raise ValueError(
                    f"rows of kind {source.kind!r} have no teacher; known: {sorted(names)}"
                )
        if self.data.self_written:
            self._check_self_written()
        if all(source.kind == "general" for source in self.data.train):
            raise ValueError("DAE needs domain rows: set kind: domain on a source")
        if self.trainer.non_target_weight and self.reference and self.reference.cache:
            raise ValueError(
                "trainer.non_target_weight needs the reference on domain rows, and reference.cache "
                "has it on general rows: remove one of them"
            )
        _check_tail([self.reference, self.expert, *self.experts.values()], self.trainer)
        _check_on_policy(self.teacher_specs, self.trainer)
        if self.trainer.non_target_weight and self.trainer.on_policy:
            raise ValueError(
                "trainer.non_target_weight leaves out the next token that the data has, and "
                "sampled answers have none: remove it or trainer.on_policy"
            )
        _check_precision(self.student, self.trainer)
        return self

    def _check_self_written(self) -> None:
        """Refuse general rows of two origins, and a reference that is not here to write."""
        general = [source.path for source in self.data.train if source.kind == "general"]
        if general:
            raise ValueError(
                f"data.self_written writes the general rows, and data.train has general rows too "
                f"({', '.join(general)}): remove one of them, or set kind: domain on these sources"
            )
        if self.reference and self.reference.served:
            raise ValueError(
                "data.self_written: a served reference cannot write rows: give the model itself, "
                "or remove self_written"
            )


ROLES: Mapping[str | None, str] = {None: "teacher", "general": "reference", "domain": "expert"}
"""Kind of rows -> role of its teacher; those of further experts are `expert NAME`."""


def teacher_specs(config: AnyConfig) -> dict[str | None, TeacherSpec | None]:
    """Return kind of rows -> teacher, of any config; see `KDConfig` and `DAEConfig`."""
    return config.teacher_specs if isinstance(config, (KDConfig, DAEConfig)) else {}


def role_of(kind: str | None) -> str:
    """Return the role of the teacher of a kind of rows, in plans and in a checkpoint's parents."""
    return ROLES.get(kind) or f"expert {kind}"


def field_of(kind: str | None) -> str:
    """Return the config field of the teacher of a kind of rows."""
    return ROLES.get(kind) or f"experts.{kind}"


TrainConfig = SFTConfig | KDConfig | DAEConfig
AnyConfig = TrainConfig | MergeConfig | EvalConfig
CONFIGS: dict[str, type[AnyConfig]] = {
    "sft": SFTConfig,
    "kd": KDConfig,
    "dae": DAEConfig,
    "merge": MergeConfig,
    "eval": EvalConfig,
}


def config_class(method: str) -> type[AnyConfig] | None:
    """Return the config class of a method, built-in or from a plugin; None if unknown."""
    if method in CONFIGS:
        return CONFIGS[method]
    found: type[AnyConfig] | None = method_config(method)
    if found is not None and RunConfig not in getattr(found, "__mro__", ()):
        raise unusable(TRAINERS, method, "method", "its config does not derive from RunConfig")
    return found


def known_config(method: object) -> type[AnyConfig]:
    """Return the config class of a method, built-in or from a plugin.

    Raises:
        ConfigError: an unknown method, such as that of a package which is gone, or a broken plugin.
    """
    found = config_class(method) if isinstance(method, str) else None
    if found is None:
        raise ConfigError(f"unknown method {method!r}", hint="install the package that provides it")
    return found


def trains_on_data(config: AnyConfig) -> TypeGuard[TrainConfig]:
    """Whether a config trains a student on data; a plugin's own config may."""
    return (
        isinstance(getattr(config, "student", None), StudentSpec)
        and isinstance(getattr(config, "data", None), DataSpec)
        and isinstance(getattr(config, "trainer", None), TrainerSpec)
    )


def check_best(config: TrainConfig) -> None:
    """Refuse a `trainer.best` about losses that the run does not measure.

    Stored runs may have one: they failed for it, and can still be shown.

    Raises:
        ConfigError: names what is not measured.
    """
    spec = config.trainer
    if spec.best is not None:
        rule = parse_best(spec.best, [point.label for point in spec.eval_benches])
        check_losses(rule, {source.kind for source in config.data.heldout})


def trusted_code(config: AnyConfig) -> list[str]:
    """Return the models whose own code this config allows to run."""

    def walk(values: object) -> Iterator[str]:
        if isinstance(values, dict):
            if values.get("trust_remote_code") is True:
                names = values.get("model") or values.get("from") or values.get("checkpoints")
                yield ", ".join(names) if isinstance(names, list) else str(names or "every model")
            for part in values.values():
                yield from walk(part)

    return list(dict.fromkeys(walk(config.model_dump(mode="json", by_alias=True))))


def untrained(config: TrainConfig, start: str) -> TeacherSpec:
    """Return the student before training as a teacher: the default reference.

    Args:
        config: a training config.
        start: the model or folder that the student starts from.
    """
    return TeacherSpec(model=start, trust_remote_code=config.student.trust_remote_code)


def runs_code_of(config: AnyConfig, source: str) -> bool:
    """Return whether a config allows running the own code of a model that it names."""
    if isinstance(config, (MergeConfig, EvalConfig)):
        return config.trust_remote_code
    specs = [spec for spec in teacher_specs(config).values() if spec is not None]
    if any(spec.trust_remote_code and spec.model == source for spec in specs):
        return True
    student = getattr(config, "student", None)
    if not isinstance(student, StudentSpec) or not student.trust_remote_code:
        return False
    named = [student.model, student.source, *(student.experts_from or ())]
    main = getattr(config, "main_teacher", None)
    if student.source == "teacher" and main is not None:
        named.append(main.model)
    return source in named


def config_hash(config: AnyConfig) -> str:
    """Return the identity of what is done: a hash of everything but the run's name."""
    return digest(hashed_values(config, exclude=frozenset({"name"})))
