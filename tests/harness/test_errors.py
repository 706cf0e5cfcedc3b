"""Suggestions for mistyped names."""

from __future__ import annotations

from kdharness.harness.errors import did_you_mean


def test_suggestions_are_close_and_named_once() -> None:
    known = ["dae", "kd", "dae", "expert"]  # a run and its checkpoint
    assert did_you_mean("dae2", known) == "; did you mean dae?"
    assert did_you_mean("nothing like it", known) == ""
    assert did_you_mean("model", known, {"model": ["student"]}) == "; did you mean student?"
