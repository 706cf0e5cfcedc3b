"""A training's batches as numbers, and what teacher caches hold of its rows: for a plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.config.training import DAEConfig, KDConfig, TrainConfig, runs_code_of
from kdharness.harness.errors import KDHarnessError
from kdharness.harness.models.loading import load_config_of
from kdharness.harness.models.resolve import identity_of, resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.runs.rollouts import SamplingWork, sampling_work
from kdharness.harness.runs.teachers import CachedRows
from kdharness.harness.store import Store
from kdharness.harness.types import digest
from kdharness.trainers.data.batches import BatchPlan, measure
from kdharness.trainers.data.dataset import Dataset, TrainRow, tokenizer_source
from kdharness.trainers.data.on_policy import (
    answer_start,
    longest_answers,
    settings_of,
    with_sampled,
)
from kdharness.trainers.teachers.build import shared_ids
from kdharness.trainers.teachers.cache_store import NOTE, row_key
from kdharness.trainers.teachers.cached import cache_address, taught_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def planned_facts(
    config: TrainConfig,
    rows: Dataset,
    plan: BatchPlan,
    tokenizer: PreTrainedTokenizerBase,
    paths: Paths,
) -> dict[str, Any]:
    """Return steps, tokens, labelled tokens, padding share and longest row of a training.

    `cached` maps each kind of rows that has a cached teacher to its positions, and `sampling` is
    the work of sampling answers. Sampled answers are as long as they may be.

    Raises:
        DataError: a damaged teacher cache.
    """
    cached: dict[str | None, CachedRows] = {}
    if isinstance(config, (KDConfig, DAEConfig)):
        for kind, spec in config.teacher_specs.items():
            if spec is not None and spec.cache:
                cached[kind] = _cached(config, spec, kind, (rows, plan), tokenizer, paths)
    sizes = _longest_answers(config, rows, plan)
    batches = [
        with_sampled(rows.rows, batch, 1 + number // plan.per_step, sizes)
        for number, batch in enumerate(plan.batches)
    ]
    tokens, labelled, padded = measure(batches, packed=plan.packed)
    work = [sampling_work(answer_start(rows.rows[row].labels), n) for (_, row), n in sizes.items()]
    return {
        "steps": plan.steps,
        "tokens": tokens,
        "labelled": labelled,
        "padding_share": padded / max(padded + tokens, 1),
        "width": _width(config.trainer, batches, rows),
        "cached": cached,
        "sampling": SamplingWork(
            sum(part.read for part in work),
            sum(part.tokens for part in work),
            sum(part.scores for part in work),
        ),
    }


def _longest_answers(
    config: TrainConfig, rows: Dataset, plan: BatchPlan
) -> dict[tuple[int, int], int]:
    """Return (step, row) -> the most tokens of each answer that the student would sample."""
    spec = settings_of(config)
    if spec is None:
        return {}
    steps = (
        (1 + number // plan.per_step, row)
        for number, batch in enumerate(plan.batches)
        for row in batch
    )
    return longest_answers(rows.rows, steps, config.seed, spec, config.data.max_length)


def _width(spec: TrainerSpec, batches: Sequence[Sequence[TrainRow]], rows: Dataset) -> int:
    """Return the positions of the longest row; of packed ones the mean in the largest batch."""
    if not spec.packing:
        return max(map(len, chain(rows.rows, *batches)))
    largest = max(sum(map(len, batch)) for batch in batches)
    return -(-largest // spec.batch_size)


def _cached(
    config: KDConfig | DAEConfig,
    spec: TeacherSpec,
    kind: str | None,
    planned: tuple[Dataset, BatchPlan],
    tokenizer: PreTrainedTokenizerBase,
    paths: Paths,
) -> CachedRows:
    """Return how many positions one cached teacher teaches, and how many it has to run on."""
    rows, batches = planned[0].rows, planned[1].batches
    mine = set(taught_rows(rows, kind))
    taught = [index for batch in batches for index in batch if index in mine]
    sizes = {row_key(rows[index]): rows[index].labelled for index in set(taught)}
    found = CachedRows(
        sum(rows[index].labelled for index in taught), sum(sizes.values()), sum(sizes.values())
    )
    teacher = _identity(spec, paths)
    if not teacher:
        return found
    student = tokenizer_source(config)
    code = runs_code_of(config, student)
    ours = load_config_of(student, paths, trust_remote_code=code).get_text_config().vocab_size
    code = spec.trust_remote_code
    vocab = shared_ids(tokenizer, "the student", ours, spec.model, paths, trust_remote_code=code)
    address = cache_address(
        spec, config.trainer, paths, teacher=teacher, tokenizer=tokenizer, vocab=vocab
    )
    if not (address.folder / NOTE).exists():
        return found
    stored = address.open()
    return found._replace(missing=sum(size for key, size in sizes.items() if key not in stored))


def _identity(spec: TeacherSpec, paths: Paths) -> str:
    """Return the identity of a teacher's weights; empty if they are not here, or no cache is."""
    if not paths.cache.is_dir() or not any(paths.cache.iterdir()):
        return ""
    try:
        path = resolve_model(spec.model, paths)
        with Store(paths.store) as store:
            return identity_of(path, paths, store).weights
    except KDHarnessError:
        return digest("served", spec.model) if spec.served else ""
