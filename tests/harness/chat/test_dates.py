"""Templates that write today's date: rendered alike on any day, everywhere."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from kdharness.harness.chat.rendering import Extras, render, render_marked
from kdharness.harness.chat.template import encode_chat, encode_prompt
from kdharness.harness.errors import DataError

# As Llama 3.1's and Granite's do.
TEMPLATES = [
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}'
    '{%- set date_string = "no date" %}{%- endif %}{%- endif %}Today Date: {{ date_string }}\n',
    'Today\'s Date: {{ strftime_now("%B %d, %Y") }}.\n',
]
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}"
    "<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes"}]


class Tomorrow(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Tomorrow:
        return cls(2031, 2, 3)


@pytest.mark.parametrize("start", TEMPLATES)
def test_a_chat_is_the_same_on_any_day(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", start + TURNS)

    def rendered() -> tuple[Any, ...]:
        return (
            render(tokenizer, CHAT, prompt=False),
            render_marked(tokenizer, CHAT),
            encode_chat(tokenizer, CHAT),
            encode_prompt(tokenizer, CHAT[:1]),
        )

    today = rendered()
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    chat_template_utils._compile_jinja_template.cache_clear()
    # What the library itself writes then.
    assert "2031" in tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert rendered() == today
    assert today[0].splitlines()[0].rstrip(".").endswith(("26 Jul 2024", "July 26, 2024"))


def test_a_row_may_still_name_a_date(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATES[0] + TURNS)
    extras = Extras(variables={"date_string": "1 Jan 2020"})
    assert "Today Date: 1 Jan 2020" in render(tokenizer, CHAT, prompt=False, extras=extras)
    with pytest.raises(DataError, match="reserved template variable name 'strftime_now'"):
        Extras(variables={"strftime_now": "1 Jan 2020"})


@pytest.mark.parametrize("form", ["%d %b %Y", "%B %d, %Y", "%Y-%m-%d", "%A, %-d %B", "%d%% of %y"])
def test_every_form_of_the_date_is_that_days(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    source = "[{{ strftime_now('" + form + "') }}]" + TURNS
    monkeypatch.setattr(tokenizer, "chat_template", source)
    wanted = datetime(2024, 7, 26).strftime(form)
    assert render(tokenizer, CHAT, prompt=False).startswith(f"[{wanted}]<|im_start|>user")
    # By the parameter's name, and after a blank that the template begins with.
    source = "\n {{ strftime_now(format='" + form + "') }}" + TURNS
    monkeypatch.setattr(tokenizer, "chat_template", source)
    assert render(tokenizer, CHAT, prompt=False).startswith(f"\n {wanted}<|im_start|>user")
