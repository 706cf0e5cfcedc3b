"""Properties of metrics and flags: direction, row order, meaning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kdharness.harness.stats.metric_specs import category_of, metric_spec
from kdharness.harness.types import Score
from kdharness.harness.util.scrub import judge_without_places

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
    "subset": "a fixed subset of this many items, not the whole benchmark",
    "references": "not judged with the corrected reference answers",
    "published": "a published score, without its rows",
    "imported": "judged elsewhere, with unknown prompts and references",
    "discrete": "the judge's token was read instead of its log-probabilities",
    "lc": "variant of the length-controlled fit",
    "C": "inverse regularisation strength of the fit",
    "baseline": "a different baseline than the benchmark's own",
    "template": "a different judge prompt than the benchmark's own",
    "rating": "expected: the mean of the judge's distribution over ratings, not a parsed rating",
    "max_new_tokens": "answers were limited to this many tokens",
    "verdict_tokens": "judge replies were limited to this many tokens",
    "seed": "answers were sampled with this seed",
    "same-answer": "the same text answers several different prompts",
    "talks-to-judge": "answers that address the judge or imitate a verdict",
    "empty": "empty answers",
    "truncated": "answers cut off at the token limit",
    "other-language": "answers in a different script than the question",
    "judge": "result of the judge's report card: untested, toy, near-chance, or its weakness",
    "sampled-verdicts": "the judge rejects a temperature: its verdicts are sampled at its default",
    "sampled-answers": "the server rejects a temperature: answers are sampled at its default",
    "answered-by": "answers of a server or a file that could not be compared with the checkpoint",
    "contaminated": "the checkpoint's training data contains benchmark prompts or held-out rows",
    "hides": "hides an older result from another file of the same name",
    "older": "the benchmark has changed since: not comparable with newer scores, evaluate again",
    "n-too-small": "two questions or fewer: the spread cannot be estimated",
    "as-published": "computed as the benchmark's own scripts do",
    "labels": "corrected by people's labels of this many of the judged answers",
    "chosen-labels": "labels of answers that people chose, or of some turns only: no random sample",
    "version": "version of an imported task",
    "shots": "an imported task with this many examples in the prompt",
    "chat-template": "an imported task, asked through the chat template",
    "multiturn": "an imported task, its examples asked as turns of the chat",
    "system": "an imported task, asked with a system prompt (a hash of it)",
    "gen_kwargs": "an imported task with other generation settings (a hash of them)",
    "few-agree": "the judges of the panel hardly agree",
}


BOOKKEEPING = frozenset(
    {
        "standard_error",
        "lc_standard_error",
        "avg_length",
        "discrete_win_rate",
    }
)


def flag_name(flag: str) -> str:
    """Return a flag without its value: `subset` of `subset:8`, `max_tokens` of `max_tokens=8`."""
    return flag.split(":")[0].split("=")[0]


def explained(flags: Iterable[str]) -> dict[str, str]:
    """Return the names of some flags that need an explanation, in order, with it."""
    return {name: LEGEND[name] for name in sorted(set(map(flag_name, flags)) & set(LEGEND))}


def is_bookkeeping(metric: str) -> bool:
    """Return whether a metric is a count or only accompanies others, and so cannot be better."""
    begins, ends = ("n_", "agreement_"), ("_published",)
    return metric in BOOKKEEPING or metric.startswith(begins) or metric.endswith(ends)


def is_lower_better(metric: str) -> bool:
    """Return whether a lower score is better."""
    return metric_spec(metric).lower_is_better


def is_headline(metric: str) -> bool:
    """Return whether a metric is shown in tables by default."""
    return category_of(metric) is None and not is_bookkeeping(metric)


def ranked(scores: Sequence[Any]) -> list[Any]:
    """Sort scores best first within each benchmark, metric and judge."""
    order = {metric: index for index, metric in enumerate(dict.fromkeys(s.metric for s in scores))}

    def key(score: Any) -> tuple[Any, ...]:
        value = score.value
        signed = value if value is None or is_lower_better(score.metric) else -value
        return (score.bench, order[score.metric], score.judge, value is None, signed or 0.0)

    return sorted(scores, key=key)


def headlines(scores: Iterable[Score]) -> dict[str, dict[str, float]]:
    """Return checkpoint -> its scores: `BENCHMARK/METRIC`, and the judge where there is one.

    They leave this machine: judges are named without paths and addresses. The same judge at several
    addresses is numbered.
    """
    found: dict[str, dict[str, float]] = {}
    for score in scores:
        if score.value is None or not is_headline(score.metric):
            continue
        judge = "" if score.judge == "exact" else f" ({judge_without_places(score.judge)})"
        name = plain = f"{score.bench}/{score.metric}{judge}"
        values, number = found.setdefault(score.checkpoint, {}), 2
        while name in values:
            name, number = f"{plain} {number}", number + 1
        values[name] = score.value
    return found
