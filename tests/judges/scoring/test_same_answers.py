"""Which texts are the same answer, and which signs are part of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.judges.scoring.exact_metrics import accuracy, exact_match, json_f1
from kdharness.judges.scoring.folding import normalise, unwrapped


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"$\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
        (r"\boxed{x^{2}}", "x^{2}"),
        (r"\boxed{\text{Paris}}", "Paris"),
        (r"\text{Paris}", "Paris"),
        (r"\mathrm{Paris}", "Paris"),
        (r"\textbf{Paris}", "Paris"),
        (r"\textbf{\textit{Paris}}.", "Paris"),
        (r"\fbox{42}", "42"),
        (r"\(\boxed{\sqrt{2}}\)", r"\sqrt{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"**\boxed{ 42 }**", "42"),
        ("<answer>42</answer>", "42"),
        ("<Answer>\nParis.\n</Answer>", "Paris"),
        ("<final_answer>7</final_answer>.", "7"),
    ],
)
def test_braces_and_tags_around_an_answer_do_not_count(answer: str, reference: str) -> None:
    assert exact_match(answer, [reference]) == 1
    assert exact_match(f"{answer}<|im_end|>", [reference]) == 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"\boxed{\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed{42", "42"),
        (r"\boxed{1}{2}", "1"),
        (r"\boxed{1} or \boxed{2}", "1"),
        (r"\boxed{\}", r"\ "),
        (r"\sqrt{2}", "2"),
        (r"\mathbb{R}", "R"),
        (r"\frac{1}{2}", "1"),
        ("<b>42</b>", "42"),
        ("<answer>1</answer><answer>2</answer>", "1"),
        ("<answer>42", "42"),
        ("{5}", "5"),
    ],
)
def test_other_braces_and_tags_count(answer: str, reference: str) -> None:
    assert exact_match(answer, [reference]) == 0


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("5!", "5"),
        ("n!", "n"),
        ("(n+1)!", "(n+1)"),
        ("x = 5!", "x = 5"),
        ("6'", '6"'),
        ("6'", "6"),
        ('6"', "6"),
        ("f'", "f"),
        ("f''", "f'"),
        ("dogs'", "dogs"),
        ("'90s", "90s"),
        ("*args", "**args"),
        ("*args", "args"),
        ("int*", "int"),
        ("char**", "char*"),
        ("A*", "A"),
        ("!x", "x"),
        ("!!x", "!x"),
        ("__init__", "init"),
        ("__FILE__", "FILE"),
        ("(f)'", "f"),
        (".5", "5"),
    ],
)
def test_signs_that_make_another_answer_count(one: str, two: str) -> None:
    assert exact_match(one, [two]) == exact_match(two, [one]) == 0


@pytest.mark.parametrize(("one", "two"), [("5!", "5"), ('6\\"', "6"), ("*a", "a"), ("f'", "f")])
def test_they_count_in_json_as_well(one: str, two: str) -> None:
    assert json_f1(f'{{"k": "{one}"}}', [f'{{"k": "{two}"}}']) == 0
    assert json_f1(f'{{"{one}": 1}}', [f'{{"{two}": 1}}']) == 0


@pytest.mark.parametrize(
    "answer",
    [
        *("Paris!", "Paris!!!", "Paris !", "Paris?", "Paris…", "¡Paris!", "...Paris", ": Paris"),
        *("**Paris**", "*Paris*", "***Paris***", "**Paris.**", "**Paris**!", "* Paris", "`Paris`"),
        *('"Paris"', "'Paris'", '"Paris."', '"Paris".', "“Paris”", "„Paris“", "‘Paris’", "«Paris»"),
        *('"Paris', 'Paris"', '**"Paris"**', "__Paris__", "_Paris_", "(Paris)!"),
    ],
)
def test_emphasis_and_the_end_of_a_sentence_do_not_count(answer: str) -> None:
    assert exact_match(answer, ["Paris"]) == 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("5.", "5"),
        ('"5".', "5"),
        ("**5**", "5"),
        ("It is 5!", "It is 5"),
        ("100%!", "100%"),
        ("$350!", "$350"),
        ("¡5!", "5"),
        ("**5!**", "5!"),
        ("`*args`", "*args"),
        ("'f''", "f'"),
        ("6”", '6"'),
        ("__42__", "42"),
        ("是！", "是"),
        ("да!", "да"),
        ("❤", "❤️"),
        ("❤️", "❤"),
        ("☎︎", "☎"),
    ],
)
def test_what_is_no_part_of_a_short_answer_does_not_count(answer: str, reference: str) -> None:
    assert exact_match(answer, [reference]) == 1


def test_an_emoji_may_be_coloured_or_plain() -> None:
    assert accuracy("It is ❤️.", ["❤"], ["❤", "☎"]) == 1
    assert accuracy("It is ❤", ["❤️"], ["❤️", "☎️"]) == 1


@given(st.text(alphabet="a5B .!*'\"`_()$\\{}“”,?", min_size=1))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert isinstance(unwrapped(text), str)


@pytest.mark.parametrize(
    "answer",
    [
        '```python\nprint({"b": 2})\n```\n{"a": 1}',
        '```python print({"b": 2})```\n{"a": 1}',
        '{"a": 1}\n```python\nprint({"b": 2})\n```',
        '```\nprint({"b": 2})\n```\n{"a": 1}',
        '```json\n{"a": 1}\n```\n```js\nf({"b": 2})\n```',
        '```text\n{"a": 1}\n```\nnot {"b": 2}',
        # As it was.
        '```json\n{"a": 1}\n```\n{"b": 2}',
        '```\n{"a": 1}\n```\n{"b": 2}',
        '``` JSON\n{"a": 1}\n```\n{"b": 2}',
        '```json\n// all of it\n{"a": 1}\n```\n{"b": 2}',
        '```json\n{"b": 2}\n```\n```json\n{"a": 1}\n```',
        '```python\nx = {"a": 1}\n```',
        '```json\n{"a": 1}',
        '```json\n[1, 2]\n```\n{"a": 1}',
    ],
)
def test_program_code_is_not_the_answer(answer: str) -> None:
    assert json_f1(answer, ['{"a": 1}']) == 1


def test_a_fence_inside_a_text_of_the_object_is_part_of_it() -> None:
    answer = 'Use {"code": "```py x```"}, please'
    assert json_f1(answer, ['{"code": "```py x```"}']) == 1
