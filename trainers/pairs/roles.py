"""The teachers of a config by role, each with the kind of rows that it teaches."""

from __future__ import annotations

from dataclasses import dataclass

from kdharness.harness.config.models import CacheSpec, TeacherSpec
from kdharness.harness.config.training import TrainConfig
from kdharness.harness.runs.teachers import teacher_kinds
from kdharness.trainers.preflight import teachers_of


@dataclass(frozen=True)
class TeacherRole:
    """A teacher of a config: its role, the kind of rows it teaches (None: all), its settings."""

    role: str
    kind: str | None
    model: str
    spec: TeacherSpec | None = None

    @property
    def cache(self) -> CacheSpec | None:
        """The cache of its outputs."""
        return self.spec.cache if self.spec else None

    @property
    def trusted(self) -> bool:
        """Whether its own code may run."""
        return bool(self.spec and self.spec.trust_remote_code)


def teacher_roles(config: TrainConfig) -> list[TeacherRole]:
    """Return the teachers of a config; those of an installed method teach all rows."""
    known = teacher_kinds(config)
    if known:
        return [TeacherRole(role, kind, spec.model, spec) for role, (kind, spec) in known.items()]
    return [TeacherRole(role, None, source) for role, source in teachers_of(config).items()]
