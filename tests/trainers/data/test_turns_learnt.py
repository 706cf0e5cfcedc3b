"""Fields that select the turns to train on, and fields that are rejected as unsupported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.chat_rows import ASK, RED, error_message_of, read_chat, read_messages

FORMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "messages": lambda flag: {"messages": [ASK, {**RED, **flag}, ASK, RED]},
    "sharegpt": lambda flag: {
        "conversations": [
            {"from": "human", "value": "a"},
            {"from": "gpt", "value": "b", **flag},
            {"from": "human", "value": "c"},
            {"from": "gpt", "value": "d"},
        ]
    },
    "prompt": lambda flag: {"prompt": [ASK, {**RED, **flag}, ASK], "completion": [RED]},
}
NAMES = ("train", "trainable", "train_on_turn", "training", "loss", "loss_mask", "weight")
OFF = (False, 0, 0.0, "false", "False", "no", "0", "off")
ON = (True, 1, 1.0, "true", "YES", "1", "on", None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_turn_flags_include_or_exclude_a_turn(form: str, name: str) -> None:
    for value in OFF:
        turns = read_messages(FORMS[form]({name: value}))
        assert [turn.get("train", True) for turn in turns if turn["role"] == "assistant"] == [
            False,
            True,
        ], value
    for value in ON:
        turns = read_messages(FORMS[form]({name: value}))
        # Unset, an answer in a prompt is context.
        context = [form == "prompt" and value is None, False]
        learnt = [turn.get("train", True) for turn in turns if turn["role"] == "assistant"]
        assert learnt == [not left_out for left_out in context], value
    for value in (0.5, 2, -1, "maybe", [], {}, "none"):
        assert f"turn 2: {name} is" in error_message_of(FORMS[form]({name: value})), value


def test_masked_flag_is_inverted() -> None:
    assert read_messages({"messages": [ASK, {**RED, "masked": True}]})[1]["train"] is False
    assert read_messages({"messages": [ASK, {**RED, "masked": 0}]})[1]["train"] is True


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({**RED, "weight": 0, "train": True}, "train and weight contradict each other"),
        ({**RED, "train_detail": [{"begin_offset": 0, "train": False}]}, "train_detail"),
        ({**RED, "mask": True}, "mask"),
        ({**RED, "prefix": True}, "prefix"),
        ({**RED, "rejected": "Blue."}, "rejected"),
        ({**RED, "thoughts": "Hm."}, "reasoning_content"),
        (
            {**RED, "content": [{"type": "text", "text": "Red.", "weight": 0}]},
            "weight on a content part",
        ),
    ],
)
def test_unsupported_turn_fields_are_rejected_by_name(turn: dict[str, Any], message: str) -> None:
    assert message in error_message_of({"messages": [ASK, turn]})


def test_only_assistant_turns_can_be_trained_on() -> None:
    assert "weight is set on a user turn" in error_message_of(
        {"messages": [{**ASK, "weight": 1}, RED]}
    )
    assert read_messages({"messages": [{**ASK, "weight": 0, "train": False}, RED]}) == [ASK, RED]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"weight": 0}, "weight: 0 on a whole row"),
        ({"weight": 0.3}, "weight: 0.3 on a whole row"),
        ({"train": False}, "train: false on a whole row"),
        ({"loss_mask": [0, 1, 1]}, "labels of tokens"),
        ({"label": False}, "label"),
        ({"chosen": "x"}, "preference"),
        ({"rejected": "x"}, "preference"),
        ({"images": ["a.png"]}, "images"),
        ({"mask": "User"}, "mask"),
        ({"history": [["a", "b"]]}, "history is given next to"),
        ({"chat_template": "x"}, "data.chat_template"),
        ({"truncated": "perhaps"}, "truncated"),
    ],
)
def test_unsupported_row_fields_are_rejected_by_name(row: dict[str, Any], message: str) -> None:
    assert message in error_message_of({"messages": [ASK, RED], **row})


def test_fields_without_effect_are_listed() -> None:
    row = {
        "id": 7,
        "source": "web",
        "score": 0.2,
        "loss": 2.31,
        "train": "split-a",
        "weight": 1,
        "images": [],
        "chosen": None,
        "label": "colour",
        "metadata": {"a": 1},
        "text": "x",
        "prompt": "What colour?",
        "messages": [{**ASK, "timestamp": 4}, {**RED, "model": "m"}],
    }
    chat = read_chat(row)
    assert chat["messages"] == [ASK, RED]
    assert chat["unread"] == (
        "id",
        "label",
        "loss",
        "metadata",
        "prompt",
        "score",
        "source",
        "text",
        "train",
    )
    assert chat["unread_turns"] == ("model", "timestamp")


def test_truncated_flag_accepts_every_boolean_spelling() -> None:
    for value in ("false", 0, None, False):
        assert read_chat({"messages": [ASK, RED], "truncated": value})["truncated"] is False
    assert read_chat({"messages": [ASK, RED], "truncated": "true"})["truncated"] is True
