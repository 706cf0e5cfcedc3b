"""What the demo's figures say, in sentences that the figures decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        return f"{score.value:.3g}"
    return f"{score.value:.3g} ±{(score.ci_high - score.ci_low) / 2:.2g}"


def findings(scores: Sequence[Score]) -> list[str]:
    """The two claims of the paper, each told as the figures have it."""

    def value(checkpoint: str, bench: str, metric: str) -> float | None:
        score = figure(scores, checkpoint, bench, metric)
        return score.value if score else None

    lines = []
    kl = value("sft", "heldout", "general_kl"), value("kd", "heldout", "general_kl")
    if kl[0] is not None and kl[1] is not None:
        verdict = "KD is closer to its teacher" if kl[1] < kl[0] else "KD is NOT closer"
        lines.append(
            f"{verdict} than SFT at equal tokens: KL {kl[1]:.3f} against {kl[0]:.3f} nats a token "
            "on held-out general rows."
        )
    base, expert, dae = (value(name, "shop", "score") for name in ("kd", "expert", "dae"))
    if base is not None and expert is not None and dae is not None and expert > base:
        lines.append(
            f"DAE has {(dae - base) / (expert - base):.0%} of the expert's domain gain "
            f"(shop score {base:.2f} → {dae:.2f}, expert {expert:.2f})."
        )
    for metric, name in (("general_loss", "general rows"),
                         ("other_writer_loss", "another writer's answers")):
        losses = [value(c, "heldout", metric) for c in ("kd", "expert", "dae")]
        if any(loss is None for loss in losses):
            continue
        kd, sft, aligned = (float(loss) for loss in losses if loss is not None)
        verdict = "less" if aligned < sft else "NOT less"
        lines.append(
            f"On held-out {name} DAE loses {verdict} than domain SFT: "
            f"{aligned / kd - 1:+.1%} against {sft / kd - 1:+.1%} (loss {kd:.3f} → {aligned:.3f} "
            f"and {sft:.3f})."
        )
    return lines
