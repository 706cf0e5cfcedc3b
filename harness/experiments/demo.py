"""The demo: a shipped experiment, at full scale or as a smoke test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import psutil

from kdharness.harness.experiments.expand import (
    PlannedRun,
    SweepConfig,
    find_experiment,
    load_sweep,
)
from kdharness.harness.stats.rows import TOO_SMALL
from kdharness.harness.store import Store
from kdharness.harness.types import Score
from kdharness.harness.util.process import usable_cores

TEACHER = "smollm2-135m-instruct"
SCORED = ("baselines", "expert-scores", "dae-scores")
RATED = ("ratings", "dae-ratings")
SMOKE: dict[str, Any] = {
    "sft.student.keep_layers": 4,
    "kd.student.keep_layers": 4,
    "sft.trainer.max_tokens": 600,
    "kd.trainer.max_tokens": 600,
    "expert.trainer.max_tokens": 400,
    "dae.trainer.max_tokens": 600,
    **{f"{step}.limit": 8 for step in SCORED},
    **{f"{step}.limit": 1 for step in (*RATED, "instructions")},
    **{f"{step}.max_new_tokens": 8 for step in (*RATED, "instructions")},
    "verdicts.limit": 1,
    "verdicts.max_new_tokens": 8,
}
"""The same steps on a tiny fraction of the data: tests the machine, not the method."""
_BF16 = {"dtype": "bfloat16"}
FASTER: dict[str, Any] = {
    **{f"{step}.trainer.precision": "mixed" for step in ("sft", "kd", "expert", "dae")},
    "kd.teacher": {"model": TEACHER, **_BF16},
    "dae.reference": {"model": "kd", **_BF16},
    "dae.expert": {"model": "expert", **_BF16},
    **{f"{step}.dtype": "bfloat16" for step in (*SCORED, *RATED, "instructions", "verdicts")},
}
"""The same steps with bf16 products."""
MEMORY_OF_TWO = 10e9
"""Bytes that must be free for two of its runs at once; `kdharness plan` gives 2.3 GiB for SFT and
2.8 for KD, to which Python comes, and other programs need some."""
SUMMARY = {
    "shop": ("shop", "score"),
    "general loss": ("heldout", "general_loss"),
    "other writer": ("heldout", "other_writer_loss"),
    "domain loss": ("heldout", "domain_loss"),
    "KL to teacher": ("heldout", "general_kl"),
    "IFEval": ("ifeval", "prompt_strict"),
    "MT-Bench (expected)": ("mt-bench", "expected_rating"),
    "MT-Bench": ("mt-bench", "score"),
    "AlpacaEval": ("alpaca-eval-2", "win_rate"),
}
LOPSIDED = 0.25
"""Intervals more asymmetric than this share of their width are shown by their bounds."""


def load_demo(
    *, smoke: bool, judge: str | None, bf16: bool = False
) -> tuple[SweepConfig, list[PlannedRun]]:
    """Load the shipped experiment with the overrides of the options.

    Args:
        bf16: whether this machine computes faster in bf16 and would not do so by itself.
    """
    fields = {**(SMOKE if smoke else {}), **(FASTER if bf16 else {})}
    changes = {f"steps.{field}": value for field, value in fields.items()}
    if judge is not None:
        # Not every endpoint gives expected ratings, and a larger model's text can be read.
        changes |= {f"steps.{step}.judge": [judge] for step in (*RATED, "verdicts")}
        changes |= {f"steps.{step}.rating": "parsed" for step in RATED}
    jobs = demo_jobs(usable_cores(), psutil.virtual_memory().available)
    overrides = [f"{field}={json.dumps(value)}" for field, value in changes.items()]
    overrides.append(f"jobs={jobs}")
    return load_sweep(find_experiment("demo"), overrides)


def begun_in_bf16(store: Store) -> bool | None:
    """Return whether the home's demo began in bf16; None if it has not begun.

    A demo stays as it began, also where its home has moved to another machine.
    """
    run = store.run("demo-sft")
    return None if run is None else bool(run.config["trainer"].get("precision") == "mixed")


def demo_jobs(cores: int, available: float) -> int:
    """Return how many of the demo's runs go side by side.

    Two runs with a core each get more done than one with two: the steps of so small a model are
    too short for its threads.

    Args:
        cores: those that may be used.
        available: bytes of memory that are free.
    """
    return 2 if cores > 1 and available >= MEMORY_OF_TWO else 1


def summary_rows(
    scores: Sequence[Score], order: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return (rows, columns): one row per checkpoint, one column per headline score there is.

    Args:
        order: names in the order of their rows; other names come first.
    """
    names = list(dict.fromkeys(score.checkpoint for score in scores))
    names.sort(key=lambda name: order.index(name) if name in order else -1)
    stored = {(score.bench, score.metric) for score in scores}
    headlines = {title: where for title, where in SUMMARY.items() if where in stored}
    rows = []
    for name in names:
        row: dict[str, object] = {"checkpoint": name}
        for title, (bench, metric) in headlines.items():
            score = _find(scores, name, bench, metric)
            row[title] = "–" if score is None else _with_interval(score)
        rows.append(row)
    return rows, ["checkpoint", *headlines]


def _find(scores: Sequence[Score], checkpoint: str, bench: str, metric: str) -> Score | None:
    wanted = (checkpoint, bench, metric)
    return next((s for s in scores if (s.checkpoint, s.bench, s.metric) == wanted), None)


def _with_interval(score: Score) -> str:
    if score.value is None:
        # A toy judge often returns no readable verdict; that is not a score of 0.
        return f"0/{score.n + score.n_failed} readable"
    if score.ci_low is None or score.ci_high is None:
        few = f" (n {score.n})" if TOO_SMALL in score.flags else ""
        return f"{score.value:z.3g}{few}"
    below, above = score.value - score.ci_low, score.ci_high - score.value
    if abs(above - below) > LOPSIDED * (above + below):
        return f"{score.value:z.3g} [{score.ci_low:z.2g}, {score.ci_high:z.2g}]"
    return f"{score.value:z.3g} ±{(above + below) / 2:.2g}"
