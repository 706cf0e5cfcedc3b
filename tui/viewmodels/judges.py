"""Names of judges, and summaries of their report cards. No widgets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

NOT_CALLED = ("imported:", "panel:", "published:")
"""Prefixes of stored judges that stand for verdicts made elsewhere: no model is behind them."""


def judge_names(
    cards: Iterable[str], defaults: Iterable[str], groups: Iterable[Mapping[str, Any]]
) -> dict[str, int]:
    """Return all known judges with their number of verdicts, those with a card first.

    Args:
        cards: judges with a report card.
        defaults: judges of the settings.
        groups: the store's groups of judgments.
    """
    names = dict.fromkeys([*cards, *defaults], 0)
    for group in groups:
        if group["judge"] != "exact":
            names[group["judge"]] = names.get(group["judge"], 0) + int(group["changes"])
    return names


def can_be_called(judge: str) -> bool:
    """Return whether a judge can be checked, and judge further answers."""
    return not judge.startswith(NOT_CALLED)


def card_words(card: Mapping[str, Any] | None) -> str:
    """Return a short summary of a judge's report card."""
    if card is None:
        return "untested: no report card yet"
    return ", ".join(card.get("labels") or ["tested, no weakness found"])
