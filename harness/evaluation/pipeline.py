"""Checkpoint -> answers -> judgments: resumable at every step.

Every answer and every judgment is one row, stored as soon as it arrives, under an identity that
hashes everything it depends on. A second run requests only what is missing or failed, and a kill
at any time loses at most the calls in flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kdharness.harness.config.evaluation import SPECS, EvalConfig, in_shard
from kdharness.harness.config.settings import default_judges
from kdharness.harness.errors import ConfigError
from kdharness.harness.evaluation import answering, judging
from kdharness.harness.evaluation.answerers import choose_answered
from kdharness.harness.evaluation.judges import bench_note, open_judges, other_side
from kdharness.harness.evaluation.name_clashes import refuse_namesake
from kdharness.harness.evaluation.red_flags import record_red_flags, record_trained_rows
from kdharness.harness.evaluation.state import Evaluation, Subject, find_checkpoint
from kdharness.harness.evaluation.unused import unused_settings
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Benchmark, MeasuredBenchmark, Reporter
from kdharness.harness.registry import BENCHMARKS, is_reserved, resolve
from kdharness.harness.store import Store

HOW_TO_JUDGE = (
    f"set a judge with --judge SPEC ({SPECS}), with `judge:` in settings.yaml, "
    "or with KDHARNESS_JUDGE"
)


def run(config: EvalConfig, paths: Paths, store: Store, reporter: Reporter) -> dict[str, Any]:
    """Run an evaluation; stored results are reused.

    Raises:
        ConfigError: nothing to evaluate, unknown benchmarks, a pairwise one without a baseline,
            an answering engine of another model.
        JudgeError: a judge that cannot be reached or does not support what a benchmark needs.
            This is checked before any answer is generated.
        Interrupted: stopped by the user; finished work is stored.
    """
    job = Evaluation(config, paths, store, reporter)
    judges = config.judge or default_judges(paths)
    benches = load_benches(config, paths)
    for sentence in unused_settings(config, benches):
        reporter.say(sentence, kind="warning")
    subjects = find_subjects(config, paths, store, reporter)
    panel = open_judges(job, judges, benches) if any(bench.needs_judge for bench in benches) else []
    try:
        baselines = find_baselines(job, benches, subjects)
        if config.answer_engine and not choose_answered(job, [*subjects, *baselines], benches):
            reporter.say(f"{config.answer_engine} is not used: no answers are missing", kind="note")
        for bench in benches:
            refuse_namesake(store, bench)
            note = bench_note(bench, other_side(job, bench))
            store.set_bench_note(bench.label, bench.revision, note)
        for subject in [*subjects, *baselines]:
            score_alone(job, subject, benches)
        for judge in panel:
            judging.judge_all(job, judge, subjects)
            # A local model is released before the next one is loaded.
            judge.engine.close()
    finally:
        for judge in panel:
            judge.engine.close()
    if not judges:
        note_waiting(job, subjects, benches)
    return {**job.tally.as_dict(), "checkpoints": [s.checkpoint.name for s in subjects]}


def load_benches(config: EvalConfig, paths: Paths) -> list[Benchmark]:
    """Load the benchmarks of a config, by name or by the path of a user's file."""
    benches = []
    for name in config.benches:
        if name.endswith(".jsonl"):
            benches.append(resolve(BENCHMARKS, "file", "benchmark").load(paths, config, name))
        elif name == "file":
            raise ConfigError("use the path of your own benchmark file, such as mine.jsonl")
        else:
            benches.append(resolve(BENCHMARKS, name, "benchmark").load(paths, config))
    labels = [bench.label for bench in benches]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"two benchmarks are named {label!r}", hint="rename one file")
    for bench, name in zip(benches, config.benches, strict=True):
        if name.endswith(".jsonl") and is_reserved(bench.label):
            raise ConfigError(
                f"{name}: {bench.label!r} is a name of built-in or imported benchmarks, whose "
                "answers and scores would be mixed with this file's",
                hint="rename the file",
            )
    if config.rating == "expected" and not any(bench.needs_opening for bench in benches):
        raise ConfigError(
            f"no ratings to read as expected ones: {', '.join(labels)}",
            where="rating",
            hint="mt-bench and your own files have ratings; drop --rating expected for the others",
        )
    return benches


