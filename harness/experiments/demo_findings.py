"""What the demo's figures say, in sentences that tests decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdharness.harness.analysis.compare import NOT_TOLD, PairedComparison, compare_all
from kdharness.harness.analysis.tradeoff import trade_off_view
from kdharness.harness.analysis.tradeoff_groups import statistics
from kdharness.harness.paths import Paths
from kdharness.harness.stats.rows import LEAST_FOR_VERDICT, TOO_SMALL
from kdharness.harness.store import Store
from kdharness.harness.types import Score

SUMMARY = {
    "shop": ("shop", "score"),
    "general loss": ("heldout", "general_loss"),
    "other writer": ("heldout", "other_writer_loss"),
    "domain loss": ("heldout", "domain_loss"),
    "KL to teacher": ("heldout", "general_kl"),
    "MT-Bench": ("mt-bench", "score"),
    "AlpacaEval": ("alpaca-eval-2", "win_rate"),
}
LOPSIDED = 0.25
"""An interval whose sides differ by more than this share of it is shown by its ends."""
ORDER = ("sft", "kd", "expert", "dae")


def figure(scores: Sequence[Score], checkpoint: str, bench: str, metric: str) -> Score | None:
    """The one score of that name, if it is stored."""
    for score in scores:
        if (score.checkpoint, score.bench, score.metric) == (checkpoint, bench, metric):
            return score
    return None


def summary_rows(scores: Sequence[Score]) -> tuple[list[dict[str, Any]], list[str]]:
    """One row a checkpoint, one column a headline figure."""
    names = list(dict.fromkeys(score.checkpoint for score in scores))
    names.sort(key=lambda name: ORDER.index(name) if name in ORDER else -1)
    rows = []
    for name in names:
        row: dict[str, Any] = {"checkpoint": name}
        for title, (bench, metric) in SUMMARY.items():
            score = figure(scores, name, bench, metric)
            row[title] = "–" if score is None else _with_interval(score)
        rows.append(row)
    return rows, ["checkpoint", *SUMMARY]


def _with_interval(score: Score) -> str:
    if score.value is None:
        # A toy judge often gives no verdict that can be read; that is not a score of 0.
        return f"0/{score.n + score.n_failed} read"
    if score.ci_low is None or score.ci_high is None:
        few = f" (n {score.n})" if TOO_SMALL in score.flags else ""
        return f"{score.value:.3g}{few}"
    below, above = score.value - score.ci_low, score.ci_high - score.value
    if abs(above - below) > LOPSIDED * (above + below):
        return f"{score.value:.3g} [{score.ci_low:.2g}, {score.ci_high:.2g}]"
    return f"{score.value:.3g} ±{(above + below) / 2:.2g}"


def findings(store: Store, paths: Paths) -> list[str]:
    """The paper's two claims, each in a sentence that paired tests decide.

    A figure alone names no winner: `compare`'s verdict does (interval and corrected p), and
    where it has none the sentence says that the two cannot be told apart.
    """
    lines = []
    names = {checkpoint.name for checkpoint in store.checkpoints()}
    if {"sft", "kd"} <= names:
        pairs = compare_all(store, paths, ["sft", "kd"])
        lines += [
            _sentence(
                one,
                "KD",
                "SFT",
                "is closer to its teacher",
                "is farther from its teacher",
                "KL per token on held-out general rows, at equal tokens",
            )
            for one in pairs
            if (one.bench, one.metric) == ("heldout", "general_kl")
        ]
    if {"kd", "expert", "dae"} <= names:
        lines += _gained(store, paths)
        kept = {"general_loss": "general rows", "other_writer_loss": "answers by another writer"}
        lines += [
            _sentence(
                one,
                "DAE",
                "SFT on the domain",
                "forgets less",
                "forgets more",
                f"loss per token on held-out {kept[one.metric]}",
            )
            for one in compare_all(store, paths, ["expert", "dae"])
            if one.bench == "heldout" and one.metric in kept
        ]
    return lines


def _sentence(
    one: PairedComparison, other: str, base: str, better: str, worse: str, what: str
) -> str:
    """What a comparison says, with its figures."""
    figures = f"{what}: {one.other_value:.3f} against {one.base_value:.3f}"
    if one.gap.n < LEAST_FOR_VERDICT or one.gap.low is None or one.gap.high is None:
        return f"{other} and {base}: {one.gap.n} rows are too few to compare ({figures})."
    figures += f", difference {one.gap.value:+.3f} [{one.gap.low:+.3f}, {one.gap.high:+.3f}]"
    if one.verdict == NOT_TOLD:
        return f"{other} and {base} cannot be told apart ({figures})."
    return f"{other} {better if one.verdict == 'better' else worse} than {base} ({figures})."


def _gained(store: Store, paths: Paths) -> list[str]:
    """DAE's share of the expert's domain gain, with its interval over questions."""

    x, y, placed, roles = trade_off_view(store, paths, None, None, "kd", "expert")
    point = statistics(store, x, y, placed, roles)["points"].get("dae", {})
    found = point.get("gain")
    if not found or found["value"] is None:
        return [
            f"DAE's share of the expert's gain ({y.label}) cannot be given: too few questions, "
            "or no gain."
        ]
    if found["n"] < LEAST_FOR_VERDICT or found["ci_low"] is None or found["ci_high"] is None:
        return [
            f"DAE's share of the expert's gain ({y.label}): {found['n']} questions are too "
            "few to say."
        ]
    return [
        f"DAE has {found['value']:.0%} of the expert's gain ({y.label}), 95 % interval "
        f"{found['ci_low']:.0%} to {found['ci_high']:.0%}."
    ]
