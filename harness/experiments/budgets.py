"""What compared trainings had in equal amounts: tokens, domain tokens or FLOPs, as measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kdharness.harness.config.training import trains_on_data
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.claims import Budget, ClaimResult, ClaimSpec
from kdharness.harness.experiments.frontiers import on_frontier, without_seed
from kdharness.harness.experiments.partners import Configured, ConfiguredRun, partner
from kdharness.harness.store import Store
from kdharness.harness.types import Run

DOMAIN = "domain"
Amount = Callable[[ConfiguredRun, Run], float | None]


def measured_budgets(
    store: Store, result: ClaimResult, planned: Sequence[ConfiguredRun]
) -> dict[Budget, float]:
    """Return how much of each equal budget `of` had, as a share of what the others had.

    Of several seeds, and several runs that it is compared with, the pair that differs most counts:
    what one seed has more does not make up for what another has less. Budgets that are not known
    yet are missing.
    """
    shares: dict[Budget, float] = {}
    for budget in result.claim.equal:
        found = list(_shares(store, result, planned, AMOUNTS[budget]))
        if found:
            shares[budget] = max(found, key=lambda share: max(share, 1 / share))
    return shares


def _shares(
    store: Store, result: ClaimResult, planned: Sequence[ConfiguredRun], amount: Amount
) -> Iterator[float]:
    """Yield the share of each seed, for each run that it is compared with."""
    for run in planned:
        if run.step != result.claim.of or not _has(run, result):
            continue
        mine = _measured(store, run, amount)
        try:
            others = _compared_with(result.claim, run, planned)
        except LookupError:
            continue  # the result itself says so
        for other in others:
            theirs = _measured(store, other, amount)
            if mine and theirs:
                yield mine / theirs


def _has(run: ConfiguredRun, result: ClaimResult) -> bool:
    return without_seed(run.settings) == result.settings


def _compared_with(
    claim: ClaimSpec, run: ConfiguredRun, planned: Sequence[Configured]
) -> list[Configured]:
    """Return the runs that a run of the claim's step is compared with, under its settings.

    Raises:
        LookupError: there are none, or it is not known which.
    """
    if claim.frontier:
        return on_frontier(claim, run, planned)
    return [partner(claim.than or claim.expert or "", run, planned)]


def check_budgets(
    claims: Sequence[ClaimSpec], planned: Sequence[ConfiguredRun], where: str
) -> None:
    """Refuse claims of equal budgets of what is not trained in the experiment.

    Raises:
        ConfigError: names the claim.
    """
    training = {run.step for run in planned if trains_on_data(run.config)}
    for number, claim in enumerate(claims, 1):
        compared = [claim.of, claim.frontier or claim.than or claim.expert or claim.of]
        others = [name for name in compared if name not in training]
        if claim.equal and others:
            raise ConfigError(
                f"{others[0]} is not trained in this experiment, so it has no "
                f"{claim.equal[0]} that could be equal",
                where=f"{where}: claims.{number}.equal",
                hint="remove equal from this claim",
            )


def _measured(store: Store, planned_run: ConfiguredRun, amount: Amount) -> float | None:
    run = store.run(planned_run.name)
    return None if run is None else amount(planned_run, run)


def _tokens(_: ConfiguredRun, run: Run) -> float | None:
    value = run.info.get("tokens")
    return float(value) if isinstance(value, (int, float)) else None


def _flops(_: ConfiguredRun, run: Run) -> float | None:
    value = run.info.get("flops")
    return float(value) if isinstance(value, (int, float)) else None


def _domain_rows(planned_run: ConfiguredRun, run: Run) -> float | None:
    """Return the number of domain rows trained on: all of them come from one source of rows.

    Tokens are not counted by kind, and rows of one source have equally many on average. Every
    process draws rows of its own; older runs of several did not store how many there were.
    """
    config, shares = planned_run.config, run.info.get("shares")
    if not trains_on_data(config) or not isinstance(shares, dict) or not run.step:
        return None
    if config.trainer.tokens_per_batch is not None:
        return None
    processes = run.info.get("processes", None if "accelerate" in run.info else 1)
    if processes is None:
        return None
    rows = run.step * config.trainer.batch_size * config.trainer.accumulation * processes
    return rows * float(shares.get(DOMAIN, 0.0)) or None


AMOUNTS: dict[Budget, Amount] = {
    "tokens": _tokens,
    "domain tokens": _domain_rows,
    "FLOPs": _flops,
}
