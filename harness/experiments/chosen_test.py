"""The experiment that tests a choice: loaded with the chosen settings, and checked in advance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.choose import as_overrides
from kdharness.harness.experiments.expand import (
    PlannedRun,
    SweepConfig,
    find_experiment,
    load_sweep,
)
from kdharness.harness.experiments.frontiers import without_seed

Loaded = tuple[Path, SweepConfig, list[PlannedRun]]


def load_test(
    file: Path, sweep: SweepConfig, settings: Mapping[str, object], changes: Sequence[str] = ()
) -> Loaded:
    """Return the file, experiment and runs that test a choice of settings.

    Args:
        file: the experiment that chooses; the test is a file beside it or a shipped one.
        sweep: its content.
        settings: `STEP.FIELD` -> the chosen value.
        changes: further overrides of the test.

    Raises:
        ConfigError: there is no such test, it is not valid, it lacks a step that the settings
            belong to, varies one of them itself, or makes no claim.
    """
    assert sweep.choose is not None
    where, beside = f"{file}: choose.test", file.resolve().parent / sweep.choose.test
    try:
        found = beside if beside.is_file() else find_experiment(sweep.choose.test)
    except ConfigError as error:
        raise ConfigError(error.message, where=where, hint=error.hint) from error
    plain, _ = load_sweep(found)
    if not plain.claims or plain.choose is not None:
        lack = "has no claims" if not plain.claims else "chooses settings itself"
        raise ConfigError(
            f"{plain.name} {lack}, so it cannot test a choice",
            where=where,
            hint="name an experiment with claims, and without `choose`",
        )
    for key in settings:
        step = key.partition(".")[0]
        if step not in plain.steps:
            raise ConfigError(
                f"{plain.name} has no step {step!r}, so {key} cannot be set in it",
                where=where,
                hint=f"name its step as in {sweep.name}; its steps: {', '.join(plain.steps)}",
            )
    test, runs = load_sweep(found, [*as_overrides(settings), *changes])
    for key in settings:
        step, _, field = key.partition(".")
        if any(run.step == step and {key, field} & set(run.settings) for run in runs):
            raise ConfigError(
                f"{plain.name} varies {key} itself, which would replace the chosen value",
                where=where,
                hint=f"remove it from `vary` in {found.name}",
            )
    return found, test, runs


def check_test(file: Path, sweep: SweepConfig, planned: Sequence[PlannedRun]) -> None:
    """Refuse an experiment whose choice could not be tested, before anything is trained.

    Raises:
        ConfigError: as `load_test`, for one candidate of each kind.
    """
    if sweep.choose is None:
        return
    kinds: dict[frozenset[str], dict[str, object]] = {}
    for run in planned:
        if run.step == sweep.choose.of:
            settings = without_seed(run.settings)
            kinds.setdefault(frozenset(settings), settings)
    for settings in kinds.values():
        load_test(file, sweep, settings)
