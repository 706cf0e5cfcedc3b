"""Watching curves by the user's rules, while a run writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from kdharness.harness.config.alerts import Rule


class CurveWatch:
    """Tells once of each rule that holds.

    Args:
        rules: of any curves.
        told: the rules that were told of before, by their texts.
    """

    def __init__(self, rules: Sequence[Rule], told: Iterable[str] = ()) -> None:
        self.rules = list(rules)
        self.told = list(told)
        self._last: dict[str, float] = {}
        self._streaks: dict[str, tuple[int, float]] = {}

    def recall(self, curve: str, values: Iterable[float | None]) -> None:
        """Look at what a curve had before, without telling of it."""
        for value in values:
            self._follow(curve, math.nan if value is None else value)

    def see(self, values: Mapping[str, float]) -> list[tuple[str, str]]:
        """Return each rule that holds now for the first time, and what it says about the values."""
        said = []
        for curve, value in values.items():
            begin = self._follow(curve, value)
            for rule in self.rules:
                if rule.curve != curve or rule.text in self.told:
                    continue
                if reason := _holds(rule, value, self._streaks[curve][0], begin):
                    self.told.append(rule.text)
                    said.append((rule.text, reason))
        return said

    def unseen(self) -> list[Rule]:
        """Return the rules on curves that have had no value."""
        return [rule for rule in self.rules if rule.curve not in self._last]

    @property
    def curves(self) -> list[str]:
        """The curves that have had a value."""
        return sorted(self._last)

    def _follow(self, curve: str, value: float) -> float:
        """Count how often in a row a curve rose (or fell, below zero); return where it began."""
        last = self._last.get(curve, math.nan)
        count, begin = self._streaks.get(curve, (0, value))
        turn = (value > last) - (value < last)
        if turn and turn * count >= 0 and count:
            count += turn
        else:
            count, begin = turn, last if turn else value
        self._last[curve] = value
        self._streaks[curve] = (count, begin)
        return begin


def _holds(rule: Rule, value: float, streak: int, begin: float) -> str:
    """Return what a rule says about a value; nothing if it does not hold."""
    number = rule.number
    if rule.kind == "not finite":
        return "" if math.isfinite(value) else f"{rule.curve} is {value}"
    if rule.kind in ("rose", "fell"):
        turned = streak if rule.kind == "rose" else -streak
        times = f"{number:.0f} times in a row" if number > 1 else "once"
        change = f"from {begin:.4g} to {value:.4g}"
        return f"{rule.curve} {rule.kind} {times}, {change}" if turned >= number else ""
    beyond = value > number if rule.kind == "above" else value < number
    return f"{rule.curve} is {value:.4g}, {rule.kind} {number:g}" if beyond else ""
