"""Settings of an evaluation that none of its benchmarks uses."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.config.unused import changed
from kdharness.harness.protocols import Benchmark

USED_BY: Mapping[str, Collection[str]] = {
    "references": ("mt-bench", "mt-bench-pair"),
    "judge_config": ("alpaca-eval-1", "alpaca-eval-2"),
    "discrete_fallback": ("alpaca-eval-2",),
    "heldout": ("heldout",),
}
"""Field -> the benchmarks that read it."""
WITH_A_JUDGE = ("judge", "judge_max_tokens")
WITH_ANSWERS = ("answer_engine", "cuda_graphs", "max_new_tokens")


def unused_settings(config: EvalConfig, benches: Sequence[Benchmark]) -> list[str]:
    """Return a sentence for each setting without effect on these benchmarks.

    They are no errors: settings are often kept for the next evaluation.
    """
    return list(_unused(config, benches))


def _unused(config: EvalConfig, benches: Sequence[Benchmark]) -> Iterator[str]:
    names = {bench.name for bench in benches}
    asked = ", ".join(bench.label for bench in benches)
    for field, users in USED_BY.items():
        if names.isdisjoint(users):
            yield from changed(config, [field], f"it is for {' and '.join(users)}", "")
    if not any(bench.needs_judge for bench in benches):
        yield from changed(config, WITH_A_JUDGE, f"{asked} needs no judge", "")
    if not any(bench.pairwise_with or bench.against for bench in benches):
        yield from changed(config, ["baseline"], f"{asked} compares no pairs", "")
    if names == {"heldout"}:
        yield from changed(config, WITH_ANSWERS, "heldout needs no answers", "")
    elif config.answer_engine:
        why = f"{config.answer_engine} generates, and not this process"
        yield from changed(config, ["cuda_graphs"], why, "")
