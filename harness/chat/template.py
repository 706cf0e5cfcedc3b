"""Tokenise a chat and label the tokens of its assistant turns.

Training and held-out scoring share this, so that "labelled" means the same everywhere. Labels are
unshifted, as in transformers: `labels[i] == input_ids[i]` if token i belongs to an assistant turn,
including its end-of-turn token, else -100. Position i - 1 predicts it; labels are shifted where
losses are computed (docs/method.md#labels).

A turn consists of what the model would generate after the generation prompt; if a template has
`{% generation %}` blocks, they decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdharness.harness.chat.assistant_spans import Chat, Spans
from kdharness.harness.chat.rendering import (
    Extras,
    Span,
    has_marks,
    render,
    render_marked,
    settle_arguments,
)
from kdharness.harness.chat.row_fields import check_honoured, check_turns
from kdharness.harness.errors import DataError
from kdharness.harness.types import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class EncodedChat:
    """Token ids and unshifted labels of equal length.

    `cut`: truncated to max_length. `empty`: answers without content, which are not labelled.
    `unshown`: answers whose reasoning the template omits. `straddles`: an answer's first token
    begins in the prompt. `ends`: no label was lost at the end by `cut` or `truncated`.
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


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], opening: str = ""
) -> list[int]:
    """Tokenise a chat with an assistant turn opened at its end.

    Args:
        opening: the beginning of that turn.

    Raises:
        DataError: the template refuses these turns, or leaves one of them out.
    """
    text = render(tokenizer, messages, prompt=True)
    check_turns(tokenizer, messages, text, prompt=True)
    if opening:
        text = _begun(tokenizer, messages, text, opening)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _begun(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    prompt: str,
    opening: str,
) -> str:
    """Return a prompt with the beginning of its reply.

    What the template writes before a reply, such as a blank or empty reasoning, is kept.
    """
    try:
        turns = [*messages, {"role": "assistant", "content": opening}]
        whole, found, _ = render(tokenizer, turns, prompt=False).rpartition(opening)
    except DataError:
        whole, found = "", ""
    return whole + opening if found and whole.startswith(prompt) else prompt + opening


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
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
        messages: the turns; an assistant turn with `train: false`, or without content, is not
            labelled.
        max_length: truncate to this many tokens.
        truncated: generation of the last answer was truncated, so its end-of-turn must not be
            learnt.
        tools: schemas of the tools that the assistant may call.
        variables: further template variables, by name.

    Raises:
        DataError: no template, a rejected chat, a field that the template does not render, turns
            that cannot be located, or a tokenizer without offsets.
    """
    extras = Extras(tools or None, variables or {})
    messages, text = settle_arguments(tokenizer, messages, extras)
    check_honoured(tokenizer, messages, text, extras)
    trained = _trained(tokenizer, messages, text, extras, truncated)
    try:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError as error:
        raise DataError(
            "labels need a fast tokenizer (with a tokenizer.json)",
            hint="convert it once with transformers' AutoTokenizer and save_pretrained",
        ) from error
    ids = list(encoded["input_ids"])
    labels, straddles = _label(ids, encoded["offset_mapping"], sorted(trained.spans))
    cut = max_length is not None and len(ids) > max_length
    return EncodedChat(
        ids[:max_length],
        labels[:max_length],
        cut,
        trained.empty,
        trained.unshown,
        straddles,
        not cut and not truncated,
    )


def _trained(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, object]],
    text: str,
    extras: Extras,
    truncated: bool,
) -> Spans:
    chat = Chat(tokenizer, messages, text, extras)
    if not has_marks(tokenizer, extras):
        return chat.trained(truncated)
    marked, marks = render_marked(tokenizer, messages, extras)
    if marked != text:
        raise DataError("the chat template renders the same chat in two ways")
    return chat.trained(truncated, [span for span in marks if span[0] < span[1]])


def _label(
    ids: Sequence[int], offsets: Sequence[Span], spans: Sequence[Span]
) -> tuple[list[int], bool]:
    """Label every token that contains a character of a span.

    Tokenizers may exclude whitespace from a token's offsets; a token begins where the previous one
    ended. A token that begins before a span and ends in it (a prompt that ends in a space, and
    the answer's first word) is labelled: that is how the word is tokenised there.

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
