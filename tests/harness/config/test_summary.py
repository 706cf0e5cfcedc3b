"""Config summaries: number formatting, models and differences."""

from __future__ import annotations

import math

from kdharness.harness.config.summary import config_diff, models_of
from kdharness.harness.util.text import figure


def test_number_formatting_and_model_summary() -> None:
    assert [figure(v) for v in (None, math.nan, math.inf, 0.00002, 1234567, 0.5)] == [
        "–",
        "–",
        "∞",
        "2.0e-05",
        "1,234,567",
        "0.5",
    ]
    config = {
        "method": "kd",
        "student": {"from": "teacher", "keep_layers": 12},
        "teacher": {"model": "/models/big"},
    }
    assert models_of(config) == "teacher/12 ← big"


def test_config_diff_lists_changed_fields() -> None:
    first = {"a": 1, "data": {"train": [{"path": "x"}]}}
    second = {"a": 1, "data": {"train": [{"path": "y"}]}, "b": True}
    assert config_diff(first, second) == [("data.train.0.path", ["x", "y"]), ("b", [None, True])]
