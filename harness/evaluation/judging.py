"""Judgments of stored answers: the missing or failed ones only, each stored as it arrives."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kdharness.harness.config.evaluation import in_shard, parse_spec, plain_http_warning
from kdharness.harness.evaluation import answering
from kdharness.harness.protocols import (
    Benchmark,
    Engine,
    GenerationRequest,
    Item,
    JudgeCall,
    MeasuredBenchmark,
    Probe,
    Reply,
    Verdict,
)
from kdharness.harness.registry import ENGINES, resolve
from kdharness.harness.types import Answer, Finish, Judgment, JudgmentStatus, digest, unanswered_id

RATING = "rating"
"""The metric of an answer alone, in a benchmark that compares others."""
THINKING_ROOM = 4096
"""Tokens a judge may think on top of a verdict's limit, where it is found to think at all."""

if TYPE_CHECKING:
    from kdharness.harness.evaluation.state import Evaluation, Subject


@dataclass(frozen=True)
class Judge:
    """An open judge, and the benchmarks in the form it can serve."""

    name: str
    engine: Engine
    probe: Probe
    benches: tuple[Benchmark, ...]


@dataclass(frozen=True)
class PendingJudgment:
    """One judgment to be made: whose, of what, and its identities."""

    checkpoint: str
    bench: Benchmark
    call: JudgeCall
    id: str
    key: str


def bench_note(bench: Benchmark, against: str = "") -> dict[str, Any]:
    """What the leaderboard needs to know of a benchmark's revision.

    `used` tells which of two revisions with the same marks is the newer one; `sources` are the
    files it was read from, where they are a user's own; `against` is the checkpoint that its
    one baseline or teacher is today.
    """
    return {
        "flags": list(bench.flags),
        "scorer": bench.name,
        "items": len(bench.items),
        "total": bench.total,
        "used": now(),
        **({"sources": dict(bench.sources)} if bench.sources else {}),
        **({"against": against} if against else {}),
    }


def other_side(job: Evaluation, bench: Benchmark) -> str:
    """The checkpoint that a benchmark's baseline or teacher is; empty for none, or for many."""
    if isinstance(bench, MeasuredBenchmark):
        return job.side(bench.teacher).checkpoint.id if bench.teacher else ""
    side = job.sides.get(bench.pairwise_with)
    return side.checkpoint.id if side is not None else ""


def now() -> float:
    """The time rows are stamped with."""
    return time.time()


def open_judges(job: Evaluation, names: Sequence[str], benches: Sequence[Benchmark]) -> list[Judge]:
    """Open and probe every judge before anything is answered or paid for.

    Raises:
        JudgeError: one cannot be used for what is asked.
    """
    judges: list[Judge] = []
    wanted = [bench for bench in benches if bench.needs_judge]
    try:
        for name in names:
            spec = parse_spec(name)
            if warning := plain_http_warning(name):
                job.reporter.say(warning, kind="warning")
            engine: Engine = resolve(ENGINES, spec.kind, "judge").open(spec, job.config, job.paths)
            judges.append(Judge(engine.name, engine, Probe(False), ()))
            probe = engine.probe(logprobs=any(b.needs_logprobs for b in wanted))
            if probe.note:
                job.reporter.say(f"{engine.name}: {probe.note}", kind="probe")
            served = tuple(
                b.for_judge(probe.logprobs, job.config.discrete_fallback) for b in wanted
            )
            judges[-1] = Judge(engine.name, engine, probe, served)
    except BaseException:
        for judge in judges:
            judge.engine.close()
        raise
    return judges


def judge_all(job: Evaluation, judge: Judge, subjects: Sequence[Subject]) -> None:
    """Every missing judgment of every subject under one judge."""
    asks: list[PendingJudgment] = []
    for bench in judge.benches:
        job.store.set_bench_note(
            bench.label,
            bench.revision,
            bench_note(bench, other_side(job, bench)),
        )
        for subject in subjects:
            asks += _asks_of(job, judge, bench, subject, subjects)
    _ask(job, judge, asks)


def _asks_of(
    job: Evaluation, judge: Judge, bench: Benchmark, subject: Subject, subjects: Sequence[Subject]
) -> list[PendingJudgment]:
    """The judgments of one subject on one benchmark that are not stored yet."""
    answers = answering.answers_for(job.store, subject, bench, job.config)
    good = [answer for answer in answers if answer.finish is not Finish.ERROR]
    calls = [
        call
        for call in calls_for(job, bench, subject, subjects, good)
        if in_shard(job.config.shard, call.item)
    ]
    _note_unanswered(job, judge, bench, subject, subjects, good)
    asks, ready = not_stored(job, judge.engine, bench, subject, calls)
    job.store.add_judgments(ready)
    job.tally.reused += sum("copied" in judgment.info for judgment in ready)
    return asks


