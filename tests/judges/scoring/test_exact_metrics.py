"""Exact metrics."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.judges.scoring import exact_metrics

CHOICES = ["Copper Hall", "Hall", "Mill Yard"]


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("$350", "$350", 1.0),
        (" Yes. ", "yes", 1.0),
        ("No", "yes", 0.0),
        ("ＹＥＳ", "yes", 1.0),
        ("The answer is yes", "yes", 0.0),
        ("", "", 1.0),
        # Answers of symbols only are compared verbatim.
        ("**", "*", 0.0),
        ("*", "*", 1.0),
        ("?", "!", 0.0),
        ("…", "...", 1.0),
        ("", "...", 0.0),
        ("", "*", 0.0),
        (".5", "5", 0.0),
        ("0.5", ".5", 0.0),
        (".NET", "net", 0.0),
        ("...and", "and", 1.0),
        ("x2", "x²", 0.0),
        ("x²", "x²", 1.0),
        ("105", "10⁵", 0.0),
        ("CO2", "CO₂", 1.0),
        ("2½", "21/2", 0.0),
        # Other scripts' punctuation.
        ("是。", "是", 1.0),
        ("«Да»", "да", 1.0),
        ("¡Hola!", "hola", 1.0),
        ("نعم؟", "نعم", 1.0),
        ("हाँ।", "हाँ", 1.0),
        ("cafe\u0301", "café", 1.0),
        # Invisible characters, and typographic variants of a character.
        ("Paris\u200b", "Paris", 1),
        ("\ufeffParis", "Paris", 1),
        ("co\xadoperate", "cooperate", 1),
        ("don’t", "don't", 1),
        ("5–6", "5-6", 1),
        ("−5", "-5", 1),
        ("\u200b", "x", 0),
    ],
)
def test_exact_match_normalisation(answer: str, reference: str, value: float) -> None:
    assert exact_metrics.exact_match(answer, [reference]) == value


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("Copper Hall", 1.0),
        ("It belongs to copper hall.", 1.0),
        ("Hall", 0.0),
        ("Mill Yard", 0.0),
        ("Copper Hall or Mill Yard", 0.0),
        ("nothing", 0.0),
        ("Copper Halls", 0.0),
    ],
)
def test_accuracy_requires_a_single_choice(answer: str, value: float) -> None:
    assert exact_metrics.accuracy(answer, ["Copper Hall"], CHOICES) == value


def test_accuracy_matches_a_choice_contained_in_another() -> None:
    assert exact_metrics.accuracy("the hall", ["Hall"], CHOICES) == 1.0
    assert exact_metrics.accuracy("x", ["x"]) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"product": "Feeder", "size": "S"}', 1.0),
        ('Sure!\n```json\n{"size": "s", "product": "feeder"}\n```', 1.0),
        ('{"product": "feeder"}', 2 / 3),
        ('{"product": "feeder", "size": "M"}', 0.5),
        ('{"product": "feeder", "size": "S", "colour": "red"}', 0.8),
        # Citations, corrections and examples next to the answer.
        ('See [1] for details: {"product": "Feeder", "size": "S"}', 1.0),
        ('{"product": "Feeder", "size": "S"} [1]', 1.0),
        ('I used [1, 2]: {"product": "Feeder", "size": "S"}. References: [1]', 1.0),
        ('{"product": "Cup"} no: {"product": "Feeder", "size": "S"}', 1.0),
        ('```json\n{"product": "Feeder", "size": "S"}\n```\nSee [docs] and {x}.', 1.0),
        ('```python\nx = [1, 2]\n```\n{"product": "Feeder", "size": "S"}', 1.0),
        ('{"product": "Feeder", "size": "S"} {"product": "Cup", "size": "M"}', 0.0),
        ("{'product': 'Feeder', 'size': 'S'}", 0.0),
        ("[1]", 0.0),
        ("no json", 0.0),
        ("{broken", 0.0),
        ("[]", 0.0),
        ("", 0.0),
    ],
)
def test_json_f1_of_objects(answer: str, value: float) -> None:
    reference = json.dumps({"product": "feeder", "size": "S"})
    assert exact_metrics.json_f1(answer, [reference]) == pytest.approx(value)


def test_json_f1_of_numbers_lists_and_nested_objects() -> None:
    assert (
        exact_metrics.json_f1('{"a": 5.0, "b": ["y", "x"]}', ['{"a": 5, "b": ["x", "y"]}']) == 1.0
    )
    assert exact_metrics.json_f1('{"a": {"b": 1}}', ['{"b": 1}']) == 0.0


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("[3, 4] as in [1]", "[3, 4]", 1.0),
        ("[1]", "[1]", 1.0),
        ('{"x": 0} [3, 4]', "[3, 4]", 1.0),
        ('{"a": "007"}', '{"a": 7}', 0.0),
        ('{"a": "1,000"}', '{"a": 1000}', 1.0),
        ('{"a": "1,5"}', '{"a": 15}', 0.0),
        ('{"a": "*"}', '{"a": "!"}', 0.0),
        ('{"a": 4006381333931}', '{"a": 4006381333932}', 0.0),
        ('{"*": 1}', '{"!": 1}', 0.0),
        ('{"a": 0.30000000000000004}', '{"a": 0.3}', 1.0),
        ('{"a": "1_0"}', '{"a": 10}', 0.0),
        ('{"a": 1e3}', '{"a": "1000"}', 1.0),
        ('{"a": 1e999}', '{"a": 1}', 0.0),
    ],
)
def test_json_f1_value_comparison(answer: str, reference: str, value: float) -> None:
    assert exact_metrics.json_f1(answer, [reference]) == pytest.approx(value)


def test_deeply_nested_json_is_scored_as_zero() -> None:
    for text in ("[" * 100_000, '{"a":[' * 50_000, "[1," * 50_000, 'x[1, {"' * 10_000):
        assert exact_metrics.json_f1(text, ['{"a": 1}']) == 0.0


def test_rouge_l() -> None:
    assert exact_metrics.rouge_l("the cat sat", ["the cat sat on the mat"]) == pytest.approx(
        2 * 3 / 9
    )
    assert exact_metrics.rouge_l("", ["a"]) == 0.0
    assert exact_metrics.rouge_l("a b", ["z", "a b"]) == 1.0


@given(st.text(), st.text(min_size=1))
def test_metrics_are_between_0_and_1(answer: str, reference: str) -> None:
    for name in exact_metrics.METRICS:
        assert 0.0 <= exact_metrics.score(name, answer, [reference], [reference, "other"]) <= 1.0


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=4),
        max_leaves=10,
    ).filter(lambda v: isinstance(v, dict))
)
def test_json_f1_of_itself_is_1(value: dict) -> None:  # type: ignore[type-arg]
    text = json.dumps(value)
    assert exact_metrics.json_f1(text, [text]) == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        # Fields that were swapped between the elements of a list.
        ('[{"n": "mug", "q": 2}, {"n": "pan", "q": 1}]', None, 1.0),
        ('[{"n": "pan", "q": 1}, {"n": "mug", "q": 2}]', None, 1.0),
        ('[{"n": "mug", "q": 1}, {"n": "pan", "q": 2}]', None, 0.5),
        ('[{"n": "mug", "q": 2}]', None, 2 * 2 / 6),
        ("[[4, 3], [2, 1]]", "[[1, 2], [3, 4]]", 1.0),
        ("[[1, 4], [3, 2]]", "[[1, 2], [3, 4]]", 0.5),
        ("[1, 1, 2]", "[1, 2, 2]", 2 / 3),
        ('{"a": ["5", 6]}', '{"a": [6.0, 5]}', 1.0),
        # Texts are compared as texts.
        ('{"a": "1.10"}', '{"a": "1.1"}', 0.0),
        ('{"a": "12E3"}', '{"a": "12000"}', 0.0),
        ('{"a": "+49301234"}', '{"a": "49301234"}', 0.0),
        ('{"a": "12.30"}', '{"a": "12.3"}', 0.0),
        ('{"a": "Red."}', '{"a": "red"}', 1.0),
        ('{"a": "5"}', '{"a": 5.0}', 1.0),
        ('{"a": 5}', '{"a": "5.0"}', 1.0),
        ('{"a": "true"}', '{"a": true}', 1.0),
        # Other kinds.
        ('{"a.b": 1}', '{"a": {"b": 1}}', 0.0),
        ('{"a": NaN}', '{"a": "nan"}', 0.0),
        ('{"a": "null"}', '{"a": null}', 0.0),
        ('{"a": null}', '{"a": null}', 1.0),
        ('{"a": [null]}', '{"a": ["null"]}', 0.0),
        ('{"a": []}', '{"a": {}}', 0.0),
        ('{"a": []}', '{"a": []}', 1.0),
        ('{"A": 1}', '{"a": 1}', 1.0),
        ('{"a": 1}', '{"a": true}', 0.0),
    ],
)
def test_json_f1_keeps_what_belongs_together(
    answer: str, reference: str | None, value: float
) -> None:
    reference = reference or '[{"n": "mug", "q": 2}, {"n": "pan", "q": 1}]'
    assert exact_metrics.json_f1(answer, [reference]) == pytest.approx(value)


def test_json_f1_of_long_lists_takes_no_time() -> None:
    rows = [{"n": f"item {n}", "q": n} for n in range(1500)]
    text = json.dumps(rows)
    assert exact_metrics.json_f1(text, [json.dumps(rows[::-1])]) == 1.0
    assert exact_metrics.json_f1(text.replace("item", "x"), [text]) > 0


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("(42)", "42", 1.0),
        ("$42$", "42", 1.0),
        ("$$42$$.", "42", 1.0),
        (r"\(42\)", "42", 1.0),
        (r"\[42\]", "42", 1.0),
        (r"\boxed{42}", "42", 1.0),
        (r"**$\boxed{42}$**", "42", 1.0),
        ("_Paris_", "Paris", 1.0),
        ("__Paris__", "Paris", 1.0),
        ('"Paris"', "Paris", 1.0),
        ("(Paris).", "Paris", 1.0),
        ("Paris<|im_end|>", "Paris", 1.0),
        ("Paris.</s>\n", "Paris", 1.0),
        ("(42)", "(42)", 1.0),
        ("$42$", "$42$", 1.0),
        # As it was: what belongs to the answer counts.
        ("$42", "42", 0.0),
        ("(0, 1)", "[0, 1]", 0.0),
        ("(a)(b)", "a)(b", 0.0),
        ("f(x)", "x", 0.0),
        ("snake_case", "snakecase", 0.0),
        ("**", "*", 0.0),
        (".5", "5", 0.0),
        ("x²", "x2", 0.0),
        ("-42", "42", 0.0),
    ],
)
def test_what_surrounds_an_exact_answer_does_not_count(
    answer: str, reference: str, value: float
) -> None:
    assert exact_metrics.exact_match(answer, [reference]) == value
