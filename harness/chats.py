"""A chat as token ids, with the tokens that belong to assistant turns marked.

Training and held-out scoring share this, so that "labelled" means the same thing everywhere.
Labels here are unshifted, as transformers keeps them: `labels[i] == input_ids[i]` where token i
belongs to an assistant turn, its end-of-turn token included, else -100. Position i - 1 predicts
it; the shift is made where losses are computed (METHOD.md section 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdharness.harness.errors import DataError

IGNORE = -100

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class EncodedChat:
    """Token ids and unshifted labels of equal length; `cut` when max_length shortened it."""

    input_ids: list[int]
    labels: list[int]
    cut: bool = False

    @property
    def labelled(self) -> int:
        """How many tokens some position learns to predict (the first token never is)."""
        return sum(label != IGNORE for label in self.labels[1:])


def render(tokenizer: Any, messages: Sequence[Mapping[str, Any]], *, prompt: bool) -> str:
    """The chat as the text the model reads; `prompt` opens an assistant turn at the end.

    Raises:
        DataError: the tokenizer has no chat template, or the template refuses these turns.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"the tokenizer {getattr(tokenizer, 'name_or_path', '')!r} has no chat template",
            hint="set data.chat_template to a template file, or to chatml",
        )
    turns = [{"role": str(m["role"]), "content": str(m["content"])} for m in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # jinja raises its own families, and templates raise what they like
        raise DataError(f"the chat template refuses this chat: {error}") from error
    return str(text)


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
) -> EncodedChat:
    """Tokenise a chat and label its assistant turns.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        messages: the turns; an assistant turn with `train: false` is not labelled.
        max_length: tokens past this are cut off.
        truncated: the last answer was cut where it was generated, so its end-of-turn is not
            something to learn.

    Raises:
        DataError: no template, a refused chat, or a tokenizer without offsets.
    """
    text = render(tokenizer, messages, prompt=False)
    spans = _assistant_spans(tokenizer, messages, text, truncated)
    try:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError as error:
        raise DataError(
            "labels need a fast tokenizer (one with a tokenizer.json)",
            hint="convert it once with transformers' AutoTokenizer and save_pretrained",
        ) from error
    ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    labels = [IGNORE] * len(ids)
    span = 0
    for index, (start, end) in enumerate(offsets):
        while span < len(spans) and start >= spans[span][1]:
            span += 1
        if span < len(spans) and start >= spans[span][0] and end > start:
            labels[index] = ids[index]
    cut = max_length is not None and len(ids) > max_length
    return EncodedChat(ids[:max_length], labels[:max_length], cut)


def _assistant_spans(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], text: str, truncated: bool
) -> list[tuple[int, int]]:
    """Character spans of `text` that belong to trained assistant turns.

    The span of turn i is what rendering it adds to the prompt before it. Templates that rewrite
    earlier turns (some drop old reasoning) are not prefix-stable; there the answer's own text is
    looked for, in order.
    """
    spans: list[tuple[int, int]] = []
    position = 0
    last = len(messages) - 1
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        content = str(message["content"])
        before = render(tokenizer, messages[:index], prompt=True)
        after = render(tokenizer, messages[: index + 1], prompt=False)
        if after.startswith(before) and text.startswith(after):
            start, end = len(before), len(after)
        else:
            start = text.find(content, position)
            if start < 0:
                start = text.find(content.strip(), position)
            if start < 0:
                raise DataError("the chat template changes an assistant turn beyond recognition")
            end = _end_of_turn(tokenizer, text, start + len(content))
        position = end
        if message.get("train", True) is False:
            continue
        end = start + len(text[start:end].rstrip())
        if truncated and index == last:
            found = text.find(content.rstrip(), start)
            end = found + len(content.rstrip()) if found >= 0 else end
        spans.append((start, end))
    return spans


def _end_of_turn(tokenizer: Any, text: str, position: int) -> int:
    """The end of the end-of-turn token that follows `position`, if one follows."""
    rest = text[position:]
    skipped = len(rest) - len(rest.lstrip())
    for token in sorted(map(str, tokenizer.all_special_tokens), key=len, reverse=True):
        if token and rest.lstrip().startswith(token):
            return position + skipped + len(token)
    return position
