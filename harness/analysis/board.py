"""The leaderboard side by side: one row per checkpoint, one column per primary score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kdharness.harness.analysis.corrections import is_corrected
from kdharness.harness.analysis.metrics import flag_name, is_headline, is_lower_better
from kdharness.harness.registry import BENCHMARKS
from kdharness.harness.stats.rows import LEAST_FOR_VERDICT, TOO_SMALL
from kdharness.harness.types import Score

PRIMARY = (
    "score",
    "length_controlled_winrate",
    "win_rate_adjusted",
    "hard_prompt",
    "expected_rating",
    "win_rate",
    "domain_loss",
    "general_loss",
)
"""Metrics that stand for their benchmark, the most telling first, where it names none itself."""
COMPANIONS = {"domain_loss": ("general_loss",), "length_controlled_winrate": ("win_rate",)}
"""Metrics that are read together with a primary one."""
FEW = 8
"""Below this many rows an interval says little: such columns come last."""
SUSPICIOUS = frozenset(
    {"same-answer", "talks-to-judge", "empty", "truncated", "other-language", "contaminated"}
)
STANDARD = frozenset({"judge", "labels"})
"""Flags that do not make a score that of another benchmark."""
VARIANTS = frozenset({"subset", "references", "version", "shots", "older"})
"""Flags of parts and versions of a benchmark, which have columns of their own."""
MARKS = {
    "▲": "better than the reference: the 95 % intervals do not overlap",
    "▼": "worse than the reference: the 95 % intervals do not overlap",
    "†": "the judge is a toy, untested or near chance",
    "!": "suspicious answers: truncated, empty, repeated, addressed to the judge, contaminated",
    "°": "not the standard benchmark: a subset, other references, limits or templates",
    "✗": "some answers or verdicts failed and are left out",
}
"""The symbols after a score, in the order in which they are printed."""


@dataclass(frozen=True)
class BoardColumn:
    """One score of every checkpoint that has it, by the checkpoint's name."""

    bench: str
    metric: str
    judge: str
    scores: Mapping[str, Score]
    variant: str = ""
    """Which part or version of the benchmark, where there are columns of several."""

    @property
    def counts(self) -> tuple[int, int]:
        """The smallest and the largest number of rows behind a score."""
        numbers = [score.n for score in self.scores.values()]
        return min(numbers), max(numbers)

    @property
    def count_text(self) -> str:
        """Those as text: `n 72`, or `n 2–72`."""
        fewest, most = self.counts
        return f"n {fewest}" if fewest == most else f"n {fewest}–{most}"

    def shortfall(self, score: Score) -> str:
        """Return `n 2` for a score on fewer rows than others in this column, else nothing."""
        return f"n {score.n}" if score.n < self.counts[1] else ""

    @property
    def is_doubtful(self) -> bool:
        """Whether it is listed last: few rows, or an untested judge."""
        return self.counts[1] < FEW or any("†" in flag_marks(s) for s in self.scores.values())


@dataclass(frozen=True)
class Board:
    """Columns, the checkpoints sorted by the first of them, and the reference for marks."""

    columns: tuple[BoardColumn, ...]
    checkpoints: tuple[str, ...]
    reference: str | None = None
    hidden: tuple[str, ...] = ()
    """Names of further metrics that have scores."""


def flag_marks(score: Score) -> str:
    """Return the symbols that stand for a score's flags and failures."""
    names = {flag_name(flag) for flag in score.flags}
    marks = "†" if "judge" in names else ""
    marks += "!" if names & SUSPICIOUS else ""
    marks += "°" if names - SUSPICIOUS - STANDARD else ""
    return marks + ("✗" if score.n_failed else "")


def primary_metrics(names: Collection[str], headline: str = "") -> list[str]:
    """Return the metrics that stand for a benchmark, with what is read together with them.

    Args:
        names: the metrics with scores, in the benchmark's own order.
        headline: the one that the benchmark names; it takes precedence.
    """
    shown = [name for name in names if is_headline(name)]
    first = next((name for name in (headline, *PRIMARY) if name in shown), *shown[:1] or [""])
    chosen = [name for name in (first, *COMPANIONS.get(first, ())) if name in shown]
    return [*chosen, *(name for name in shown if is_corrected(name))]


def make_board(
    scores: Sequence[Score],
    *,
    headlines: Mapping[str, str] | None = None,
    metrics: Collection[str] = (),
    reference: str | None = None,
) -> Board:
    """Put scores side by side.

    Args:
        scores: of any checkpoints.
        headlines: benchmark -> its own headline metric.
        metrics: only these metrics; by default the primary ones.
        reference: the checkpoint that others are compared with.
    """
    tables: dict[tuple[str, str, str, int], dict[str, dict[str, Score]]] = {}
    for score in scores:
        variant, number = _variant(score), 0
        # Results of two files of one name, say, are never put into one cell.
        while score.checkpoint in (
            tables.get((score.bench, score.judge, variant, number), {}).get(score.metric, {})
        ):
            number += 1
        table = tables.setdefault((score.bench, score.judge, variant, number), {})
        table.setdefault(score.metric, {})[score.checkpoint] = score
    columns: list[BoardColumn] = []
    hidden: list[str] = []
    kinds = Counter((bench, judge) for bench, judge, *_ in tables)
    for (bench, judge, variant, _), table in tables.items():
        wanted = list(metrics) or primary_metrics(table, (headlines or {}).get(bench, ""))
        part = variant if kinds[bench, judge] > 1 else ""
        columns += [BoardColumn(bench, m, judge, table[m], part) for m in wanted if m in table]
        hidden += [m for m in table if m not in wanted and is_headline(m)]
    columns.sort(key=_place)
    names = list(dict.fromkeys(score.checkpoint for score in scores))
    if columns:
        names.sort(key=lambda name: _rank(columns[0], name))
    shown = {name for column in columns for name in column.scores}
    return Board(
        tuple(columns),
        tuple(name for name in names if name in shown),
        reference if reference in shown else None,
        tuple(dict.fromkeys(hidden)),
    )


def _variant(score: Score) -> str:
    """Return the flags by which scores are of different parts or versions of a benchmark."""
    return " ".join(sorted(flag for flag in score.flags if flag_name(flag) in VARIANTS))


def _place(column: BoardColumn) -> tuple[bool, bool, bool, str, str]:
    """Return a column's sort key: own benchmarks first, doubtful ones late, published ones last."""
    is_own = column.bench == "shop" or column.bench not in BENCHMARKS
    published = column.judge.startswith("published:")
    return published, column.is_doubtful, not is_own, column.bench, column.judge


def _rank(column: BoardColumn, name: str) -> tuple[bool, float]:
    score = column.scores.get(name)
    if score is None or score.value is None:
        return True, 0.0
    return False, score.value if is_lower_better(column.metric) else -score.value


def difference_mark(column: BoardColumn, name: str, reference: str | None) -> str:
    """Return ▲ or ▼ where a checkpoint's interval and the reference's do not overlap, else ''."""
    score, base = column.scores.get(name), column.scores.get(reference or "")
    if score is None or base is None or min(score.n, base.n) < LEAST_FOR_VERDICT:
        return ""
    ends = score.ci_low, score.ci_high, base.ci_low, base.ci_high
    low, high, base_low, base_high = (float("nan") if end is None else end for end in ends)
    if name == reference or TOO_SMALL in (*score.flags, *base.flags):
        return ""
    if low > base_high:
        return "▼" if is_lower_better(column.metric) else "▲"
    if high < base_low:
        return "▲" if is_lower_better(column.metric) else "▼"
    return ""
