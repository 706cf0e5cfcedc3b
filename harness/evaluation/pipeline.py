"""Checkpoint -> answers -> judgments: resumable at every step.

Every answer and every judgment is one row, stored the moment it arrives, under an identity made
of what it depends on. A second run asks for what is missing or failed and for nothing else, and
a kill at any moment loses at most what had not come back yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kdharness.harness.config.evaluation import EvalConfig, in_shard
from kdharness.harness.config.settings import default_judges
from kdharness.harness.errors import ConfigError
from kdharness.harness.evaluation import answering, judging
from kdharness.harness.evaluation.judges import bench_note, open_judges, other_side
from kdharness.harness.evaluation.name_clashes import refuse_namesake
from kdharness.harness.evaluation.red_flags import record_red_flags, record_trained_rows
from kdharness.harness.evaluation.state import Evaluation, Subject, find_checkpoint
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Benchmark, MeasuredBenchmark, Reporter
from kdharness.harness.registry import BENCHMARKS, resolve
from kdharness.harness.store import Store

HOW_TO_JUDGE = (
    "name a judge with --judge openai:MODEL, openai:MODEL@URL or local:PATH, "
    "with `judge:` in settings.yaml, or with KDHARNESS_JUDGE"
)


def run(config: EvalConfig, paths: Paths, store: Store, reporter: Reporter) -> dict[str, Any]:
    """Evaluate as the config says; what is stored already is not asked for again.

    Raises:
        ConfigError: nothing to evaluate, unknown benchmarks, a pairwise one without a baseline.
        JudgeError: a judge that cannot be reached or cannot do what a benchmark needs. This is
            found out before anything is answered.
        Interrupted: stopped by the user; all that was finished is stored.
    """
    job = Evaluation(config, paths, store, reporter)
    judges = config.judge or default_judges(paths)
    benches = load_benches(config, paths)
    subjects = find_subjects(config, paths, store, reporter)
    panel = open_judges(job, judges, benches) if any(bench.needs_judge for bench in benches) else []
    try:
        baselines = find_baselines(job, benches, subjects)
        for subject in [*subjects, *baselines]:
            score_alone(job, subject, benches)
        for judge in panel:
            judging.judge_all(job, judge, subjects)
    finally:
        for judge in panel:
            judge.engine.close()
    if not judges:
        note_waiting(job, subjects, benches)
    return {**job.tally.as_dict(), "checkpoints": [s.checkpoint.name for s in subjects]}


def load_benches(config: EvalConfig, paths: Paths) -> list[Benchmark]:
    """The benchmarks of a config, by name or by the path of a user's file."""
    benches = []
    for name in config.benches:
        if name.endswith(".jsonl"):
            benches.append(resolve(BENCHMARKS, "file", "benchmark").load(paths, config, name))
        elif name == "file":
            raise ConfigError("a benchmark of your own goes by its path, such as mine.jsonl")
        else:
            benches.append(resolve(BENCHMARKS, name, "benchmark").load(paths, config))
    labels = [bench.label for bench in benches]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"two benchmarks are called {label!r}", hint="rename one file")
    for bench, name in zip(benches, config.benches, strict=True):
        if name.endswith(".jsonl") and bench.label in BENCHMARKS:
            raise ConfigError(f"{name}: {bench.label!r} is a built-in benchmark's name")
    return benches


# ---------------------------------------------------------------- who is scored


def find_subjects(
    config: EvalConfig, paths: Paths, store: Store, reporter: Reporter | None = None
) -> list[Subject]:
    """The checkpoints of a config, each once, known to the store."""
    subjects = [find_checkpoint(source, paths, store, reporter) for source in config.checkpoints]
    for name in config.imported:
        known = store.checkpoint(name)
        if known is None:
            raise ConfigError(
                f"no answers of a model named {name!r} are stored",
                hint="import them: kdharness import fastchat|alpaca-eval PATH",
            )
        subjects.append(Subject(known, ""))
    if not subjects:
        raise ConfigError("nothing to evaluate", hint="name a checkpoint: --ckpt PATH")
    return list({subject.checkpoint.id: subject for subject in subjects}.values())


def find_baselines(
    job: Evaluation, benches: Sequence[Benchmark], subjects: Sequence[Subject]
) -> list[Subject]:
    """The other sides of pairwise judging that are not among the subjects themselves."""
    for name in {b.pairwise_with for b in benches} - {"", "all"}:
        job.side(name)
    have = {s.checkpoint.id for s in subjects}
    others = {side.checkpoint.id: side for side in job.sides.values()}
    return [side for key, side in others.items() if key not in have]


# ---------------------------------------------------------------- what needs no judge


def score_alone(job: Evaluation, subject: Subject, benches: Iterable[Benchmark]) -> None:
    """Held-out losses, answers, and exact scores of one checkpoint."""
    benches = list(benches)
    for bench in benches:
        refuse_namesake(job.store, bench)
        note = bench_note(bench, other_side(job, bench))
        job.store.set_bench_note(bench.label, bench.revision, note)
    for bench in benches:
        if isinstance(bench, MeasuredBenchmark) and subject.source:
            _measure(job, subject, bench)
            record_trained_rows(job, subject, bench)
    answered = [bench for bench in benches if not isinstance(bench, MeasuredBenchmark)]
    answering.answer_all(job, subject, answered)
    for bench in answered:
        answers = answering.answers_for(job.store, subject, bench, job.config)
        judgments = bench.exact(answers)
        known = {
            j.id: (j.value, j.status)
            for j in job.store.judgments(
                subject.checkpoint.id, bench.label, "exact", bench.revision
            )
        }
        # An exact score costs nothing: one that the metric would give another value today, since
        # its rules have changed, replaces the stored one.
        fresh = [
            judgment
            for judgment in judgments
            if known.get(judgment.id) != (judgment.value, judgment.status)
            and in_shard(job.config.shard, judgment.item)
        ]
        job.store.add_judgments(fresh)
        job.tally.judgments += len(fresh)
        job.tally.failed_judgments += sum(j.value is None for j in fresh)
        record_red_flags(job, subject, bench, answers)


def _measure(job: Evaluation, subject: Subject, bench: MeasuredBenchmark) -> None:
    """Held-out losses of one checkpoint, and agreement with the teacher where one is named."""
    teacher = ""
    if bench.teacher:
        teacher = job.side(bench.teacher).checkpoint.id
    stored = job.store.judgments(subject.checkpoint.id, bench.label, "exact", bench.revision)
    known = bench.measured(subject.checkpoint.id, stored, teacher)
    for judgments in bench.measure(
        subject.checkpoint.id, subject.source, job.paths, job.config, job.reporter, known, teacher
    ):
        job.store.add_judgments(judgments)
        job.tally.judgments += len(judgments)


def note_waiting(
    job: Evaluation, subjects: Sequence[Subject], benches: Iterable[Benchmark]
) -> None:
    """Say which verdicts wait for a judge, and how to name one."""
    for bench in benches:
        if not bench.needs_judge:
            continue
        turns = sum(len(item.turns) for item in bench.items)
        job.tally.waiting.append(bench.label)
        job.reporter.say(
            f"{bench.label}: {turns * len(subjects)} answers wait for a judge; {HOW_TO_JUDGE}",
            kind="waiting",
            bench=bench.label,
        )
