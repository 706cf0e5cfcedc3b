"""Thoughts: what is labelled of them, template by template."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.chat.template import encode_chat
from kdharness.harness.errors import DataError
from support.chat_templates import FAMILIES
from support.labels import (
    ANSWERS,
    AROUND,
    TEXTS,
    answer,
    labelled,
    runs,
    user,
)

THOUGHT = "<think>\nTwice two.\n</think>\n\nEven."


@pytest.mark.parametrize(
    ("family", "found"),
    [
        ("chatml", [THOUGHT + "<|im_end|>"] * 2),
        # The template drops earlier thoughts, and keeps the last answer's.
        ("qwen3", ["Even.<|im_end|>", THOUGHT + "<|im_end|>"]),
        # The prompt holds the opened thought.
        ("qwen-opened", ["Even.<|im_end|>", "Twice two.\n</think>\n\nEven.<|im_end|>"]),
        # The template drops every thought; what is rendered is learnt.
        ("r1", ["\n\nEven.<｜end▁of▁sentence｜>"] * 2),
    ],
)
def test_thoughts_are_learnt_as_they_are_rendered(
    family: str, found: list[str], families: dict[str, Any]
) -> None:
    chat = [user("Is four even?"), answer(THOUGHT), user("Once more: Even."), answer(THOUGHT)]
    encoded = encode_chat(families[family], chat)
    assert runs(families[family], encoded) == found
    assert encoded.unshown == sum("Twice" not in text for text in found)


def test_an_answer_whose_thought_was_opened_by_the_prompt(families: dict[str, Any]) -> None:
    """Recorded completions hold the closing mark alone."""
    chat = [user("2 + 2"), answer("Two and two.\n</think>\n\n4")]
    assert labelled(families["qwen-opened"], chat) == ["Two and two.\n</think>\n\n4<|im_end|>"]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_beside_the_content(name: str, families: dict[str, Any]) -> None:
    chat = [user("Is four even?"), answer("Even.", **{name: "Twice two."})]
    assert labelled(families["qwen3"], chat) == [THOUGHT + "<|im_end|>"]
    assert labelled(families["harmony"], chat) == [
        "<|channel|>analysis<|message|>Twice two.<|end|><|start|>assistant"
        "<|channel|>final<|message|>Even.<|return|>"
    ]
    for family in ("chatml", "r1", "llama3"):
        with pytest.raises(DataError, match=f"does not render {name}"):
            labelled(families[family], chat)


def test_a_prompt_that_answers_without_thinking(families: dict[str, Any]) -> None:
    chat = [user("Is four even?"), answer("Even.")]
    found = labelled(families["qwen3"], chat, variables={"enable_thinking": False})
    assert found == ["Even.<|im_end|>"]
    with pytest.raises(DataError, match="does not render enable_thinking"):
        labelled(families["chatml"], chat, variables={"enable_thinking": False})


def test_an_answer_that_is_a_thought_alone_is_empty_where_that_is_dropped(
    families: dict[str, Any],
) -> None:
    encoded = encode_chat(families["r1"], [user("a"), answer("<think>\nb\n</think>")])
    assert (encoded.labelled, encoded.empty) == (0, 1)


@settings(max_examples=200, deadline=None)
@given(family=st.sampled_from(sorted(FAMILIES)), echo=st.booleans(), data=st.data())
def test_thoughts_bring_nothing_of_a_user_into_the_labels(
    family: str, echo: bool, data: st.DataObject, families: dict[str, Any]
) -> None:
    """Whatever a template does with thoughts, an answer's run is its own turn to its end."""
    answers = data.draw(st.lists(ANSWERS, min_size=1, max_size=3))
    chat = []
    for text in answers:
        thought = data.draw(st.sampled_from(["", "<think>\n{}\n</think>\n\n", "{}</think>"]))
        said = thought.format(data.draw(ANSWERS)) + text
        chat += [user(f"{said} {data.draw(TEXTS)}" if echo else data.draw(TEXTS)), answer(said)]
    found = labelled(families[family], chat)
    last = len(answers) - 1
    for index, (run, text) in enumerate(zip(found, answers, strict=True)):
        assert run.endswith(text + AROUND[family][-1 if index == last else 0][1])
