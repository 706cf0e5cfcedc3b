"""JSON has neither NaN nor infinite numbers."""

from __future__ import annotations

import json
import math

from kdharness.harness.util.tables import format_rows


def test_listings_are_json_whatever_was_measured() -> None:
    rows = [{"loss": math.inf, "parts": {"a": [math.nan, 1.5]}, "pair": (-math.inf, 2)}]

    def refuse(word: str) -> None:
        raise AssertionError(word)

    read = json.loads(format_rows(rows, ["loss"], "json"), parse_constant=refuse)
    assert read == [{"loss": None, "parts": {"a": [None, 1.5]}, "pair": [None, 2]}]
