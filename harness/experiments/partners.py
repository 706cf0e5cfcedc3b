"""Which runs of an experiment belong together: what a run of one step is compared with.

Every combination of settings has one run of each step, and a run that several combinations do not
tell apart belongs to all of them. A setting that a run lacks is *as in the file*; it does not stand
for any value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeVar

from kdharness.harness.config.training import AnyConfig


class SettingsOfRun(Protocol):
    """A planned run, as far as its settings go."""

    @property
    def step(self) -> str:
        """The step it belongs to."""
        ...

    @property
    def settings(self) -> Mapping[str, object]:
        """The varied settings that affect it."""
        ...


class ConfiguredRun(SettingsOfRun, Protocol):
    """A planned run with its name, its config and the combinations of settings it belongs to."""

    @property
    def name(self) -> str:
        """The name of the run."""
        ...

    @property
    def config(self) -> AnyConfig:
        """What it does."""
        ...

    @property
    def combinations(self) -> frozenset[int]:
        """The numbers of the combinations."""
        ...


Configured = TypeVar("Configured", bound=ConfiguredRun)


def partner(step: str, run: ConfiguredRun, planned: Sequence[Configured]) -> Configured:
    """Return the run of a step that belongs to `run`: that of the same combination of settings.

    Of several, it is the one whose other settings are as in the file.

    Raises:
        LookupError: several belong to it, or the experiment has no such step.
    """
    of_step = [other for other in planned if other.step == step]
    found = [other for other in of_step if other.combinations & run.combinations]
    if len(found) > 1:
        wanted = _only(run, _settings_of(step, of_step))
        found = [other for other in found if other.settings == wanted] or found
    if len(found) != 1:
        names = ", ".join(other.name for other in found[:3]) + ", …" * (len(found) > 3)
        raise LookupError(
            f"{len(found)} runs of {step} belong to {run.name}, not 1: {names}"
            if found
            else f"no run of {step} has the settings of {run.name}"
        )
    return found[0]


def agree(
    run: SettingsOfRun, other: SettingsOfRun, planned: Collection[SettingsOfRun], axis: str = ""
) -> bool:
    """Return whether two runs have the same settings, of those that affect both of their steps.

    Args:
        axis: a setting in which they may differ.
    """
    both = _settings_of(run.step, planned) & _settings_of(other.step, planned)
    return _only(run, both - {axis}) == _only(other, both - {axis})


def _only(run: SettingsOfRun, keys: Collection[str]) -> dict[str, object]:
    return {key: value for key, value in run.settings.items() if key in keys}


def _settings_of(step: str, planned: Collection[SettingsOfRun]) -> set[str]:
    """Return the settings that affect a step."""
    return {key for run in planned if run.step == step for key in run.settings}
