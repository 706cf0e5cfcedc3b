"""A judge's agreement with verdicts that were given elsewhere: people's votes, published ratings.

Two layouts of FastChat are read: its human judgments (two conversations, and which was better) and
its single judgments (a judge's prompt, and the score it gave). A sample is put to the judge; the
sampling unit is the question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from kdharness.harness.errors import DataError
from kdharness.harness.protocols import Engine
from kdharness.harness.stats.corrected import rater_agreement
from kdharness.harness.stats.inference import Interval
from kdharness.harness.stats.rows import outcome_of
from kdharness.harness.types import Finish, GenerationRequest, JudgmentStatus, Message, digest
from kdharness.harness.util.untrusted import parse_json_object, read_lines
from kdharness.judges.audit.report_card import COMPARE, RATE, Share
from kdharness.judges.scoring.expected import MOST_TOP, NUMBERS, OPENING, read_expected
from kdharness.judges.scoring.verdicts import read_rating, read_winner

WINNERS = {"model_a": 1.0, "model_b": 0.0}
PAIR, RATING, EXPECTED = "pair", "rating", "expected_rating"
_LAYOUTS = (
    "each row needs question_id, model_a, model_b, winner, turn, conversation_a and "
    "conversation_b (people's votes), or question_id, model, user_prompt and score (ratings)"
)


@dataclass(frozen=True)
class Published:
    """A verdict given elsewhere.

    Attributes:
        question: the question's id; verdicts of one question are one unit.
        key: what was judged; votes with the same key are averaged.
        value: a rating from 1 to 10; of a pair 1 if the first is better, 0.5 for a tie.
        prompts: the user messages to put to a judge: of a rating one, of a pair one per order.
    """

    question: str
    key: str
    value: float
    prompts: tuple[str, ...]


def read_published(path: Path) -> tuple[str, list[Published]]:
    """Read a file of votes or ratings; return its kind and its verdicts, several votes averaged.

    Ratings of -1, FastChat's mark for no score, are left out.

    Raises:
        DataError: not such a file; the line and what is wrong.
    """
    kinds: set[str] = set()
    found: dict[str, list[Published]] = {}
    for line, raw in read_lines(path, DataError):
        where = f"{path}:{line}"
        try:
            row = parse_json_object(raw)
            kind = RATING if "score" in row else PAIR
            verdict = _rating(row) if kind == RATING else _vote(row)
        except KeyError as error:
            message = f"{error.args[0]} is missing"
            raise DataError(message, where=where, hint=_LAYOUTS) from error
        except ValueError as error:
            raise DataError(str(error), where=where, hint=_LAYOUTS) from error
        kinds.add(kind)
        if len(kinds) > 1:
            raise DataError("votes and ratings in one file", where=where, hint="split the file")
        if verdict is not None:
            found.setdefault(verdict.key, []).append(verdict)
    if not found:
        raise DataError("no verdict in this file", where=str(path), hint=_LAYOUTS)
    averaged = [
        replace(same[0], value=sum(verdict.value for verdict in same) / len(same))
        for same in found.values()
    ]
    return kinds.pop(), averaged


def _rating(row: Mapping[str, object]) -> Published | None:
    prompt, score = _text(row, "user_prompt"), row["score"]
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise ValueError(f"score must be a number, not {score!r}")
    if score == -1:
        return None
    if not 1 <= score <= 10:
        raise ValueError(f"score must be in 1 to 10, or -1 for none, not {score!r}")
    return Published(_name(row, "question_id"), digest(prompt), float(score), (prompt,))


def _vote(row: Mapping[str, object]) -> Published | None:
    """Return a vote, the pair in a fixed order whichever side was shown as A."""
    winner, turn = row["winner"], row.get("turn", 1)
    if not isinstance(winner, str) or not (winner in WINNERS or winner.startswith("tie")):
        raise ValueError(f"winner must be model_a, model_b or tie, not {winner!r}")
    if isinstance(turn, bool) or not isinstance(turn, int) or not 1 <= turn <= 20:
        raise ValueError(f"turn must be a whole number from 1, not {turn!r}")
    value = WINNERS.get(winner, 0.5)
    names = [_name(row, "model_a"), _name(row, "model_b")]
    sides = [_conversation(row, f"conversation_{side}", turn) for side in "ab"]
    if names[0] > names[1]:
        names, sides, value = names[::-1], sides[::-1], 1.0 - value
    question = _name(row, "question_id")
    key = digest(question, turn, names, sides)
    return Published(question, key, value, (_pair(*sides), _pair(*sides[::-1])))


def _name(row: Mapping[str, object], field: str) -> str:
    value = row[field]
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise ValueError(f"{field} must be a name or a number, not {value!r}")
    return str(value)


def _text(row: Mapping[str, object], field: str) -> str:
    value = row[field]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field} must be text")
    return value


def _conversation(row: Mapping[str, object], field: str, turn: int) -> list[tuple[str, str]]:
    """Return (role, text) of a conversation up to the answer to a turn."""
    messages = row[field]
    if not isinstance(messages, list) or len(messages) < 2 * turn:
        raise ValueError(f"{field} must be a list with the prompts and answers of {turn} turns")
    shown: list[tuple[str, str]] = []
    for message in messages[: 2 * turn]:
        if not isinstance(message, dict):
            raise ValueError(f"{field} must have objects with role and content")
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant") or not isinstance(content, str):
            raise ValueError(f"{field} must have role (user or assistant) and content")
        shown.append((role, content))
    if [role for role, _ in shown] != ["user", "assistant"] * turn:
        raise ValueError(f"{field} must alternate user and assistant")
    return shown


def _pair(a: Sequence[tuple[str, str]], b: Sequence[tuple[str, str]]) -> str:
    """Return the message that shows two conversations."""
    if len(a) == 2:
        return f"Question:\n{a[0][1]}\n\nAnswer A:\n{a[1][1]}\n\nAnswer B:\n{b[1][1]}"
    texts = []
    for letter, messages in (("A", a), ("B", b)):
        lines = [f"{'User' if role == 'user' else letter}:\n{text}" for role, text in messages]
        texts.append(f"Conversation with {letter}:\n\n" + "\n\n".join(lines))
    return "\n\n".join((*texts, "Compare the last answers, A's and B's."))


# ---------------------------------------------------------------- asking a judge


class _Call(NamedTuple):
    """One call: which verdict it is about, how it is read, and in which order it shows a pair."""

    place: int
    kind: str
    order: int
    request: GenerationRequest


def agreement(
    engine: Engine,
    path: Path,
    *,
    count: int,
    seed: int = 0,
    expected: bool = False,
    max_tokens: int = 512,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, object]:
    """Put a random sample of published verdicts to a judge; return how far it agrees.

    Args:
        count: how many verdicts; a pair takes two calls, a rating one (two with `expected`).
        expected: whether the judge gives expected ratings too.
        advance: called with (done, total) after each reply.

    Raises:
        DataError: not a file of votes or ratings.
    """
    kind, every = read_published(path)
    sample = sorted(every, key=lambda verdict: digest("published", seed, verdict.key))[:count]
    calls = list(_calls(kind, sample, expected, max_tokens))
    read: dict[tuple[int, str], dict[int, float]] = {}
    failed = 0
    replies = engine.stream([call.request for call in calls])
    for done, (position, reply) in enumerate(replies, start=1):
        call = calls[position]
        value = None
        if call.kind == EXPECTED and not reply.error:
            value = read_expected(reply).value
        elif not reply.error and reply.finish is not Finish.LENGTH:
            value = _read(call, reply.text)
        if value is None:
            failed += 1
        else:
            read.setdefault((call.place, call.kind), {})[call.order] = value
        advance(done, len(calls))
    return {
        "file": path.name,
        "of": len(every),
        "calls": len(calls),
        "failed": failed,
        "figures": {
            name: _figures(name, sample, read)
            for name in ((kind, EXPECTED) if expected and kind == RATING else (kind,))
        },
    }


def _calls(
    kind: str, sample: Sequence[Published], expected: bool, max_tokens: int
) -> Iterator[_Call]:
    for index, verdict in enumerate(sample):
        for order, prompt in enumerate(verdict.prompts):
            told = kind == RATING and "[[" in prompt
            system = COMPARE if kind == PAIR else RATE
            user: Message = {"role": "user", "content": prompt}
            # FastChat's prompts of one turn say themselves how to rate.
            chat = (user,) if told else ({"role": "system", "content": system}, user)
            request = GenerationRequest(
                chat, 0.0, max_tokens, verdict="rating" if kind == RATING else "winner"
            )
            yield _Call(index, kind, order, request)
            if expected and kind == RATING:
                first = replace(
                    request,
                    max_new_tokens=1,
                    verdict="",
                    opening=OPENING,
                    top_logprobs=MOST_TOP,
                    choices=NUMBERS,
                )
                yield _Call(index, EXPECTED, order, first)


def _read(call: _Call, text: str) -> float | None:
    """Return a rating, or 1 if the first of the pair is better; None if unreadable."""
    if call.kind == RATING:
        verdict = read_rating(text)
        return verdict.value if verdict.status is JudgmentStatus.OK else None
    won = read_winner(text).value
    return won if won is None or call.order == 0 else 1.0 - won


def _figures(
    kind: str, sample: Sequence[Published], read: Mapping[tuple[int, str], Mapping[int, float]]
) -> dict[str, object]:
    """Return the judge's agreement with the sample, with intervals over questions."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    same, n = Share(), 0
    for index, verdict in enumerate(sample):
        orders = read.get((index, kind), {})
        if len(orders) < len(verdict.prompts):
            continue
        judged = outcome_of([orders[0], orders[1]]) if kind == PAIR else orders[0]
        pairs.setdefault(verdict.question, []).append((judged, verdict.value))
        n += 1
        if kind == PAIR and judged != 0.5 and verdict.value != 0.5:
            same.values.append(float((judged > 0.5) == (verdict.value > 0.5)))
    found = rater_agreement(pairs)
    figures: dict[str, object] = {
        "kappa": _interval(found.kappa, n),
        "spearman": _interval(found.spearman, n),
    }
    if kind == PAIR:
        figures["same_winner"] = same.as_dict()
    return figures


def _interval(interval: Interval | None, n: int) -> dict[str, object]:
    if interval is None:
        return {"share": None, "low": None, "high": None, "n": n}
    return {"share": interval.value, "low": interval.low, "high": interval.high, "n": n}
