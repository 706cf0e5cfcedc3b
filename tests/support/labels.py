"""Chats, and what is labelled of them."""

from __future__ import annotations

import re
from typing import Any

from kdharness.harness.chat.template import IGNORE, EncodedChat, encode_chat

MARKED = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}"
    "{%- if m.role == 'assistant' -%}{%- generation -%}{{- m.content + '<|im_end|>' -}}"
    "{%- endgeneration -%}{%- else -%}{{- m.content + '<|im_end|>' -}}{%- endif -%}{{- '\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def answer(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": "abcdefghi", "type": "function", "function": function}


def placed(tokenizer: Any, encoded: EncodedChat) -> list[tuple[int, str]]:
    """The unbroken runs of labels, each with the number of characters before it."""
    found: list[tuple[int, list[int]]] = []
    before = IGNORE
    for index, (token, label) in enumerate(zip(encoded.input_ids, encoded.labels, strict=True)):
        assert label in (IGNORE, token)
        if label != IGNORE:
            if before == IGNORE:
                found.append((index, []))
            found[-1][1].append(token)
        before = label
    ids = encoded.input_ids
    return [(len(tokenizer.decode(ids[:index])), tokenizer.decode(run)) for index, run in found]


def runs(tokenizer: Any, encoded: EncodedChat) -> list[str]:
    """The texts of unbroken runs of labels."""
    return [text for _, text in placed(tokenizer, encoded)]


def labelled(tokenizer: Any, messages: list[dict[str, Any]], **more: Any) -> list[str]:
    """What is labelled; at the same places as if the users had written x alone.

    Text alone would not do: a user may have written the very answer.
    """
    found = placed(tokenizer, encode_chat(tokenizer, messages, **more))
    blank = [
        {**m, "content": re.sub(r"\S", "x", m["content"])} if m["role"] == "user" else m
        for m in messages
    ]
    assert found == placed(tokenizer, encode_chat(tokenizer, blank, **more))
    return [text for _, text in found]
