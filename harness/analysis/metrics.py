"""Facts about metrics and flags: directions, the order of rows, what flags mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdharness.harness.stats.metric_specs import metric_spec

SCORE_COLUMNS = (
    "checkpoint",
    "method",
    "bench",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "n_failed",
    "judge",
    "flags",
)


LEGEND = {
    "subset": "a fixed subset of so many items, not the whole benchmark",
    "references": "judged with other than the corrected reference answers",
    "published": "a figure from elsewhere, without its rows",
    "imported": "judged elsewhere; the prompts and references used are not known here",
    "discrete": "the judge's token was read, not its log-probabilities",
    "lc": "which variant of the length-controlled fit",
    "C": "the fit's inverse regularisation strength",
    "baseline": "compared with another baseline than the benchmark's own",
    "template": "judged with another prompt than the benchmark's own",
    "max_new_tokens": "answers were limited to so many tokens",
    "verdict_tokens": "the judge's replies were limited to so many tokens",
    "seed": "answers were sampled with this seed",
    "same-answer": "one text answered several different prompts",
    "talks-to-judge": "answers that address the judge or imitate a verdict",
    "empty": "empty answers",
    "truncated": "answers cut off at the token limit",
    "other-language": "answers in another script than the question",
    "judge": "what the judge's report card says: untested, toy, near-chance, or its weakness",
    "sampled-verdicts": "the judge refuses a temperature: its verdicts are sampled at its default",
    "contaminated": "training data of this checkpoint holds benchmark prompts or held-out rows",
    "hides": "an older result, from another file of this name, is not shown",
    "n-too-small": "two questions or fewer: nothing can be said of the spread",
    "as-published": "read as the benchmark's own scripts read it",
    "few-agree": "the panel's judges hardly agree",
}


BOOKKEEPING = frozenset(
    {
        "standard_error",
        "lc_standard_error",
        "avg_length",
        "discrete_win_rate",
    }
)


def is_bookkeeping(metric: str) -> bool:
    """Whether a figure counts or accompanies others: nobody is better or worse in it."""
    return metric in BOOKKEEPING or metric.startswith(("n_", "agreement_"))


def is_lower_better(metric: str) -> bool:
    """Whether a smaller figure is a better one."""
    return metric_spec(metric).lower_is_better


def is_headline(metric: str) -> bool:
    """Whether a figure belongs into a table that is read by eye."""
    return not metric.startswith("category:") and not is_bookkeeping(metric)


def ranked(scores: Sequence[Any]) -> list[Any]:
    """Best first within each benchmark, metric and judge."""
    order = {metric: place for place, metric in enumerate(dict.fromkeys(s.metric for s in scores))}

    def key(score: Any) -> tuple[Any, ...]:
        value = score.value
        signed = value if value is None or is_lower_better(score.metric) else -value
        return (score.bench, order[score.metric], score.judge, value is None, signed or 0.0)

    return sorted(scores, key=key)