# ---------------------------------------------------------------- subjects


def find_subjects(
    config: EvalConfig, paths: Paths, store: Store, reporter: Reporter | None = None
) -> list[Subject]:
    """Return the checkpoints of a config without duplicates, adding new ones to the store."""
    code = config.trust_remote_code
    subjects = [
        find_checkpoint(source, paths, store, reporter, trust_remote_code=code)
        for source in config.checkpoints
    ]
    for name in config.imported:
        known = store.checkpoint(name)
        if known is None:
            raise ConfigError(
                f"no stored answers of a model named {name!r}",
                hint="import them: kdharness import fastchat|alpaca-eval PATH",
            )
        subjects.append(Subject(known, ""))
    if not subjects:
        raise ConfigError("nothing to evaluate", hint="specify a checkpoint: --ckpt PATH")
    return list({subject.checkpoint.id: subject for subject in subjects}.values())


def find_baselines(
    job: Evaluation, benches: Sequence[Benchmark], subjects: Sequence[Subject]
) -> list[Subject]:
    """Return the opponents of pairwise judging that are not subjects themselves."""
    for name in {b.pairwise_with for b in benches} - {"", "all"}:
        job.side(name)
    subject_ids = {s.checkpoint.id for s in subjects}
    others = {side.checkpoint.id: side for side in job.sides.values()}
    return [side for key, side in others.items() if key not in subject_ids]


# ---------------------------------------------------------------- without a judge


def score_alone(job: Evaluation, subject: Subject, benches: Sequence[Benchmark]) -> None:
    """Compute held-out losses, answers and exact scores of one checkpoint."""
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
        # Exact scores are free: if the metric's rules have changed since, the new value replaces
        # the stored one.
        fresh = [
            judgment
            for judgment in judgments
            if known.get(judgment.id) != (judgment.value, judgment.status)
            and in_shard(job.config.shard, judgment.item)
        ]
        job.store.add_judgments(fresh)
        job.tally.judgments += len(fresh)
        # An answer may have several judgments, all of which fail if it is missing.
        job.tally.failed_judgments += len({(j.item, j.turn) for j in fresh if j.value is None})
        record_red_flags(job, subject, bench, answers)


def _measure(job: Evaluation, subject: Subject, bench: MeasuredBenchmark) -> None:
    """Measure held-out losses of one checkpoint, and agreement with the teacher if there is one."""
    teacher = job.side(bench.teacher).checkpoint.id if bench.teacher else ""
    stored = job.store.judgments(subject.checkpoint.id, bench.label, "exact", bench.revision)
    known = bench.measured(subject.checkpoint.id, stored, teacher)
    for judgments in bench.measure(
        subject.checkpoint.id, subject.source, job.paths, job.config, job.reporter, known, teacher
    ):
        job.store.add_judgments(judgments)
        job.tally.judgments += len(judgments)
        job.tally.failed_judgments += sum(judgment.value is None for judgment in judgments)


def note_waiting(
    job: Evaluation, subjects: Sequence[Subject], benches: Iterable[Benchmark]
) -> None:
    """Report which answers are waiting for a judge, and how to set one."""
    for bench in benches:
        if not bench.needs_judge:
            continue
        count = sum(len(item.turns) for item in bench.items) * len(subjects)
        job.tally.waiting.append(bench.label)
        job.reporter.say(
            f"{bench.label}: {count} answers are waiting for a judge; {HOW_TO_JUDGE}",
            kind="waiting",
            bench=bench.label,
        )
