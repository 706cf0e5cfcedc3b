"""Rows from many programs: system texts, history, tools, and every shape they come in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kdharness.harness.chat.template import encode_chat
from kdharness.harness.errors import DataError
from support.chat_rows import ASK, CALL, RED, read_chat, read_messages, refusal_of

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
def test_a_rows_system_text_is_its_first_turn(shape: dict[str, Any], name: str) -> None:
    head = {"role": "system", "content": "Be terse."}
    assert read_messages({**shape, name: "Be terse."}) == [head, ASK, RED]
    assert read_messages({**shape, name: ""}) == read_messages({**shape, name: None}) == [ASK, RED]
    assert "is not text" in refusal_of({**shape, name: {"a": 1}})


def test_two_system_texts_are_refused_unless_they_are_one() -> None:
    own = {"messages": [{"role": "system", "content": "Be terse."}, ASK, RED]}
    assert read_messages({**own, "system": " Be terse."}) == own["messages"]
    assert "system conflicts with a system turn" in refusal_of({**own, "system": "Be kind."})
    assert "contradict" in refusal_of({"messages": [ASK, RED], "system": "a", "system_prompt": "b"})


def test_alpaca_history_comes_first() -> None:
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
    assert "pairs" in refusal_of({**row, "history": ["What colour?"]})
    assert "pairs" in refusal_of({**row, "history": [["a", "b", "c"]]})


def test_the_context_of_a_question_is_not_lost() -> None:
    row = {"instruction": "Sum up.", "context": "A long text.", "response": "Text."}
    assert read_messages(row)[0]["content"] == "Sum up.\n\nA long text."
    assert "input and context contradict" in refusal_of({**row, "input": "Another text."})
    assert "context" in refusal_of({"prompt": "a", "completion": "b", "context": "c"})
    assert "contradict each other" in refusal_of(
        {"prompt": "a", "completion": "b", "response": "c"}
    )


def test_template_variables_come_with_the_row() -> None:
    row = {"messages": [ASK, RED], "chat_template_kwargs": {"enable_thinking": False}}
    assert read_chat(row)["variables"] == {"enable_thinking": False}
    assert read_chat({**SHAPES[0], "enable_thinking": "false"})["variables"] == {
        "enable_thinking": False
    }
    assert "contradict" in refusal_of({**row, "enable_thinking": True})
    assert "not an object" in refusal_of({**row, "chat_template_kwargs": [1]})
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
def test_calls_are_read_in_every_spelling(turn: dict[str, Any]) -> None:
    for result in (
        {"role": "tool", "content": "wet"},
        {"from": "observation", "value": "wet"},
        {"role": "function", "name": "rain", "content": "wet"},
    ):
        found = read_messages({"messages": [ASK, turn, result, RED]})
        assert [one["role"] for one in found] == ["user", "assistant", "tool", "assistant"]
        assert found[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "function", "function": {"name": "rain"}}],
        [{"name": "rain"}],
        '[{"name": "rain"}]',
        ['{"name": "rain"}'],
    ],
)
def test_tools_are_read_in_every_spelling(tools: Any) -> None:
    wanted = [{"type": "function", "function": {"name": "rain"}}]
    assert read_chat({"messages": [ASK, RED], "tools": tools})["tools"] == wanted
    assert read_chat({"messages": [ASK, RED], "functions": tools})["tools"] == wanted


@pytest.mark.parametrize(
    ("row", "says"),
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
def test_tools_that_cannot_be_read_are_refused(row: dict[str, Any], says: str) -> None:
    assert says in refusal_of(row)


# ---------------------------------------------------------------- shapes of rows


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
def test_rows_of_every_shape_become_the_same_chat(row: Any) -> None:
    assert read_messages(row) == [ASK, RED]


@pytest.mark.parametrize("form", ["messages", "sharegpt", "prompt", "alpaca"])
def test_a_named_format_says_what_is_missing(form: str) -> None:
    text = refusal_of({"text": "x", "id": 3}, form)
    assert f"not in the {form} format: no " in text and "(fields: id, text)" in text


@pytest.mark.parametrize(
    ("row", "says"),
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
def test_what_is_no_row_is_told_in_our_own_words(row: Any, says: str) -> None:
    assert says in refusal_of(row)


def test_thoughts_beside_the_content_are_kept() -> None:
    for name in ("reasoning_content", "reasoning", "thinking"):
        assert read_messages({"messages": [ASK, {**RED, name: "Hm."}]})[1][name] == "Hm."
    both = {**RED, "reasoning": "a", "thinking": "b"}
    assert "more than one field" in refusal_of({"messages": [ASK, both]})
