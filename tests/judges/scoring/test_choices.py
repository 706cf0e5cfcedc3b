"""Which choice an answer names: letters that are also words, signs, numbers, other scripts."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.judges.scoring.choices import named_choices
from kdharness.judges.scoring.exact_metrics import accuracy
from kdharness.judges.scoring.folding import fold_width, normalise, reading_of
from support.timing import assert_not_quadratic

LETTERS = ["A", "B", "C", "D"]
ROMAN = ["I", "II", "III"]
SYMBOLS = ["+", "-", "*", "/"]
YES_NO = ["Yes", "No"]


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        # From public reports: the article was read as choice A.
        ("B is a good choice.", "B", 1),
        ("It is a mammal.", "A", 0),
        ("The answer is B because a car moves.", "B", 1),
        ("I would pick B — a safe choice.", "B", 1),
        ("A good choice is B.", "B", 1),
        ("A good choice is B.", "A", 0),
        ("It is a mammal, so B.", "B", 1),
        ("Vitamin A deficiency", "A", 0),
        ("A is right.", "A", 1),
        ("I would say A, because it fits.", "A", 1),
        ("option A shows it", "A", 1),
        ("A", "A", 1),
        ("a", "A", 1),
        ("A.", "A", 1),
        ("(a) a mammal", "A", 1),
        # Ways to write a letter.
        ("(B)", "B", 1),
        ("B)", "B", 1),
        ("**B**", "B", 1),
        ("Answer: B", "B", 1),
        ("b. 4", "B", 1),
        ("The answer is B", "B", 1),
        ("option b", "B", 1),
        ("b) Paris", "B", 1),
        ("`B`", "B", 1),
        ("Answer: **D**", "D", 1),
        ("The correct answer is d.", "D", 1),
        (r"\boxed{D}", "D", 1),
        ("Antwort:\n\nAntwort: C", "C", 1),
        ("[B]: it is warm", "B", 1),
        ("Of A-D, B", "B", 1),
        # Letters inside other words.
        ("T-shirt and B-12", "B", 0),
        ("C++", "C", 0),
        ("D'accord", "D", 0),
        ("A/B", "B", 0),
        # Naming several counts as naming none, and so does only rejecting one.
        ("A or B", "B", 0),
        ("A, B, C, D", "B", 0),
        ("The answer is B, not A", "B", 1),
        ("The answer is not A but B.", "B", 1),
        ("neither A nor B", "A", 0),
        ("not A", "A", 0),
        ("", "A", 0),
        ("none of them", "A", 0),
        # Next to other scripts.
        ("答案是C。", "C", 1),
        ("정답은 B입니다", "B", 1),
        ("正解はBです", "B", 1),
        ("选B", "B", 1),
    ],
)
def test_accuracy_of_letter_choices(answer: str, reference: str, value: int) -> None:
    assert accuracy(answer, [reference], LETTERS) == value


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("I think it is II.", "II", 1),
        ("I think it is II.", "I", 0),
        ("I", "I", 1),
        ("I believe the answer is I.", "I", 1),
        ("III.", "III", 1),
        ("I'm sure: III", "III", 1),
        ("I’ve chosen II", "II", 1),
        ("I or II", "II", 0),
    ],
)
def test_pronoun_i_is_not_read_as_a_roman_numeral(answer: str, reference: str, value: int) -> None:
    assert accuracy(answer, [reference], ROMAN) == value


def test_pronoun_i_is_not_read_as_choice_i() -> None:
    ten = list(string.ascii_uppercase[:10])
    assert accuracy("The answer is C because I computed the integral.", ["C"], ten) == 1


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        # From public reports: a mentioned distractor counted as the answer or voided it.
        ("The answer is B. Note that A is a common distractor.", "B"),
        ("I considered (A), but it is incorrect. Final answer: D.", "D"),
        ("Since \\boxed{\\langle H\\rangle \\ll \\Delta E} holds for A.\n\n**Answer: D**", "D"),
        ("Answer: A\nChecking this again, I was wrong.\nAnswer: B", "B"),
        ("A or D? Answer seems to be A.\n\nAnswer: D", "D"),
        ("A is out, and so is C. <answer>B</answer>", "B"),
        ("A: no. B: yes.\n\n\\boxed{B}", "B"),
        ("A or B?\nANSWER: $B$", "B"),
        ("A or B?\n**ANSWER:** **B**", "B"),
        ("2 > 1, so not A or C\n#### B", "B"),
        ("Answer: It is not B, the answer is D", "D"),
        ("Answer: D, not B", "D"),
        ("A) 10\nB) 12\nC) 14\nD) 16\n\nTherefore, the answer is **(B) 12**.", "B"),
        ("A, B or C?\n\n**D**", "D"),
        ("A, B or C?\n\nD.", "D"),
        ("## Final Answer\n\n**B) 12**\n\nA) is 10.", "B"),
        ("B\n\nA is wrong because it is small; C is wrong because it is large.", "B"),
        ("B. Note that A and C are distractors", "B"),
        ("(B) because A would be too large", "B"),
        ("C. A, B and D are wrong.", "C"),
        ("Option A is incorrect. Option B is correct.", "B"),
        ("I'd go with C rather than A.", "C"),
        ("Answer: B\n\nMany students choose A.", "B"),
        ("The right answer is B. A common wrong answer is A.", "B"),
        ("Correct answer: B. Incorrect answers: A, C, D", "B"),
        ("Is the answer A? No. The answer is C.", "C"),
        ('{"answer": "B", "note": "A is a distractor"}', "B"),
        ("The answer is B. The answer is not A.", "B"),
        ("Answer → B, A is small", "B"),
        ("A错，B错，故选C。", "C"),
        ("答案：B。A是错误的。", "B"),
        ("정답은 B입니다. A는 틀렸습니다.", "B"),
        ("Die richtige Antwort ist B, nicht A.", "B"),
        ("La respuesta correcta es B. A es falsa.", "B"),
        # No final answer, or several.
        ("A\nB\nC\nD", ""),
        ("A. Paris\nB. Rome\nC. Oslo\nD. Bern", ""),
        ("A. B. C. D.", ""),
        ("A. Paris B. Rome C. Oslo D. Bern", ""),
        ("The answer is A or B", ""),
        ("Answer: A/B, A, B", ""),
        ("Answer: A, B, C, D", ""),
        ("\\boxed{A, B}", ""),
        ("\\boxed{A} or \\boxed{B}", ""),
        ("The answer is either A or C", ""),
        ("The answer could be A. The answer could be B.", ""),
        ("(A)(B)(C)(D)", ""),
        ("Choose A, B, C or D", ""),
        ("The answer is one of A, B, C, D.", ""),
        ("Is the answer A? Is the answer B?", ""),
        ("If B is correct, then A is not.", ""),
    ],
)
def test_final_answer_wins_over_other_mentioned_letters(answer: str, given: str) -> None:
    for letter in LETTERS:
        assert accuracy(answer, [letter], LETTERS) == (letter == given)


@pytest.mark.parametrize(
    ("choices", "answer", "given"),
    [
        (["yes", "no"], "No, wait. A yes is possible. Final answer: Yes", "yes"),
        (YES_NO, "Yes. No", ""),
        (["positive", "negative"], "It has negative parts.\nSentiment: positive", "positive"),
        (["Rome", "Paris"], "Paris is in France, so the answer is Rome.", "Rome"),
        (["Rome", "Paris"], "Rome, Paris", ""),
        (["1", "2", "3"], "1. Add.\n2. Halve.\n\nAnswer: 3", "3"),
        (["1", "2", "3"], "2+1 = 3\n#### 3", "3"),
        (["0", "1"], "The label is 1 (0 is negative).", "1"),
        (["(A)", "(B)", "(C)"], "(A) is wrong. So the answer is (C).", "(C)"),
    ],
)
def test_final_answer_wins_for_word_and_number_choices(
    choices: list[str], answer: str, given: str
) -> None:
    for choice in choices:
        assert accuracy(answer, [choice], choices) == (choice == given)


@given(
    st.permutations(LETTERS),
    st.sampled_from([", ", " or ", " and ", "/ ", "\n", ". ", ") "]),
    st.sampled_from(["", "Answer: ", "The answer is ", "I choose "]),
)
def test_listing_every_choice_scores_at_most_one(
    letters: list[str], joint: str, start: str
) -> None:
    """However the choices are listed, at most one of them is the answer."""
    answer = start + joint.join(letters)
    assert sum(accuracy(answer, [letter], LETTERS) for letter in LETTERS) <= 1


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("It is not known", "No", 0),
        ("Yes, there is no doubt.", "Yes", 1),
        ("Yes. No.", "Yes", 0),
        ("There is no evidence.", "No", 0),
        ("No, it isn't.", "No", 1),
        ("no it is not", "No", 1),
        ("The answer is no.", "No", 1),
        ("No. 5 says so", "No", 0),
        ("Nobody", "No", 0),
        ("NO", "No", 1),
        ("Yes!", "Yes", 1),
    ],
)
def test_yes_no_choices(answer: str, reference: str, value: int) -> None:
    assert accuracy(answer, [reference], YES_NO) == value


def test_negated_choices_do_not_count() -> None:
    both = ["true", "false"]
    assert accuracy("That is not true.", ["true"], both) == 0
    assert accuracy("It isn't true.", ["true"], both) == 0
    assert accuracy("It is true.", ["true"], both) == 1
    assert accuracy("这是不正确的", ["正确"], ["正确", "错误"]) == 0


@pytest.mark.parametrize(
    ("choices", "answer", "reference", "value"),
    [
        (SYMBOLS, "It is +", "+", 1),
        (SYMBOLS, "It is +.", "+", 1),
        (SYMBOLS, "**+**", "+", 1),
        (SYMBOLS, "*", "*", 1),
        (SYMBOLS, "**", "*", 0),
        (SYMBOLS, "+ or -", "+", 0),
        (SYMBOLS, "a well-known sign: -", "-", 1),
        (SYMBOLS, "2 * 3", "*", 1),
        ([".", "!", "?"], "It is !.", "!", 1),
        ([".", "!", "?"], "It is.", ".", 0),
        (["m", "M"], "M", "m", 0),
        (["m", "M"], "m", "m", 1),
        (["m", "M"], "It is M.", "m", 0),
        (["m", "M"], "It is m.", "m", 1),
        (["m", "M"], "(m)", "m", 1),
        (["mW", "MW"], "5 MW", "mW", 0),
        (["$350", "$35"], "It costs $350.", "$350", 1),
        (["C", "C++"], "It is C++.", "C++", 1),
        (["x²", "x2"], "x2", "x²", 0),
        (["...", "…"], "…", "...", 0),
    ],
)
def test_symbol_and_case_sensitive_choices(
    choices: list[str], answer: str, reference: str, value: int
) -> None:
    assert accuracy(answer, [reference], choices) == value


@pytest.mark.parametrize(
    ("choices", "answer", "reference", "value"),
    [
        (["1", "2", "10"], "It is 10.", "1", 0),
        (["1", "2", "10"], "It is 10.", "10", 1),
        (["3", "4"], "3.5", "3", 0),
        (["3", "4"], "It is 3.", "3", 1),
        (["3", "4"], "-3", "3", 0),
        (["3", "3.5"], "about 3.5 m", "3.5", 1),
        (["3", "4"], "3,000", "3", 0),
        (["3", "4"], "At 3:30", "3", 0),
        (["3", "4"], "答案是3个", "3", 1),
        (["1", "2"], "1/2", "1", 0),
    ],
)
def test_number_choices(choices: list[str], answer: str, reference: str, value: int) -> None:
    assert accuracy(answer, [reference], choices) == value


@pytest.mark.parametrize(
    ("choices", "answer", "reference", "value"),
    [
        (["是", "否"], "答案是否", "否", 1),
        (["是", "否"], "是的。", "是", 1),
        (["是", "否"], "否。", "否", 1),
        (["是", "否"], "这是不对的", "是", 0),
        (["正确", "错误"], "这句话是正确的。", "正确", 1),
        (["猫", "狗"], "这是一只猫。", "猫", 1),
        (["北京", "上海"], "首都是北京。", "北京", 1),
        (["北京", "上海"], "北京和上海", "北京", 0),
        (["서울", "부산"], "답은 서울입니다.", "서울", 1),
        (["はい", "いいえ"], "いいえ、違います。", "いいえ", 1),
        (["ใช่", "ไม่ใช่"], "ไม่ใช่ครับ", "ไม่ใช่", 1),
        (["क", "ख"], "कि", "क", 0),
        (["да", "нет"], "Ответ: нет.", "нет", 1),
    ],
)
def test_choices_in_other_scripts(
    choices: list[str], answer: str, reference: str, value: int
) -> None:
    assert accuracy(answer, [reference], choices) == value


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("(B) Rome", "B"),
        ("B", "B"),
        ("b", "B"),
        ("Answer: B", "B"),
        ("Rome", "B"),
        ("It is Rome.", "B"),
        ("**B. Rome**", "B"),
        ("B, Rome", "B"),
        ("A or B", ""),
        ("Rome or Oslo", ""),
        ("A, Rome", ""),
        ("It is a city.", ""),
        ("I think it is Rome", "B"),
    ],
)
@pytest.mark.parametrize("form", ["({}) {}", "{}. {}", "{}) {}", "{}: {}"])
def test_labelled_choices_match_by_label_and_text(form: str, answer: str, named: str) -> None:
    """From public reports: "(C)" was expected and the answer was C."""
    choices = [form.format(*pair) for pair in (("A", "Oslo"), ("B", "Rome"), ("C", "Bern"))]
    for letter, choice in zip("ABC", choices, strict=True):
        for reference in (choice, letter, choice[-4:]):
            assert accuracy(answer, [reference], choices) == (named == letter)


@pytest.mark.parametrize("answer", ["C", "(C)", "c", "(C).", "The answer is (C).", "(C) Bern"])
def test_bare_label_choices(answer: str) -> None:
    assert accuracy(answer, ["(C)"], ["(A)", "(B)", "(C)"]) == 1
    assert accuracy(answer, ["(A)"], ["(A)", "(B)", "(C)"]) == 0


def test_common_word_choices_count_only_in_answer_position() -> None:
    articles = ["a", "an", "the"]
    assert accuracy("The right article is 'an'.", ["an"], articles) == 1
    assert accuracy("the answer is an", ["an"], articles) == 1
    assert accuracy("the word stands in an open field", ["an"], articles) == 0
    small = ["a", "b", "c"]
    assert accuracy("it is c because it fits", ["c"], small) == 1
    assert accuracy("it is a mammal", ["a"], small) == 0


@given(
    st.lists(st.text(min_size=1, max_size=6).filter(str.strip), min_size=2, max_size=5, unique=True)
)
def test_every_choice_names_only_itself(choices: list[str]) -> None:
    read = reading_of(choices)
    if read is None:
        return
    for choice in choices:
        assert named_choices(choice, choices) == {read(choice)}
        assert accuracy(choice, [choice], choices) == 1
        others = [other for other in choices if other != choice]
        assert accuracy(choice, others, choices) == 0


@given(st.text(min_size=1).filter(fold_width))
def test_normalise_is_nonempty_and_idempotent(text: str) -> None:
    once = normalise(text)
    assert once
    assert normalise(once) == once


@pytest.mark.slow
def test_time_grows_no_faster_than_the_answer() -> None:
    assert_not_quadratic(lambda times: accuracy("A b " * times, ["A"], LETTERS), 8_000)


def test_blank_choice_is_never_mentioned() -> None:
    assert named_choices(".", ["", "other"]) == set()
    assert accuracy("other.", ["other"], ["\r", "other"]) == 1


@pytest.mark.parametrize(
    ("answer", "choices", "given"),
    [
        ("Yes, no doubt.", "Yes No", "Yes"),
        ("Yes, no fee is charged", "Yes No", "Yes"),
        ("**Yes**, no doubt.", "Yes No", "Yes"),
        ("No, it is not.", "Yes No", "No"),
        ("Is it fair? Yes, no.", "Yes No", None),
        ("The answer is B. Wait, no, it's C.", "A B C", "C"),
        ("The answer is B. Actually, C.", "A B C", "C"),
        ("Answer: B\nCorrection: C", "A B C", "C"),
        ("The answer is B. No, A is wrong.", "A B C", "B"),
        ("The answer is B. There is no A.", "A B C", "B"),
        ("The answer is B. You might think the answer is A, but it is wrong.", "A B C", "B"),
        ("The answer is B. Some people say the answer is C.", "A B C", "B"),
        ("It is 2. The answer is B. If x were 3, the answer would be A.", "A B C", "B"),
        ("A is close. If I had to choose, the answer would be B.", "A B C", "B"),
        ("Correct answer: B. Student answer: A.", "A B C", "B"),
        ("Student answer: A. Correct answer: B.", "A B C", "B"),
    ],
)
def test_corrections_count_and_suppositions_do_not(
    answer: str, choices: str, given: str | None
) -> None:
    options = choices.split()
    found = [option for option in options if accuracy(answer, [option], options)]
    assert found == ([given] if given else [])
