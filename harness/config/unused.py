"""Settings that a config changes and nothing uses, because of others in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from pydantic import BaseModel

from kdharness.harness.config.trainer import DistillSpec, KDSpec
from kdharness.harness.config.training import AnyConfig, DAEConfig, field_of, trains_on_data

MIXTURES = ("js", "skew_kl", "skew_reverse_kl")
"""Divergences from a mixture, of which `beta` is the teacher's share."""


def unused_settings(config: AnyConfig) -> list[str]:
    """Return a sentence for each setting of a training config that has no effect.

    They are no errors: the runs of an experiment may share a setting that only some of them use,
    such as a layer map in a grid of attention weights that starts at 0.
    """
    return list(_unused(config)) if trains_on_data(config) else []


def _unused(config: AnyConfig) -> Iterator[str]:
    assert trains_on_data(config)
    spec = config.trainer
    if spec.tokens_per_batch is not None:
        yield from changed(spec, ["batch_size"], "micro-batches are filled by tokens_per_batch")
    if spec.eval_every and not config.data.heldout and not spec.eval_benches:
        why = "there are neither data.heldout nor trainer.eval_benches to score"
        yield from changed(spec, ["eval_every"], why)
    if isinstance(config, DAEConfig):
        yield from _unused_teachers(config)
    if not isinstance(spec, DistillSpec):
        return
    shaping, attention = ["temperature", "divergence"], ["layer_map", "attention_layers"]
    anchored = isinstance(config, DAEConfig) and config.trainer.non_target_weight > 0
    if spec.distill_weight == 0 and not anchored:
        why = "distill_weight is 0, so that no teacher is followed"
        yield from changed(spec, [*shaping, "beta"], why)
        if isinstance(spec, KDSpec):
            yield from changed(spec, ["attention_weight", *attention], why)
        return
    used = {spec.divergence}
    if spec.on_policy is not None:
        on_policy = spec.on_policy.settle(spec.divergence, spec.beta)
        used.add(on_policy.divergence or spec.divergence)
        if on_policy.divergence not in MIXTURES:
            why = f"the divergence of sampled answers is {on_policy.divergence}"
            yield from changed(spec.on_policy, ["beta"], why, "trainer.on_policy")
    if used.isdisjoint(MIXTURES):
        why = f"it is a share in a mixture, which divergence: {spec.divergence} has none of"
        yield from changed(spec, ["beta"], why)
    if isinstance(spec, KDSpec) and not spec.has_attention_loss:
        yield from changed(spec, attention, "attention_weight is 0")


def _unused_teachers(config: DAEConfig) -> Iterator[str]:
    """Yield a sentence for each teacher of rows that no source has."""
    kinds = {source.kind for source in config.data.train}
    if config.data.self_written or config.trainer.non_target_weight:
        kinds.add("general")
    for kind, teacher in config.teacher_specs.items():
        if teacher is not None and kind not in kinds:
            yield f"{field_of(kind)}: {teacher.model} has no effect: no rows are of kind {kind}"


def changed(
    settings: BaseModel, names: Iterable[str], why: str, place: str = "trainer"
) -> Iterator[str]:
    """Yield a sentence for each of these fields that is not at its default.

    Args:
        settings: the part of the config that has the fields.
        names: the fields.
        why: why they have no effect.
        place: the path of that part in the config.
    """
    for name in names:
        value = getattr(settings, name)
        field = type(settings).model_fields[name]
        if value != field.get_default(call_default_factory=True):
            yield f"{place}.{name}".lstrip(".") + f"{_as_text(value)} has no effect: {why}"


def _as_text(value: object) -> str:
    """Return a value after its field's name, as it is written in YAML; nothing for a section."""
    if isinstance(value, BaseModel):
        return ""
    return f": {value if isinstance(value, str) else json.dumps(value)}"
