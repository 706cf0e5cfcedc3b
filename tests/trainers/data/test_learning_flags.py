"""What rows of other programs say about being learnt, beside an answer, and about its end."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.errors import DataError
from support.chat_rows import ASK, RED, read_chat


def turn(**more: Any) -> dict[str, Any]:
    return {"messages": [ASK, {**RED, **more}]}


@pytest.mark.parametrize(
    "more",
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
def test_a_field_of_another_name_that_leaves_a_turn_out_is_refused(more: dict[str, Any]) -> None:
    """Each was passed over, and the turn was learnt."""
    (name,) = more
    with pytest.raises(DataError, match=rf"turn 2: {name}: .* exclude this turn") as error:
        read_chat(turn(**more))
    assert "train: false" in error.value.hint


@pytest.mark.parametrize(
    "more",
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
def test_a_field_that_says_nothing_else_than_the_rest_is_left(more: dict[str, Any]) -> None:
    chat = read_chat(turn(**more))
    assert chat["unread_turns"] == tuple(name for name in more if name != "train")


@pytest.mark.parametrize(
    ("more", "says"),
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
def test_a_row_that_counts_for_less_is_refused_by_any_name(more: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_chat({"messages": [ASK, RED], **more})


@pytest.mark.parametrize(
    "more",
    [
        {"sample_weight": 1.0},
        {"labels": ["safe"]},
        {"label": 0},
        {"training_step": 0},
        {"train_file": "a.jsonl"},
        {"weights": []},
    ],
)
def test_a_row_may_be_described(more: dict[str, Any]) -> None:
    assert read_chat({"messages": [ASK, RED], **more})["unread"] == tuple(more)


# ---------------------------------------------------------------- beside an answer

CALL = {"id": "a1", "type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What colour?", "completion": "Red."},
        {"instruction": "What colour?", "output": "Red."},
    ],
)
def test_a_thought_beside_an_answer_is_its_thought(row: dict[str, Any], name: str) -> None:
    """It was listed as not read, and the answer learnt without it."""
    chat = read_chat({**row, name: "Hm."})
    assert chat["messages"][-1] == {"role": "assistant", "content": "Red.", name: "Hm."}
    assert chat["unread"] == ()


def test_calls_beside_an_answer_are_its_calls() -> None:
    chat = read_chat({"prompt": "What colour?", "completion": "", "tool_calls": [CALL]})
    assert chat["messages"][-1]["tool_calls"] == [CALL]


def test_a_word_on_whether_it_reasons_is_no_thought() -> None:
    row = {"prompt": "What colour?", "completion": "Red.", "reasoning": "off"}
    assert read_chat(row)["messages"][-1] == RED and read_chat(row)["unread"] == ("reasoning",)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, RED]},
        {"prompt": [ASK], "completion": [RED]},
    ],
)
@pytest.mark.parametrize("more", [{"reasoning_content": "Hm."}, {"tool_calls": [CALL]}])
def test_what_stands_beside_turns_belongs_into_one(
    row: dict[str, Any], more: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=r"is given next to") as error:
        read_chat({**row, **more})
    assert error.value.hint == "move it into its turn"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"channel": "analysis"}, 'channel "analysis" is not supported'),
        ({"recipient": "functions.look"}, 'recipient "functions.look" is not supported'),
        ({"reasoning_details": [{"text": "Hm."}]}, "reasoning_details is not supported"),
        ({"thinking_blocks": [{"thinking": "Hm."}]}, "thinking_blocks is not supported"),
        ({"cot": "Hm."}, "cot is not supported"),
    ],
)
def test_a_thought_or_call_in_disguise_is_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=f"turn 2: {says}"):
        read_chat(turn(**more))


def test_details_of_a_thought_that_is_read_are_left() -> None:
    chat = read_chat(turn(reasoning="Hm.", reasoning_details=[{"text": "Hm."}], channel="final"))
    assert chat["messages"][-1]["reasoning"] == "Hm."
    assert chat["unread_turns"] == ("reasoning_details",)


@pytest.mark.parametrize("more", [{"instruction": ""}, {"instruction": "  "}])
def test_an_empty_instruction_leaves_no_blank_lines(more: dict[str, Any]) -> None:
    row = {"input": "What colour?", "output": "Red.", **more}
    assert read_chat(row)["messages"][0] == ASK


# ---------------------------------------------------------------- cut answers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("finish_reason", "length"),
        ("stop_reason", "max_tokens"),
        ("finish_reason", "MAX_TOKENS"),
    ],
)
def test_an_answer_that_ended_at_a_limit_is_a_cut_one(name: str, value: str) -> None:
    """Its end of turn was learnt, where the model had not ended."""
    assert read_chat({"messages": [ASK, RED], name: value})["truncated"]
    assert read_chat(turn(**{name: value}))["truncated"]
    assert read_chat(turn(**{name: value}))["messages"] == [ASK, RED]
    assert not read_chat(turn(**{name: "stop"}))["truncated"]


def test_only_the_last_answer_may_be_cut() -> None:
    chat = [ASK, {**RED, "finish_reason": "length"}, ASK, RED]
    with pytest.raises(DataError, match="an answer before the last one was truncated") as error:
        read_chat({"messages": chat})
    assert "train: false" in error.value.hint
    chat[1]["train"] = False
    assert not read_chat({"messages": chat})["truncated"]
