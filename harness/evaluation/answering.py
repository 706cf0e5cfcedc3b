"""Generate the missing answers of a checkpoint, and store each as it arrives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from kdharness.harness.config.evaluation import (
    FOR_EACH,
    EvalConfig,
    Spec,
    in_shard,
    parse_spec,
)
from kdharness.harness.errors import Interrupted
from kdharness.harness.models.gguf_models import is_gguf
from kdharness.harness.protocols import Benchmark, Engine, Reporter
from kdharness.harness.registry import ENGINES, resolve
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Finish, GenerationRequest, Item, Message, Reply, digest
from kdharness.harness.util.thoughts import spoken

if TYPE_CHECKING:
    from kdharness.harness.evaluation.state import Evaluation, Subject

GREEDY = 1e-4
REFUSED = {
    "temperature": "replies are sampled at the server's default",
    "seed": "samples differ between runs",
    "system role": "the system prompt is prepended to the first user turn",
}


def conversation(item: Item, turn: int, said: Sequence[str]) -> tuple[Message, ...]:
    """Return the chat up to turn `turn` (from 1), including the model's earlier answers.

    A model's reasoning is no part of its answer, and chat templates leave it out as well.
    """
    messages = list(item.messages)
    for step in range(turn):
        messages.append({"role": "user", "content": item.turns[step]})
        if step < turn - 1:
            messages.append({"role": "assistant", "content": spoken(said[step])})
    return tuple(messages)


def request_for(item: Item, turn: int, said: Sequence[str], seed: int) -> GenerationRequest:
    """Return the request for a turn; each sampled answer has its own seed, greedy ones none."""
    sampled = item.temperature >= GREEDY
    own = int(digest(seed, item.id, turn)[:8], 16) if sampled else 0
    return GenerationRequest(
        messages=conversation(item, turn, said),
        temperature=item.temperature if sampled else 0.0,
        max_new_tokens=item.max_new_tokens,
        seed=own,
    )


def identity(checkpoint: str, name: str, item: Item, turn: int, request: GenerationRequest) -> str:
    """Return the id of the answer to a request, a hash of everything it depends on."""
    return digest("answer", checkpoint, name, item.id, turn, *_hashes(request))


def _hashes(request: GenerationRequest) -> tuple[str, str]:
    """Return (prompt hash, settings hash) of a request."""
    return digest(list(request.messages)), digest(
        request.temperature, request.max_new_tokens, request.seed
    )


def good_answers(job: Evaluation, subject: Subject, bench: Benchmark) -> list[Answer]:
    """Return `answers_for` without the failed ones, read once: for when answering has ended."""
    key = (subject.checkpoint.id, bench.label)
    if key not in job.good_answers:
        answers = answers_for(job.store, subject, bench, job.config)
        job.good_answers[key] = [a for a in answers if a.finish is not Finish.ERROR]
    return job.good_answers[key]


def answers_for(
    store: Store, subject: Subject, bench: Benchmark, config: EvalConfig
) -> list[Answer]:
    """Return the stored answers for a benchmark, in the order of its items.

    For imported models these are the newest answers; otherwise those generated with this config's
    settings.
    """
    stored = store.answers(subject.checkpoint.id, bench.family)
    if not subject.source:
        newest: dict[tuple[str, int], Answer] = {}
        for answer in stored:
            newest[(answer.item, answer.turn)] = answer
        return [
            newest[(item.id, turn)]
            for item in bench.items
            for turn in range(1, len(item.turns) + 1)
            if (item.id, turn) in newest
        ]
    by_id = {answer.id: answer for answer in stored}
    answers = []
    for item in bench.items:
        earlier: list[str] = []
        for turn in range(1, len(item.turns) + 1):
            request = request_for(item, turn, earlier, config.seed)
            made = by_id.get(identity(subject.checkpoint.id, bench.family, item, turn, request))
            if made is None:
                break
            answers.append(made)
            if made.finish is Finish.ERROR:
                break
            earlier.append(made.text)
    return answers


def by_family(benches: Sequence[Benchmark]) -> dict[str, tuple[Benchmark, list[Item]]]:
    """Return the items of each family of benchmarks, which share answers, and its first one."""
    families: dict[str, tuple[Benchmark, dict[str, Item]]] = {}
    for bench in benches:
        _, items = families.setdefault(bench.family, (bench, {}))
        items.update({item.id: item for item in bench.items})
    return {name: (bench, list(items.values())) for name, (bench, items) in families.items()}


def answer_all(job: Evaluation, subject: Subject, benches: Sequence[Benchmark]) -> None:
    """Generate the missing answers turn by turn; open the engine only if there are any."""
    if not subject.source or not job.is_answered(subject):
        return
    engine: Engine | None = None
    try:
        for name, (bench, items) in by_family(benches).items():
            for turn in range(1, max((len(i.turns) for i in items), default=0) + 1):
                wanted = missing_answers(job, subject, name, items, turn)
                if not wanted:
                    continue
                engine = engine or open_answerer(job, subject)
                _answer(job, subject, bench, name, engine, wanted, turn)
    finally:
        if engine is not None:
            engine.close()


def missing_answers(
    job: Evaluation,
    subject: Subject,
    name: str,
    items: Sequence[Item],
    turn: int,
    retries: Callable[[Answer], bool] = lambda _: True,
) -> list[tuple[Item, GenerationRequest]]:
    """Return the items whose answer at `turn` is missing and whose earlier ones exist.

    Args:
        retries: whether a failed answer counts as missing.
    """
    stored = {answer.id: answer for answer in job.store.answers(subject.checkpoint.id, name)}
    wanted = []
    for item in items:
        if len(item.turns) < turn or not in_shard(job.config.shard, item.id):
            continue
        earlier: list[str] = []
        for step in range(1, turn + 1):
            request = request_for(item, step, earlier, job.config.seed)
            answer = stored.get(identity(subject.checkpoint.id, name, item, step, request))
            failed = answer is not None and answer.finish is Finish.ERROR
            if step == turn and (answer is None or (failed and retries(answer))):
                wanted.append((item, request))
            if answer is None or failed:
                break
            earlier.append(answer.text)
    return wanted


def open_answerer(job: Evaluation, subject: Subject) -> Engine:
    """Open the engine that serves the checkpoint, by default the model in this process."""
    spec = answer_spec(job.config, subject)
    engine: Engine = resolve(ENGINES, spec.kind, "engine").open(spec, job.config, job.paths)
    if job.config.answer_engine:
        engine.probe()
    return engine


def answer_spec(config: EvalConfig, subject: Subject) -> Spec:
    """Return what answers for a checkpoint: by default itself, a GGUF file through llama.cpp."""
    named = config.answer_engine or "local"
    if named not in FOR_EACH:
        return parse_spec(named)
    return Spec("llama" if is_gguf(subject.source) else named, subject.source)


def _origin(job: Evaluation, engine: Engine, subject: Subject) -> dict[str, str]:
    """Return what an answer's `info` records of the engine; nothing for the model in this process.

    That is a GGUF file for its own checkpoint too. The model's hash is recorded where it is not
    that of the checkpoint.
    """
    kind = answer_spec(job.config, subject).kind
    if kind == "local" or (kind == "llama" and engine.identity == subject.checkpoint.weights):
        return {}
    other = engine.identity and kind not in FOR_EACH
    return {"engine": engine.name, **({"engine_identity": engine.identity} if other else {})}


def _answer(
    job: Evaluation,
    subject: Subject,
    bench: Benchmark,
    name: str,
    engine: Engine,
    wanted: Sequence[tuple[Item, GenerationRequest]],
    turn: int,
) -> None:
    label = f"{subject.checkpoint.name}: {name} answers"
    job.reporter.stage(label if turn == 1 else f"{label}, turn {turn}", len(wanted))
    requests = [request for _, request in wanted]
    done = failed = 0
    first_error = ""
    reported: set[str] = set()
    origin = _origin(job, engine, subject)
    for index, reply in stream_until_stopped(engine, requests, job.reporter):
        item, request = wanted[index]
        answer = as_answer(subject, bench, name, item, turn, request, reply, origin)
        job.store.add_answers([answer])
        done += 1
        say_once(job.reporter, engine.name, reply, reported)
        job.tally.answers += 1
        failed += answer.finish is Finish.ERROR
        first_error = first_error or reply.error
        job.tally.usd += reply.usd
        job.reporter.advance(done)
    job.tally.failed_answers += failed
    if failed:
        job.reporter.say(f"{label}: {failed} failed, first error: {first_error}", kind="warning")
    if done < len(wanted):
        job.tally.left += len(wanted) - done
        job.reporter.say(f"{label}: stopped with {len(wanted) - done} remaining", kind="limit")


def as_answer(
    subject: Subject,
    bench: Benchmark,
    name: str,
    item: Item,
    turn: int,
    request: GenerationRequest,
    reply: Reply,
    origin: dict[str, str],
) -> Answer:
    """Return the answer of an item's turn from an engine's reply."""
    prompt_hash, settings = _hashes(request)
    return Answer(
        id=identity(subject.checkpoint.id, name, item, turn, request),
        checkpoint=subject.checkpoint.id,
        bench=name,
        revision=bench.revision,
        item=item.id,
        turn=turn,
        text=reply.text,
        finish=Finish.ERROR if reply.error else reply.finish,
        prompt_hash=prompt_hash,
        settings=settings,
        created=time.time(),
        prompt_tokens=reply.prompt_tokens,
        tokens=reply.tokens,
        seconds=reply.seconds,
        info={**reply.info, **({"error": reply.error} if reply.error else {}), **origin},
    )


def say_once(reporter: Reporter, name: str, reply: Reply, said: set[str]) -> None:
    """Report once each parameter that an endpoint rejects, and what is sent instead."""
    messages = [
        f"does not support {part}: {REFUSED.get(part, 'the server default is used')}"
        for part in reply.info.get("without", ())
    ]
    if "temperature" in reply.info:
        messages.append(f"does not support temperature 0: using {reply.info['temperature']}")
    if "max_tokens" in reply.info:
        messages.append(f"max_tokens raised to {reply.info['max_tokens']}")
    if "estimated" in reply.info:
        messages.append("returns no token counts: tokens and cost are estimated from characters")
    for message in messages:
        if message not in said:
            said.add(message)
            reporter.say(f"{name}: {message}", kind="warning")


def stream_until_stopped(
    engine: Engine, requests: Sequence[GenerationRequest], reporter: Reporter
) -> Iterator[tuple[int, Reply]]:
    """Yield an engine's replies; after a stop request, wait for the calls in flight."""
    stop: Interrupted | None = None

    def check() -> None:
        nonlocal stop
        if stop is None:
            try:
                reporter.check()
            except Interrupted as error:
                stop = error
                engine.stop_soon()

    # A call may be retried for minutes: stop requests must not wait for it.
    engine.idle = check
    for pair in engine.stream(requests):
        yield pair
        check()
    if stop is not None:
        raise stop
