"""What a model writes after the end of its answer is not part of it."""

from __future__ import annotations

import pytest

from kdharness.judges.scoring.choices import answered_choice
from kdharness.judges.scoring.exact_metrics import exact_match, json_f1, rouge_l
from kdharness.judges.scoring.own_turn import before_end_token

LETTERS = ["A", "B", "C", "D"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("The answer is B.\n\nUser: next question?\nAnswer: C", "b"),
        ("B\nUser: And Norway?\nAssistant: C", "b"),
        ("B\n\n### Human: And Norway?\n### Assistant: C", "b"),
        ("B\n\nQuestion: capital of Norway?\nA. Rome\nB. Paris\nC. Oslo\nAnswer: C", "b"),
        ("It is B.\n\n**Question:** Which is larger?\nAnswer: C", "b"),
        ("Question: A or B?\nAnswer: B\n\nQuestion: C or D?\nAnswer: C", "b"),
        ("B<|eot_id|>\nAnswer: C", "b"),
        ("B</s><s>A", "b"),
        ("Answer: B<|endoftext|>Answer: C", "b"),
        ("B<|im_end|>\n<|im_start|>user\nA or C?<|im_end|>", "b"),
        ("B<|end|>Answer: D", "b"),
        # A question or a conversation that is part of the answer.
        ("Question: A or C?\nAnswer: C", "c"),
        ("User: which?\nAssistant: C", "c"),
        ("Let's see. A seems right.\nQuestion: is it?\nNo. Answer: C", "c"),
        ("Which of them?\nQuestion: is it heavier?\nNo, so C.", "c"),
        ("The conversation prefers A:\nUser: A is bad\nAnswer: C", "c"),
        ("The token `</s>` ends it, not A. Answer: C", "c"),
        ("<|im_end|>C", "c"),
        ("A question: which user: A or C? Answer: C", "c"),
    ],
)
def test_the_choice_is_that_of_the_first_turn(answer: str, letter: str) -> None:
    assert answered_choice(answer, LETTERS) == letter


@pytest.mark.parametrize("token", ["<|eot_id|>", "<|im_end|>", "</s>", "<|endoftext|>", "<|end|>"])
def test_text_behind_an_end_token_does_not_count(token: str) -> None:
    assert exact_match(f"Paris{token}\nRome", ["Paris"]) == 1
    assert exact_match(f"Paris{token}\nRome", ["Rome"]) == 0
    assert json_f1(f'{{"a": 1}}{token}{{"a": 2}}', ['{"a": 1}']) == 1
    assert rouge_l(f"a b{token} c d", ["a b"]) == 1


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("42\n\nQuestion: 6*8?\nAnswer: 48", "42", 1),
        ("Paris.\nUser: and Spain?", "Paris", 1),
        (r"\boxed{42}<|im_end|>43", "42", 1),
        ("Hello\nUser: x", "Hello\nUser: x", 1),
        ("x</s>y", "x</s>y", 1),
        ("`</s>`", "</s>", 1),
        ("Question: 6*7?\nAnswer: 42", "42", 0),
        ("User: Paris", "Paris", 0),
    ],
)
def test_exact_match_ends_with_the_turn(answer: str, reference: str, value: float) -> None:
    assert exact_match(answer, [reference]) == value


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ('{"a": 1}\n\nUser: next\nAssistant: {"a": 2}', '{"a": 1}'),
        ('As [1] says:\nQuestion: x\n{"a": 1}', '{"a": 1}'),
        ('[1, 2] was read.\nQuestion: x\n{"a": 1}', '{"a": 1}'),
        ('{"a": "</s>"}', '{"a": "</s>"}'),
        ('Here: {"a": 1, "b": "<|end|>"}', '{"a": 1, "b": "<|end|>"}'),
    ],
)
def test_json_ends_with_the_turn(answer: str, reference: str) -> None:
    assert json_f1(answer, [reference]) == 1


@pytest.mark.parametrize("text", ["", "Paris", "<|im_end|>", "`</s>` is it", "a <s>b</s> c"])
def test_nothing_else_ends_a_turn(text: str) -> None:
    assert before_end_token(text) == text
