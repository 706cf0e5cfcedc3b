"""The report's claims: what experiments of this home stated beforehand, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator

from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.claim_judge import judge_claims
from kdharness.harness.experiments.claims import ClaimResult
from kdharness.harness.experiments.expand import load_sweep, sweeps_folder
from kdharness.harness.paths import Paths
from kdharness.harness.reports.blocks import Block, Heading, Paragraph, Table, interval
from kdharness.harness.store import Store


def claims(store: Store, paths: Paths) -> Iterator[Block]:
    """A table for each experiment that states claims; nothing where none does."""
    first = True
    for file in sorted(sweeps_folder(paths).glob("*.yaml")):
        try:
            sweep, planned = load_sweep(file)
        except ConfigError as error:
            yield Paragraph(f"The claims of {file.name} cannot be read: {error}")
            continue
        if not sweep.claims:
            continue
        if first:
            yield Heading("Claims, and whether they hold")
        first = False
        found = judge_claims(store, sweep.claims, planned)
        yield Table(
            ("claim", "verdict", "effect", "seeds", "questions"),
            tuple(map(_row, found)),
            f"{sweep.name}: effects are turned so that more is better; 95 % intervals over other "
            "seeds and other questions together. A claim holds where its whole interval is above "
            "0, or above the limit it names.",
        )


def _row(one: ClaimResult) -> tuple[str, ...]:
    settings = "".join(f", {key} {value}" for key, value in one.settings.items())
    effect = one.effect
    if effect is None:
        return (one.claim.text + settings, one.verdict, one.note, "", "")
    limit = f", limit {one.claim.threshold:g}" if one.claim.threshold else ""
    return (
        one.claim.text + settings,
        one.verdict,
        f"{interval(effect.value, effect.low, effect.high)}{limit}",
        str(len(effect.per_seed)),
        str(effect.questions),
    )
