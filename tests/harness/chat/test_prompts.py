"""Prompts of evaluations: a turn that the template leaves out is refused, like in training."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.chat.row_fields import left_out
from kdharness.harness.chat.template import encode_prompt
from kdharness.harness.errors import DataError

OPENED = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
WHOLE = "{% for m in messages %}" + TURN + "{% endfor %}" + OPENED
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}" + TURN + "{% endfor %}" + OPENED
LAST_ONLY = "{% for m in messages[-1:] %}" + TURN + "{% endfor %}" + OPENED
STRIPPED = WHOLE.replace("m.content", "m.content | trim")
THOUGHTLESS = WHOLE.replace("m.content", "m.content.split('</think>')[-1]")
SYSTEM = {"role": "system", "content": "Answer in French."}
USER = {"role": "user", "content": " What is it? "}
EARLIER = {"role": "assistant", "content": "<think>hm</think>A whisk."}


@pytest.mark.parametrize(
    ("template", "chat", "lost"),
    [
        (NO_SYSTEM, [SYSTEM, USER], "system"),
        (LAST_ONLY, [USER, EARLIER, USER], "assistant"),
        (LAST_ONLY, [SYSTEM, USER], "system"),
        (NO_SYSTEM, [USER], ""),
        (WHOLE, [SYSTEM, USER, EARLIER, USER], ""),
        (STRIPPED, [SYSTEM, USER, EARLIER, USER], ""),
        (THOUGHTLESS, [SYSTEM, USER, EARLIER, USER], ""),
    ],
)
def test_a_turn_that_the_template_leaves_out_is_refused(
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    template: str,
    chat: list[dict[str, str]],
    lost: str,
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert left_out(chat, text) == lost
    if lost:
        with pytest.raises(DataError, match=f"does not render the {lost} turn"):
            encode_prompt(tokenizer, chat)
    else:
        assert "<|im_start|>assistant" in tokenizer.decode(encode_prompt(tokenizer, chat))
