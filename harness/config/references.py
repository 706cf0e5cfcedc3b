"""The models that a config refers to, and in which fields."""

from __future__ import annotations

from collections.abc import Iterator

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.config.merging import MergeConfig
from kdharness.harness.config.models import ModelSpec, StudentSpec
from kdharness.harness.config.training import AnyConfig, DAEConfig


def model_references(config: AnyConfig) -> Iterator[tuple[str, str]]:
    """Yield (field, model) of every model a config names."""
    if isinstance(config, EvalConfig):
        yield from (("checkpoints", name) for name in config.checkpoints)
        if config.heldout.teacher:
            yield "heldout.teacher", config.heldout.teacher
        return
    if isinstance(config, MergeConfig):
        yield from config.sources.items()
        return
    if isinstance(student := getattr(config, "student", None), StudentSpec):
        if student.model:
            yield "student.model", student.model
        if student.source and student.source != "teacher":
            yield "student.from", student.source
        for source in student.experts_from or ():
            yield "student.experts_from", source
    # Served teachers too: their tokenizers and configs are read locally.
    if isinstance(config, DAEConfig):
        specs = {"reference": config.reference, "expert": config.expert}
        named = {**specs, **{f"experts.{name}": spec for name, spec in config.experts.items()}}
        for role, spec in named.items():
            if spec is not None:
                yield f"{role}.model", spec.model
        return
    for field, value in config:
        if isinstance(value, ModelSpec):
            yield f"{field}.model", value.model
