"""Labels of reasoning text, template by template."""

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

REASONED_ANSWER = "<think>\nTwice two.\n</think>\n\nEven."


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("chatml", [REASONED_ANSWER + "<|im_end|>"] * 2),
        # The template drops earlier reasoning and keeps the last answer's.
        ("qwen3", ["Even.<|im_end|>", REASONED_ANSWER + "<|im_end|>"]),
        # The generation prompt opens the reasoning block.
        ("qwen-opened", ["Even.<|im_end|>", "Twice two.\n</think>\n\nEven.<|im_end|>"]),
        # The template drops all reasoning; the rendered rest is labelled.
        ("r1", ["\n\nEven.<｜end▁of▁sentence｜>"] * 2),
    ],
)
def test_reasoning_is_labelled_as_rendered(
    family: str, expected: list[str], families: dict[str, Any]
) -> None:
    chat = [
        user("Is four even?"),
        answer(REASONED_ANSWER),
        user("Once more: Even."),
        answer(REASONED_ANSWER),
    ]
    encoded = encode_chat(families[family], chat)
    assert runs(families[family], encoded) == expected
    assert encoded.unshown == sum("Twice" not in text for text in expected)


def test_answer_whose_reasoning_was_opened_by_the_prompt(families: dict[str, Any]) -> None:
    """Recorded completions contain only the closing tag."""
    chat = [user("2 + 2"), answer("Two and two.\n</think>\n\n4")]
    assert labelled(families["qwen-opened"], chat) == ["Two and two.\n</think>\n\n4<|im_end|>"]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_in_a_separate_field(name: str, families: dict[str, Any]) -> None:
    chat = [user("Is four even?"), answer("Even.", **{name: "Twice two."})]
    assert labelled(families["qwen3"], chat) == [REASONED_ANSWER + "<|im_end|>"]
    assert labelled(families["harmony"], chat) == [
        "<|channel|>analysis<|message|>Twice two.<|end|><|start|>assistant"
        "<|channel|>final<|message|>Even.<|return|>"
    ]
    for family in ("chatml", "r1", "llama3"):
        with pytest.raises(DataError, match=f"does not render {name}"):
            labelled(families[family], chat)


def test_template_variable_that_disables_reasoning(families: dict[str, Any]) -> None:
    chat = [user("Is four even?"), answer("Even.")]
    labelled_text = labelled(families["qwen3"], chat, variables={"enable_thinking": False})
    assert labelled_text == ["Even.<|im_end|>"]
    with pytest.raises(DataError, match="does not render enable_thinking"):
        labelled(families["chatml"], chat, variables={"enable_thinking": False})


def test_reasoning_only_answer_is_empty_if_the_template_drops_reasoning(
    families: dict[str, Any],
) -> None:
    encoded = encode_chat(families["r1"], [user("a"), answer("<think>\nb\n</think>")])
    assert (encoded.labelled, encoded.empty) == (0, 1)


@pytest.mark.slow
@settings(max_examples=200)
@given(family=st.sampled_from(sorted(FAMILIES)), echo=st.booleans(), data=st.data())
def test_reasoning_never_adds_user_text_to_the_labels(
    family: str, echo: bool, data: st.DataObject, families: dict[str, Any]
) -> None:
    """However a template renders reasoning, an answer's labels end with its own turn."""
    answers = data.draw(st.lists(ANSWERS, min_size=1, max_size=3))
    chat = []
    for text in answers:
        reasoning = data.draw(st.sampled_from(["", "<think>\n{}\n</think>\n\n", "{}</think>"]))
        reply = reasoning.format(data.draw(ANSWERS)) + text
        chat += [user(f"{reply} {data.draw(TEXTS)}" if echo else data.draw(TEXTS)), answer(reply)]
    labelled_text = labelled(families[family], chat)
    last = len(answers) - 1
    for index, (run, text) in enumerate(zip(labelled_text, answers, strict=True)):
        assert run.endswith(text + AROUND[family][-1 if index == last else 0][1])
