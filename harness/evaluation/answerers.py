"""Decide which checkpoints a named answering engine answers for, before anything is generated.

An answer is stored for a checkpoint, whoever gave it. What runs each checkpoint itself (`local`,
`vllm`) cannot be mistaken; an engine that names one model can. Where its model can be compared with
the checkpoint it has to be the same one, otherwise it answers for one checkpoint only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdharness.harness.config.evaluation import FOR_EACH, Spec, parse_spec
from kdharness.harness.errors import ConfigError
from kdharness.harness.evaluation.answering import by_family, missing_answers
from kdharness.harness.models.adapters import is_adapter
from kdharness.harness.models.gguf_models import is_gguf
from kdharness.harness.models.resolve import identity_of, resolve_model
from kdharness.harness.protocols import Benchmark, Engine, MeasuredBenchmark
from kdharness.harness.registry import ENGINES, resolve
from kdharness.harness.types import Answer, Checkpoint

if TYPE_CHECKING:
    from kdharness.harness.evaluation.state import Evaluation, Subject

FIELD = "answer_engine"
ONE_BY_ONE = (
    "use --answer-engine vllm, which serves each checkpoint, or evaluate them one by one, each "
    "with its own server or file"
)


def choose_answered(
    job: Evaluation, subjects: Sequence[Subject], benches: Sequence[Benchmark]
) -> list[Subject]:
    """Return the checkpoints that the answering engine will be asked for, and record the choice.

    Failed answers of other checkpoints are not retried, since another model would give them.

    Raises:
        ConfigError: a named engine that would answer for a checkpoint of another model, or for
            more than one checkpoint.
        ModelError, AssetError, JudgeError: the engine's model is missing.
    """
    named = job.config.answer_engine or "local"
    asked = _with_gaps(job, subjects, benches, lambda _: True)
    if named == "local" or not asked:
        return asked
    absent = _with_gaps(job, asked, benches, lambda _: False)
    if named in FOR_EACH:
        _refuse_files(named, absent)
        # vLLM does not serve adapters: what failed elsewhere stays as it is.
        asked = [s for s in asked if s in absent or not is_adapter(Path(s.source))]
    else:
        spec = parse_spec(named)
        only = len([subject for subject in subjects if subject.source]) == 1
        if spec.kind in FOR_EACH:
            asked = _same_model(job, spec, asked, absent)
        else:
            asked = _one_checkpoint(job, spec, asked, benches, only=only)
    job.answered = frozenset(subject.checkpoint.id for subject in asked)
    return asked


def _refuse_files(named: str, subjects: Sequence[Subject]) -> None:
    """Refuse an engine that serves folders for a GGUF file."""
    for subject in subjects:
        if is_gguf(subject.source):
            raise ConfigError(
                f"{subject.checkpoint.name} is a GGUF file, which {named} does not serve",
                where=FIELD,
                hint="leave out --answer-engine: llama.cpp answers for GGUF files",
            )


def _with_gaps(
    job: Evaluation,
    subjects: Sequence[Subject],
    benches: Sequence[Benchmark],
    retries: Callable[[Answer], bool],
) -> list[Subject]:
    """Return the subjects with answers to generate, failed ones included that `retries` accepts."""
    answered = [bench for bench in benches if not isinstance(bench, MeasuredBenchmark)]
    families = by_family(answered).items()

    def has_gaps(subject: Subject) -> bool:
        return any(
            missing_answers(job, subject, name, items, turn, retries)
            for name, (_, items) in families
            for turn in range(1, max((len(item.turns) for item in items), default=0) + 1)
        )

    return [subject for subject in subjects if subject.source and has_gaps(subject)]


def _same_model(
    job: Evaluation, spec: Spec, asked: Sequence[Subject], absent: Sequence[Subject]
) -> list[Subject]:
    """Return those that are the engine's model; refuse others whose answers do not exist."""
    model = identity_of(resolve_model(spec.model, job.paths), job.paths, job.store)
    for subject in absent:
        checkpoint = subject.checkpoint
        if checkpoint.id == model.id:
            continue
        differs = (
            "has the weights of {0}, but another tokenizer, chat template or generation config"
            if checkpoint.weights == model.weights
            else "is another model than {0}"
        )
        raise ConfigError(
            f"{spec} {differs.format(checkpoint.name)}, whose answers are missing",
            where=FIELD,
            hint=f"use --answer-engine {spec.kind}, which runs each checkpoint itself, or name "
            "the checkpoint's own folder or hub id",
        )
    return [subject for subject in asked if subject.checkpoint.id == model.id]


def _one_checkpoint(
    job: Evaluation,
    spec: Spec,
    asked: Sequence[Subject],
    benches: Sequence[Benchmark],
    *,
    only: bool,
) -> list[Subject]:
    """Return the checkpoint that an engine answers for whose model cannot be compared.

    Args:
        only: nothing else is evaluated: its failed answers are retried, whoever gave them.
    """
    name, identity = _named(job, spec)
    if not only:
        asked = _with_gaps(job, asked, benches, lambda a: a.info.get("engine") == name)
    if len(asked) > 1:
        names = " and ".join(subject.checkpoint.name for subject in asked[:2])
        raise ConfigError(
            f"{spec} serves one model, and answers of {names} are missing",
            where=FIELD,
            hint=ONE_BY_ONE,
        )
    for subject in asked:
        if identity and is_gguf(subject.source) and subject.checkpoint.weights != identity:
            raise ConfigError(
                f"{name} is another file than {subject.checkpoint.name}",
                where=FIELD,
                hint="leave out --answer-engine: a GGUF file answers for itself",
            )
        _check_earlier(job, subject.checkpoint, name, identity)
    return list(asked)


def _named(job: Evaluation, spec: Spec) -> tuple[str, str]:
    """Return an engine's name, and the hash of its model if it has one."""
    if spec.kind == "openai":
        return str(spec), ""
    engine: Engine = resolve(ENGINES, spec.kind, "engine").open(spec, job.config, job.paths)
    try:
        return engine.name, engine.identity
    finally:
        engine.close()


def _check_earlier(job: Evaluation, checkpoint: Checkpoint, name: str, identity: str) -> None:
    """Refuse a file that has answered for another checkpoint; warn of a server that has."""
    for key in job.store.answered_by(name, identity):
        other = job.store.checkpoint(key)
        if other is None or other.id == checkpoint.id:
            continue
        if not identity:
            job.reporter.say(
                f"{name} has answered for {other.name} before: it must serve {checkpoint.name} now",
                kind="warning",
            )
        elif not (other.weights and other.weights == checkpoint.weights):
            raise ConfigError(
                f"{name} has answered for {other.name}, and is not {checkpoint.name}",
                where=FIELD,
                hint=f"use a file made of {checkpoint.name}",
            )
