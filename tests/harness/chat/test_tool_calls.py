"""Calls of tools are learnt and their results are not, template by template."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.chat.rendering import render
from kdharness.harness.errors import DataError
from support.labels import (
    answer,
    call,
    expected,
    labelled,
    system,
    user,
)

TOOLS = [{"type": "function", "function": {"name": "rain", "parameters": {"type": "object"}}}]
WEATHER = [
    user("Rain in Oslo?"),
    answer(None, tool_calls=[call("rain", town="Oslo", days=2)]),
    {"role": "tool", "tool_call_id": "abcdefghi", "content": '{"rain": "Oslo"}'},
    answer("Yes, in Oslo."),
    user("Oslo?"),
    answer("Oslo."),
]
ARGUMENTS = '{"town": "Oslo", "days": 2}'


@pytest.mark.parametrize(
    ("family", "first"),
    [
        ("llama3", '{"name": "rain", "parameters": ' + ARGUMENTS + "}<|eot_id|>"),
        (
            "qwen2.5",
            '<tool_call>\n{"name": "rain", "arguments": ' + ARGUMENTS + "}\n</tool_call><|im_end|>",
        ),
        (
            "qwen3",
            '\n<tool_call>\n{"name": "rain", "arguments": '
            + ARGUMENTS
            + "}\n</tool_call><|im_end|>",
        ),
        # Its tools stand before the last question, and move as the chat grows.
        (
            "mistral3",
            '[TOOL_CALLS] [{"name": "rain", "arguments": '
            + ARGUMENTS
            + ', "id": "abcdefghi"}]</s>',
        ),
    ],
)
def test_calls_are_learnt_and_results_are_not(
    family: str, first: str, families: dict[str, Any]
) -> None:
    found = labelled(families[family], WEATHER, tools=TOOLS)
    assert found == [first, *expected(family, ["Yes, in Oslo.", "Oslo."])]
    assert '"rain"' in render(families[family], WEATHER, prompt=False)


def test_arguments_are_given_as_text_where_the_template_joins_texts(
    families: dict[str, Any],
) -> None:
    found = labelled(families["v3"], WEATHER)
    end = "<｜end▁of▁sentence｜>"
    assert found[0] == f"call rain\n```json\n{ARGUMENTS}\n```{end}"
    assert found[1:] == [f"Yes, in Oslo.{end}", f"Oslo.{end}"]


def test_a_call_of_harmony_ends_in_its_own_token(families: dict[str, Any]) -> None:
    assert labelled(families["harmony"], WEATHER) == [
        " to=functions.rain<|channel|>commentary json<|message|>" + ARGUMENTS + "<|call|>",
        *expected("harmony", ["Yes, in Oslo.", "Oslo."]),
    ]


@pytest.mark.parametrize("family", ["chatml", "smollm2", "zephyr", "gemma3"])
def test_what_a_template_does_not_render_is_refused_by_name(
    family: str, families: dict[str, Any]
) -> None:
    """It would train the end of turn alone, or an answer to tools that nobody offered."""
    tokenizer = families[family]
    short = [user("Rain?"), answer("", tool_calls=[call("rain")]), user("So?"), answer("Yes.")]
    with pytest.raises(DataError, match="does not render tool_calls"):
        labelled(tokenizer, short)
    with pytest.raises(DataError, match="does not render tools"):
        labelled(tokenizer, [user("Rain?"), answer("Yes.")], tools=TOOLS)
    with pytest.raises(DataError, match="does not render name"):
        labelled(tokenizer, [{**user("Rain?"), "name": "Ada"}, answer("Yes.")])


def test_results_out_of_order_need_a_template_that_shows_which_is_which(
    families: dict[str, Any],
) -> None:
    calls = [{**call("rain", town=town), "id": town} for town in ("Oslo", "Bergen")]
    results = [
        {"role": "tool", "tool_call_id": town, "content": f"{town} wet"}
        for town in ("Bergen", "Oslo")
    ]
    chat = [user("Rain?"), answer("", tool_calls=calls), *results, answer("Both.")]
    with pytest.raises(DataError, match="does not render tool_call_id"):
        labelled(families["qwen2.5"], chat)
    chat[2:4] = chat[3:1:-1]
    assert labelled(families["qwen2.5"], chat)[-1] == "Both.<|im_end|>"


@pytest.mark.parametrize("family", ["mistral3"])
def test_a_system_turn_that_the_template_leaves_out_is_refused(
    family: str, families: dict[str, Any]
) -> None:
    """It is rendered with the last question when that comes last, which it never does here."""
    for text in ("Be terse.", "q"):
        with pytest.raises(DataError, match="does not render the system turn"):
            labelled(families[family], [system(text), user("q"), answer("a")])
