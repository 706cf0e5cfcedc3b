"""The frontier of a step: its runs along one varied number, as a claim compares with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.claims import ClaimSpec


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


def without_seed(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings without seeds."""
    return {key: value for key, value in settings.items() if key.rsplit(".", 1)[-1] != "seed"}


def frontier_axis(step: str, planned: Collection[SettingsOfRun]) -> str:
    """Return the one setting other than seeds in which the runs of a step differ.

    Raises:
        LookupError: none, several, or one that is no number.
    """
    values: dict[str, list[object]] = {}
    for run in planned:
        for key, value in without_seed(run.settings).items() if run.step == step else ():
            values.setdefault(key, []).append(value)
    axes = [key for key, found in values.items() if any(value != found[0] for value in found)]
    if len(axes) != 1:
        found = f"differ in {len(axes)} settings ({', '.join(axes)})" if axes else "do not differ"
        raise LookupError(f"a frontier is along one varied number, and the runs of {step} {found}")
    numbers = values[axes[0]]
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers):
        raise LookupError(f"a frontier is along a number, and {axes[0]} of {step} is not one")
    return axes[0]


def check_frontiers(
    claims: Sequence[ClaimSpec], planned: Collection[SettingsOfRun], where: str
) -> None:
    """Refuse claims whose frontier is not along one varied number.

    Raises:
        ConfigError: names the claim.
    """
    for number, claim in enumerate(claims, 1):
        if claim.frontier is None:
            continue
        try:
            frontier_axis(claim.frontier, planned)
        except LookupError as error:
            raise ConfigError(
                str(error.args[0]),
                where=f"{where}: claims.{number}.frontier",
                hint=f"vary one number of it: {claim.frontier}.trainer.learning_rate: [1.0e-5, …]",
            ) from error
