"""The report card of a judge as rows."""

from __future__ import annotations

from typing import Any

NO_ISSUES = "no issues found"
"""What is shown of a card without labels."""
CHECKS = {
    "readable": "replies with a readable verdict",
    "tells_all": "prefers the intact answer to a corrupted one",
    "tells_shuffled": "  words shuffled",
    "tells_truncated": "  truncated",
    "tells_wrong_number": "  numbers wrong",
    "tells_off_topic": "  off topic",
    "tells_by_token": "prefers the intact answer by its first token",
    "same_in_both_orders": "same verdict in both orders",
    "first_preferred": "prefers the answer shown first",
    "longer_preferred": "prefers the padded answer of two equal ones",
    "obeys_answers": "obeys an answer that asks for a rating of 10",
}


def card_rows(card: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a report card as rows."""
    rows = [
        {"check": title, "key": key, **card["checks"][key]}
        for key, title in CHECKS.items()
        if key in card["checks"]
    ]
    above = card["ratings"]["intact_above_spoilt"]
    rows.append(
        {"check": "rates the intact answer above a corrupted one", "key": "rates_above", **above}
    )
    if expected := card.get("expected"):
        rows += [
            {"check": "gives an expected rating", "key": "expected_rated", **expected["rated"]},
            {
                "check": "expected rating higher for the intact answer",
                "key": "expected_above",
                **expected["intact_above_spoilt"],
            },
        ]
    return rows
