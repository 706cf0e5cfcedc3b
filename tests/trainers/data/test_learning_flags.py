"""Flags of other tools: excluded turns, reasoning and calls next to an answer, truncation."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.errors import DataError
from support.chat_rows import ASK, RED, read_chat


def row_with_fields(**fields: Any) -> dict[str, Any]:
    return {"messages": [ASK, {**RED, **fields}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"loss_weight": 0},
        {"compute_loss": False},
        {"is_trainable": "false"},
        {"do_train": 0},
        {"learn": False},
        {"supervise": False},
        {"ignore": True},
        {"mask_loss": True},
        {"masking": 1},
        {"skip": "yes"},
        {"train_mask": 0},
        {"train_mask": 1},
        {"label": False},
    ],
)
def test_unsupported_field_that_excludes_a_turn_is_rejected(fields: dict[str, Any]) -> None:
    """Each of these was ignored, and the turn was trained on."""
    (name,) = fields
    with pytest.raises(DataError, match=rf"turn 2: {name}: .* exclude this turn") as caught:
        read_chat(row_with_fields(**fields))
    assert "train: false" in caught.value.hint


@pytest.mark.parametrize(
    "fields",
    [
        {"loss_weight": 1},
        {"compute_loss": True},
        {"ignore": False},
        {"masking": 0},
        {"train_loss": 0.3},
        {"mask_token": "[M]"},
        {"label": "angry"},
        {"skipped_by": "nobody"},
        {"train": False, "loss_weight": 0},
    ],
)
def test_field_that_changes_nothing_is_ignored(fields: dict[str, Any]) -> None:
    chat = read_chat(row_with_fields(**fields))
    assert chat["unread_turns"] == tuple(name for name in fields if name != "train")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_weight": 0.1}, "loss_weight: 0.1 on a whole row"),
        ({"sample_weight": 0}, "sample_weight: 0 on a whole row"),
        ({"is_trainable": False}, "is_trainable: false on a whole row"),
        ({"ignored": True}, "ignored: true on a whole row"),
        ({"weights": [0, 1]}, "weights holds labels"),
        ({"completion_mask": [0, 1]}, "completion_mask holds labels"),
        ({"labels": [-100, 5]}, "labels holds labels"),
        ({"assistant_masks": [False, True]}, "assistant_masks holds labels"),
    ],
)
def test_row_level_weights_and_token_labels_are_rejected_under_any_name(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_chat({"messages": [ASK, RED], **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"sample_weight": 1.0},
        {"labels": ["safe"]},
        {"label": 0},
        {"training_step": 0},
        {"train_file": "a.jsonl"},
        {"weights": []},
    ],
)
def test_descriptive_row_fields_are_ignored(fields: dict[str, Any]) -> None:
    assert read_chat({"messages": [ASK, RED], **fields})["unread"] == tuple(fields)


# ---------------------------------------------------------------- fields next to an answer

CALL = {"id": "a1", "type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What colour?", "completion": "Red."},
        {"instruction": "What colour?", "output": "Red."},
    ],
)
def test_reasoning_field_of_a_row_is_moved_into_its_answer(row: dict[str, Any], name: str) -> None:
    """It was listed as an ignored field, and the answer was trained on without it."""
    chat = read_chat({**row, name: "Hm."})
    assert chat["messages"][-1] == {"role": "assistant", "content": "Red.", name: "Hm."}
    assert chat["unread"] == ()


def test_tool_calls_field_of_a_row_is_moved_into_its_answer() -> None:
    chat = read_chat({"prompt": "What colour?", "completion": "", "tool_calls": [CALL]})
    assert chat["messages"][-1]["tool_calls"] == [CALL]


def test_reasoning_on_off_switch_is_not_read_as_reasoning() -> None:
    row = {"prompt": "What colour?", "completion": "Red.", "reasoning": "off"}
    assert read_chat(row)["messages"][-1] == RED and read_chat(row)["unread"] == ("reasoning",)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, RED]},
        {"prompt": [ASK], "completion": [RED]},
    ],
)
@pytest.mark.parametrize("fields", [{"reasoning_content": "Hm."}, {"tool_calls": [CALL]}])
def test_reasoning_or_calls_next_to_a_list_of_turns_are_rejected(
    row: dict[str, Any], fields: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=r"is given next to") as caught:
        read_chat({**row, **fields})
    assert caught.value.hint == "move it into its turn"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channel": "analysis"}, 'channel "analysis" is not supported'),
        ({"recipient": "functions.look"}, 'recipient "functions.look" is not supported'),
        ({"reasoning_details": [{"text": "Hm."}]}, "reasoning_details is not supported"),
        ({"thinking_blocks": [{"thinking": "Hm."}]}, "thinking_blocks is not supported"),
        ({"cot": "Hm."}, "cot is not supported"),
    ],
)
def test_unsupported_reasoning_and_call_fields_are_rejected(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"turn 2: {message}"):
        read_chat(row_with_fields(**fields))


def test_reasoning_details_are_ignored_when_reasoning_is_present() -> None:
    chat = read_chat(
        row_with_fields(reasoning="Hm.", reasoning_details=[{"text": "Hm."}], channel="final")
    )
    assert chat["messages"][-1]["reasoning"] == "Hm."
    assert chat["unread_turns"] == ("reasoning_details",)


@pytest.mark.parametrize("fields", [{"instruction": ""}, {"instruction": "  "}])
def test_empty_instruction_adds_no_blank_lines(fields: dict[str, Any]) -> None:
    row = {"input": "What colour?", "output": "Red.", **fields}
    assert read_chat(row)["messages"][0] == ASK


# ---------------------------------------------------------------- truncated answers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("finish_reason", "length"),
        ("stop_reason", "max_tokens"),
        ("finish_reason", "MAX_TOKENS"),
    ],
)
def test_finish_reason_length_marks_an_answer_as_truncated(name: str, value: str) -> None:
    """Its end of turn was trained on although generation had not ended there."""
    assert read_chat({"messages": [ASK, RED], name: value})["truncated"]
    assert read_chat(row_with_fields(**{name: value}))["truncated"]
    assert read_chat(row_with_fields(**{name: value}))["messages"] == [ASK, RED]
    assert not read_chat(row_with_fields(**{name: "stop"}))["truncated"]


def test_only_the_last_answer_may_be_truncated() -> None:
    chat = [ASK, {**RED, "finish_reason": "length"}, ASK, RED]
    with pytest.raises(DataError, match="an answer before the last one was truncated") as caught:
        read_chat({"messages": chat})
    assert "train: false" in caught.value.hint
    chat[1]["train"] = False
    assert not read_chat({"messages": chat})["truncated"]
