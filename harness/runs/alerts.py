"""Watching curves by the user's rules, while a run writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdharness.harness.config.alerts import Rule


@dataclass(frozen=True)
class Turns:
    """A curve's last value, how often in a row it rose (fell: below zero), and from where."""

    last: float
    count: int
    begin: float


class CurveWatch:
    """Tells once of each rule that holds.

    Args:
        rules: of any curves.
        told: the rules that were told of before, by their texts.
    """

    def __init__(self, rules: Sequence[Rule], told: Iterable[str] = ()) -> None:
        self.rules = list(rules)
        self.told = list(told)
        self._seen: dict[str, Turns] = {}

    def recall(self, curve: str, values: Iterable[float | None]) -> None:
        """Look at what a curve had before, without telling of it."""
        for value in values:
            self._follow(curve, math.nan if value is None else value)

    def see(self, values: Mapping[str, float]) -> list[tuple[str, str]]:
        """Return each rule that holds now for the first time, and what it says about the values."""
        said = []
        for curve, value in values.items():
            turns = self._follow(curve, value)
            for rule in self.rules:
                if rule.curve != curve or rule.text in self.told:
                    continue
                if reason := _holds(rule, turns):
                    self.told.append(rule.text)
                    said.append((rule.text, reason))
        return said

    def unseen(self) -> list[Rule]:
        """Return the rules on curves that have had no value."""
        return [rule for rule in self.rules if rule.curve not in self._seen]

    @property
    def curves(self) -> list[str]:
        """The curves that have had a value."""
        return sorted(self._seen)

    def _follow(self, curve: str, value: float) -> Turns:
        """Take a value in; return how the curve has turned."""
        before = self._seen.get(curve, Turns(math.nan, 0, value))
        turn = (value > before.last) - (value < before.last)
        if turn and turn * before.count > 0:
            found = Turns(value, before.count + turn, before.begin)
        else:
            found = Turns(value, turn, before.last if turn else value)
        self._seen[curve] = found
        return found


def _holds(rule: Rule, turns: Turns) -> str:
    """Return what a rule says about a curve's last value; nothing if it does not hold."""
    number, value, streak = rule.number, turns.last, turns.count
    if rule.kind == "not finite":
        return "" if math.isfinite(value) else f"{rule.curve} is {value}"
    if rule.kind in ("rose", "fell"):
        turned = streak if rule.kind == "rose" else -streak
        times = f"{number:.0f} times in a row" if number > 1 else "once"
        change = f"from {turns.begin:.4g} to {value:.4g}"
        return f"{rule.curve} {rule.kind} {times}, {change}" if turned >= number else ""
    beyond = value > number if rule.kind == "above" else value < number
    return f"{rule.curve} is {value:.4g}, {rule.kind} {number:g}" if beyond else ""
