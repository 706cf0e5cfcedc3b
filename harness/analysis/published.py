"""Published scores for comparison, as scores of judges named `published:…`."""

from __future__ import annotations

import csv
import io
import math

from kdharness.harness.errors import AssetError
from kdharness.harness.paths import Paths
from kdharness.harness.types import Score
from kdharness.harness.util.untrusted import read_text

PAPER = "published:arXiv 2406.19112"
PAPER_ROWS: tuple[tuple[str, float, float | None], ...] = (
    ("MPT-Chat 7B", 5.42, None),
    ("Zephyr 7B", 7.34, 90.60),
    ("Mistral-Instruct v0.2 7B", 7.60, None),
    ("Flip-7B-Instruct-α", 7.58, 90.17),
    ("Flip-7B-Instruct-β", 7.70, 91.60),
    ("Falcon-Instruct 40B", 5.17, 45.71),
    ("Guanaco 65B", 6.41, 71.80),
    ("Llama2-Chat 70B", 6.86, 92.66),
    ("Vicuna v1.3 33B", 7.12, 88.99),
    ("WizardLM v1.0 70B", 7.71, None),
    ("Flip-2x7B-Instruct-α 13B", 7.70, 92.67),
    ("Flip-2x7B-Instruct-β 13B", 7.90, 93.04),
    ("GPT-3.5-turbo", 7.94, 89.37),
    ("Claude 1", 7.90, 88.39),
    ("Claude 2", 8.06, 91.36),
    ("GPT-4", 8.99, 95.28),
)
"""The paper's table: model, MT-Bench score, AlpacaEval 1 win rate in percent."""
ALPACA = "published:alpaca-eval"
ALPACA_FILES = {
    "alpaca-eval-1": "leaderboards/data_AlpacaEval/alpaca_eval_gpt4_leaderboard.csv",
    "alpaca-eval-2": (
        "leaderboards/data_AlpacaEval_2/weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
    ),
}
METRICS = ("win_rate", "length_controlled_winrate", "discrete_win_rate", "avg_length")


def _score(name: str, bench: str, metric: str, value: float, judge: str, n: int) -> Score:
    return Score(
        checkpoint=name,
        run=None,
        method="paper" if judge == PAPER else "public",
        bench=bench,
        metric=metric,
        value=value,
        ci_low=None,
        ci_high=None,
        n=n,
        n_failed=0,
        judge=judge,
        flags=("published",),
    )


def paper_scores() -> list[Score]:
    """Return the paper's table; each score is over 160 ratings or 805 preferences."""
    scores = []
    for name, mt_bench, alpaca in PAPER_ROWS:
        scores.append(_score(name, "mt-bench", "score", mt_bench, PAPER, 160))
        if alpaca is not None:
            scores.append(_score(name, "alpaca-eval-1", "win_rate", alpaca, PAPER, 805))
    return scores


def alpaca_scores(paths: Paths) -> list[Score]:
    """Return AlpacaEval's public leaderboards, if their asset has been pulled."""
    scores = []
    for bench, file in ALPACA_FILES.items():
        path = paths.assets / "alpaca-eval-judges" / file
        if not path.is_file():
            continue
        text = read_text(path, "a public leaderboard", error=AssetError)
        try:
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise AssetError(
                f"the file is damaged: {error}",
                where=str(path),
                hint="download it again: kdharness data pull alpaca-eval-judges",
            ) from error
        for row in rows:
            for metric in METRICS:
                try:
                    value = float(row[metric])
                except (KeyError, TypeError, ValueError):
                    continue
                if math.isfinite(value):
                    scores.append(_score(row.get("") or "", bench, metric, value, ALPACA, 805))
    return scores
