"""Arena-Hard's verdicts and scores: five steps, both orders, style (Li et al., arXiv 2406.11939).

A judge compares two answers in five steps, from A>>B to B>>A. A clear step counts three times, as
in the benchmark's own `show_result.py`: the value of a verdict is the weight won, its weight 1 or
3. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdharness.harness.stats.inference import Interval, student_quantile
from kdharness.harness.stats.metric_specs import CREATIVE, HARD, SHARE
from kdharness.harness.stats.rows import Row, ScoreContext, complete, counted_once, metric_value
from kdharness.harness.types import JudgmentStatus, MetricValue, Verdict
from kdharness.harness.util.thoughts import without_thoughts
from kdharness.judges.scoring.mentions import given
from kdharness.judges.scoring.metric_values import by_category, measure, measured
from kdharness.judges.scoring.several import Mark, is_quoted, own_words, settle
from kdharness.judges.scoring.verdicts import UNREADABLE

Floats = NDArray[np.float64]

CLEAR = 3.0
"""How often a clear verdict counts."""
METRICS = (HARD, CREATIVE)
PUBLISHED, STYLED = "_published", "_style_controlled"
LEAST_FOR_STYLE = 20
"""Minimum number of prompts for a style-controlled fit."""
_STEPS = {
    "A>>B": 2,
    "A>B": 1,
    "A=B": 0,
    "B=A": 0,
    "B>A": -1,
    "B>>A": -2,
    "B<<A": 2,
    "B<A": 1,
    "A<B": -1,
    "A<<B": -2,
}
_DOUBLE, _SINGLE = re.compile(r"\[\[([AB<>=]+)\]\]"), re.compile(r"\[([AB<>=]+)\]")
_SPACED = re.compile(r"\[\[(\s{0,3}[AB]\s{0,3}[<>=]{1,2}\s{0,3}[AB]\s{0,3})\]\]")
_LISTED = re.compile(
    r"\A[^\n]{0,60}\b(?:significantly|slightly|relatively)\b[^\n]{0,40}:\W*\Z", re.I
)
_RIDGE = 1e-3
_CONSTANT = 1e-9
_ROUNDS = 100


# ---------------------------------------------------------------- verdicts


def read_step(reply: str, *, published: bool = False) -> tuple[Verdict, int | None]:
    """Return a verdict's status and its step: 2 for A>>B, … -2 for B>>A, as printed.

    The benchmark takes the last label in double brackets, else the last in single ones. Not
    published: reasoning is removed first; neither a repetition of the five choices nor a label
    that the judge quotes from an answer, decides against or only imagines is a verdict; labels on
    several things ("Turn 1: [[A>B]] Turn 2: [[B>A]]") are none.
    """
    if published:
        found = _DOUBLE.findall(reply.upper()) or _SINGLE.findall(reply.upper())
        step = _STEPS.get(found[-1]) if found else None
        return (UNREADABLE if step is None else Verdict(JudgmentStatus.OK)), step
    text, unfinished = without_thoughts(reply)
    if unfinished:
        return UNREADABLE, None
    text = text.replace("\\[", "[").replace("\\]", "]").upper()
    text = _SPACED.sub(lambda match: re.sub(r"\s", "", match[0]), text)
    matches = list(_DOUBLE.finditer(text)) or list(_SINGLE.finditer(text))
    marks = [Mark(m.start(), m.end(), _STEPS.get(m[1])) for m in matches]
    choices = [mark for mark in marks if _is_choice(text, mark.start)]
    if len({mark.value for mark in choices}) > 1:
        marks = [mark for mark in marks if mark not in choices]
    marks = own_words(text, [mark for mark in marks if not is_quoted(text, mark)])
    mark = settle(text, given(text, marks), compares=True)
    if mark is None or mark.value is None:
        return UNREADABLE, None
    return Verdict(JudgmentStatus.OK), int(mark.value)


def _is_choice(text: str, start: int) -> bool:
    """Return whether a label is in the form of the instructions' numbered choices."""
    line = text[text.rfind("\n", 0, start) + 1 : start]
    return re.match(r"\W{0,4}[1-5]\W", line) is not None and _LISTED.match(line) is not None


