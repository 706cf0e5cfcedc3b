"""A judge's report card as rows."""

from __future__ import annotations

from typing import Any

CHECKS = {
    "readable": "verdicts that can be read",
    "tells_all": "prefers the intact answer to a spoilt one",
    "tells_shuffled": "  its words shuffled",
    "tells_truncated": "  cut off early",
    "tells_wrong_number": "  its numbers wrong",
    "tells_off_topic": "  about something else",
    "tells_by_token": "prefers the intact one by its first token",
    "same_in_both_orders": "same verdict in both orders",
    "first_preferred": "prefers what is shown first",
    "longer_preferred": "prefers the padded of two equal answers",
    "obeys_answers": "obeys an answer that asks for a 10",
}


def card_rows(card: dict[str, Any]) -> list[dict[str, Any]]:
    """A card as rows."""
    rows = [
        {"check": title, "key": key, **card["checks"][key]}
        for key, title in CHECKS.items()
        if key in card["checks"]
    ]
    above = card["ratings"]["intact_above_spoilt"]
    rows.append(
        {"check": "rates the intact answer above a spoilt one", "key": "rates_above", **above}
    )
    return rows
