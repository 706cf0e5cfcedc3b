"""The answer in sentences: the best domain gain at a retention, and what it is based on.

The report and the app print these sentences. They say only what intervals and corrected tests
allow; the value that happens to be highest is named only where it is significantly so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdharness.harness import stats
from kdharness.harness.analysis.metrics import flag_name
from kdharness.harness.analysis.scorebook import groups_of
from kdharness.harness.analysis.tradeoff import Axis, TradeOffView, axis_of, best_scores
from kdharness.harness.analysis.tradeoff_groups import (
    TradeOffStatistics,
    statistics,
    sums_on_axis,
)
from kdharness.harness.stats.rows import ALPHA, LEAST_FOR_VERDICT, Sums, mean_of
from kdharness.harness.store import Store
from kdharness.harness.types import Score
from kdharness.harness.util.text import listed

if TYPE_CHECKING:
    from kdharness.harness.stats.answer import Standing, Verdict
    from kdharness.harness.stats.inference import Difference, Interval

KEEP = 0.98
"""The share of the general score to retain, unless the user asks for another."""


@dataclass(frozen=True)
class Answer:
    """The best checkpoints, and what that is based on; each is a few sentences."""

    who: str
    basis: str = ""

    @property
    def text(self) -> str:
        """Both together."""
        return f"{self.who} {self.basis}".strip()


def statistics_of(store: Store, view: TradeOffView, keep: float) -> TradeOffStatistics | None:
    """Return the statistics of a trade-off; None without a reference and an expert."""
    return None if None in view.roles else statistics(store, view, (0.0, 0.0), keep)


def home_answer(
    store: Store,
    scores: Sequence[Score],
    view: TradeOffView | None,
    found: TradeOffStatistics | None,
    label: str = "",
) -> Answer:
    """Return the answer of a whole home.

    Args:
        scores: the leaderboard.
        view, found: its trade-off, if it has one, and the statistics.
        label: the metric to name the best on where a trade-off says nothing, as BENCH:METRIC.
    """
    if view is not None and found is not None:
        answer = answer_of(view, found, scores)
        if answer.basis or not label:
            return answer
    return best_on(store, scores, label) if label else Answer("No answer yet: no scores.")


def answer_of(view: TradeOffView, found: TradeOffStatistics, scores: Sequence[Score]) -> Answer:
    """Return the answer that a trade-off gives.

    Args:
        scores: of the leaderboard, whose judges and flags the answer names.
    """
    verdict = found.verdict
    if verdict is None:
        notes = found.notes or ("no retention was asked for",)
        return Answer(f"No answer yet: {notes[0]}.")
    return Answer(who_sentences(verdict), basis_sentence(view, verdict, scores))


def who_sentences(verdict: Verdict) -> str:
    """Return the checkpoints with the largest significant gain, and those not worse than it."""
    wanted = f"at least {verdict.keep:g} of the general score"
    fewest = min(verdict.general, verdict.domain)
    if fewest < LEAST_FOR_VERDICT:
        return f"No answer from {fewest} items: at least {LEAST_FOR_VERDICT} are needed."
    if not verdict.leaders:
        sentences = [f"No checkpoint gains significantly in the domain and retains {wanted}."]
        sentences += [f"{_shares(one)}: more items may settle it." for one in verdict.perhaps[:1]]
        return " ".join([*sentences, *_also(verdict.perhaps[1:])])
    first, *ties = verdict.leaders
    alone = not ties and not verdict.behind
    lead = "The only" if alone else "Among the largest" if ties else "The largest"
    gains = "gains that retain" if ties else "gain that retains"
    sentences = [f"{lead} significant domain {gains} {wanted}: {_shares(first)}."]
    if ties:
        names = listed([one.checkpoint for one in ties])
        sentences.append(f"No significant difference in gain from {names}.")
    if verdict.behind:
        sentences.append(f"Significantly less: {listed(verdict.behind)}.")
    return " ".join([*sentences, *_also(verdict.perhaps)])


def _also(standings: Sequence[Standing]) -> list[str]:
    """Return which checkpoints gain as much, but may retain too little."""
    if not standings:
        return []
    names = listed([f"{one.checkpoint} ({_share(one.retention, 1)})" for one in standings], 3)
    return [f"Retention inconclusive: {names}."]


def _shares(one: Standing) -> str:
    return (
        f"{one.checkpoint}, {_share(one.gain, 0)} of the expert's gain, retention "
        f"{_share(one.retention, 1)}"
    )


def _share(interval: Interval, digits: int) -> str:
    """Format a share with its interval as percentages: `71 % [54, 88]`."""
    value = f"{100 * interval.value:.{digits}f} %"
    if interval.low is None or interval.high is None:
        return f"{value} [n {interval.n}: too few]"
    if interval.low == interval.high:
        return value
    return f"{value} [{100 * interval.low:.{digits}f}, {100 * interval.high:.{digits}f}]"


# ---------------------------------------------------------------- what it is based on


def basis_sentence(view: TradeOffView, verdict: Verdict, scores: Sequence[Score]) -> str:
    """Return the items, judges and flags behind an answer."""
    names = {item.point.checkpoint for item in view.points}
    shown = [score for score in scores if score.checkpoint in names]
    parts = [
        f"{count} {word}of {axis.label} ({judged_by(list(best_scores(shown, axis).values()))})"
        for axis, count, word in (
            (view.domain, verdict.domain, "items "),
            (view.general, verdict.general, ""),
        )
    ]
    return (
        f"Based on {' and '.join(parts)}; 95 % intervals, Holm-corrected tests of "
        f"{verdict.compared} checkpoints."
    )


def best_on(store: Store, scores: Sequence[Score], label: str) -> Answer:
    """Return which checkpoints are best on one metric, by paired tests on shared items.

    They are compared under one revision and judge, on the items that all of them answered.
    Checkpoints that answered few of these are left out by name.
    """
    axis = axis_of(label)
    judge, known, left_out = _comparable(store, scores, axis)
    shared = set.intersection(*map(set, known.values())) if known else set()
    known = {name: {item: sums[item] for item in shared} for name, sums in known.items()}
    if len(known) < 2 or not shared:
        return Answer(f"Nothing to compare yet on {label}.")
    first, *others = sorted(known, key=lambda name: -axis.oriented(mean_of(known[name])))
    gaps = {name: stats.paired_difference(known[first], known[name]) for name in others}
    adjusted = stats.holm([1.0 if gap is None else gap.p for gap in gaps.values()])
    worse = [
        name
        for (name, gap), p in zip(gaps.items(), adjusted, strict=True)
        if p < ALPHA and gap is not None and _differs(gap)
    ]
    ties = [name for name in others if name not in worse]
    if not ties:
        who = f"Best on {label}: {first}, significantly better than {listed(worse)}."
    else:
        who = f"No significant difference on {label} between {first} and {listed(ties)}."
        who += f" Significantly worse than {first}: {listed(worse)}." if worse else ""
    used = [row for row in scores if row.checkpoint in known and _is_of(row, axis, judge)]
    basis = (
        f"Based on {len(shared)} items of {label} ({judged_by(used)}); paired tests, "
        f"Holm-corrected over {len(others)} comparisons."
    )
    if left_out:
        basis += f" Left out, with few of these items: {listed(left_out)}."
    return Answer(who, basis)


def _comparable(
    store: Store, scores: Sequence[Score], axis: Axis
) -> tuple[str, dict[str, Sums], list[str]]:
    """Return a judge, the sums per item of checkpoints judged by it, and checkpoints left out.

    Of several revisions and judges, it is the one with the most checkpoints, then the most items.
    A checkpoint needs half of the items that the one with the most has.
    """
    tables: dict[tuple[str, str], dict[str, Sums]] = {}
    for score in scores:
        checkpoint = store.checkpoint(score.checkpoint)
        if score.value is None or checkpoint is None or not _is_of(score, axis, score.judge):
            continue
        # Panels and published scores have no rows of their own.
        for group in groups_of(store, [checkpoint.id]):
            if group.judge != score.judge:
                continue
            sums = sums_on_axis(store, [group], axis, score.value)
            if sums is not None:
                counted = {item: pair for item, pair in sums.items() if pair[1] > 0}
                tables.setdefault((group.revision, group.judge), {})[score.checkpoint] = counted
    if not tables:
        return "", {}, []
    (_, judge), found = max(
        tables.items(), key=lambda table: (len(table[1]), sum(map(len, table[1].values())))
    )
    most = max(found.values(), key=len)
    known = {name: sums for name, sums in found.items() if 2 * len(sums.keys() & most) >= len(most)}
    return judge, known, [name for name in found if name not in known]


def _is_of(score: Score, axis: Axis, judge: str) -> bool:
    return (score.bench, score.metric, score.judge) == (axis.bench, axis.metric, judge)


def _differs(gap: Difference) -> bool:
    """Return whether the interval of a difference from enough items excludes 0."""
    if gap.low is None or gap.high is None or gap.n < LEAST_FOR_VERDICT:
        return False
    return gap.low > 0 or gap.high < 0


def judged_by(scores: Sequence[Score]) -> str:
    """Return who judged some scores, what the judge's report card says, and other warnings."""
    judges = list(dict.fromkeys(score.judge for score in scores))
    flags = list(dict.fromkeys(flag for score in scores for flag in score.flags))
    labels = [flag.partition(":")[2] for flag in flags if flag_name(flag) == "judge"]
    if not judges or judges == ["exact"]:
        judged = "no judge"
    else:
        named = [judge for judge in judges if judge != "exact"]
        card = ", ".join(labels) if labels else "no issues on its report card"
        judged = f"judged by {listed(named, 2)}: {card}"
    warnings = [name for name in dict.fromkeys(map(flag_name, flags)) if name in WARNINGS]
    return judged + (f"; flagged {listed(warnings, 3)}" if warnings else "")


WARNINGS = (
    "subset",
    "same-answer",
    "talks-to-judge",
    "empty",
    "truncated",
    "other-language",
    "contaminated",
)
"""Flags of answers and items that weaken an answer."""
