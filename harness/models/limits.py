"""What a model can take: token ids up to its embedding, positions up to its table.

torch meets an id or a position that is too large deep inside a forward pass, as an index error
without a name. Here rows are held against the model before that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kdharness.harness.errors import DataError

_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding", "embed_position")

_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len")
_BOUNDED = ("mpt",)
"""Models whose attention bias is made for so many positions, in a forward pass and not before."""


@dataclass(frozen=True)
class ModelLimits:
    """How many token ids a model embeds, and how many positions it has a table for.

    `positions` is None for models without such a table (rotary or relative positions): they take
    longer rows than they were trained on, if badly.
    """

    vocabulary: int
    positions: int | None
    trained_on: int | None = None


def limits_of(model: Any) -> ModelLimits:
    """The limits of a causal LM, loaded or on the meta device."""
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


def _has_table(model: Any) -> bool:
    """Whether a model looks positions up in a table, learnt or computed once.

    What computes its table anew for longer rows (XGLM) is no embedding but a module of its own.
    """
    import torch

    modules = (name for name, one in model.named_modules() if isinstance(one, torch.nn.Embedding))
    buffers = (name for name, _ in model.named_buffers())
    return any(name.rpartition(".")[2] in _TABLES for name in (*modules, *buffers))


def usable_pad(pad: int | None, limits: ModelLimits) -> int:
    """An id to pad with: padded places are masked, so any that the model embeds will do."""
    return pad if pad is not None and 0 <= pad < limits.vocabulary else 0


def first_beyond(ids: Iterable[int], limits: ModelLimits) -> int | None:
    """The first id that the model does not embed."""
    return next((one for one in ids if not 0 <= one < limits.vocabulary), None)


def unknown_token(token: int, tokenizer: Any, limits: ModelLimits, name: str) -> str:
    """What to say of an id that is too large."""
    text = tokenizer.convert_ids_to_tokens(token)
    return (
        f"the tokenizer of {name} has {len(tokenizer):,} tokens, but the model embeds "
        f"{limits.vocabulary:,}: {text!r} (id {token}) is beyond"
    )


def refuse_beyond(
    rows: Iterable[tuple[str, list[int]]],
    limits: ModelLimits,
    tokenizer: Any,
    name: str,
    *,
    max_length: int,
    field: str = "data.max_length",
) -> int:
    """Hold rows against a model.

    Args:
        rows: (where it comes from, token ids) of each.
        name: what the model is called in the message.
        max_length: what rows were cut to, and `field` where that is set.

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
                hint="use the tokenizer the model was trained with, or resize the model's "
                "embedding to it (resize_token_embeddings) and save it",
            )
        if limits.positions is not None and len(ids) > limits.positions:
            raise DataError(
                f"this row has {len(ids)} tokens: {field} is {max_length}, and {name} has "
                f"{limits.positions} positions",
                where=where,
                hint=f"set {field} to {limits.positions} or less",
            )
        longest = max(longest, len(ids))
    return longest


def long_rows(longest: int, limits: ModelLimits, name: str) -> str:
    """A word about rows longer than a model was made for, where nothing stops them; else empty."""
    if limits.positions is not None or limits.trained_on is None or longest <= limits.trained_on:
        return ""
    return (
        f"rows of up to {longest} tokens, and {name} was made for {limits.trained_on} "
        "(max_position_embeddings): what is beyond is learnt at positions it has not seen"
    )
