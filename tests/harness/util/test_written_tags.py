"""Answers that are about reasoning tags: only reasoning at the beginning is taken away."""

from __future__ import annotations

import pytest

from kdharness.harness.util.thoughts import spoken, without_thoughts
from kdharness.judges.scoring.verdicts import read_rating

STRIP = 'text = re.sub(r"<think>.*?</think>", "", text, flags=re.S)'


@pytest.mark.parametrize(
    "text",
    [
        f"Use this:\n\n```python\nimport re\n{STRIP}\n```\n\nIt strips them.",
        "The `<think>...</think>` block holds reasoning.",
        "Models emit <think>...</think> before the answer; strip it.",
        "In DeepSeek-R1 the <think> tag opens the reasoning, and </think> closes it. More.",
        "<thoughts>\n <thought>buy milk</thought>\n</thoughts>\nDone.",
        "```html\n<think>\n```\n42",
        "<reasoning> is not an HTML tag; use <p>.",
        "The answer leaves a stray <think> tag open. Rating: [[3]]",
        # In other words.
        f"{STRIP}\nprint(text)",
        "text.split('</think>')[-1] is what you need.",
        "The stop token is </think>.",
        "Generation ends with </think> here.",
        "Close it: </think>, then answer.",
        "The format is:\n<think>\nI add.\n</think>\n4\n\nThat is all.",
        "Models write <think>\nreasoning\n</think>\nbefore the answer.",
        "Qwen puts its thoughts between <think> and </think>, in that order.",
        "<think> and </think> are the tags of R1.",
        "<think> tags mark reasoning.",
        "<think>...</think> blocks hold the reasoning.",
        "Magistral writes [THINK]...[/THINK] first.",
        "> <think>\n> hm\n> </think>\n> 4\nis a reply of R1.",
        "~~~\n<think>a</think>\n~~~\nabove",
        "````md\n```\n<think>a</think>\n```\n````\nabove",
        "- `<think>`: opens\n- `</think>`: closes\nDone.",
        'The tokens "<think>" and "</think>" are special.',
        "The channel `<|channel|>analysis` is hidden.",
        "<reflection> is a tag of some models.",
    ],
)
def test_text_about_tags_stays_as_it_is(text: str) -> None:
    assert without_thoughts(text) == (text, False)
    assert spoken(f" {text}\n") == f" {text}\n"


@pytest.mark.parametrize(
    ("text", "outside"),
    [
        ("some thoughts</think>\nanswer", "answer"),
        ("</think>\n\n42", "42"),
        ("<think>a</think>\n<think>b</think>\nc", "c"),
        ("<thinking>a</thinking>\n\n<reflection>b</reflection>c", "c"),
        ("\n\n<think>\nx\n</think>\n\n42", "42"),
        ("<think>hm</think> yes", "yes"),
        ("<think> is it 4? yes</think>\n42", "42"),
        ("Rating: [[7]] <think>was that fair?</think>\n", "Rating: [[7]]"),
        # Reasoning about tags, and answers about them after reasoning.
        ("<think>The user asks about `</think>`. OK.</think>\nIt closes.", "It closes."),
        ("The user asks about the <think> tag.\nOK.\n</think>\nIt opens.", "It opens."),
        ("<think>Hm.</think>\nThe <think> tag opens.", "The <think> tag opens."),
        ("<think>a</think>Use:\n```\n<think>x</think>\n```", "Use:\n```\n<think>x</think>\n```"),
        # Code that the reasoning does not close.
        ("<think>use `x and</think>answer `y`", "answer `y`"),
        ("<think>\n```python\nx\n</think>\nDo:\n```python\ny\n```", "Do:\n```python\ny\n```"),
        ("So\n```py\nx\n</think>\nA\n```py\ny\n```", "A\n```py\ny\n```"),
    ],
)
def test_reasoning_is_still_taken_away(text: str, outside: str) -> None:
    assert without_thoughts(text) == (outside, False)


@pytest.mark.parametrize(
    "text",
    [
        "<think>",
        "<think>I wonder",
        "<think>\nIs it `</think",
        "<reasoning>It is",
        "[THINK]It is",
        # The end of a prompt that opens the reasoning.
        "x<|im_end|>\n<|im_start|>assistant\n<think>\nI wonder [[2]]\n",
        "<｜Assistant｜><think>\n",
        "USER: x ASSISTANT: <think>",
        "<start_of_turn>model\n<think>a",
    ],
)
def test_reasoning_without_an_end_is_unfinished(text: str) -> None:
    assert without_thoughts(text)[1]


def test_reasoning_that_a_prompt_opens_and_closes_is_finished() -> None:
    assert not without_thoughts("U:x\nA:<think>\n\n</think>\n\nRating: [[")[1]


def test_a_judge_may_name_a_tag() -> None:
    assert read_rating("The answer leaves a stray <think> tag open. Rating: [[3]]").value == 3
    assert read_rating("Rating: [[3]]\n\nIt forgot to close <think> properly.").value == 3


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Sure!\n<think>\nLet me see.\n</think>\n42", "Sure!\n\n42"),
        ("Sure!\n<think>Let me see.</think>\n\n42", "Sure!\n\n\n42"),
        (
            "One.\n<think>\na\n</think>\nTwo.\n<thinking>\nb\n</thinking>\nThree.",
            "One.\n\nTwo.\n\nThree.",
        ),
        ("It is said <think>so</think> often.\nYes.", "It is said <think>so</think> often.\nYes."),
        ("Write\n<think>...</think>\nfirst.", "Write\n<think>...</think>\nfirst."),
    ],
)
def test_a_thought_on_lines_of_its_own_is_no_part_of_the_answer(text: str, answer: str) -> None:
    assert without_thoughts(text) == (answer, False)
