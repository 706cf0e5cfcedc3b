"""Tool calls are labelled and tool results are not, template by template."""

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
        # Its tools are rendered before the last user turn and move as the chat grows.
        (
            "mistral3",
            '[TOOL_CALLS] [{"name": "rain", "arguments": '
            + ARGUMENTS
            + ', "id": "abcdefghi"}]</s>',
        ),
    ],
)
def test_tool_calls_are_labelled_and_results_are_not(
    family: str, first: str, families: dict[str, Any]
) -> None:
    labelled_text = labelled(families[family], WEATHER, tools=TOOLS)
    assert labelled_text == [first, *expected(family, ["Yes, in Oslo.", "Oslo."])]
    assert '"rain"' in render(families[family], WEATHER, prompt=False)


def test_arguments_are_passed_as_a_string_if_the_template_concatenates_them(
    families: dict[str, Any],
) -> None:
    labelled_text = labelled(families["v3"], WEATHER)
    end = "<｜end▁of▁sentence｜>"
    assert labelled_text[0] == f"call rain\n```json\n{ARGUMENTS}\n```{end}"
    assert labelled_text[1:] == [f"Yes, in Oslo.{end}", f"Oslo.{end}"]


def test_harmony_tool_call_ends_with_its_call_token(families: dict[str, Any]) -> None:
    assert labelled(families["harmony"], WEATHER) == [
        " to=functions.rain<|channel|>commentary json<|message|>" + ARGUMENTS + "<|call|>",
        *expected("harmony", ["Yes, in Oslo.", "Oslo."]),
    ]


@pytest.mark.parametrize("family", ["chatml", "smollm2", "zephyr", "gemma3"])
def test_fields_that_a_template_does_not_render_are_rejected(
    family: str, families: dict[str, Any]
) -> None:
    """Training would see only the end of turn, or an answer without the tools it relies on."""
    tokenizer = families[family]
    short = [user("Rain?"), answer("", tool_calls=[call("rain")]), user("So?"), answer("Yes.")]
    with pytest.raises(DataError, match="does not render tool_calls"):
        labelled(tokenizer, short)
    with pytest.raises(DataError, match="does not render tools"):
        labelled(tokenizer, [user("Rain?"), answer("Yes.")], tools=TOOLS)
    with pytest.raises(DataError, match="does not render name"):
        labelled(tokenizer, [{**user("Rain?"), "name": "Ada"}, answer("Yes.")])


def test_results_out_of_order_require_a_template_that_renders_tool_call_id(
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
def test_system_turn_that_the_template_drops_is_rejected(
    family: str, families: dict[str, Any]
) -> None:
    """It is rendered only if the user turn is last, which it never is in training."""
    for text in ("Be terse.", "q"):
        with pytest.raises(DataError, match="does not render the system turn"):
            labelled(families[family], [system(text), user("q"), answer("a")])
