"""What the demo's figures say, in sentences that the figures decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kdharness.harness.score_rows import LEAST_FOR_VERDICT, TOO_SMALL
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
        few = f" (n {score.n})" if TOO_SMALL in score.flags else ""
        return f"{score.value:.3g}{few}"
    return f"{score.value:.3g} ±{(score.ci_high - score.ci_low) / 2:.2g}"


def findings(scores: Sequence[Score]) -> list[str]:
    """The two claims of the paper, each told as the figures have it; neither from a handful."""

    def known(checkpoints: Sequence[str], bench: str, metric: str) -> list[Score]:
        """The scores of these checkpoints; none where one of them is missing."""
        found = [figure(scores, name, bench, metric) for name in checkpoints]
        kept = [score for score in found if score is not None and score.value is not None]
        return kept if len(kept) == len(found) else []

    lines = []
    for found, tell in (
        (known(("sft", "kd"), "heldout", "general_kl"), _closer),
        (known(("kd", "expert", "dae"), "shop", "score"), _gained),
        (known(("kd", "expert", "dae"), "heldout", "general_loss"), _kept("general rows")),
        (known(("kd", "expert", "dae"), "heldout", "other_writer_loss"),
         _kept("answers by another writer")),
    ):  # fmt: skip
        if not found:
            continue
        rows = min(score.n for score in found)
        first = found[0]
        if rows < LEAST_FOR_VERDICT:
            names = ", ".join(score.checkpoint for score in found)
            lines.append(
                f"{first.bench} {first.metric}: n = {rows} is too small to compare {names}."
            )
            continue
        lines += tell(*(float(score.value or 0.0) for score in found))
    return lines


def _closer(sft: float, kd: float) -> list[str]:
    verdict = "KD is closer to its teacher" if kd < sft else "KD is NOT closer to its teacher"
    return [f"{verdict} than SFT at equal tokens: KL {kd:.3f} against {sft:.3f} nats per token on "
            "held-out general rows."]  # fmt: skip


def _gained(base: float, expert: float, dae: float) -> list[str]:
    if expert <= base:
        return []
    return [f"DAE has {(dae - base) / (expert - base):.0%} of the expert's domain gain "
            f"(shop score {base:.2f} → {dae:.2f}, expert {expert:.2f})."]  # fmt: skip


def _kept(name: str) -> Callable[..., list[str]]:
    def tell(kd: float, sft: float, dae: float) -> list[str]:
        verdict = "less" if dae < sft else "NOT less"
        return [
            f"On held-out {name} DAE loses {verdict} than domain SFT: {dae / kd - 1:+.1%} against "
            f"{sft / kd - 1:+.1%} (loss {kd:.3f} → {dae:.3f} and {sft:.3f})."
        ]

    return tell
