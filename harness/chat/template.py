"""A chat as token ids, with the tokens that belong to assistant turns marked.

Training and held-out scoring share this, so that "labelled" means the same thing everywhere.
Labels here are unshifted, as transformers keeps them: `labels[i] == input_ids[i]` where token i
belongs to an assistant turn, its end-of-turn token included, else -100. Position i - 1 predicts
it; the shift is made where losses are computed (docs/method.md#labels).

What belongs to a turn is what the model would generate after the generation prompt; a template's
own `{% generation %}` marks decide where it has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdharness.harness.chat.assistant_spans import Chat, Spans
from kdharness.harness.chat.rendering import (
    Extras,
    Span,
    has_marks,
    render,
    render_marked,
    settle_arguments,
)
from kdharness.harness.chat.row_fields import check_honoured
from kdharness.harness.errors import DataError
from kdharness.harness.types import IGNORE_INDEX

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class EncodedChat:
    """Token ids and unshifted labels of equal length.

    `cut`: max_length shortened it. `empty`: answers that say nothing, which are not labelled.
    `unshown`: answers whose thoughts the template leaves out. `straddles`: an answer's first
    token begins in the prompt. `ends`: no label was lost at the end by `cut` or `truncated`.
    """

    input_ids: list[int]
    labels: list[int]
    cut: bool = False
    empty: int = 0
    unshown: int = 0
    straddles: bool = False
    ends: bool = True

    @property
    def labelled(self) -> int:
        """How many tokens some position learns to predict (the first token never is)."""
        return sum(label != IGNORE_INDEX for label in self.labels[1:])

    @property
    def last_label(self) -> int | None:
        """The last token that is learnt."""
        return next((label for label in reversed(self.labels) if label != IGNORE_INDEX), None)


def encode_prompt(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Token ids of a chat with an assistant turn opened at its end."""
    text = render(tokenizer, messages, prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_chat(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    max_length: int | None = None,
    truncated: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> EncodedChat:
    """Tokenise a chat and label its assistant turns.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        messages: the turns; an assistant turn with `train: false` is not labelled, nor one that
            says nothing.
        max_length: tokens past this are cut off.
        truncated: the last answer was cut where it was generated, so its end-of-turn is not
            something to learn.
        tools: schemas of the tools that the assistant may call.
        variables: what the template is given besides, by name.

    Raises:
        DataError: no template, a refused chat, something in the chat that the template does not
            render, turns that cannot be told apart, or a tokenizer without offsets.
    """
    extras = Extras(tools or None, variables or {})
    messages, text = settle_arguments(tokenizer, messages, extras)
    check_honoured(tokenizer, messages, text, extras)
    found = _trained(tokenizer, messages, text, extras, truncated)
    try:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError as error:
        raise DataError(
            "labels need a fast tokenizer (one with a tokenizer.json)",
            hint="convert it once with transformers' AutoTokenizer and save_pretrained",
        ) from error
    ids = list(encoded["input_ids"])
    labels, straddles = _label(ids, encoded["offset_mapping"], sorted(found.spans))
    cut = max_length is not None and len(ids) > max_length
    return EncodedChat(
        ids[:max_length],
        labels[:max_length],
        cut,
        found.empty,
        found.unshown,
        straddles,
        not cut and not truncated,
    )


def _trained(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    text: str,
    extras: Extras,
    truncated: bool,
) -> Spans:
    chat = Chat(tokenizer, messages, text, extras)
    if not has_marks(tokenizer, extras):
        return chat.trained(truncated)
    marked, marks = render_marked(tokenizer, messages, extras)
    if marked != text:
        raise DataError("the chat template renders one chat in two ways")
    return chat.trained(truncated, [span for span in marks if span[0] < span[1]])


def _label(
    ids: Sequence[int], offsets: Sequence[Span], spans: Sequence[Span]
) -> tuple[list[int], bool]:
    """Label every token that holds a character of a span.

    Tokenizers may leave blanks out of a token's offsets; a token begins where the one before it
    ended. A token that begins before a span and ends in it (a prompt that ends in a blank, and
    the answer's first word) is labelled: it is how that word is written there.

    Returns:
        Labels, and whether any token straddles the start of a span.
    """
    labels = [IGNORE_INDEX] * len(ids)
    straddles = False
    span = reached = 0
    for index, (start, end) in enumerate(offsets):
        start = min(start, reached)
        reached = max(reached, end)
        while span < len(spans) and start >= spans[span][1]:
            span += 1
        if span < len(spans) and end > spans[span][0] and end > start:
            labels[index] = ids[index]
            straddles = straddles or start < spans[span][0]
    return labels, straddles


__all__ = [
    "CHATML",
    "IGNORE_INDEX",
    "EncodedChat",
    "Extras",
    "encode_chat",
    "encode_prompt",
    "render",
]