def battle(step: int, order: int) -> tuple[float, float]:
    """Return (value, weight) of a verdict for the judged model.

    Args:
        step: as printed, from A's side.
        order: 0 if the model is A, 1 if it is B.
    """
    mine = step if order == 0 else -step
    weight = CLEAR if abs(mine) == 2 else 1.0
    return weight * (np.sign(mine) + 1) / 2, weight


# ---------------------------------------------------------------- style


class Style(NamedTuple):
    """What an answer looks like: its characters, and marks of markdown outside of code blocks."""

    length: int
    headers: int
    lists: int
    bold: int


def style_of(text: str) -> Style:
    """Count what style control looks at, as the benchmark's `add_markdown_info.py` does.

    It measures length in GPT-4o's tokens; here it is characters, which need no tokenizer.
    """
    prose = re.sub(r"```[^`]*```", "", text)
    headers = len(re.findall(r"^#{1,6}\s", prose, re.MULTILINE))
    lists = len(re.findall(r"^\s*(?:\d+\.|[-*+])\s", prose, re.MULTILINE))
    # Bold text within bold text counts twice, as there.
    bold = sum(len(re.findall(mark, prose)) for mark in (r"\*\*[^*\n]+\*\*", r"__[^_\n]+__"))
    return Style(len(text), headers, lists, bold)


def style_difference(mine: Style, theirs: Style) -> dict[str, float]:
    """Return the relative differences in the densities of headers, lists and bold text."""
    densities = {}
    for name in ("headers", "lists", "bold"):
        first = getattr(mine, name) / (mine.length + 1)
        second = getattr(theirs, name) / (theirs.length + 1)
        densities[name] = (first - second) / (first + second + 1)
    return densities


# ---------------------------------------------------------------- scores


