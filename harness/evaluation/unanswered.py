"""Failed judgments for missing answers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from kdharness.harness.config.evaluation import in_shard
from kdharness.harness.evaluation import answering
from kdharness.harness.evaluation.judges import Judge, opponents_of
from kdharness.harness.evaluation.state import Evaluation, Subject
from kdharness.harness.protocols import Benchmark
from kdharness.harness.stats.metric_specs import RATINGS
from kdharness.harness.store.rows import unanswered_id
from kdharness.harness.types import Item, Judgment, JudgmentStatus


def note_unanswered(
    job: Evaluation,
    judge: Judge,
    bench: Benchmark,
    subject: Subject,
    subjects: Sequence[Subject],
) -> None:
    """Store a failed judgment for each missing answer, so that "158/160 scored" is shown.

    In a pair, the answer of either side may be missing.
    """

    def answered_by(side: Subject) -> set[tuple[str, int]]:
        return {(a.item, a.turn) for a in answering.good_answers(job, side, bench)}

    answered = answered_by(subject)
    answered_by_opponent: dict[str, set[tuple[str, int]]] = {bench.against: answered}
    if bench.pairwise_with:
        answered_by_opponent = {}
        for other in opponents_of(job, bench, subject, subjects):
            answered_by_opponent[other.checkpoint.name] = answered & answered_by(other)
    rows: list[Judgment] = []
    for item in bench.items:
        if not in_shard(job.config.shard, item.id):
            continue
        for index, metric in enumerate(bench.judged_metrics(item)):
            single = bench.pairwise_with and metric in RATINGS
            for baseline, present in (
                {"": answered}.items() if single else answered_by_opponent.items()
            ):
                # With one metric and one opponent, keep the identity that older versions used.
                more = () if index == 0 and bench.pairwise_with != "all" else (metric, baseline)
                rows += [
                    _unanswered(judge, bench, subject, item, turn, metric, baseline, more)
                    for turn in range(1, len(item.turns) + 1)
                    if (item.id, turn) not in present
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
    location = (bench.label, bench.revision, item.id, turn)
    return Judgment(
        id=unanswered_id(judge.name, subject.checkpoint.id, location, *more),
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
