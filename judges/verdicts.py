"""A judge's reply -> a verdict. Pure: text or log-probabilities in, status and value out.

Each reading exists once as the benchmark's own scripts do it (`published=True`, for parity) and
once without their traps. The differences are named where they are made.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdharness.harness.types import JudgmentStatus, Verdict

# A judge's text may be made to cost: no pattern here may go over the same stretch twice.
_DOUBLE = re.compile(r"\[\[(\d+(?:\.\d*)?)\]\]")
_SINGLE = re.compile(r"\[(\d+(?:\.\d*)?)\]")
# "[[10/10]]", "[[ 7 ]]", "[[8.5 out of 10]]": clear verdicts that FastChat loses.
_LOOSE = re.compile(
    r"\[\[\s{0,9}(\d{1,9}(?:\.\d{1,9})?)\s{0,9}(?:/\s{0,9}10|out of\s{1,9}10)?\s{0,9}\]\]",
    re.IGNORECASE,
)
# A lone bracket is a rating where the text says so, and a citation elsewhere.
_NAMED = re.compile(
    r"(?:rating|score|verdict|grade)\b[^.\n\[\]]{0,40}\[(\d{1,9}(?:\.\d{1,9})?)(?:\s{0,9}/\s{0,9}10)?\]",
    re.IGNORECASE,
)
_LAST = re.compile(
    r"(?:rating|score|verdict|grade)\W{0,6}(\d{1,9}(?:\.\d{1,9})?)(?:\s{0,9}/\s{0,9}10)?\W{0,99}$",
    re.IGNORECASE,
)
_THINKING = (
    (re.compile(r"<think(?:ing)?>", re.IGNORECASE), re.compile(r"</think(?:ing)?>", re.IGNORECASE)),
    (re.compile(r"<\|channel\|>analysis"), re.compile(r"<\|channel\|>final(?:<\|message\|>)?")),
    (re.compile(r"\[THINK\]"), re.compile(r"\[/THINK\]")),
    (re.compile(r"<reasoning>", re.IGNORECASE), re.compile(r"</reasoning>", re.IGNORECASE)),
)
_RANKING_LENGTH = 10_000
_ABSURD = 1e9

UNREADABLE = Verdict(JudgmentStatus.UNREADABLE)


def cut_thinking(text: str) -> str:
    """The reply without a reasoning model's thoughts, which may hold any number of verdicts.

    Thinking that never ended leaves nothing: what stands in it is no verdict.
    """
    for begin, end in _THINKING:
        text = _without(text, begin, end)
    begin, end = _THINKING[0]
    # Some chat templates open the thinking themselves, so that only its end is in the reply.
    closings = list(end.finditer(text))
    if closings:
        text = text[closings[-1].end() :]
    opened = begin.search(text)
    return (text[: opened.start()] if opened else text).strip()


def _without(text: str, begin: re.Pattern[str], end: re.Pattern[str]) -> str:
    """The text without its stretches from `begin` to the nearest `end`, each looked at once."""
    kept, place = [], 0
    while opened := begin.search(text, place):
        closed = end.search(text, opened.end())
        if closed is None:
            break
        kept.append(text[place : opened.start()])
        place = closed.end()
    return "".join(kept) + text[place:]


def read_rating(
    reply: str, *, published: bool = False, low: float = 1, high: float = 10
) -> Verdict:
    """An MT-Bench rating: `[[7]]`, else `[7]`.

    Not published: thinking is cut first; `[[10/10]]` is read; a lone `[n]` counts only
    where the words before it call it a rating (FastChat takes a citation `[1]` for a score);
    outside `low`-`high` is no score (FastChat keeps `[[85]]` and crashes on `[[08]]`).
    """
    if published:
        found = _DOUBLE.search(reply) or _SINGLE.search(reply)
        if not found:
            return UNREADABLE
        value = float(found.group(1))
        return Verdict(JudgmentStatus.OK, value) if math.isfinite(value) else UNREADABLE
    text = cut_thinking(reply)
    found = _DOUBLE.search(text) or _LOOSE.search(text) or _lone_bracket(text)
    if not found:
        return UNREADABLE
    value = min(float(found.group(1)), _ABSURD)
    if not low <= value <= high:
        return Verdict(JudgmentStatus.UNREADABLE, None, {"out_of_range": value})
    return Verdict(JudgmentStatus.OK, value)


def _lone_bracket(text: str) -> re.Match[str] | None:
    """A rating without double brackets, where it cannot be a citation."""
    stripped = text.strip()
    if not stripped:
        return None
    whole = re.fullmatch(r"\[?(\d+(?:\.\d+)?)\]?(?:\s{0,9}/\s{0,9}10)?\.?", stripped)
    if whole:
        return whole
    named = list(_NAMED.finditer(stripped))
    return named[-1] if named else _LAST.search(stripped.splitlines()[-1])


def read_winner(reply: str, *, published: bool = False) -> Verdict:
    """A pairwise verdict as printed: A is 1.0, B is 0.0, a tie ([[C]]) is 0.5.

    FastChat looks for [[A]], then [[B]], then [[C]], anywhere. Not published: thinking is cut
    first, and a reply that holds different verdicts is read by its last one.
    """
    values = {"A": 1.0, "B": 0.0, "C": 0.5}
    if published:
        for letter, value in values.items():
            if f"[[{letter}]]" in reply:
                return Verdict(JudgmentStatus.OK, value)
        return UNREADABLE
    found = re.findall(r"\[\[\s{0,9}([ABC])\s{0,9}\]\]", cut_thinking(reply))
    if not found:
        return UNREADABLE
    return Verdict(JudgmentStatus.OK, values[found[-1]])


def read_ranking(reply: str, name: str = "model_1") -> Verdict:
    """AlpacaEval 1: the rank of `name` in a list of {model, rank}, 1 or 2."""
    text = cut_thinking(reply).strip()
    if len(text) > _RANKING_LENGTH:
        return UNREADABLE
    text = re.sub(r"^```\w*\s*|\s*```$", "", text)
    try:
        ranking = ast.literal_eval(text)
        rank = next(entry["rank"] for entry in ranking if entry["model"] == name)
    except (ValueError, SyntaxError, TypeError, LookupError, StopIteration, MemoryError):
        return UNREADABLE
    except RecursionError:
        return UNREADABLE
    if not isinstance(rank, (int, float)) or rank not in (1, 2):
        return UNREADABLE
    return Verdict(JudgmentStatus.OK, float(rank))


def read_first_token(
    top_logprobs: Sequence[tuple[str, float]] | None, first: str = "m", second: str = "M"
) -> Verdict:
    """AlpacaEval 2, weighted: 2 - P(first) / (P(first) + P(second)) over exactly these tokens.

    A token that is not listed has no weight; none listed is no verdict.
    """
    logs = {
        token: value
        for token, value in top_logprobs or ()
        if token in (first, second) and math.isfinite(value)
    }
    if not logs:
        return UNREADABLE
    top = max(logs.values())
    weights = {token: math.exp(value - top) for token, value in logs.items()}
    share = weights.get(first, 0.0) / sum(weights.values())
    return Verdict(JudgmentStatus.OK, 2.0 - share)


def read_token(reply: str, first: str = "m", second: str = "M") -> Verdict:
    """AlpacaEval 2, discrete: the token itself."""
    text = cut_thinking(reply).strip().strip("\"'`.*")
    if text == first:
        return Verdict(JudgmentStatus.OK, 1.0)
    if text == second:
        return Verdict(JudgmentStatus.OK, 2.0)
    return UNREADABLE


def unswitch(verdict: Verdict, switched: bool) -> Verdict:
    """A preference for the shown order as one for (baseline, model)."""
    if not switched or verdict.value is None:
        return verdict
    return Verdict(verdict.status, 3.0 - verdict.value, verdict.info)


def stored_preference(value: Any) -> float | None:
    """An annotation file's preference in 1-2; its 0 means a draw, its null no verdict."""
    if value is None or isinstance(value, (str, bool)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if number == 0:
        return 1.5
    return number if 1 <= number <= 2 else None


def stored_top_logprobs(
    completion: Mapping[str, Any] | None,
) -> tuple[tuple[str, float], ...] | None:
    """The first token's alternatives in a stored OpenAI choice, or None."""
    try:
        entries = completion["logprobs"]["content"][0]["top_logprobs"]  # type: ignore[index]
        return tuple((str(entry["token"]), float(entry["logprob"])) for entry in entries)
    except (TypeError, KeyError, IndexError, ValueError, OverflowError):
        return None
