"""Choices that an answer gives first, or in a word, and then sets against the others."""

from __future__ import annotations

import pytest

from kdharness.judges.scoring.choices import answered_choice

LETTERS = ["A", "B", "C", "D"]
CITIES = ["Rome", "Paris", "Oslo", "Bern"]
LABELLED = [f"{letter}. {city}" for letter, city in zip(LETTERS, CITIES, strict=True)]
LIST = "\n".join(LABELLED)


def assert_letter(answer: str, letter: str | None) -> None:
    """Check the choice of an answer, whether the choices are letters or have texts too."""
    given = answered_choice(answer, LETTERS), answered_choice(answer, LABELLED)
    wanted = [choice.casefold() for choice in LABELLED if choice[0] == letter]
    assert given == (letter.casefold() if letter else None, wanted[0] if wanted else None)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        # The choice on the first line, then each other one.
        (
            "B\n\nExplanation:\nA. Rome is in Italy.\nC. Oslo is in Norway.\n"
            "D. Bern is in Switzerland.",
            "B",
        ),
        ("**B**\n\nA) wrong\nC) wrong\nD) wrong", "B"),
        ("B. Paris\n\nA. Rome: Italy\nC. Oslo: Norway\nD. Bern: Switzerland", "B"),
        ("(B)\n\n(A) is wrong. (C) is wrong. (D) is wrong.", "B"),
        ("(B)\nReason: (A) false. (C) false.", "B"),
        ("Answer B\n\nA. Rome\nC. Oslo", "B"),
        ("Option B.\n\nA. Rome", "B"),
        ("A\n\nB. wrong\nC. wrong\nD. wrong", "A"),
        ("A. Rome\n\nB. Paris is in France.\nC. Oslo is in Norway.", "A"),
        ("D\n\nA: no\nB: no\nC: no", "D"),
        ("### B\n\n- A: wrong\n- C: wrong", "B"),
        ("Choice B\n\nA: no\nC: no", "B"),
        ("B\n\nA – Rome\nC – Oslo", "B"),
        ("**B. Paris**\n\n**Explanation:** A. Rome is in Italy. C. Oslo is in Norway.", "B"),
        ("B.\n\nA. Rome - no\nB. Paris - yes\nC. Oslo - no\nD. Bern - no", "B"),
        (f"C\n\n{LIST}", "C"),
        # Named as the answer, with others after it.
        ("Final: B (A was tempting)", "B"),
        ("Ans: B\nA. Rome", "B"),
        ("Correct: B\n\nA. Rome is wrong", "B"),
        ("Choice: B. Not: A, C, D", "B"),
        ("So it's B. (A is too small.)", "B"),
        ("Thus B. A is too small.", "B"),
        ("My choice: C. A and B are too long.", "C"),
        ("guess: D; A, B, C no", "D"),
        ("Ans = B, since A is off", "B"),
        ("A: too small. It's 5, so B.", "B"),
        ("It can't be A or D. C is too small. So B", "B"),
        ("B (A is wrong).", "B"),
        ("本题选B，A、C、D均错误", "B"),
        ("B（因为A不对）", "B"),
        # The line above has nothing to do with it.
        ("The capital is Paris.\nB", "B"),
        ("A is wrong\nAnswer: B", "B"),
    ],
)
def test_an_answer_may_be_explained_by_the_other_choices(answer: str, letter: str) -> None:
    assert_letter(answer, letter)


@pytest.mark.parametrize(
    "answer",
    [
        LIST,
        LIST.replace("\n", "\n\n"),
        LIST.replace(". ", ") "),
        "A\nB\nC\nD",
        "D\nC\nB\nA",
        "D\n\nC\n\nB\n\nA",
        "B\nC",
        "B. Paris\nC. Oslo",
        "B. Paris\n\nC. Oslo",
        "(A)\nThis is wrong.\n(B)\nMaybe.",
        "Option A: too small.\nOption B: the right size.",
        "Option A\nToo small.\nOption B\nThe right size.",
        "A. Rome - no\nB. Paris - yes\nC. Oslo - no\nD. Bern - no",
        "A – Rome\nB – Paris",
        "A (Rome)\nB (Paris)\nC (Oslo)",
        "B (A is wrong) or C (D is wrong)",
        "Correct: A, B\nIncorrect: C",
        "Final: A or B",
        "So A or B.",
        "So A is wrong, and so is B.",
        "The answer is A, also B.",
        "Choice A: no. Choice B: yes.",
        "选A，B都对",
        "means: A. humans: B",
    ],
)
def test_a_list_of_choices_declares_none(answer: str) -> None:
    assert_letter(answer, None)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B is incorrect.", "B"),
        ("All except A", "A"),
        ("There is no A.", "A"),
        ("Incorrect: A\nCorrect: B", "B"),
        (f"Options:\n{LIST}\nAnswer: C", "C"),
        ("A. Rome - no\nB. Paris - yes\n\nB", "B"),
        ("B) Paris - because A, C and D are elsewhere", "B"),
        ("Answer: A\nWait.\nB", "B"),
        ("D\n\nA is wrong. B is wrong. C is wrong.", "D"),
    ],
)
def test_other_answers_are_read_as_before(answer: str, letter: str) -> None:
    assert_letter(answer, letter)


