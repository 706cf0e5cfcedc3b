"""Evaluations that run at the same time and would ask, and pay for, the same things."""

from __future__ import annotations

import os

from kdharness.harness.config.evaluation import EvalConfig, bench_name
from kdharness.harness.runs.status import effective_status
from kdharness.harness.store import Store
from kdharness.harness.util.text import listed


def overlapping(config: EvalConfig, store: Store) -> list[str]:
    """Return a sentence for each other live evaluation of the same checkpoints and benchmarks.

    Each reads what is missing when it begins, so that both would ask for it. Different shards
    share nothing.
    """
    sentences = []
    for run in store.live_runs():
        theirs = run.config
        if run.method != config.method or run.pid == os.getpid():
            continue
        shards = theirs.get("shard"), config.shard
        if not effective_status(run).is_live or (all(shards) and shards[0] != shards[1]):
            continue
        models = [name for name in config.checkpoints if name in (theirs.get("checkpoints") or ())]
        ours = {bench_name(bench) for bench in config.benches}
        benches = sorted(ours & {bench_name(bench) for bench in theirs.get("benches") or ()})
        if models and benches:
            sentences.append(
                f"{run.id} is evaluating {listed(models, 3)} on {listed(benches, 3)} as well: what "
                f"neither has stored yet is asked and paid for twice (kdharness stop {run.id})"
            )
    return sentences
