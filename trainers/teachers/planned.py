"""A training's batches as numbers, and what teacher caches hold of its rows: for a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.config.training import DAEConfig, KDConfig, TrainConfig, runs_code_of
from kdharness.harness.errors import KDHarnessError
from kdharness.harness.models.loading import load_config_of
from kdharness.harness.models.resolve import identity_of, resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.runs.teachers import CachedRows
from kdharness.harness.store import Store
from kdharness.harness.types import digest
from kdharness.trainers.data.batches import BatchPlan
from kdharness.trainers.data.dataset import Dataset, tokenizer_source
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

    `cached` maps each kind of rows that has a cached teacher to its positions.

    Raises:
        DataError: a damaged teacher cache.
    """
    cached: dict[str | None, CachedRows] = {}
    if isinstance(config, (KDConfig, DAEConfig)):
        for kind, spec in config.teacher_specs.items():
            if spec is not None and spec.cache:
                cached[kind] = _cached(config, spec, kind, (rows, plan), tokenizer, paths)
    return {
        "steps": plan.steps,
        "tokens": plan.tokens,
        "labelled": plan.labelled,
        "padding_share": plan.padding_share,
        "width": _width(config.trainer, plan, rows),
        "cached": cached,
    }


def _width(spec: TrainerSpec, plan: BatchPlan, rows: Dataset) -> int:
    """Return the positions of the longest row; of packed ones the mean in the largest batch."""
    lengths = [len(row) for row in rows.rows]
    if not spec.packing:
        return max(lengths)
    largest = max(sum(lengths[index] for index in batch) for batch in plan.batches)
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
