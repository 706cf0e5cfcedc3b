"""Checks of a model's shape against the rows and the adapter: ids, positions, tied heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.config.models import LoraSpec
from kdharness.harness.models.limits import first_beyond
from kdharness.harness.models.lm_head import head_of
from kdharness.harness.models.loading import meta_model
from kdharness.harness.models.lora import with_adapter
from kdharness.harness.paths import Paths
from kdharness.trainers.data.dataset import Dataset
from kdharness.trainers.pairs.models import ModelFacts
from kdharness.trainers.pairs.result import PairCheck, note, ok
from kdharness.trainers.preflight import hold

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from kdharness.harness.config.data import DataSpec


def ids_fit(model: ModelFacts, rows: Dataset) -> bool:
    """Return whether a model embeds every token of the rows."""
    return all(
        first_beyond((min(row.input_ids), max(row.input_ids)), model.limits) is None
        for row in rows.rows
    )


def positions(
    model: ModelFacts, rows: Dataset, tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> PairCheck:
    """Compare the rows with a model's embedding and its positions.

    Raises:
        DataError: a token or a length that it does not support.
    """
    name = f"the {model.role} ({model.source})"
    warning = hold(rows, model.limits, tokenizer, name, data)
    longest = max(len(row) for row in rows.rows)
    rope, original = _rope(model.config)
    values = {"longest": longest, "positions": model.limits.trained_on, "rope": rope}
    advice = "lower data.max_length, or use a model with a longer context"
    if warning:
        return note("positions", model.role, warning, advice, **values)
    if original and longest > original:
        return note(
            "positions",
            model.role,
            f"rows have up to {longest:,} tokens, where its rotary positions are scaled ({rope}, "
            f"from {original:,})",
            "make sure that student and teachers are meant for this length",
            **values,
        )
    limit = f"{model.limits.trained_on:,} positions" if model.limits.trained_on else "no limit"
    detail = f"the longest row has {longest:,} tokens; {limit}, rotary positions: {rope}"
    return ok("positions", model.role, detail, **values)


def _rope(config: PreTrainedConfig) -> tuple[str, int | None]:
    """Return how rotary positions are scaled, and the length that they are scaled from."""
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(given, dict) or not given:
        return "none declared", None
    kind = given.get("rope_type", given.get("type"))
    if kind in (None, "default"):
        return "not scaled", None
    factor, original = given.get("factor"), given.get("original_max_position_embeddings")
    text = f"{kind} ×{factor:g}" if isinstance(factor, (int, float)) else str(kind)
    return text, original if isinstance(original, int) else None


def heads(student: ModelFacts, lora: LoraSpec | None, paths: Paths, *, code: bool) -> PairCheck:
    """Check the student's output head with its adapter.

    Raises:
        ConfigError: modules that do not support LoRA. ModelError: an adapter on the head.
    """
    tied = bool(student.config.tie_word_embeddings)
    how = "tied to the embedding" if tied else "a matrix of its own"
    if lora is None:
        return ok("output head", student.role, f"{how}; all weights are trained", tied=tied)
    model = with_adapter(
        meta_model(student.source, paths, trust_remote_code=code), lora, student.source
    )
    head_of(model)
    embedding = model.get_base_model().get_input_embeddings()
    if tied and hasattr(embedding, "lora_embedding_A"):
        return note(
            "output head",
            student.role,
            "tied to the embedding, which gets an adapter: the adapter changes the embedding "
            "alone, and merged into the base the model gets a head of its own",
            "leave the embedding out of student.lora.target_modules if that is not meant",
            tied=tied,
        )
    return ok("output head", student.role, f"{how}; no adapter on it", tied=tied)
