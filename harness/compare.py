"""Checkpoints against a first one: paired differences over the items that both answered.

Pairing takes out what items have in common, which is most of their spread: differences are told
apart that two intervals side by side would hide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kdharness.harness.errors import ConfigError
from kdharness.harness.leaderboard import Group, is_lower_better, leaderboard, read_group
from kdharness.harness.paths import Paths
from kdharness.harness.score_rows import Row, question_sums
from kdharness.harness.scoring import Difference, holm, paired_difference
from kdharness.harness.store import Store
from kdharness.harness.types import Score

Key = tuple[str, str, str]
COLUMNS = (
    "bench", "metric", "judge", "base", "base_value", "other", "other_value", "difference",
    "ci_low", "ci_high", "p", "p_holm", "n", "n_needed", "verdict",
)  # fmt: skip
LEVEL = 0.05


@dataclass(frozen=True)
class Compared:
    """One figure of two checkpoints: the difference is other minus base."""

    bench: str
    metric: str
    judge: str
    base: str
    other: str
    base_value: float
    other_value: float
    gap: Difference
    p_holm: float = 1.0

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `not told apart` after Holm's correction."""
        if self.p_holm >= LEVEL:
            return "not told apart"
        return "better" if (self.gap.value > 0) != is_lower_better(self.metric) else "worse"

    def as_dict(self) -> dict[str, object]:
        """A row of `compare`."""
        return {
            "bench": self.bench, "metric": self.metric, "judge": self.judge, "base": self.base,
            "base_value": self.base_value, "other": self.other, "other_value": self.other_value,
            "difference": self.gap.value, "ci_low": self.gap.low, "ci_high": self.gap.high,
            "p": self.gap.p, "p_holm": self.p_holm, "n": self.gap.n,
            "n_needed": self.gap.n_needed, "verdict": self.verdict,
        }  # fmt: skip


def compare_all(store: Store, paths: Paths | None, names: Sequence[str]) -> list[Compared]:
    """Every figure that is a mean over items, of each checkpoint against the first.

    Figures whose rows do not add up to them (a length-controlled rate, a panel) are left out.
    Holm's correction runs over all that is compared: many categories make false alarms.

    Raises:
        ConfigError: fewer than two names, or one that is not stored.
    """
    if len(names) < 2:
        raise ConfigError("name two checkpoints or more to compare")
    found = []
    for name in names:
        checkpoint = store.checkpoint(name)
        if checkpoint is None:
            raise ConfigError(f"no checkpoint named {name!r}", hint="see kdharness leaderboard")
        found.append(checkpoint)
    tables = [_table(store, checkpoint.id) for checkpoint in found]
    base, *others = found
    compared: list[Compared] = []
    for score in leaderboard(store, paths, checkpoints=[base.id], panels=False):
        matched = _rows_of(tables[0], score)
        if matched is None:
            continue
        key, sums = matched
        for other, table in zip(others, tables[1:], strict=True):
            if key not in table:
                continue
            theirs = question_sums(table[key], score.metric)
            gap = paired_difference(theirs, sums)
            if gap is not None:
                compared.append(
                    Compared(score.bench, score.metric, score.judge, base.name, other.name,
                             _mean(sums), _mean(theirs), gap)
                )  # fmt: skip
    adjusted = holm([one.gap.p for one in compared])
    return [replace(one, p_holm=p) for one, p in zip(compared, adjusted, strict=True)]


def _table(store: Store, checkpoint: str) -> dict[Key, list[Row]]:
    """(bench, revision, judge) -> rows of one checkpoint."""
    return {
        (group.bench, group.revision, group.judge): read_group(store, group)
        for group in (Group(**row) for row in store.judgment_groups())
        if group.checkpoint == checkpoint
    }


def _mean(sums: Mapping[str, tuple[float, float]]) -> float:
    return sum(value for value, _ in sums.values()) / sum(weight for _, weight in sums.values())


def _rows_of(
    table: Mapping[Key, list[Row]], score: Score
) -> tuple[Key, dict[str, tuple[float, float]]] | None:
    """The group whose rows' mean is this score, with its sums by question."""
    for key, rows in table.items():
        if (key[0], key[2]) != (score.bench, score.judge) or score.value is None:
            continue
        sums = question_sums(rows, score.metric)
        if sums and abs(_mean(sums) - score.value) <= 1e-6 * max(1.0, abs(score.value)):
            return key, sums
    return None