def calls_for(
    job: Evaluation,
    bench: Benchmark,
    subject: Subject,
    subjects: Sequence[Subject],
    answers: Sequence[Answer],
    complete: Callable[[Benchmark, Sequence[Answer]], Sequence[Answer]] = lambda _bench, found: (
        found
    ),
) -> list[JudgeCall]:
    """What a benchmark asks about a subject's answers, against each opponent if it has any.

    `complete` may add to an opponent's answers: a plan assumes those that are not made yet.
    """
    calls = list(bench.judge_calls(answers))
    if not bench.pairwise_with:
        return calls
    # Without the other side these are the ones that compare nothing, such as ratings.
    for other in _opponents(job, bench, subject, subjects):
        theirs = answering.answers_for(job.store, other, bench, job.config)
        theirs = [answer for answer in theirs if answer.finish is not Finish.ERROR]
        name = other.checkpoint.name
        calls += [
            replace(call, baseline=name)
            for call in bench.judge_calls(answers, complete(bench, theirs))
            if call.baseline
        ]
    return calls


def _opponents(
    job: Evaluation, bench: Benchmark, subject: Subject, subjects: Sequence[Subject]
) -> list[Subject]:
    """Who a subject is compared with: the baseline, or with `all` every later subject.

    Each pair is judged once, in both orders; the later one's side is mirrored from it.
    """
    if bench.pairwise_with == "all":
        ids = [other.checkpoint.id for other in subjects]
        return list(subjects[ids.index(subject.checkpoint.id) + 1 :])
    side = job.sides[bench.pairwise_with]
    return [] if side.checkpoint.id == subject.checkpoint.id else [side]


def _note_unanswered(
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
        for other in _opponents(job, bench, subject, subjects):
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
        created=now(),
        baseline=baseline,
        error="no answer",
    )


def not_stored(
    job: Evaluation, engine: Engine, bench: Benchmark, subject: Subject, calls: Sequence[JudgeCall]
) -> tuple[list[PendingJudgment], list[Judgment]]:
    """(calls to make, judgments that need none: settled, or paid for under another revision)."""
    checkpoint = subject.checkpoint.id
    stored = job.store.judgments(checkpoint, bench.label, engine.name)
    by_id = {judgment.id: judgment for judgment in stored}
    paid = {
        (j.info["call"], j.item, j.turn, j.order): j
        for j in stored
        if j.status is JudgmentStatus.OK and "call" in j.info
    }
    asks: list[PendingJudgment] = []
    ready: list[Judgment] = []
    longest = job.config.judge_max_tokens
    for call in calls:
        if longest is not None:
            call = replace(call, max_tokens=min(call.max_tokens, longest))
        key, *older = call_keys(engine, call)
        ask = PendingJudgment(checkpoint, bench, call, _identity(bench, call, key), key)
        known = by_id.get(ask.id) or _of_same_judge(
            engine, [by_id.get(_identity(bench, call, old)) for old in older]
        )
        settled = bench.settled(call)
        if known is not None and not _again(job, engine, known):
            continue
        if settled is not None:
            ready += _both_sides(job, ask, _as_judgment(engine.name, ask, Reply(), settled))
        elif (same := paid.get((key, call.item, call.turn, call.order))) is not None:
            ready += _both_sides(job, ask, _copied(ask, same))
        else:
            asks.append(ask)
    return asks, ready


def call_keys(engine: Engine, call: JudgeCall) -> list[str]:
    """What a call to a judge is: its key, and the one that older versions gave it.

    They knew a local judge by its name alone, whatever its folder held.
    """
    asked = (engine.name, call.temperature, call.max_tokens, call.top_logprobs, list(call.messages))
    plain = digest(*asked)
    return [digest(*asked, engine.identity), plain] if engine.identity else [plain]


def _of_same_judge(engine: Engine, known: Sequence[Judgment | None]) -> Judgment | None:
    """A verdict under an older key, if the judge's files have not been written since."""
    return next((j for j in known if j is not None and j.created >= engine.unchanged_since), None)


def _identity(bench: Benchmark, call: JudgeCall, key: str) -> str:
    return digest(
        "judgment",
        key,
        call.answer,
        bench.label,
        bench.revision,
        call.item,
        call.turn,
        call.order,
        call.baseline,
    )


def _again(job: Evaluation, engine: Engine, known: Judgment) -> bool:
    """Whether a stored judgment is worth another call."""
    if known.status is JudgmentStatus.OK or not job.config.retry_failed:
        return False
    if known.status is JudgmentStatus.UNREADABLE:
        return not engine.deterministic
    return True


def _copied(ask: PendingJudgment, paid: Judgment) -> Judgment:
    """The same question to the same judge was answered under another revision."""
    return replace(
        paid,
        id=ask.id,
        revision=ask.bench.revision,
        created=now(),
        usd=0.0,
        answer=ask.call.answer,
        baseline=ask.call.baseline,
        info={**ask.call.info, "call": ask.key, "copied": paid.id},
    )


