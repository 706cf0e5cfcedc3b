"""The models that a config refers to, and in which fields."""

from __future__ import annotations

from collections.abc import Iterator

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.config.merging import MergeConfig
from kdharness.harness.config.training import AnyConfig, DAEConfig, KDConfig


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
    student = config.student
    if student.model:
        yield "student.model", student.model
    if student.source and student.source != "teacher":
        yield "student.from", student.source
    for source in student.experts_from or ():
        yield "student.experts_from", source
    # A served teacher too: its tokenizer and config are read locally.
    if isinstance(config, KDConfig):
        yield "teacher.model", config.teacher.model
    if isinstance(config, DAEConfig):
        specs = {"reference": config.reference, "expert": config.expert}
        named = {**specs, **{f"experts.{name}": spec for name, spec in config.experts.items()}}
        for role, spec in named.items():
            if spec is not None:
                yield f"{role}.model", spec.model
