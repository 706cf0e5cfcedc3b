"""Estimate the calls, tokens and cost of an evaluation without making any call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdharness.harness.config.evaluation import EvalConfig, in_shard, parse_spec
from kdharness.harness.config.settings import default_judges
from kdharness.harness.evaluation import answering, judging
from kdharness.harness.evaluation.answerers import choose_answered
from kdharness.harness.evaluation.pipeline import (
    find_baselines,
    find_subjects,
)
from kdharness.harness.evaluation.state import Evaluation, Subject
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Benchmark, Engine, MeasuredBenchmark, NullReporter, Reporter
from kdharness.harness.registry import ENGINES, resolve
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Finish

TYPICAL_ANSWER = "x" * 1200
DRY_RUN_COLUMNS = ("checkpoint", "bench", "judge", "answers", "calls", "tokens", "usd")


def plan(
    config: EvalConfig, paths: Paths, store: Store, benches: Sequence[Benchmark]
) -> list[dict[str, Any]]:
    """Return rows of the missing answers and judge calls, with tokens and cost.

    Nothing is loaded or sent. Answers that do not exist yet are assumed to have a typical length;
    `usd` is None if the price is unknown.

    Args:
        config: the evaluation's config.
        paths: the home.
        store: its open store.
        benches: the config's benchmarks, loaded.
    """
    reporter: Reporter = NullReporter()
    job = Evaluation(config, paths, store, reporter)
    benches = [bench for bench in benches if not isinstance(bench, MeasuredBenchmark)]
    subjects = find_subjects(config, paths, store)
    baselines = find_baselines(job, benches, subjects)
    if config.answer_engine:
        choose_answered(job, [*subjects, *baselines], benches)
    engines = [_engine(spec, config, paths) for spec in config.judge or default_judges(paths)]
    rows = []
    for bench in benches:
        for subject in subjects:
            existing = answering.answers_for(store, subject, bench, config)
            item_ids = {item.id for item in bench.items if in_shard(config.shard, item.id)}
            good = [a for a in existing if a.finish is not Finish.ERROR and a.item in item_ids]
            turns = sum(len(item.turns) for item in bench.items if item.id in item_ids)
            base = {
                "checkpoint": subject.checkpoint.name,
                "bench": bench.label,
                "judge": "",
                "answers": turns - len(good) if subject.source and job.is_answered(subject) else 0,
                "calls": 0,
                "tokens": 0,
                "usd": 0.0,
            }
            if not bench.needs_judge or not engines:
                rows.append(base)
            for engine in engines if bench.needs_judge else []:
                rows.append({**base, **_cost(job, engine, bench, subject, subjects, good)})
    return rows


def _engine(spec: str, config: EvalConfig, paths: Paths) -> Engine:
    parsed = parse_spec(spec)
    engine: Engine = resolve(ENGINES, parsed.kind, "judge").open(parsed, config, paths)
    return engine


def _cost(
    job: Evaluation,
    engine: Engine,
    bench: Benchmark,
    subject: Subject,
    subjects: Sequence[Subject],
    good: Sequence[Answer],
) -> dict[str, object]:
    """Return the calls, tokens and cost of one subject under one judge."""
    answers = completed(bench, good) if subject.source else good
    calls = [
        call
        for call in judging.calls_for(job, bench, subject, subjects, answers, completed)
        if in_shard(job.config.shard, call.item)
    ]
    asks, _ = judging.not_stored(job, engine, bench, subject, calls)
    tokens, usd = engine.estimate([judging.request_of(ask) for ask in asks])
    return {"judge": engine.name, "calls": len(asks), "tokens": tokens, "usd": usd}


def completed(bench: Benchmark, answers: Sequence[Answer]) -> list[Answer]:
    """Return the existing answers, and a typical one for each that does not exist yet."""
    existing = {(answer.item, answer.turn) for answer in answers}
    return [
        *answers,
        *(
            Answer(
                id=f"planned/{item.id}/{turn}",
                checkpoint="",
                bench=bench.label,
                revision=bench.revision,
                item=item.id,
                turn=turn,
                text=TYPICAL_ANSWER,
                finish=Finish.STOP,
                prompt_hash="",
                settings="",
                created=0.0,
            )
            for item in bench.items
            for turn in range(1, len(item.turns) + 1)
            if (item.id, turn) not in existing
        ),
    ]
