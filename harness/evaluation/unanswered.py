"""Missing answers as failed judgments."""

from __future__ import annotations

import time
from collections.abc import Sequence

from kdharness.harness.config.evaluation import in_shard
from kdharness.harness.evaluation import answering
from kdharness.harness.evaluation.judges import Judge, opponents_of
from kdharness.harness.evaluation.state import Evaluation, Subject
from kdharness.harness.protocols import Benchmark
from kdharness.harness.types import Answer, Finish, Item, Judgment, JudgmentStatus, unanswered_id

RATING = "rating"
"""The metric of an answer alone, in a benchmark that compares others."""


def note_unanswered(
    job: Evaluation,
    judge: Judge,
    bench: Benchmark,
    subject: Subject,
    subjects: Sequence[Subject],
    good: Sequence[Answer],
) -> None:
    """Store a failed judgment for each answer that is missing, so that "158/160 scored" shows.

    Of a pair either side's answer may be the missing one.
    """
    mine = {(answer.item, answer.turn) for answer in good}
    both: dict[str, set[tuple[str, int]]] = {bench.against: mine}
    if bench.pairwise_with:
        both = {}
        for other in opponents_of(job, bench, subject, subjects):
            theirs = answering.answers_for(job.store, other, bench, job.config)
            have = {(a.item, a.turn) for a in theirs if a.finish is not Finish.ERROR}
            both[other.checkpoint.name] = mine & have
    rows: list[Judgment] = []
    for item in bench.items:
        if not in_shard(job.config.shard, item.id):
            continue
        for place, metric in enumerate(bench.judged_metrics(item)):
            alone = bench.pairwise_with and metric == RATING
            for baseline, have in {"": mine}.items() if alone else both.items():
                # One metric, one opponent: the identity that older versions gave.
                more = () if place == 0 and bench.pairwise_with != "all" else (metric, baseline)
                rows += [
                    _unanswered(judge, bench, subject, item, turn, metric, baseline, more)
                    for turn in range(1, len(item.turns) + 1)
                    if (item.id, turn) not in have
                ]
    job.store.add_judgments(rows)
    job.tally.failed_judgments += len(rows)


def _unanswered(
    judge: Judge,
    bench: Benchmark,
    subject: Subject,
    item: Item,
    turn: int,
    metric: str,
    baseline: str,
    more: tuple[str, ...],
) -> Judgment:
    place = (bench.label, bench.revision, item.id, turn)
    return Judgment(
        id=unanswered_id(judge.name, subject.checkpoint.id, place, *more),
        checkpoint=subject.checkpoint.id,
        bench=bench.label,
        revision=bench.revision,
        item=item.id,
        turn=turn,
        category=item.category,
        judge=judge.name,
        metric=metric,
        status=JudgmentStatus.FAILED,
        created=time.time(),
        baseline=baseline,
        error="no answer",
    )
