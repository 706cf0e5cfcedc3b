"""A model's limits: token ids up to its embedding's size, positions up to its table's.

In torch an id or a position out of range is an index error without context, deep inside a forward
pass. Here rows are checked against the model before that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdharness.harness.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding", "embed_position")

_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len")
_BOUNDED = ("mpt",)
"""Model types whose attention bias has a fixed number of positions, built in the forward pass."""


@dataclass(frozen=True)
class ModelLimits:
    """How many token ids a model embeds, and how many positions it has a table for.

    `positions` is None for models without such a table (rotary or relative positions): they accept
    longer rows than they were trained on, with degraded quality.
    """

    vocabulary: int
    positions: int | None
    trained_on: int | None = None


def limits_of(model: Any) -> ModelLimits:
    """Return the limits of a causal LM, loaded or on the meta device."""
    config = model.config.get_text_config()
    lengths = (getattr(config, name, None) for name in _LENGTHS)
    trained = next((length for length in lengths if isinstance(length, int)), None)
    known = trained or None
    table = _has_table(model) or getattr(config, "model_type", "") in _BOUNDED
    return ModelLimits(
        vocabulary=int(model.get_input_embeddings().weight.shape[0]),
        positions=known if table else None,
        trained_on=known,
    )


def _has_table(model: PreTrainedModel) -> bool:
    """Return whether a model has a table of positions, learnt or computed once.

    A table that is recomputed for longer rows (XGLM) is a module of its own, not an embedding.
    """
    import torch

    embedding = torch.nn.Embedding
    modules = (name for name, module in model.named_modules() if isinstance(module, embedding))
    buffers = (name for name, _ in model.named_buffers())
    return any(name.rpartition(".")[2] in _TABLES for name in (*modules, *buffers))


def usable_pad(pad: int | None, limits: ModelLimits) -> int:
    """Return an id to pad with: padding is masked, so any id that the model embeds will do."""
    return pad if pad is not None and 0 <= pad < limits.vocabulary else 0


def first_beyond(ids: Iterable[int], limits: ModelLimits) -> int | None:
    """Return the first id that the model does not embed."""
    return next((token for token in ids if not 0 <= token < limits.vocabulary), None)


def unknown_token(
    token: int, tokenizer: PreTrainedTokenizerBase, limits: ModelLimits, name: str
) -> str:
    """Return the message for an id that is out of range."""
    text = tokenizer.convert_ids_to_tokens(token)
    return (
        f"the tokenizer of {name} has {len(tokenizer):,} tokens, but the model embeds "
        f"only {limits.vocabulary:,}: {text!r} (id {token}) is out of range"
    )


def refuse_beyond(
    rows: Iterable[tuple[str, list[int]]],
    limits: ModelLimits,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    *,
    max_length: int,
    field: str = "data.max_length",
) -> int:
    """Check rows against a model's limits.

    Args:
        rows: (file and line, token ids) of each.
        name: the model's name in messages.
        max_length: the length that rows were truncated to, set by `field`.

    Returns:
        The length of the longest row.

    Raises:
        DataError: a token that the model does not embed, or a row longer than its positions.
    """
    longest = 0
    for where, ids in rows:
        token = first_beyond([max(ids), min(ids)], limits) if ids else None
        if token is not None:
            raise DataError(
                unknown_token(token, tokenizer, limits, name),
                where=where,
                hint="use the model's own tokenizer, or resize the model's embedding "
                "(resize_token_embeddings) and save it",
            )
        if limits.positions is not None and len(ids) > limits.positions:
            raise DataError(
                f"this row has {len(ids)} tokens: {field} is {max_length}, but {name} has only "
                f"{limits.positions} positions",
                where=where,
                hint=f"set {field} to {limits.positions} or less",
            )
        longest = max(longest, len(ids))
    return longest


def long_rows(longest: int, limits: ModelLimits, name: str) -> str:
    """Return a warning for rows longer than the model was trained on, if it has no hard limit."""
    if limits.positions is not None or limits.trained_on is None or longest <= limits.trained_on:
        return ""
    return (
        f"rows have up to {longest} tokens, but {name} was trained on {limits.trained_on} "
        "(max_position_embeddings): tokens beyond are at positions it has never seen"
    )
