"""The claims section of the report: claims of the home's experiments and their results."""

from __future__ import annotations

from collections.abc import Iterator

from kdharness.harness.config.base import reading_stored
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.claim_judge import judge_claims
from kdharness.harness.experiments.claims import ClaimResult
from kdharness.harness.experiments.expand import load_sweep
from kdharness.harness.paths import Paths, kept_experiments
from kdharness.harness.reports.blocks import Block, Heading, Paragraph, Table, interval
from kdharness.harness.store import Store


def claims(store: Store, paths: Paths) -> Iterator[Block]:
    """Return a table per experiment with claims; nothing if there are none."""
    first = True
    for file in kept_experiments(paths):
        try:
            with reading_stored():
                sweep, planned = load_sweep(file)
        except ConfigError as error:
            yield Paragraph(f"Cannot read the claims of {file.name}: {error}")
            continue
        if not sweep.claims:
            continue
        if first:
            yield Heading("Claims and results")
        first = False
        results = judge_claims(store, sweep.claims, planned)
        yield Table(
            ("claim", "verdict", "adjusted", "effect", "seeds", "questions"),
            tuple(map(_row, results)),
            f"{sweep.name}: effects are oriented so that higher is better; 95 % intervals over "
            "seeds and questions together. A claim holds if its whole interval is above 0, or "
            "above its threshold; adjusted: the verdict that is left after Holm's correction over "
            "all claims of the experiment.",
        )


def _row(result: ClaimResult) -> tuple[str, ...]:
    settings = "".join(f", {key} {value}" for key, value in result.settings.items())
    effect = result.effect
    if effect is None:
        return (result.claim.text + settings, result.heading, "", result.note, "", "")
    threshold = f", threshold {result.claim.threshold:g}" if result.claim.threshold else ""
    return (
        result.claim.text + settings,
        result.verdict,
        result.adjusted,
        f"{interval(effect.value, effect.low, effect.high)}{threshold}",
        str(len(effect.per_seed)),
        str(effect.questions),
    )
