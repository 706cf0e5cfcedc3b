"""Request missing and failed judgments of stored answers, and store each as it arrives."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from kdharness.harness.config.evaluation import in_shard
from kdharness.harness.evaluation import answering
from kdharness.harness.evaluation.judges import (
    Judge,
    PendingJudgment,
    bench_note,
    opponents_of,
    other_side,
)
from kdharness.harness.evaluation.unanswered import note_unanswered
from kdharness.harness.protocols import Benchmark, Engine
from kdharness.harness.types import (
    Answer,
    GenerationRequest,
    JudgeCall,
    Judgment,
    JudgmentInfo,
    JudgmentStatus,
    Reply,
    Verdict,
    digest,
)

THINKING_ROOM = 4096
"""Extra tokens for reasoning on top of the verdict limit, for reasoning models."""

if TYPE_CHECKING:
    from kdharness.harness.evaluation.state import Evaluation, Subject


def judge_all(job: Evaluation, judge: Judge, subjects: Sequence[Subject]) -> None:
    """Request every missing judgment of every subject from one judge."""
    asks: list[PendingJudgment] = []
    for bench in judge.benches:
        # A judge may have a variant of the benchmark, such as one without log-probabilities.
        note = bench_note(bench, other_side(job, bench))
        job.store.set_bench_note(bench.label, bench.revision, note)
        for subject in subjects:
            asks += _asks_of(job, judge, bench, subject, subjects)
    _ask(job, judge, asks)


def _asks_of(
    job: Evaluation, judge: Judge, bench: Benchmark, subject: Subject, subjects: Sequence[Subject]
) -> list[PendingJudgment]:
    """Return the missing judgments of one subject on one benchmark."""
    good = answering.good_answers(job, subject, bench)
    calls = [
        call
        for call in calls_for(job, bench, subject, subjects, good)
        if in_shard(job.config.shard, call.item)
    ]
    note_unanswered(job, judge, bench, subject, subjects)
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
    complete: Callable[[Benchmark, Sequence[Answer]], Sequence[Answer]] = lambda _bench, answers: (
        answers
    ),
) -> list[JudgeCall]:
    """Return a benchmark's judge calls on a subject's answers, against each opponent if any.

    `complete` may add answers to an opponent's: a dry run assumes those that do not exist yet.
    """
    calls = list(bench.judge_calls(answers))
    if not bench.pairwise_with:
        return calls
    # Calls that are made without the other side, such as ratings, do not depend on the opponent.
    alone = {(call.item, call.turn, call.metric) for call in calls}
    for other in opponents_of(job, bench, subject, subjects):
        their_answers = answering.good_answers(job, other, bench)
        name = other.checkpoint.name
        calls += [
            replace(call, baseline=name)
            for call in bench.judge_calls(answers, complete(bench, their_answers))
            if (call.item, call.turn, call.metric) not in alone
        ]
    return calls


def not_stored(
    job: Evaluation, engine: Engine, bench: Benchmark, subject: Subject, calls: Sequence[JudgeCall]
) -> tuple[list[PendingJudgment], list[Judgment]]:
    """Return (calls to make, judgments without a call: settled or from another revision)."""
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
    limit = job.config.judge_max_tokens
    for call in calls:
        if limit is not None:
            call = replace(call, max_tokens=min(call.max_tokens, limit))
        key, *older = call_keys(engine, call)
        ask = PendingJudgment(checkpoint, bench, call, _identity(bench, call, key), key)
        previous = by_id.get(ask.id) or _of_same_judge(
            engine, [by_id.get(_identity(bench, call, old)) for old in older]
        )
        settled = bench.settled(call)
        if previous is not None and not _again(job, engine, previous):
            continue
        if settled is not None:
            ready += _both_sides(job, ask, as_judgment(engine.name, ask, Reply(), settled))
        elif (same := paid.get((key, call.item, call.turn, call.order))) is not None:
            ready += _both_sides(job, ask, _copied(ask, same))
        else:
            asks.append(ask)
    return asks, ready


def call_keys(engine: Engine, call: JudgeCall) -> list[str]:
    """Return the key of a judge call, followed by the key that older versions used.

    Older versions identified a local judge by name alone, not by the content of its folder.
    """
    parts: tuple[object, ...] = (
        engine.name,
        call.temperature,
        call.max_tokens,
        call.top_logprobs,
        list(call.messages),
    )
    if call.opening:
        parts = (*parts, "opening", call.opening)
    ending: str = getattr(engine, "verdict_ending", "")
    if call.verdict and ending:
        # Older versions stopped such a judge at its first brackets: no key of theirs is the same.
        return [digest(*parts, engine.identity, "ending", ending)]
    plain = digest(*parts)
    return [digest(*parts, engine.identity), plain] if engine.identity else [plain]


def _of_same_judge(engine: Engine, known: Sequence[Judgment | None]) -> Judgment | None:
    """Return a judgment under an older key, if the judge's files have not changed since."""
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
    """Return whether a stored judgment should be requested again."""
    if known.status is JudgmentStatus.OK or not job.config.retry_failed:
        return False
    if known.status is JudgmentStatus.UNREADABLE:
        return not engine.deterministic
    return True