def _ask(job: Evaluation, judge: Judge, asks: Sequence[PendingJudgment]) -> None:
    """Put the calls to the judge and store each reply."""
    if not asks:
        return
    # A limit that a user set is meant as it stands.
    room = THINKING_ROOM if job.config.judge_max_tokens is None else 0
    requests = [request_of(ask, room) for ask in asks]
    tokens, usd = judge.engine.estimate(requests)
    price = f", about ${usd:.2f}" if usd is not None else ""
    job.reporter.say(
        f"{judge.name}: {len(asks)} calls, about {tokens:,} tokens{price}",
        kind="estimate",
        calls=len(asks),
        tokens=tokens,
        usd=usd,
    )
    job.reporter.stage(f"{judge.name}: verdicts", len(asks))
    done = failed = 0
    spent = 0.0
    said: set[str] = set()
    sampled: set[tuple[str, str]] = set()
    reasons: Counter[str] = Counter()
    for index, reply in answering.stream_until_stopped(judge.engine, requests, job.reporter):
        ask = asks[index]
        verdict = Verdict(JudgmentStatus.FAILED) if reply.error else ask.bench.read(ask.call, reply)
        judgment = _as_judgment(judge.name, ask, reply, verdict)
        job.store.add_judgments(_both_sides(job, ask, judgment))
        done += 1
        failed += verdict.status is not JudgmentStatus.OK
        if verdict.status is not JudgmentStatus.OK:
            reasons[judgment.error or "no verdict in the reply"] += 1
        answering.say_once(job.reporter, judge.name, reply, said)
        if "temperature" in reply.info.get("without", ()):
            sampled.add((ask.bench.label, ask.bench.revision))
        spent += reply.usd
        job.reporter.advance(done, failed=float(failed), usd=spent)
    for bench, revision in sampled:
        # Under the judge's name: another judge's verdicts of the same answers bear no such mark.
        job.store.set_bench_note(bench, revision, {"flags": ["sampled-verdicts"]}, judge.name)
    job.tally.judgments += done
    job.tally.failed_judgments += failed
    job.tally.usd += spent
    job.tally.left += len(asks) - done
    job.reporter.say(
        f"{judge.name}: {done - failed}/{len(asks)} scored, {failed} failed, "
        f"{len(asks) - done} not asked, ${spent:.4f}",
        kind="judged",
        judge=judge.name,
        scored=done - failed,
        failed=failed,
        usd=spent,
    )
    for reason, count in reasons.most_common(3):
        job.reporter.say(f"{judge.name}: {count} failed: {reason[:300]}", kind="warning")


def request_of(ask: PendingJudgment, room: int = THINKING_ROOM) -> GenerationRequest:
    """Return the request that puts a call to an engine.

    Args:
        room: tokens for thoughts on top of the verdict's limit.
    """
    call = ask.call
    return GenerationRequest(
        messages=call.messages,
        temperature=call.temperature,
        max_new_tokens=call.max_tokens,
        top_logprobs=call.top_logprobs,
        choices=call.choices,
        stops=call.stops,
        thinking_room=0 if call.top_logprobs else room,
    )


def _as_judgment(judge: str, ask: PendingJudgment, reply: Reply, verdict: Verdict) -> Judgment:
    call = ask.call
    info = {**call.info, **reply.info, **verdict.info, "call": ask.key}
    if reply.top_logprobs is not None:
        info["top_logprobs"] = [[token, round(value, 6)] for token, value in reply.top_logprobs]
    return Judgment(
        id=ask.id,
        checkpoint=ask.checkpoint,
        bench=ask.bench.label,
        revision=ask.bench.revision,
        item=call.item,
        turn=call.turn,
        category=call.category,
        judge=judge,
        metric=call.metric,
        status=verdict.status,
        created=now(),
        value=verdict.value,
        answer=call.answer,
        baseline=call.baseline,
        order=call.order,
        raw=reply.text,
        error=reply.error or str(verdict.info.get("why", "")),
        prompt_tokens=reply.prompt_tokens,
        tokens=reply.tokens,
        usd=reply.usd,
        info=info,
    )


def _both_sides(job: Evaluation, ask: PendingJudgment, judgment: Judgment) -> list[Judgment]:
    """A judgment, and the opponent's side of it when every two checkpoints are paired."""
    if ask.bench.pairwise_with != "all":
        return [judgment]
    other = job.store.checkpoint(ask.call.baseline)
    mine = job.store.checkpoint(ask.checkpoint)
    if other is None or mine is None:
        return [judgment]
    value = None if judgment.value is None else 1 - judgment.value
    mirrored = replace(
        judgment,
        id=digest("mirror", judgment.id),
        checkpoint=other.id,
        baseline=mine.name,
        value=value,
        usd=0.0,
        answer=None,
        order=1 - judgment.order,
        info={"mirrored": judgment.id},
    )
    return [judgment, mirrored]
