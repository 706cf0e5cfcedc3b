"""Chats, and the parts of them that are labelled."""

from __future__ import annotations

import copy
import re
from typing import Any

from hypothesis import strategies as st

from kdharness.harness.chat.template import IGNORE_INDEX, EncodedChat, encode_chat

MARKED = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}"
    "{%- if m.role == 'assistant' -%}{%- generation -%}{{- m.content + '<|im_end|>' -}}"
    "{%- endgeneration -%}{%- else -%}{{- m.content + '<|im_end|>' -}}{%- endif -%}{{- '\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def user(content: str) -> dict[str, Any]:
    """Make a user turn."""
    return {"role": "user", "content": content}


def answer(content: str | None, **more: Any) -> dict[str, Any]:
    """Make an assistant turn."""
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> dict[str, Any]:
    """Make a system turn."""
    return {"role": "system", "content": content}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """Make a tool call."""
    function = {"name": name, "arguments": arguments}
    return {"id": "abcdefghi", "type": "function", "function": function}


def placed(tokenizer: Any, encoded: EncodedChat) -> list[tuple[int, str]]:
    """Return the contiguous labelled spans, each with the number of characters before it."""
    spans: list[tuple[int, list[int]]] = []
    before = IGNORE_INDEX
    for index, (token, label) in enumerate(zip(encoded.input_ids, encoded.labels, strict=True)):
        assert label in (IGNORE_INDEX, token)
        if label != IGNORE_INDEX:
            if before == IGNORE_INDEX:
                spans.append((index, []))
            spans[-1][1].append(token)
        before = label
    ids = encoded.input_ids
    return [(len(tokenizer.decode(ids[:index])), tokenizer.decode(run)) for index, run in spans]


def runs(tokenizer: Any, encoded: EncodedChat) -> list[str]:
    """Return the texts of the contiguous labelled spans."""
    return [text for _, text in placed(tokenizer, encoded)]


def labelled(tokenizer: Any, messages: list[dict[str, Any]], **more: Any) -> list[str]:
    """Return the labelled spans; check that their positions do not depend on the user turns.

    Comparing text is not enough: a user turn may contain the answer verbatim.
    """
    spans = placed(tokenizer, encode_chat(tokenizer, messages, **more))
    blank = [
        {**m, "content": re.sub(r"\S", "x", m["content"])} if m["role"] == "user" else m
        for m in messages
    ]
    assert spans == placed(tokenizer, encode_chat(tokenizer, blank, **more))
    return [text for _, text in spans]


# The labelled markup around an answer followed by other turns, and around the last answer.
AROUND = {
    "chatml": (("", "<|im_end|>"),),
    "llama2": ((" ", " </s>"),),
    "llama3": (("", "<|eot_id|>"),),
    "llama3-always": (("", "<|eot_id|>"),),
    "qwen2.5": (("", "<|im_end|>"),),
    "qwen3": (("", "<|im_end|>"), ("<think>\n\n</think>\n\n", "<|im_end|>")),
    "qwen-opened": (("", "<|im_end|>"), ("\n</think>\n\n", "<|im_end|>")),
    "gemma2": (("", "<end_of_turn>"),),
    "gemma3": (("", "<end_of_turn>"),),
    "mistral1": ((" ", "</s>"),),
    "mistral3": ((" ", "</s>"),),
    "mistral-tekken": (("", "</s>"),),
    "phi3": (("", "<|end|>"),),
    "phi4": (("", "<|im_end|>"),),
    "smollm2": (("", "<|im_end|>"),),
    "r1": (("", "<｜end▁of▁sentence｜>"),),
    "v3": (("", "<｜end▁of▁sentence｜>"),),
    "harmony": (
        ("<|channel|>final<|message|>", "<|end|>"),
        ("<|channel|>final<|message|>", "<|return|>"),
    ),
    "zephyr": (("", "</s>"),),
    "vicuna": ((" ", "</s>"),),
    "granite": (("", "<|end_of_text|>"),),
    "command-r": (("", "<|END_OF_TURN_TOKEN|>"),),
    "glm": (("", ""),),
    "end-once": (("", ""), ("", "</s>")),
    "text": (("", "<|im_end|>"),),
}


def expected(family: str, answers: list[str]) -> list[str]:
    """Return the expected labels: each answer with the labelled markup of its family."""
    around = AROUND[family]
    last = len(answers) - 1
    return [
        around[0 if i < last else -1][0] + text + around[0 if i < last else -1][1]
        for i, text in enumerate(answers)
    ]


WORDS = [
    "yes",
    "no",
    "The cat sat.",
    "B",
    "It rains.",
    "assistant",
    "user",
    "### Answer:",
    "[/INST]",
    "ASSISTANT:",
    "<think>",
    "</think>",
    "<b>",
    "</b>",
    "1.",
    "…",
    "非常好",
    "🙂",
    "model",
    '"',
    "{}",
    "<|im_start|>",
    "<|im_end|>",
]

PLAIN_WORDS = [word for word in WORDS if "think" not in word and "|" not in word]

TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)

ANSWERS = st.lists(st.sampled_from(PLAIN_WORDS), min_size=1, max_size=4).map("\n".join)

TALK = [user("B"), answer("B"), user("B"), answer("C")]


def marked_tokenizer(plain: Any, template: str) -> Any:
    """Copy a tokenizer with another template."""
    tokenizer = copy.deepcopy(plain)
    tokenizer.chat_template = template
    return tokenizer