def _copied(ask: PendingJudgment, paid: Judgment) -> Judgment:
    """Reuse the judgment of an identical call under another revision."""
    return replace(
        paid,
        id=ask.id,
        revision=ask.bench.revision,
        created=time.time(),
        usd=0.0,
        answer=ask.call.answer,
        baseline=ask.call.baseline,
        info=cast(JudgmentInfo, {**ask.call.info, "call": ask.key, "copied": paid.id}),
    )


def _ask(job: Evaluation, judge: Judge, asks: Sequence[PendingJudgment]) -> None:
    """Send the calls to the judge and store each reply."""
    if not asks:
        return
    # A limit set by the user is not extended.
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
    reported: set[str] = set()
    sampled: set[tuple[str, str]] = set()
    reasons: Counter[str] = Counter()
    for index, reply in answering.stream_until_stopped(judge.engine, requests, job.reporter):
        ask = asks[index]
        verdict = Verdict(JudgmentStatus.FAILED) if reply.error else ask.bench.read(ask.call, reply)
        judgment = as_judgment(judge.name, ask, reply, verdict)
        job.store.add_judgments(_both_sides(job, ask, judgment))
        done += 1
        failed += verdict.status is not JudgmentStatus.OK
        if verdict.status is not JudgmentStatus.OK:
            reasons[judgment.error or "no verdict in the reply"] += 1
        answering.say_once(job.reporter, judge.name, reply, reported)
        if "temperature" in reply.info.get("without", ()):
            sampled.add((ask.bench.label, ask.bench.revision))
        spent += reply.usd
        job.reporter.advance(done, failed=float(failed), usd=spent)
    for bench, revision in sampled:
        # Stored under the judge's name: the flag does not apply to other judges.
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
    """Return the engine request of a judge call.

    Args:
        room: tokens for reasoning on top of the verdict limit.
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
        opening=call.opening,
        verdict=call.verdict,
    )


def as_judgment(judge: str, ask: PendingJudgment, reply: Reply, verdict: Verdict) -> Judgment:
    """Return the judgment of a call from the judge's reply and the verdict in it."""
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
        created=time.time(),
        value=verdict.value,
        weight=verdict.weight,
        answer=call.answer,
        baseline=call.baseline,
        order=call.order,
        raw=reply.text,
        error=reply.error or str(verdict.info.get("why", "")),
        prompt_tokens=reply.prompt_tokens,
        tokens=reply.tokens,
        usd=reply.usd,
        info=cast(JudgmentInfo, info),
    )


def _both_sides(job: Evaluation, ask: PendingJudgment, judgment: Judgment) -> list[Judgment]:
    """Return a judgment, and its mirror for the opponent when all checkpoints are paired."""
    if ask.bench.pairwise_with != "all":
        return [judgment]
    other = job.store.checkpoint(ask.call.baseline)
    own = job.store.checkpoint(ask.checkpoint)
    if other is None or own is None:
        return [judgment]
    value = None if judgment.value is None else judgment.weight - judgment.value
    mirrored = replace(
        judgment,
        id=digest("mirror", judgment.id),
        checkpoint=other.id,
        baseline=own.name,
        value=value,
        usd=0.0,
        answer=None,
        order=1 - judgment.order,
        info={"mirrored": judgment.id},
    )
    return [judgment, mirrored]
