"""The tokens that end an answer: where generation stops, and what training must teach."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdharness.harness.chat.traits import template_traits
from kdharness.harness.errors import DataError, KDHarnessError
from kdharness.harness.util.untrusted import read_json_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Find the added token (special or not) with which the chat template closes an answer."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    text = template_traits(tokenizer).end_token
    return _added(tokenizer, text) if text else None


def declared_ends(tokenizer: PreTrainedTokenizerBase) -> dict[str, set[int]]:
    """Return the end tokens by where they are declared: `tokenizer` and the checkpoint's files.

    Files that are missing or declare none are left out.
    """
    own = tokenizer.eos_token_id
    ends = {"tokenizer": {int(own)}} if isinstance(own, int) else {}
    folder = Path(str(getattr(tokenizer, "name_or_path", "") or ""))
    for name in ("generation_config.json", "config.json"):
        try:
            eos = read_json_object(folder / name, name, DataError).get("eos_token_id")
        except KDHarnessError:
            continue
        ids = eos if isinstance(eos, list) else [eos]
        if found := {token for token in ids if isinstance(token, int)}:
            ends[name] = found
    return ends


def stopping_tokens(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Collect the tokens that end generation in any program that reads this checkpoint.

    They are the tokenizer's end of sequence, and those of the checkpoint's generation config and
    config, if there are such files.
    """
    return set().union(*declared_ends(tokenizer).values())


def all_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token that ends an answer of a loaded model.

    Small chat models are often saved with the base model's end-of-text token alone, so the end of
    a turn in the chat template counts too. A composite model may name them in its text config
    alone; where others are named, that has the default of its class.

    Returns:
        The tokenizer's end of sequence first, then the template's end of a turn, then the model's.
    """
    own = [
        *_listed(getattr(model, "generation_config", None)),
        *_listed(model.config),
    ]
    own = own or _listed(model.config.get_text_config(decoder=True))
    closing = [tokenizer.eos_token_id, end_of_turn(tokenizer)]
    return list(dict.fromkeys(token for token in (*closing, *own) if isinstance(token, int)))


def _listed(config: object) -> list[int]:
    """Return the end tokens that a config names."""
    ids = getattr(config, "eos_token_id", None)
    return [ids] if isinstance(ids, int) else list(ids or ())


def pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Count the tokens that a text is split into."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _added(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    return next(
        (
            int(number)
            for number, token in tokenizer.added_tokens_decoder.items()
            if str(token.content) == text
        ),
        None,
    )
