"""Exact metrics."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.judges import metrics

CHOICES = ["Copper Hall", "Hall", "Mill Yard"]


@pytest.mark.parametrize(("answer", "reference", "value"), [
    ("$350", "$350", 1.0), (" Yes. ", "yes", 1.0), ("No", "yes", 0.0), ("ＹＥＳ", "yes", 1.0),
    ("The answer is yes", "yes", 0.0), ("", "", 1.0),
])  # fmt: skip
def test_exact_match(answer: str, reference: str, value: float) -> None:
    assert metrics.exact_match(answer, [reference]) == value


@pytest.mark.parametrize(("answer", "value"), [
    ("Copper Hall", 1.0), ("It belongs to copper hall.", 1.0), ("Hall", 0.0), ("Mill Yard", 0.0),
    ("Copper Hall or Mill Yard", 0.0), ("nothing", 0.0), ("Copper Halls", 0.0),
])  # fmt: skip
def test_accuracy_takes_one_choice(answer: str, value: float) -> None:
    assert metrics.accuracy(answer, ["Copper Hall"], CHOICES) == value


def test_accuracy_finds_the_short_choice_too() -> None:
    assert metrics.accuracy("the hall", ["Hall"], CHOICES) == 1.0
    assert metrics.accuracy("x", ["x"]) == 1.0


@pytest.mark.parametrize(("answer", "value"), [
    ('{"product": "Feeder", "size": "S"}', 1.0),
    ('Sure!\n```json\n{"size": "s", "product": "feeder"}\n```', 1.0),
    ('{"product": "feeder"}', 2 / 3),
    ('{"product": "feeder", "size": "M"}', 0.5),
    ('{"product": "feeder", "size": "S", "colour": "red"}', 0.8),
    ("no json", 0.0), ("{broken", 0.0), ("[]", 0.0), ("", 0.0),
])  # fmt: skip
def test_json_f1(answer: str, value: float) -> None:
    reference = json.dumps({"product": "feeder", "size": "S"})
    assert metrics.json_f1(answer, [reference]) == pytest.approx(value)


def test_json_numbers_and_lists() -> None:
    assert metrics.json_f1('{"a": 5.0, "b": ["y", "x"]}', ['{"a": 5, "b": ["x", "y"]}']) == 1.0
    assert metrics.json_f1('{"a": {"b": 1}}', ['{"b": 1}']) == 0.0


def test_rouge_l() -> None:
    assert metrics.rouge_l("the cat sat", ["the cat sat on the mat"]) == pytest.approx(2 * 3 / 9)
    assert metrics.rouge_l("", ["a"]) == 0.0
    assert metrics.rouge_l("a b", ["z", "a b"]) == 1.0


@given(st.text(), st.text(min_size=1))
def test_metrics_stay_between_0_and_1(answer: str, reference: str) -> None:
    for name in metrics.METRICS:
        assert 0.0 <= metrics.score(name, answer, [reference], [reference, "other"]) <= 1.0


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=4),
                    max_leaves=10).filter(lambda v: isinstance(v, dict)))  # fmt: skip
def test_json_f1_of_itself_is_1(value: dict) -> None:  # type: ignore[type-arg]
    text = json.dumps(value)
    assert metrics.json_f1(text, [text]) == 1.0