@pytest.mark.parametrize(
    "answer",
    [
        "The capital is Paris, not Rome or Oslo.",
        "Paris rather than Rome.",
        "Paris instead of Rome",
        "Paris, the capital of France, unlike Rome.",
        "Unlike Rome, Paris is the capital.",
        "Paris, as opposed to Oslo or Bern",
        "Paris (not Rome, Oslo or Bern)",
        "It's not Rome, Oslo or Bern. It's Paris.",
        "Es Paris, no Roma ni Oslo",
        "Es Paris, no Oslo ni Bern",
        "Paris en lugar de Rome",
        "C'est Paris, pas Oslo ni Bern.",
        "C'est Paris plutôt que Rome.",
        "É Paris, não Rome.",
        "È Paris, non Rome né Oslo.",
        "Paris statt Rome",
        "weder Rome noch Oslo, sondern Paris",
        "是Paris而不是Rome或Oslo",
        "RomeではなくParisです",
        "Rome가 아니라 Paris",
        "Paris (Rome is in Italy).",
        "Paris\n\nRome: Italy\nOslo: Norway",
        # As it was.
        "Not Rome, Paris.",
        "The capital isn't Rome, it's Paris",
        "It is not Rome, Paris is.",
        "Rome? No, Paris.",
        "nicht Rome, sondern Paris",
    ],
)
def test_what_is_set_against_the_answer_is_not_named(answer: str) -> None:
    assert answered_choice(answer, CITIES) == "paris"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("La respuesta correcta es la B, no la A.", "B"),
        ("La réponse est la B, pas la A.", "B"),
        ("La risposta corretta è la B, non la A.", "B"),
        ("A resposta correta é a B, não a A.", "B"),
        ("Odpowiedź to B, nie A.", "B"),
        ("정답은 A가 아니라 B입니다.", "B"),
        ("neither A, B nor C", None),
        ("A、B、C、D均错误", None),
    ],
)
def test_letters_are_rejected_in_other_languages(answer: str, letter: str | None) -> None:
    assert_letter(answer, letter)


@pytest.mark.parametrize(
    "answer", ["Rome and Oslo", "not Paris", "Not only Rome but Oslo", "Rome."]
)
def test_nothing_else_is_rejected(answer: str) -> None:
    assert answered_choice(answer, CITIES) != "paris"


@pytest.mark.parametrize(
    ("choices", "answer", "given"),
    [
        ("نعم لا", "نعم، لا شك في ذلك", "نعم"),
        ("نعم لا", "لا، هذا خطأ", "لا"),
        ("نعم لا", "لا", "لا"),
        ("да нет", "Да, нет сомнений.", "да"),
        ("sim não", "Sim, não há dúvida.", "sim"),
        ("tak nie", "Tak, nie ma wątpliwości.", "tak"),
        ("sí no", "Sí, no hay duda.", "sí"),
    ],
)
def test_no_may_be_a_negation_in_the_sentence(choices: str, answer: str, given: str) -> None:
    assert answered_choice(answer, choices.split()) == given


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        (".5", None),
        ("x = -.5", None),
        ("The value is .5", None),
        ("between .5 and 7", "7"),
        ("7.5", None),
        ("0.5", "0.5"),
        ("It is 5.", "5"),
        ("It is...5", "5"),
        ("x=7", "7"),
        ("It is not 0.5.\n5", "5"),
        ("7, not 5 or 0.5", "7"),
    ],
)
def test_a_number_may_begin_with_its_point(answer: str, given: str | None) -> None:
    assert answered_choice(answer, ["5", "7", "0.5"]) == given


def test_a_choice_that_begins_with_a_point_is_not_the_end_of_a_number() -> None:
    assert answered_choice("It is .5", [".5", "7"]) == ".5"
    assert answered_choice("It is 1.5", [".5", "7"]) is None
