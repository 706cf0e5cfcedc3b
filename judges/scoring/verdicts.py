"""Parsing verdicts from a judge's reply. Pure: text or log-probabilities in, status and value out.

Each parser exists as in the benchmark's own scripts (`published=True`, for parity) and without
their flaws. Docstrings list the differences.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence

from kdharness.harness.types import JudgmentStatus, Verdict
from kdharness.harness.util.thoughts import without_thoughts
from kdharness.judges.scoring.mentions import given
from kdharness.judges.scoring.plain_ratings import (
    is_confidence,
    is_named,
    is_overall,
    object_rating,
    plain_ratings,
    rates_nothing,
    sources_start,
)
from kdharness.judges.scoring.several import (
    Mark,
    is_quoted,
    own_words,
    quoted_marks,
    sentence_before,
    settle,
)

# A judge's text may be adversarial: no pattern here may scan the same text twice.
_DOUBLE = re.compile(r"\[\[(\d+(?:\.\d*)?)\]\]")
_SINGLE = re.compile(r"\[(\d+(?:\.\d*)?)\]")
_BRACKETS = re.compile(r"\[\[([^\[\]\n]{1,60})\]\]")
# "[[10/10]]", "[[ 7 ]]", "[[8.5 out of 10]]": clear verdicts that FastChat misses.
_NUMBER = re.compile(
    r"(\d{1,9}(?:\.\d{0,9})?)\s{0,9}(?:(?:/|out of)\s{0,9}(\d{1,9}))?", re.IGNORECASE
)
# "[[Rating: 7]]": the name inside the brackets.
_TITLE = re.compile(r"(?:rating|score|grade|verdict)\s{0,9}(?:is\b|[:：=])\s{0,9}", re.IGNORECASE)
_BY_NAME = re.compile(
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten)\b|\d", re.IGNORECASE
)
_OF = re.compile(r"\s{0,3}(?:/|out of)\s{0,3}\[{0,2}(\d{1,9})\b", re.IGNORECASE)
_TOTAL = re.compile(r"\W{0,3}(?:/|out of|of)\W{0,3}", re.IGNORECASE)
_SCALE = re.compile(r"\s{0,9}(?:to|through|and|[-–—~…]|\.{2,3})\s{0,9}", re.IGNORECASE)
_WINNER = re.compile(
    r"\s{0,9}(?:(?:assistant|model|answer|response)\s{1,3})?([ABC]|tie|draw)\s{0,9}", re.IGNORECASE
)
_WINNERS = re.compile(r"\W{0,9}[ABC]\W{0,9}(?:(?:or|and|vs)\W{0,9})?[ABC]\b.{0,40}")
_IF = re.compile(
    r"[\"'”’)\s]{0,4}(?:if|when|means|indicates|stands for|for (?:an? )?(?:tie|draw)|for equal)",
    re.IGNORECASE,
)
_PLAIN = str.maketrans({"［": "[", "］": "]", "【": "[", "】": "]"})
LEAST_MASS = 0.05
"""Minimum probability of the two letters together, as a first token, to count as a verdict."""
_RANKING_LENGTH = 10_000
_ABSURD = 1e9

UNREADABLE = Verdict(JudgmentStatus.UNREADABLE)


def cut_thinking(text: str) -> str:
    """Return the reply without the model's reasoning, which may contain many verdicts.

    Of unfinished reasoning, only the text before it is left: usually nothing.
    """
    return without_thoughts(text)[0]


def is_unfinished(text: str) -> bool:
    """Return whether the reasoning is unfinished, so that no answer can follow it."""
    return without_thoughts(text)[1]


def _unreadable(why: str, **info: object) -> Verdict:
    return Verdict(JudgmentStatus.UNREADABLE, None, {**info, "why": why})


OPEN_THOUGHT = "the reply ends inside the judge's reasoning"
SEVERAL = "the reply contains verdicts on several things"


def read_rating(
    reply: str, *, published: bool = False, low: float = 1, high: float = 10
) -> Verdict:
    """Read an MT-Bench rating: `[[7]]`, else `[7]`.

    Not published: reasoning is removed first; `[[10/10]]` is read, and so is a reply that is
    `8`, "Rating: 8" or JSON; the scale, the quoted format, what an ideal answer would get, what
    the answer asks for, code (`x[[1]]`) and citations are not ratings; the last of several ratings
    counts, and none if they rate several things (FastChat takes the first number); a single `[n]`
    counts only if the words before it call it a rating (FastChat takes a citation `[1]` for a
    score); a value outside `low`-`high` is not a score (FastChat keeps `[[85]]` and crashes on
    `[[08]]`).
    """
    if published:
        match = _DOUBLE.search(reply) or _SINGLE.search(reply)
        if not match:
            return UNREADABLE
        value = float(match.group(1))
        return Verdict(JudgmentStatus.OK, value) if math.isfinite(value) else UNREADABLE
    text, unfinished = without_thoughts(reply)
    if unfinished:
        return _unreadable(OPEN_THOUGHT)
    text = text.replace("\\[", "[").replace("\\]", "]").translate(_PLAIN)
    marks = _ratings(text, low, high)
    mark = settle(text, marks)
    if mark is None or mark.value is None:
        return _unreadable(SEVERAL) if len({m.value for m in marks}) > 1 else UNREADABLE
    value = min(mark.value, _ABSURD)
    if not low <= value <= high:
        return Verdict(JudgmentStatus.UNREADABLE, None, {"out_of_range": value})
    return Verdict(JudgmentStatus.OK, value)


def _ratings(text: str, low: float, high: float) -> list[Mark]:
    """Return all ratings in a text that its writer gives.

    One that is called a rating in words counts before a mere number in double brackets.
    """
    alone = object_rating(text)
    if alone is not None:
        return given(text, [alone])
    bracketed = _bracketed(text, low, high)
    marks = given(text, own_words(text, bracketed))
    quoted, _ = quoted_marks(text, marks)
    if any(mark not in quoted and is_named(text, mark) for mark in marks):
        return marks
    prose = _BRACKETS.sub(lambda match: "x" * len(match[0]), text) if "[[" in text else text
    plain = plain_ratings(prose)
    if marks:
        plain = [mark for mark in plain if is_overall(text, mark)]
    return given(text, own_words(text, plain)) or marks


def _bracketed(text: str, low: float, high: float) -> list[Mark]:
    """Return all ratings in double brackets, without the scale, the format example and code."""
    marks: list[Mark] = []
    sources = sources_start(text)
    for match in _BRACKETS.finditer(text):
        inside = match.group(1).strip(" \t*_`'\"")
        title = _TITLE.match(inside)
        number = _NUMBER.fullmatch(inside[title.end() :] if title else inside)
        if number is None and _BY_NAME.search(inside) is None:
            continue  # "[[rating]]" is a placeholder, not a rating
        if rates_nothing(text, *match.span()) or (marks and match.start() > sources):
            continue
        whole = number[2] if number and number[2] else _whole_of(text, match.end())
        fits = number is not None and whole in (None, f"{high:g}")
        mark = Mark(match.start(), match.end(), float(number[1]) if number and fits else None)
        if marks and _ends_scale(text, marks[-1], mark, low, high):
            marks.pop()
        elif not (
            _is_total(text, marks, mark, high)
            or is_quoted(text, mark)
            or is_confidence(sentence_before(text, mark.start))
        ):
            marks.append(mark)
    return marks


def _whole_of(text: str, end: int) -> str | None:
    """Return the 5 of "[[4]]/5" or "[[4]] out of 5"."""
    match = _OF.match(text, end)
    return match[1] if match else None


def _ends_scale(text: str, before: Mark, mark: Mark, low: float, high: float) -> bool:
    """Return whether two numbers are the ends of the scale: "[[1]] to [[10]]"."""
    ends = mark.value == high and before.value in (low, 0)
    return ends and _SCALE.fullmatch(text, before.end, mark.start) is not None


def _is_total(text: str, marks: Sequence[Mark], mark: Mark, high: float) -> bool:
    """Return whether a number is the 10 of "[[8]] out of [[10]]"."""
    if not marks or mark.value != high:
        return False
    return _TOTAL.fullmatch(text, marks[-1].end, mark.start) is not None


def read_winner(reply: str, *, published: bool = False) -> Verdict:
    """Read a pairwise verdict as printed: A is 1.0, B is 0.0, a tie ([[C]]) is 0.5.

    FastChat looks for [[A]], then [[B]], then [[C]], anywhere. Not published: reasoning is removed
    first, repetitions of the rules ("[[A]] if …") and the side that lost ("[[B]] rather than
    [[A]]") are ignored, `[[Tie]]` is read, and the last of several verdicts counts, or none if
    they are about several things.
    """
    values = {"A": 1.0, "B": 0.0, "C": 0.5}
    if published:
        for letter, value in values.items():
            if f"[[{letter}]]" in reply:
                return Verdict(JudgmentStatus.OK, value)
        return UNREADABLE
    text, unfinished = without_thoughts(reply)
    if unfinished:
        return _unreadable(OPEN_THOUGHT)
    text = text.replace("\\[", "[").replace("\\]", "]").translate(_PLAIN)
    marks = []
    for match in _BRACKETS.finditer(text):
        inside = match[1].strip("*_`'\"")
        side = _WINNER.fullmatch(inside)
        if side and inside.islower() and text[match.start() - 1 : match.start()].isidentifier():
            continue  # "rows[[a]]" is code
        if side or _WINNERS.fullmatch(inside):
            won = values.get(side[1].upper(), 0.5) if side else None
            marks.append(Mark(match.start(), match.end(), won))
    if len({mark.value for mark in marks}) > 1:
        marks = [mark for mark in marks if not _IF.match(text, mark.end)]
    marks = own_words(text, [mark for mark in marks if not is_quoted(text, mark)])
    marks = given(text, marks)
    mark = settle(text, marks, compares=True)
    if mark is None or mark.value is None:
        return _unreadable(SEVERAL) if len({m.value for m in marks}) > 1 else UNREADABLE
    return Verdict(JudgmentStatus.OK, mark.value)


def read_ranking(reply: str, name: str = "model_1") -> Verdict:
    """Read an AlpacaEval 1 verdict: the rank of `name` in a list of {model, rank}, 1 or 2.

    A list that ranks a model twice, or both models the same, is unreadable.
    """
    text, unfinished = without_thoughts(reply)
    if unfinished or len(text) > _RANKING_LENGTH:
        return UNREADABLE
    text = re.sub(r"^```\w*\s*|\s*```$", "", text)
    try:
        ranking = ast.literal_eval(text)
        ranks = [(entry["model"], entry["rank"]) for entry in ranking]
        (rank,) = (rank for model, rank in ranks if model == name)
        alike = any(rank == other for model, other in ranks if model != name)
    except (ValueError, SyntaxError, TypeError, LookupError, MemoryError, RecursionError):
        return UNREADABLE
    if not isinstance(rank, (int, float)) or isinstance(rank, bool) or rank not in (1, 2) or alike:
        return UNREADABLE
    return Verdict(JudgmentStatus.OK, float(rank))


def read_first_token(
    top_logprobs: Sequence[tuple[str, float]] | None,
    first: str = "m",
    second: str = "M",
    *,
    published: bool = False,
) -> Verdict:
    """Read AlpacaEval 2, weighted: 2 - P(first) / (P(first) + P(second)), of exactly these tokens.

    A token that is not listed has no weight; if neither is listed, there is no verdict. Not
    published: if another token is more likely and both together have less than `LEAST_MASS`, the
    judge was saying something else (reasoning, a sentence), and this is not a verdict (alpaca_eval
    divides anyway).
    """
    top = [(token, value) for token, value in top_logprobs or () if math.isfinite(value)]
    logs = {token: value for token, value in top if token in (first, second)}
    if not logs:
        return UNREADABLE
    mass = min(1.0, sum(math.exp(min(0.0, value)) for value in logs.values()))
    likeliest = max(top, key=lambda pair: pair[1])[0]
    if likeliest not in logs and mass < LEAST_MASS and not published:
        return _unreadable(
            f"the first token is {likeliest[:40]!r}; {first} and {second} together have "
            f"{100 * mass:.2g} % probability",
            mass=mass,
        )
    best = max(logs.values())
    weights = {token: math.exp(value - best) for token, value in logs.items()}
    share = weights.get(first, 0.0) / sum(weights.values())
    return Verdict(JudgmentStatus.OK, 2.0 - share)


def read_token(reply: str, first: str = "m", second: str = "M") -> Verdict:
    """Read AlpacaEval 2, discrete: the token itself, and nothing else."""
    text, unfinished = without_thoughts(reply)
    if unfinished:
        return _unreadable(OPEN_THOUGHT)
    text = text.strip().strip("\"'`.*")
    if text == first:
        return Verdict(JudgmentStatus.OK, 1.0)
    if text == second:
        return Verdict(JudgmentStatus.OK, 2.0)
    return UNREADABLE


def unswitch(verdict: Verdict, switched: bool) -> Verdict:
    """Convert a preference for the shown order into one for (baseline, model)."""
    if not switched or verdict.value is None:
        return verdict
    return Verdict(verdict.status, 3.0 - verdict.value, verdict.info)


def stored_top_logprobs(
    completion: Mapping[str, object] | None,
) -> tuple[tuple[str, float], ...] | None:
    """Return the first token's alternatives in a stored OpenAI choice, or None."""
    try:
        entries = completion["logprobs"]["content"][0]["top_logprobs"]  # type: ignore[index]
        return tuple((str(entry["token"]), float(entry["logprob"])) for entry in entries)
    except (TypeError, KeyError, IndexError, ValueError, OverflowError):
        return None
