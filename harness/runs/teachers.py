"""Teachers in a plan: which are loaded, and what their caches take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.training import AnyConfig, field_of, role_of, teacher_specs
from kdharness.harness.errors import ConfigError


class CachedRows(NamedTuple):
    """Labelled positions of the rows that a cached teacher teaches.

    Attributes:
        taught: over the whole training, repeats included.
        held: of the different rows among them, which the cache has in the end.
        missing: of those that are not stored yet.
    """

    taught: int
    held: int
    missing: int


class PlannedCache(NamedTuple):
    """A teacher's cache in a plan; `size` and `missing` in bytes, without its head."""

    taught: int
    size: int
    missing: int


def teacher_kinds(config: AnyConfig) -> dict[str, tuple[str | None, TeacherSpec]]:
    """Map each role to the kind of rows that it teaches, and to its teacher."""
    return {
        role_of(kind): (kind, spec)
        for kind, spec in teacher_specs(config).items()
        if spec is not None
    }


def teacher_spec(config: AnyConfig, role: str) -> TeacherSpec | None:
    """Return the config's teacher in a role; None for the student before training."""
    return teacher_kinds(config).get(role, (None, None))[1]


def place_of(spec: TeacherSpec | None, student: str) -> str:
    """Return the device of a teacher's weights, by one name for each; empty for the student's.

    Args:
        spec: the config's teacher; None for the student before training.
        student: the student's device.
    """
    if spec is None or spec.served or (spec.device == "auto" and not spec.offload):
        return ""
    place, own = (_one_name(name) for name in ("cpu" if spec.offload else spec.device, student))
    return "" if place == own else place


def runs_at(spec: TeacherSpec) -> TeacherSpec:
    """Return an offloaded teacher as it is while it scores, with its weights on a device."""
    return spec.model_copy(update={"offload": False})


def _one_name(device: str) -> str:
    """Return a device's name with its number: `cuda` is the first GPU."""
    return "cuda:0" if device == "cuda" else device


def refuse_places(config: AnyConfig, *, fsdp: bool, processes: int) -> None:
    """Refuse teachers on devices that several processes cannot share.

    Args:
        config: a training config.
        fsdp: whether models are sharded over the processes.
        processes: number of processes.

    Raises:
        ConfigError: names the field.
    """
    for kind, spec in teacher_specs(config).items():
        if spec is None or (spec.device == "auto" and not spec.offload):
            continue
        name = "offload" if spec.offload else "device"
        if fsdp:
            raise ConfigError(
                f"{name} cannot be set under FSDP, which shards teachers over the devices of all "
                "processes",
                where=f"{field_of(kind)}.{name}",
                hint="remove it, or train with DDP",
            )
        if processes > 1 and ":" in spec.device:
            raise ConfigError(
                f"device: {spec.device} is one GPU, but this run has {processes} processes, each "
                "with a teacher of its own",
                where=f"{field_of(kind)}.device",
                hint="remove it: every process then has its teacher on its own GPU",
            )


def refuse_own_place(spec: TeacherSpec | None, field: str) -> None:
    """Refuse a place for a teacher that shares the student's base weights.

    Raises:
        ConfigError: it has a device of its own, or is offloaded.
    """
    if spec is None or (spec.device == "auto" and not spec.offload):
        return
    name = "offload" if spec.offload else "device"
    raise ConfigError(
        f"{name} cannot be set for a teacher that is the student's own base, or an adapter of it: "
        "it has no weights of its own to place",
        where=f"{field}.{name}",
        hint="remove it: such a teacher takes no memory beside its adapter",
    )


def teacher_sources(
    config: AnyConfig, cached: Mapping[str | None, CachedRows] | None = None
) -> dict[str, str]:
    """Map each role to its frozen model, for models that training loads in addition.

    A cached teacher is one of them unless `cached` says that no row is missing, or a server runs
    it.
    """
    known = cached or {}
    return {
        role: spec.model
        for role, (kind, spec) in teacher_kinds(config).items()
        if not spec.cache or (not spec.served and (kind not in known or known[kind].missing))
    }


def planned_caches(
    config: AnyConfig, cached: Mapping[str | None, CachedRows], widths: Mapping[str, int]
) -> dict[str, PlannedCache]:
    """Return the caches of a training by the role of their teachers.

    Args:
        config: a training config.
        cached: kind of rows -> positions; kinds that are left out have none.
        widths: role -> hidden size, of teachers whose hidden states are cached.
    """
    planned = {}
    for role, (kind, spec) in teacher_kinds(config).items():
        if spec.cache:
            rows = cached.get(kind, CachedRows(0, 0, 0))
            each = spec.cache.position_bytes(widths.get(role, 0))
            planned[role] = PlannedCache(rows.taught, rows.held * each, rows.missing * each)
    return planned
