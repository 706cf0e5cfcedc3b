"""Rules on curves: how they are written, and when they hold."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.config.alerts import Rule, parse_rule
from kdharness.harness.config.settings import UserSettings, load_settings
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.runs.alerts import CurveWatch


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("domain_loss rose three times", ("domain_loss", "rose", 3)),
        ("domain_loss rose 3 times", ("domain_loss", "rose", 3)),
        (" loss  fell once ", ("loss", "fell", 1)),
        ("loss rose twice", ("loss", "rose", 2)),
        ("loss > 5", ("loss", "above", 5)),
        ("loss >5", ("loss", "above", 5)),
        ("grad_norm above 1e3", ("grad_norm", "above", 1000)),
        ("tokens_per_second below -0.5", ("tokens_per_second", "below", -0.5)),
        ("shop/score < .25", ("shop/score", "below", 0.25)),
        ("loss is nan", ("loss", "not finite", 0)),
        ("loss NOT finite", ("loss", "not finite", 0)),
    ],
)
def test_rules_are_read_as_people_write_them(text: str, rule: tuple[str, str, float]) -> None:
    found = parse_rule(text)
    assert (found.curve, found.kind, found.number) == rule and found.text == text.strip()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("domain_loss", "is not a rule on a curve"),
        ("domain_loss rises 3 times", "CURVE rose 3 times"),
        ("loss rose 0 times", "'0' is not a number of times"),
        ("loss rose many times", "'many' is not a number of times"),
        ("loss above high", "'high' is not a number"),
        ("loss above nan", "write: loss not finite"),
        ("", "is not a rule"),
    ],
)
def test_what_is_no_rule_is_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        parse_rule(text)


def test_settings_take_one_rule_or_several_and_name_a_wrong_one(paths: Paths) -> None:
    assert UserSettings.model_validate({"alerts": "loss > 5"}).alerts == ["loss > 5"]
    assert UserSettings.model_validate({"alerts": None}).alerts == []
    paths.home.mkdir(parents=True, exist_ok=True)
    paths.settings.write_text("alerts: [loss > 5, domain_loss climbed]\n")
    with pytest.raises(ConfigError) as raised:
        load_settings(paths)
    assert "alerts.1" in str(raised.value) and "'domain_loss climbed'" in str(raised.value)


def told(text: str, values: list[float]) -> list[int]:
    """Return at which values a rule told something."""
    watch = CurveWatch([parse_rule(text)])
    name = text.split()[0]
    return [index for index, value in enumerate(values) if watch.see({name: value})]


@pytest.mark.parametrize(
    ("text", "values", "at"),
    [
        ("loss rose 3 times", [1, 2, 3, 4, 5], [3]),
        ("loss rose 3 times", [1, 2, 3, 2, 3, 4], []),
        ("loss rose 3 times", [1, 2, 3, 3, 4], []),
        ("loss rose 3 times", [1, 2, 3, math.nan, 4, 5, 6, 7], [7]),
        ("loss fell twice", [3, 2, 1], [2]),
        ("loss rose once", [1, 0, 1], [2]),
        ("loss above 5", [5, 5.1, 4, 6], [1]),
        ("loss below 0", [0, -1], [1]),
        ("loss not finite", [1, math.inf], [1]),
        ("loss not finite", [math.nan], [0]),
        ("loss above 5", [math.nan], []),
    ],
)
def test_a_rule_tells_once_when_it_holds(text: str, values: list[float], at: list[int]) -> None:
    assert told(text, values) == at


def test_what_a_rule_says_has_the_values() -> None:
    rules = [parse_rule("loss rose 2 times"), parse_rule("loss > 5"), parse_rule("kl is nan")]
    watch = CurveWatch(rules)
    said = [message for value in (1.25, 3, 5.5) for _, message in watch.see({"loss": value})]
    assert said == ["loss rose 2 times in a row, from 1.25 to 5.5", "loss is 5.5, above 5"]
    assert watch.see({"kl": math.nan}) == [("kl is nan", "kl is nan")]


def test_a_resumed_run_knows_its_points_and_what_it_told() -> None:
    rules = [parse_rule("loss rose 3 times"), parse_rule("loss > 5")]
    watch = CurveWatch(rules, told=["loss > 5"])
    watch.recall("loss", [None, 1.0, 2.0, 3.0])
    assert [rule for rule, _ in watch.see({"loss": 9.0})] == ["loss rose 3 times"]


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4))
def test_rose_means_that_many_rises_in_a_row(values: list[int], times: int) -> None:
    watch = CurveWatch([Rule("r", "loss", "rose", times)])
    fired = next((n for n, value in enumerate(values) if watch.see({"loss": value})), None)
    ends = [
        n
        for n in range(times, len(values))
        if all(values[i] > values[i - 1] for i in range(n - times + 1, n + 1))
    ]
    assert fired == (ends[0] if ends else None)