def score_arena(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Score Arena-Hard: a win rate for hard prompts and one for creative writing.

    `*_published` has the published interval; `*_style_controlled` is the win rate at equal style.
    A prompt counts if both orders have a verdict.
    """
    kept = rows if context.as_published else counted_once(rows)
    scores: list[MetricValue] = []
    for name in METRICS:
        mine = [row for row in kept if row.metric == name]
        if not mine:
            continue
        pairs = complete(mine)
        failed = len(mine) - len(pairs)
        scores.append(measure(name, pairs, SHARE.bounds)._replace(n_failed=failed))
        scores.append(
            metric_value(f"{name}{PUBLISHED}", published_interval(pairs), len(pairs), failed)
        )
        styled = style_controlled(pairs)
        if styled is not None:
            scores.append(metric_value(f"{name}{STYLED}", styled, len(pairs), failed))
    pairs = complete(kept)
    scores.append(_flips(pairs))
    categories = by_category(pairs)
    if len(categories) > 1:
        scores += [measure(f"category:{c}", part, SHARE.bounds) for c, part in categories.items()]
    return scores


def _flips(pairs: Sequence[Row]) -> MetricValue:
    """Return the share of matches whose orders name different winners."""
    matches: dict[tuple[str, str, str], list[Row]] = {}
    for row in pairs:
        matches.setdefault((row.item, row.metric, row.baseline), []).append(row)
    table: dict[str, list[float]] = {}
    for (item, _, _), sides in matches.items():
        cell = table.setdefault(item, [0.0, 0.0])
        cell[0] += len({_winner(row) for row in sides}) > 1
        cell[1] += 1
    return measured("order_flip_rate", table, SHARE.bounds, n=len(matches))


def _winner(row: Row) -> int:
    """Return 1 for the model, -1 for the baseline, 0 for a tie."""
    twice = 2 * (row.value or 0.0)
    return int(twice > row.weight) - int(twice < row.weight)


def _outcomes(rows: Sequence[Row]) -> tuple[Floats, NDArray[np.intp]]:
    """Return each battle's outcome, 0, 0.5 or 1, and the row it comes from; clear ones thrice."""
    # A panel's verdicts may count between one and three times.
    times = np.array([max(1, round(row.weight)) for row in rows])
    share = np.array([(row.value or 0.0) / row.weight for row in rows])
    index = np.repeat(np.arange(len(rows)), times)
    return share[index], index


def published_interval(rows: Sequence[Row], seed: int = 0) -> Interval | None:
    """Return the mean and the 5 and 95 % points of 100 resamples of the battles.

    That is the benchmark's own interval, of 90 %. It takes the battles of one prompt as
    independent, so it is narrower than the one over prompts.
    """
    if not rows:
        return None
    outcomes, _ = _outcomes(rows)
    draws = np.random.default_rng(seed).integers(0, len(outcomes), (_ROUNDS, len(outcomes)))
    means = outcomes[draws].mean(1)
    low, high = np.quantile(means, (0.05, 0.95))
    return Interval(float(means.mean()), float(low), float(high), len(outcomes))


def style_controlled(rows: Sequence[Row]) -> Interval | None:
    """Return the win rate at equal style: a logistic model of the battles.

    The published code fits all models at once and centres the differences in style; with one
    model that would take the control away, so here they are only scaled. The interval is that of
    the constant, with a variance that knows which battles belong to one prompt.

    Returns:
        None with fewer than `LEAST_FOR_STYLE` prompts, or without a record of the style.
    """
    styled = [row for row in rows if row.len_1 is not None and row.headers is not None]
    items = {item: n for n, item in enumerate(dict.fromkeys(row.item for row in styled))}
    if len(items) < LEAST_FOR_STYLE:
        return None
    outcomes, index = _outcomes(styled)
    features = np.array([_features(row) for row in styled])[index]
    scale = features.std(0)
    # The spread of a constant is rounding, and its effect cannot be told from the constant's.
    varies = scale > _CONSTANT * np.abs(features).max(0)
    features = np.where(varies, features / np.where(varies, scale, 1.0), 0.0)
    design = np.column_stack([np.ones(len(features)), features])
    fitted = _logistic(design, outcomes)
    groups = np.array([items[row.item] for row in styled])[index]
    error = _clustered_error(design, outcomes, fitted, groups)
    half = student_quantile(0.975, len(items) - 1) * error
    ends = (fitted[0] - half, fitted[0], fitted[0] + half)
    low, rate, high = _sigmoid(np.array(ends)).tolist()
    return Interval(rate, low, high, len(items))


def _features(row: Row) -> tuple[float, float, float, float]:
    """Return the relative difference in length, and those in style that were stored."""
    theirs, mine = row.len_1 or 0.0, row.len_2 or 0.0
    length = (mine - theirs) / max(mine + theirs, 1.0)
    return length, row.headers or 0.0, row.lists or 0.0, row.bold or 0.0


def _sigmoid(logits: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    return found


def _logistic(design: Floats, outcomes: Floats) -> Floats:
    """Return the coefficients of a logistic model; a trace of a ridge keeps them finite."""
    beta = np.zeros(design.shape[1])
    ridge = _RIDGE * np.eye(design.shape[1])
    for _ in range(50):
        p = _sigmoid(design @ beta)
        gradient = design.T @ (p - outcomes) + ridge @ beta
        hessian = (design * (p * (1 - p))[:, None]).T @ design + ridge
        step = np.linalg.solve(hessian, gradient)
        beta -= step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-10:
            break
    return beta


def _clustered_error(
    design: Floats, outcomes: Floats, beta: Floats, groups: NDArray[np.intp]
) -> float:
    """Return the standard error of the constant, by the sandwich over prompts."""
    p = _sigmoid(design @ beta)
    hessian = (design * (p * (1 - p))[:, None]).T @ design + _RIDGE * np.eye(len(beta))
    bread = np.linalg.inv(hessian)
    scores = np.zeros((int(groups.max()) + 1, len(beta)))
    np.add.at(scores, groups, design * (outcomes - p)[:, None])
    clusters = len(scores)
    meat = scores.T @ scores * clusters / (clusters - 1)
    return float(np.sqrt((bread @ meat @ bread)[0, 0]))
