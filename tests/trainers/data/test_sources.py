"""Rows of other tools: system prompts, history, tools, and all supported formats."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kdharness.harness.chat.template import encode_chat
from kdharness.harness.errors import DataError
from support.chat_rows import ASK, CALL, RED, error_message_of, read_chat, read_messages

# ---------------------------------------------------------------- system, history, variables

HUMAN, GPT = {"from": "human", "value": "What colour?"}, {"from": "gpt", "value": "Red."}
SHAPES: list[dict[str, Any]] = [
    {"messages": [ASK, RED]},
    {"conversations": [HUMAN, GPT]},
    {"prompt": "What colour?", "completion": "Red."},
    {"prompt": [ASK], "response": "Red."},
    {"instruction": "What colour?", "output": "Red."},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
def test_system_field_becomes_the_first_turn(shape: dict[str, Any], name: str) -> None:
    system_turn = {"role": "system", "content": "Be terse."}
    assert read_messages({**shape, name: "Be terse."}) == [system_turn, ASK, RED]
    assert read_messages({**shape, name: ""}) == read_messages({**shape, name: None}) == [ASK, RED]
    assert "is not text" in error_message_of({**shape, name: {"a": 1}})


def test_conflicting_system_prompts_are_rejected() -> None:
    row = {"messages": [{"role": "system", "content": "Be terse."}, ASK, RED]}
    assert read_messages({**row, "system": " Be terse."}) == row["messages"]
    assert "system conflicts with a system turn" in error_message_of({**row, "system": "Be kind."})
    assert "contradict" in error_message_of(
        {"messages": [ASK, RED], "system": "a", "system_prompt": "b"}
    )


def test_alpaca_history_precedes_the_instruction() -> None:
    row = {
        "instruction": "And then?",
        "input": "",
        "output": "Blue.",
        "history": [["What colour?", "Red."]],
    }
    assert [turn["content"] for turn in read_messages(row)] == [
        "What colour?",
        "Red.",
        "And then?",
        "Blue.",
    ]
    assert read_messages({**row, "history": []})[0]["content"] == "And then?"
    row["system"] = "Be terse."
    assert [turn["role"] for turn in read_messages(row)][:2] == ["system", "user"]
    assert "pairs" in error_message_of({**row, "history": ["What colour?"]})
    assert "pairs" in error_message_of({**row, "history": [["a", "b", "c"]]})


def test_context_is_appended_to_the_instruction() -> None:
    row = {"instruction": "Sum up.", "context": "A long text.", "response": "Text."}
    assert read_messages(row)[0]["content"] == "Sum up.\n\nA long text."
    assert "input and context contradict" in error_message_of({**row, "input": "Another text."})
    assert "context" in error_message_of({"prompt": "a", "completion": "b", "context": "c"})
    assert "contradict each other" in error_message_of(
        {"prompt": "a", "completion": "b", "response": "c"}
    )


def test_template_variables_are_read_from_the_row() -> None:
    row = {"messages": [ASK, RED], "chat_template_kwargs": {"enable_thinking": False}}
    assert read_chat(row)["variables"] == {"enable_thinking": False}
    assert read_chat({**SHAPES[0], "enable_thinking": "false"})["variables"] == {
        "enable_thinking": False
    }
    assert "contradict" in error_message_of({**row, "enable_thinking": True})
    assert "not an object" in error_message_of({**row, "chat_template_kwargs": [1]})
    tokenizer_variables = read_chat({**SHAPES[0], "chat_template_kwargs": {"tokenize": True}})
    with pytest.raises(DataError, match="'tokenize'"):
        encode_chat(None, [ASK, RED], variables=tokenizer_variables["variables"])


# ---------------------------------------------------------------- tools


@pytest.mark.parametrize(
    "turn",
    [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"type": "function", "function": {"name": "rain", "arguments": '{"town": "Oslo"}'}}
            ],
        },
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"name": "rain", "arguments": {"town": "Oslo"}}],
        },
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "rain", "arguments": '{"town": "Oslo"}'},
        },
        {"from": "function_call", "value": '{"name": "rain", "arguments": {"town": "Oslo"}}'},
        {"role": "tool_call", "content": '{"name": "rain", "arguments": {"town": "Oslo"}}'},
    ],
)
def test_tool_calls_are_read_in_every_format(turn: dict[str, Any]) -> None:
    for result in (
        {"role": "tool", "content": "wet"},
        {"from": "observation", "value": "wet"},
        {"role": "function", "name": "rain", "content": "wet"},
    ):
        turns = read_messages({"messages": [ASK, turn, result, RED]})
        assert [message["role"] for message in turns] == ["user", "assistant", "tool", "assistant"]
        assert turns[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "function", "function": {"name": "rain"}}],
        [{"name": "rain"}],
        '[{"name": "rain"}]',
        ['{"name": "rain"}'],
    ],
)
def test_tool_schemas_are_read_in_every_format(tools: Any) -> None:
    expected = [{"type": "function", "function": {"name": "rain"}}]
    assert read_chat({"messages": [ASK, RED], "tools": tools})["tools"] == expected
    assert read_chat({"messages": [ASK, RED], "functions": tools})["tools"] == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {
                "messages": [
                    ASK,
                    {**RED, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
                ]
            },
            "the arguments of f is not JSON",
        ),
        (
            {
                "messages": [
                    ASK,
                    {**RED, "tool_calls": [{"function": {"name": "f", "arguments": "3"}}]},
                ]
            },
            "not a JSON object",
        ),
        ({"messages": [ASK, {**RED, "tool_calls": [{"id": "c"}]}]}, "call without a name"),
        ({"messages": [{**ASK, "tool_calls": [CALL]}, RED]}, "a user turn cannot call tools"),
        ({"messages": [ASK, {"from": "function_call", "value": "rain(Oslo)"}]}, "not JSON"),
        ({"messages": [ASK, RED], "tools": "rain"}, "tools is not JSON"),
        ({"messages": [ASK, RED], "tools": [{"description": "x"}]}, "schema without a name"),
        (
            {"messages": [ASK, RED], "tools": [CALL], "functions": [CALL]},
            "both tools and functions",
        ),
        ({"messages": [{**ASK, "tools": [CALL]}, RED]}, "tools belong to the row"),
    ],
)
def test_invalid_tools_and_calls_are_rejected(row: dict[str, Any], message: str) -> None:
    assert message in error_message_of(row)


# ---------------------------------------------------------------- row formats


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [ASK, RED]},
        {"messages": [HUMAN, GPT]},
        {"conversation": [ASK, RED]},
        {"conversations": [{**HUMAN, "from": "Human"}, {**GPT, "from": " GPT "}]},
        {
            "messages": [
                {"role": "USER", "content": "What colour?"},
                {"role": "ASSISTANT", "content": "Red."},
            ]
        },
        {"messages": [ASK, {"from": "gpt", "value": "Red."}]},
        [HUMAN, GPT],
        {"messages": json.dumps([ASK, RED])},
        {"messages": {"role": ["user", "assistant"], "content": ["What colour?", "Red."]}},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What "},
                        {"type": "text", "text": "colour?"},
                    ],
                },
                RED,
            ]
        },
        {"prompt": [ASK], "completion": [RED]},
        {"prompt": "What colour?", "completion": [RED]},
    ],
)
def test_rows_of_every_format_yield_the_same_chat(row: Any) -> None:
    assert read_messages(row) == [ASK, RED]


@pytest.mark.parametrize("form", ["messages", "sharegpt", "prompt", "alpaca"])
def test_error_for_a_named_format_lists_missing_fields(form: str) -> None:
    text = error_message_of({"text": "x", "id": 3}, form)
    assert f"not in the {form} format: no " in text and "(fields: id, text)" in text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": None}, "completion is null"),
        ({"prompt": None, "completion": "a"}, "prompt is null"),
        ({"prompt": "a", "completion": 3}, "the completion is not text: 3"),
        ({"instruction": "a", "output": None}, "output is null"),
        (
            {"messages": [ASK, {"role": "assistant"}]},
            "turn 2: the assistant turn has no content",
        ),
        ({"messages": [ASK, {"content": "b"}]}, "turn 2: no role (fields: content)"),
        ({"messages": [ASK, "b"]}, "turn 2: not an object"),
        ({"messages": [{"role": 3, "content": "b"}]}, "turn 1: the role is not text: 3"),
        ({"messages": [ASK, {"role": "narrator", "content": "b"}]}, "unknown role 'narrator'"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
                    RED,
                ]
            },
            'a part of type "image_url"',
        ),
        ({"messages": [{**ASK, "value": "Other"}, RED]}, "content and value contradict"),
        ({"messages": []}, "this row has no turns"),
        (
            {"messages": {"role": ["user"], "content": []}},
            "the fields of the turns differ in length",
        ),
        ({"messages": {"role": "user"}}, "the turns are not a list"),
        ({"messages": 3}, "unknown row format"),
        (
            {"text": "<s>[INST] Hi [/INST] Hello</s>"},
            "unknown row format (fields: text)",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference pairs"),
        (["a", "b"], "unknown row format"),
        (3, "unknown row format"),
    ],
)
def test_invalid_rows_are_rejected_with_a_readable_message(row: Any, message: str) -> None:
    assert message in error_message_of(row)


def test_reasoning_fields_of_a_turn_are_kept() -> None:
    for name in ("reasoning_content", "reasoning", "thinking"):
        assert read_messages({"messages": [ASK, {**RED, name: "Hm."}]})[1][name] == "Hm."
    both = {**RED, "reasoning": "a", "thinking": "b"}
    assert "more than one field" in error_message_of({"messages": [ASK, both]})


# ---------------------------------------------------------------- several texts in one field


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "q", "completion": ["alt one", "alt two"]}, "the completion is a list of 2"),
        ({"prompt": ["a", "b"], "completion": ["x", "y"]}, "the prompt is a list of 2 texts"),
        ({"instruction": ["a", "b"], "output": ["x", "y"]}, "instruction is a list of 2 texts"),
        ({"instruction": "q", "input": ["a", "b"], "output": "x"}, "input is a list of 2 texts"),
        ({"prompt": "q", "completion": "x", "system": ["a", "b"]}, "system is a list of 2 texts"),
        ({"messages": [ASK, {**RED, "content": ["a", "b"]}]}, "content is a list of 2 texts"),
        ({"messages": [ASK, {**RED, "content": ["a", {"text": "b"}]}]}, "is a list of 2 texts"),
    ],
)
def test_a_list_of_texts_is_not_one_text(row: Any, what: str) -> None:
    """Several answers, or the columns of a table, were glued together."""
    assert what in error_message_of(row)


def test_parts_of_a_text_are_joined() -> None:
    parts = [{"type": "text", "text": "Re"}, {"type": "text", "text": "d."}]
    for content in (parts, ["Red."], [{"text": "Red."}]):
        assert read_messages({"messages": [ASK, {**RED, "content": content}]}) == [ASK, RED]
        assert read_messages({"prompt": "What colour?", "completion": content}) == [ASK, RED]


# ---------------------------------------------------------------- turns of a prompt

OLD = {"role": "assistant", "content": "Old."}


@pytest.mark.parametrize("answer", ["Red.", [RED]])
def test_answers_in_a_prompt_are_context(answer: Any) -> None:
    row = {"prompt": [ASK, OLD, ASK], "completion": answer}
    assert read_messages(row) == [ASK, {**OLD, "train": False}, ASK, RED]
    row["prompt"] = [ASK, {**OLD, "train": True}, ASK]
    assert read_messages(row) == [ASK, {**OLD, "train": True}, ASK, RED]


@pytest.mark.parametrize("answer", ["d.", [{**RED, "content": "d."}]])
def test_an_answer_that_the_prompt_begins_is_one_turn(answer: Any) -> None:
    begun = {"role": "assistant", "content": "Re"}
    row = {"prompt": [ASK, begun], "completion": answer}
    assert read_messages(row) == [ASK, {**RED, "prefill": "Re"}]
    assert read_messages({**row, "prompt": [ASK, {**begun, "train": True}]}) == [ASK, RED]
    assert (
        read_messages({**row, "prompt": [ASK, {**begun, "content": ""}], "completion": "Red."})[1]
        == RED
    )


def test_a_completion_that_begins_with_another_turn_begins_nothing() -> None:
    row = {"prompt": [ASK, OLD], "completion": [ASK, RED]}
    assert read_messages(row) == [ASK, {**OLD, "train": False}, ASK, RED]


def test_beginnings_that_no_text_can_continue_are_refused() -> None:
    calling = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    text = error_message_of({"prompt": [ASK, calling], "completion": "Red."})
    assert "calls a tool" in text
    row = {"prompt": [ASK, OLD], "completion": "Red.", "reasoning_content": "Hm."}
    assert "reasoning, which comes before it" in error_message_of(row)
    thinking = {"role": "assistant", "content": "", "reasoning_content": "Hm."}
    row = {"prompt": [ASK, thinking], "completion": "Red."}
    assert "the prompt ends with reasoning" in error_message_of(row)
    whole = {"role": "assistant", "content": "Red.", "reasoning_content": "Hm."}
    assert read_messages({**row, "prompt": [ASK, {**thinking, "train": True}]}) == [ASK, whole]
