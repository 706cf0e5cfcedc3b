"""The frontier of a step: its runs along one varied number, as a claim compares with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from kdharness.harness.config.base import hashed_values
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.claims import ClaimSpec
from kdharness.harness.experiments.partners import (
    Configured,
    ConfiguredRun,
    SettingsOfRun,
    agree,
    partner,
)


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


def on_frontier(
    claim: ClaimSpec, run: ConfiguredRun, planned: Sequence[Configured]
) -> list[Configured]:
    """Return the runs along a claim's frontier under the other settings of `run`, in order.

    The expert of the claim is one of them where it differs from them in the varied number alone,
    so that it need not be trained twice.

    Raises:
        LookupError: the frontier has no run with these settings.
    """
    step = claim.frontier or ""
    axis = frontier_axis(step, planned)
    members = [
        other
        for other in planned
        if other.step == step and axis in other.settings and agree(run, other, planned, axis)
    ]
    if not members:
        raise LookupError(f"no run of {step} has the settings of {run.name}")
    field = axis.removeprefix(f"{step}.")
    kinds = [_without(other, field) for other in members]
    expert = claim.expert or ""
    if expert not in (step, claim.of) and any(other.step == expert for other in planned):
        own = partner(expert, run, planned)
        if _without(own, field) in kinds and _number(own, field) is not None:
            members.append(own)
    return sorted(members, key=lambda other: _number(other, field) or 0.0)


def _without(run: ConfiguredRun, field: str) -> dict[str, object]:
    """Return what a run does, but for one field."""
    values: dict[str, object] = hashed_values(run.config, exclude=frozenset({"name"}))
    *above, last = field.split(".")
    section: object = values
    for part in above:
        section = section.get(part) if isinstance(section, dict) else None
    if isinstance(section, dict):
        section.pop(last, None)
    return values


def _number(run: ConfiguredRun, field: str) -> float | None:
    """Return the number in a field of a run's config."""
    value: object = run.config
    for part in field.split("."):
        value = getattr(value, part, None)
    return float(value) if isinstance(value, (int, float)) else None


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
