"""Teachers in a plan: which are loaded, and what their caches take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.training import AnyConfig, role_of, teacher_specs


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
