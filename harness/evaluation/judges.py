"""Open judges, and the judgments to request from them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from kdharness.harness.config.evaluation import Spec, parse_spec, plain_http_warning
from kdharness.harness.errors import JudgeError
from kdharness.harness.evaluation.state import Evaluation, Subject
from kdharness.harness.protocols import Benchmark, Engine, MeasuredBenchmark, Probe
from kdharness.harness.registry import ENGINES, TOOLS, resolve
from kdharness.harness.types import JudgeCall


@dataclass(frozen=True)
class Judge:
    """An open judge, and the benchmarks in the variant that it supports."""

    name: str
    engine: Engine
    probe: Probe
    benches: tuple[Benchmark, ...]


@dataclass(frozen=True)
class PendingJudgment:
    """A judgment to request: checkpoint, benchmark, call and identities."""

    checkpoint: str
    bench: Benchmark
    call: JudgeCall
    id: str
    key: str


def bench_note(bench: Benchmark, against: str = "") -> dict[str, object]:
    """Return what the leaderboard needs to know about a benchmark's revision.

    `used` decides which of two revisions with the same flags is newer; `sources` are the user's
    own files it was read from, if any; `against` is the current checkpoint of its single baseline
    or teacher.
    """
    return {
        "flags": list(bench.flags),
        "scorer": bench.name,
        "items": len(bench.items),
        "total": bench.total,
        "used": time.time(),
        **({"sources": dict(bench.sources)} if bench.sources else {}),
        **({"against": against} if against else {}),
    }


def other_side(job: Evaluation, bench: Benchmark) -> str:
    """Return the checkpoint of a benchmark's baseline or teacher; empty for none or several."""
    if isinstance(bench, MeasuredBenchmark):
        return job.side(bench.teacher).checkpoint.id if bench.teacher else ""
    side = job.sides.get(bench.pairwise_with)
    return side.checkpoint.id if side is not None else ""


def open_judges(job: Evaluation, names: Sequence[str], benches: Sequence[Benchmark]) -> list[Judge]:
    """Open and probe every judge before any answer is generated or call is paid.

    Raises:
        JudgeError: a judge does not support what a benchmark needs.
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
            refuse_unopened(engine, probe, spec, wanted)
            served = tuple(
                b.for_judge(probe.logprobs, job.config.discrete_fallback) for b in wanted
            )
            judges[-1] = Judge(engine.name, engine, probe, served)
    except BaseException:
        for judge in judges:
            judge.engine.close()
        raise
    return judges


def refuse_unopened(engine: Engine, probe: Probe, spec: Spec, benches: Sequence[Benchmark]) -> None:
    """Refuse a judge that cannot give the expected ratings that a benchmark asks for.

    Raises:
        JudgeError: it cannot continue a reply that was begun for it.
    """
    asking = [bench.label for bench in benches if bench.needs_opening]
    if asking and not resolve(TOOLS, "gives_expected", "tool")(engine, probe, spec):
        raise JudgeError(
            f"{engine.name} gives no expected ratings ({', '.join(asking)}): it does not return "
            "the log-probabilities after a reply that was begun for it",
            hint="use local:, llama: or vllm:, or a server that continues the last assistant "
            "message (vLLM, SGLang, llama.cpp); or --rating parsed",
        )


def opponents_of(
    job: Evaluation, bench: Benchmark, subject: Subject, subjects: Sequence[Subject]
) -> list[Subject]:
    """Return the opponents of a subject: the baseline, or with `all` every later subject.

    Each pair is judged once, in both orders; the later subject's judgments are mirrored.
    """
    if bench.pairwise_with == "all":
        ids = [other.checkpoint.id for other in subjects]
        return list(subjects[ids.index(subject.checkpoint.id) + 1 :])
    side = job.sides[bench.pairwise_with]
    return [] if side.checkpoint.id == subject.checkpoint.id else [side]
